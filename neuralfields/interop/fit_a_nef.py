"""The layout of fit-a-nef (and of the neural field arena): HDF5 files of flat parameter vectors.

    nefs_<start>-<end>.hdf5     params (n, P) float32, param_config (1,) a JSON list of [name, shape], labels (n,)
    nef.json                    {"name": "SIREN", "params": {"hidden_dim", "num_layers", "omega_0", "output_dim"}}
    cfg.json                    the settings of the fit

Per layer the bias comes before the kernel, and a kernel is (in, out): the transpose of our (out, in). num_layers of
SIREN counts every linear map, that of MLP only the hidden ones. The public fields are fitted to (value - mean) / std of
the data set, on linspace(-1, 1) with coordinate 0 the column. Papa et al., "How to train neural field representations:
a comprehensive study and benchmark", CVPR 2024.
"""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neuralfields.batch import FieldBatch
from neuralfields.interop import sidecar as side
from neuralfields.interop.conventions import Conventions
from neuralfields.interop.flax_params import LAYOUT, Config, columns, nef_json, param_config, read_dims, read_nef_json
from neuralfields.interop.folders import Progress, need_folder, new_folder
from neuralfields.spec import FieldSpec

if TYPE_CHECKING:
    from neuralfields.store import FieldStore

BLOCK = 1024
FILE_NAME = re.compile(r"\w+_(\d+)-(\d+)\.hdf5$")
# mean and standard deviation of the pixels, as the public code normalises them
MNIST = Conventions(w0=8.0, scale=0.30810782, offset=0.13066047, grid="corners", axes="xy")
CIFAR10 = Conventions(
    w0=8.0,
    scale=(0.24697122, 0.24338895, 0.2615926),
    offset=(0.49186882, 0.48265392, 0.44717726),
    grid="corners",
    axes="xy",
)


def write(
    store: "FieldStore",
    out: str | Path,
    *,
    file_size: int = 5000,
    name: str = "fields",
    progress: Progress | None = None,
) -> Path:
    """Write a store as HDF5 files of at most `file_size` fields, nef.json and cfg.json; return the folder.

    The order is train, val, test, because the public code splits by position; `name` stands for the data set in
    cfg.json. The store is read in blocks, so memory stays bounded. progress(done, total). Raises ValueError when `out`
    is not empty, h5py is missing, or the field is none of theirs (one hidden width, one w0, sine or plain ReLU).
    """
    h5py = _h5py()
    out = Path(out).absolute()
    nef = nef_json(store.spec)
    if file_size < 1:
        raise ValueError(f"file_size={file_size}: expected a positive number of fields")
    order = side.split_order(store.index.column("split").to_pylist())
    places = [""] * len(store)
    with new_folder(out) as folder:
        for start in range(0, len(store), file_size):
            rows = order[start : start + file_size]
            path = folder / f"nefs_{start}-{start + len(rows)}.hdf5"
            _write_file(h5py, path, store, rows)
            for position, row in enumerate(rows):
                places[row] = f"{path.name}#{position}"
            if progress is not None:
                progress(start + len(rows), len(store))
        dataset = {"name": name, "out_channels": store.spec.out_dim, "path": "."}
        train = {"start_idx": 0, "end_idx": len(store), "num_parallel_nefs": min(file_size, len(store))}
        (folder / "nef.json").write_text(json.dumps(nef), encoding="utf-8")
        (folder / "cfg.json").write_text(json.dumps({"task": "image", "dataset": dataset, "train": train}))
        side.write_sidecar(folder, LAYOUT, store, places)
    return out


def read(
    folder: str | Path,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    *,
    split_points: tuple[int, int] | None = None,
    shape: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> side.Imported:
    """Read a folder of fit-a-nef files, SIREN or MLP, in the order of the file names.

    split_points: (v, t), where val and test begin; without it a folder without a sidecar gives fields without a split.
    shape: (H, W) of the images, for the meta. nef.json states the activation and w0; scale, offset, grid and axes come
    from the sidecar or from `conventions`. progress(done, total). Raises ValueError or FileNotFoundError naming what is
    missing, unreadable or contradictory.
    """
    h5py = _h5py()
    side.check_shape(shape)
    folder = need_folder(folder)
    files = _files(folder)
    config = _read_config(h5py, files[0])
    activation, dims = read_dims(files[0], config)
    sidecar = side.read_sidecar(folder, LAYOUT)
    stated = read_nef_json(folder, activation, dims)
    published = CIFAR10 if dims[-1] == 3 else MNIST
    spec = side.resolve_spec(folder, sidecar, dims, conventions, stated, published)
    listing = _listing(h5py, files, split_points)
    order, rows = side.arrange(folder, listing, sidecar)
    target = np.empty(len(order), np.int64)
    target[order] = np.arange(len(order))
    flat = _read_flat(h5py, files, config, spec, target, progress)
    meta = side.meta_for(folder, LAYOUT, spec, shape) if sidecar is None else sidecar.meta
    return side.Imported(FieldBatch.from_flat(spec, flat), rows, meta)


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise ValueError(f"format={LAYOUT!r} needs the package h5py: pip install h5py") from None
    return h5py


def _write_file(h5py: ModuleType, path: Path, store: "FieldStore", rows: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        params = file.create_dataset("params", (len(rows), store.spec.num_params), dtype="float32")
        for start in range(0, len(rows), BLOCK):
            fields = store[rows[start : start + BLOCK]]
            parts = []
            for weight, bias in zip(fields.weights, fields.biases, strict=True):
                parts += [bias, weight.transpose(1, 2).flatten(1)]
            params[start : start + len(fields)] = torch.cat(parts, dim=1).float().cpu().numpy()
        file.create_dataset("param_config", (1,), dtype=h5py.string_dtype())[0] = json.dumps(param_config(store.spec))
        file.create_dataset("labels", data=np.asarray(store.labels)[rows])


def _files(folder: Path) -> list[Path]:
    """The HDF5 files of a folder by position. Raises when there are none or when positions have gaps or overlaps."""
    found = []
    for path in folder.glob("*.hdf5"):
        match = FILE_NAME.match(path.name)
        if match is None:
            raise ValueError(f"{path}: expected a file named nefs_<start>-<end>.hdf5")
        found.append((int(match.group(1)), int(match.group(2)), path))
    if not found:
        raise FileNotFoundError(f"{folder}: no fields, expected nefs_<start>-<end>.hdf5")
    found.sort()
    for (_, end, _), (start, _, path) in pairwise(found):
        if start != end:
            raise ValueError(f"{path}: starts at {start}, expected {end}, where the file before it ends")
    return [path for _, _, path in found]


def _open(h5py: ModuleType, path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not a readable HDF5 file ({str(error).splitlines()[0]})") from None


def _dataset(h5py: ModuleType, file: Any, path: Path, key: str, ndim: int) -> Any:
    found = file.get(key)
    if not isinstance(found, h5py.Dataset) or found.ndim != ndim:
        raise ValueError(f"{path}: expected the data set {key!r} with {ndim} dimensions")
    return found


def _read_config(h5py: ModuleType, path: Path) -> Config:
    with _open(h5py, path) as file:
        text = _dataset(h5py, file, path, "param_config", 1)[0]
        width = _dataset(h5py, file, path, "params", 2).shape[1]
    try:
        config = [(str(key), tuple(int(n) for n in shape)) for key, shape in json.loads(text)]
    except (ValueError, TypeError):
        raise ValueError(f"{path}: param_config is not a JSON list of [name, shape]") from None
    total = sum(math.prod(shape) for _, shape in config)
    if total != width:
        raise ValueError(f"{path}: params has {width} columns, param_config describes {total}")
    return config


def _listing(h5py: ModuleType, files: list[Path], split_points: tuple[int, int] | None) -> side.Listing:
    places: list[str] = []
    labels: list[np.ndarray] = []
    for path in files:
        with _open(h5py, path) as file:
            count = len(_dataset(h5py, file, path, "params", 2))
            found = file.get("labels")
            values = np.full(count, side.NO_LABEL) if found is None else np.asarray(found[()]).reshape(-1)
        if len(values) != count or values.dtype.kind not in "iu":
            raise ValueError(
                f"{path}: labels are {values.dtype} of length {len(values)}, expected {count} whole numbers"
            )
        match = FILE_NAME.match(path.name)
        if match is not None and int(match.group(2)) - int(match.group(1)) != count:
            raise ValueError(f"{path}: holds {count} fields, its name says {match.group(1)} to {match.group(2)}")
        labels.append(values.astype(np.int64))
        places += [f"{path.name}#{row}" for row in range(count)]
    first = int(FILE_NAME.match(files[0].name).group(1))  # pyright: ignore[reportOptionalMemberAccess]
    splits = side.range_splits(first + len(places), split_points)[first:]
    return side.Listing(places, np.concatenate(labels), splits, places)


def _read_flat(
    h5py: ModuleType, files: list[Path], config: Config, spec: FieldSpec, target: np.ndarray, progress: Progress | None
) -> torch.Tensor:
    """Read every vector into its row `target` of (N, P), parameters in our order."""
    order = columns(config, spec)
    flat = np.empty((len(target), spec.num_params), np.float32)
    done = 0
    for path in files:
        if _read_config(h5py, path) != config:
            raise ValueError(f"{path}: param_config differs from that of {files[0].name}, expected one architecture")
        with _open(h5py, path) as file:
            params = _dataset(h5py, file, path, "params", 2)
            if params.dtype not in (np.float32, np.float16):
                raise ValueError(f"{path}: params has dtype {params.dtype}, expected float32")
            for start in range(0, len(params), BLOCK):
                block = params[start : start + BLOCK]
                flat[target[done : done + len(block)]] = block[:, order]
                done += len(block)
                if progress is not None:
                    progress(done, len(target))
    return torch.from_numpy(flat)
