"""The layout of NFN: one state_dict per field in a folder per class.

    randinit_smaller_<label>s/net<index>.pth      keys in the order weight, bias, weight, bias, ...

The public code numbers the nets 0 .. N-1 and splits them by index. Its fields are fitted to pixels in [-1, 1], so the
picture is 0.5 * output + 0.5; pixels lie on linspace(-1, 1), coordinate 0 is the row. Zhou et al., "Permutation
equivariant neural functionals", NeurIPS 2023.
"""

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

LAYOUT = "nfn"
PUBLISHED = Conventions(activation="sine", w0=30.0, scale=0.5, offset=0.5, grid="corners", axes="ij")
FILE_NAME = re.compile(r"net(\d+)\.pth$")


def write(
    store: "FieldStore", out: str | Path, *, prefix: str = "randinit_smaller", progress: Progress | None = None
) -> Path:
    """Write a store as <prefix>_<label>s/net<index>.pth, which the public data set class reads; return the folder.

    Indices run over train, then val, then test, because the public code splits by index. The store is read in blocks,
    so memory stays bounded. progress(done, total). Raises ValueError when `out` is not empty, or for labels outside
    0 .. 9, which the folder names cannot carry.
    """
    store.spec.check_dense(f"format {LAYOUT}")
    out = Path(out).absolute()
    labels = np.asarray(store.labels)
    bad = labels[(labels < 0) | (labels > 9)]
    if len(bad):
        raise ValueError(f"label={int(bad[0])}: the folders of {LAYOUT} hold labels 0 to 9")
    order = side.split_order(store.index.column("split").to_pylist())
    places = [""] * len(store)
    for number, row in enumerate(order):
        places[row] = f"{prefix}_{labels[row]}s/net{number}.pth"
    with new_folder(out) as folder:
        write_state_dicts(store, _keys(store.spec.num_layers), [folder / place for place in places], progress)
        side.write_sidecar(folder, LAYOUT, store, places)
    return out


def read(
    folder: str | Path,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    *,
    prefix: str = "randinit_smaller",
    split_points: tuple[int, int] | None = None,
    shape: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> side.Imported:
    """Read a folder of NFN state_dicts, in the order of their indices.

    prefix: of the class folders; "randinit_smaller_aug0" reads the first set of extra fits. split_points: (v, t), where
    val and test begin; without it a folder without a sidecar gives fields without a split. shape: (H, W) of the images,
    for the meta. Keys may have any names, their order counts. Conventions come from the sidecar or from `conventions`.
    progress(done, total). Raises ValueError or FileNotFoundError naming what is missing or contradictory.
    """
    side.check_shape(shape)
    folder = need_folder(folder)
    listing, paths = _list(folder, prefix, split_points)
    first = read_state_dict(paths[0])
    dims = layer_dims(paths[0], first)
    sidecar = side.read_sidecar(folder, LAYOUT)
    spec = side.resolve_spec(folder, sidecar, dims, conventions, Conventions(), PUBLISHED)
    order, rows = side.arrange(folder, listing, sidecar)
    flat = read_flat([paths[i] for i in order], list(first), list(spec.shapes.values()), progress)
    meta = side.meta_for(folder, LAYOUT, spec, shape) if sidecar is None else sidecar.meta
    return side.Imported(FieldBatch.from_flat(spec, flat), rows, meta)


def _keys(num_layers: int) -> list[str]:
    """Names of a sequence of sine layers, each with its linear map inside, then a bare linear map."""
    layers = [f"net.{layer}.linear" for layer in range(num_layers - 1)] + [f"net.{num_layers - 1}"]
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def _list(folder: Path, prefix: str, split_points: tuple[int, int] | None) -> tuple[side.Listing, list[Path]]:
    # one digit exactly: a wider pattern would also take the folders of extra fits, whose indices collide
    found: dict[int, Path] = {}
    for path in sorted(folder.glob(f"{prefix}_[0-9]s/*.pth")):
        match = FILE_NAME.match(path.name)
        if match is None:
            raise ValueError(f"{path}: expected a file named net<index>.pth")
        index = int(match.group(1))
        if index in found:
            raise ValueError(f"{path}: index {index} is also that of {found[index]}")
        found[index] = path
    if not found:
        raise FileNotFoundError(f"{folder}: no fields, expected {prefix}_<label>s/net<index>.pth with labels 0 to 9")
    paths = [found[index] for index in sorted(found)]
    labels = np.array([int(path.parent.name[-2]) for path in paths], np.int64)
    places = [path.relative_to(folder).as_posix() for path in paths]
    return side.Listing(places, labels, _splits(sorted(found), split_points), places), paths


def _splits(indices: list[int], split_points: tuple[int, int] | None) -> list[str | None]:
    by_index = side.range_splits(indices[-1] + 1, split_points)
    return [by_index[index] for index in indices]
