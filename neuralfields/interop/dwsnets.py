"""The layout of DWSNets: one state_dict per field and a JSON file of splits.

    mnist_png_training_<label>_<number>/checkpoints/field.pth     keys seq.0.weight, seq.0.bias, seq.1.weight, ...
    splits.json                    {"train": {"path": [...], "label": [...]}, "val": ..., "test": ...}

The public data adds 0.5 to every output and applies sin(30 z); neither is in a checkpoint. Pixels lie on
linspace(-1, 1) with coordinate 0 the column. Navon et al., "Equivariant architectures for learning in deep weight
spaces", ICML 2023.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuralfields.batch import FieldBatch
from neuralfields.interop import sidecar as side
from neuralfields.interop.conventions import Conventions
from neuralfields.interop.folders import Progress, need_folder, new_folder
from neuralfields.interop.state_dicts import layer_dims, read_flat, read_state_dict, write_state_dicts

if TYPE_CHECKING:
    from neuralfields.store import FieldStore

LAYOUT = "dwsnets"
PUBLISHED = Conventions(activation="sine", w0=30.0, scale=1.0, offset=0.5, grid="corners", axes="xy")
SPLITS_NAME = "splits.json"
FOLDER_NAME = re.compile(r".+_png_(train|test)\w*_(-?\d+)_[^_]+$")


def write(store: "FieldStore", out: str | Path, *, prefix: str = "mnist_png", progress: Progress | None = None) -> Path:
    """Write a store as state_dict files and splits.json, which the public data set class reads; return the folder.

    Paths in splits.json are absolute, as in the public files. Fields without a split are listed under train. The store
    is read in blocks, so memory stays bounded. progress(done, total). Raises ValueError when `out` is not empty.
    """
    store.spec.check_dense(f"format {LAYOUT}")
    out = Path(out).absolute()
    places = _places(store, prefix)
    with new_folder(out) as folder:
        write_state_dicts(store, _keys(store.spec.num_layers), [folder / place for place in places], progress)
        splits: dict[str, dict[str, list[str]]] = {}
        for place, label, split in zip(places, store.labels, store.index.column("split").to_pylist(), strict=True):
            part = splits.setdefault(side.peer_split(split), {"path": [], "label": []})
            part["path"].append((out / place).as_posix())
            part["label"].append(str(label))
        (folder / SPLITS_NAME).write_text(json.dumps(splits), encoding="utf-8")
        side.write_sidecar(folder, LAYOUT, store, places)
    return out


def read(
    folder: str | Path,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    *,
    splits: str | Path | None = None,
    shape: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> side.Imported:
    """Read a folder of DWSNets state_dicts.

    splits: the JSON file; by default the one *splits.json of the folder, and without any the folder names say label
    and split. Its paths are looked for below the folder first, so a moved folder still reads. shape: (H, W) of the
    images, for the meta. Conventions come from the sidecar or from `conventions`. progress(done, total). Raises
    ValueError or FileNotFoundError naming what is missing, unreadable or contradictory.
    """
    side.check_shape(shape)
    folder = need_folder(folder)
    listing, paths = _list(folder, splits)
    if not paths:
        raise ValueError(f"{folder}: no fields, expected <name>_png_training_<label>_<n>/**/*.pth or a *splits.json")
    first = read_state_dict(paths[0])
    _check_names(paths[0], list(first))
    dims = layer_dims(paths[0], first)
    sidecar = side.read_sidecar(folder, LAYOUT)
    spec = side.resolve_spec(folder, sidecar, dims, conventions, Conventions(), PUBLISHED)
    order, rows = side.arrange(folder, listing, sidecar)
    flat = read_flat([paths[i] for i in order], _keys(spec.num_layers), list(spec.shapes.values()), progress)
    meta = side.meta_for(folder, LAYOUT, spec, shape) if sidecar is None else sidecar.meta
    return side.Imported(FieldBatch.from_flat(spec, flat), rows, meta)


def _keys(num_layers: int) -> list[str]:
    return [f"seq.{layer}.{kind}" for layer in range(num_layers) for kind in ("weight", "bias")]


def _check_names(path: Path, keys: list[str]) -> None:
    expected = _keys(max(1, len(keys) // 2))
    wrong = [key for key in keys if key not in expected] or [key for key in expected if key not in keys]
    if wrong:
        raise ValueError(f"{path}: key {wrong[0]!r} is unexpected or missing; expected {', '.join(expected)}")


def _places(store: "FieldStore", prefix: str) -> list[str]:
    places = []
    for row, (label, split) in enumerate(zip(store.labels, store.index.column("split").to_pylist(), strict=True)):
        kind = "testing" if side.peer_split(split) == "test" else "training"
        places.append(f"{prefix}_{kind}_{label}_{row}/checkpoints/field.pth")
    return places


def _list(folder: Path, splits: str | Path | None) -> tuple[side.Listing, list[Path]]:
    if splits is None:
        found = sorted(folder.glob("*splits.json"))
        if len(found) > 1:
            raise ValueError(f"splits=None: {folder} has {', '.join(p.name for p in found)}; name one")
        if not found:
            return _list_folders(folder)
        splits = found[0]
    if not Path(splits).is_file():
        raise FileNotFoundError(f"splits={str(splits)!r}: no such file")
    return _list_json(folder, Path(splits))


def _list_json(folder: Path, path: Path) -> tuple[side.Listing, list[Path]]:
    data = side.read_json(path)
    paths: list[Path] = []
    labels: list[int] = []
    names: list[str | None] = []
    if not isinstance(data, dict):
        raise ValueError(f'{path}: expected an object such as {{"train": {{"path": [...], "label": [...]}}}}')
    for split, part in data.items():
        # the sine regression data has bare lists of paths, without labels
        part = {"path": part, "label": [side.NO_LABEL] * len(part)} if isinstance(part, list) else part
        if not isinstance(part, dict) or len(part.get("path", [])) != len(part.get("label", [])):
            raise ValueError(f"{path}: split {split!r} needs the lists path and label, of equal length")
        paths += [_find(folder, path, entry) for entry in part["path"]]
        labels += [_label(path, label) for label in part["label"]]
        names += [split] * len(part["path"])
    places = [p.relative_to(folder).as_posix() if p.is_relative_to(folder) else p.as_posix() for p in paths]
    if len(set(places)) != len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ValueError(f"{path}: {twice} is listed more than once")
    return side.Listing(places, np.array(labels, np.int64), names, places), paths


def _find(folder: Path, json_path: Path, entry: str) -> Path:
    """Find a listed file: its longest tail of two or more parts below the folder, then as it stands."""
    parts = Path(entry).parts
    for start in range(len(parts) - 1 or 1):
        if Path(entry).is_absolute() and start == 0:
            continue
        inside = folder.joinpath(*parts[start:])
        if inside.is_file():
            return inside
    if not Path(entry).is_file():
        raise FileNotFoundError(f"{json_path} lists {entry}, which is neither there nor below {folder}")
    return Path(entry)


def _list_folders(folder: Path) -> tuple[side.Listing, list[Path]]:
    paths: list[Path] = []
    labels: list[int] = []
    names: list[str | None] = []
    for path in sorted(folder.glob("*_png_*/**/*.pth")):
        match = FOLDER_NAME.match(path.relative_to(folder).parts[0])
        if match is None:
            raise ValueError(f"{path}: expected a folder named like mnist_png_training_<label>_<number>")
        paths.append(path)
        labels.append(int(match.group(2)))
        names.append(match.group(1))
    places = [path.relative_to(folder).as_posix() for path in paths]
    return side.Listing(places, np.array(labels, np.int64), names, places), paths


def _label(path: Path, label: object) -> int:
    try:
        return int(str(label))
    except ValueError:
        raise ValueError(f"{path}: label {label!r} is not a whole number") from None
