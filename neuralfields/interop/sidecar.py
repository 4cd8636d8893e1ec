"""The sidecar: two files beside a foreign population that keep what its format cannot hold.

`neuralfields.json` has the spec and the meta of the store; `neuralfields.parquet` has the rows of the store's index in
the store's own order, with a column that says where in the folder each field lies.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuralfields.batch import FieldBatch
from neuralfields.interop.conventions import Conventions, build_spec, check_spec
from neuralfields.spec import FieldSpec

if TYPE_CHECKING:
    from neuralfields.store import FieldStore

JSON_NAME = "neuralfields.json"
ROWS_NAME = "neuralfields.parquet"
VERSION = 1
PLACE = "interop.place"
NO_LABEL = -1
SPLIT_OFFSETS = {"train": 0, "test": 2**30, "val": 2**31, "validation": 2**31}


@dataclass(frozen=True)
class Imported:
    """A population read from foreign files: what `neuralfields.store.save(path, fields, rows, meta)` takes."""

    fields: FieldBatch
    rows: dict[str, Any]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Listing:
    """What a foreign folder itself says, in its own order: where its fields lie, their labels, splits and names.

    places: unique, one per field; labels: int64 (N,), -1 for none; splits: a name, or None where the folder is silent.
    """

    places: list[str]
    labels: np.ndarray
    splits: list[str | None]
    names: list[str]


@dataclass(frozen=True)
class Sidecar:
    """A sidecar that was read: spec, meta and, unless the file was removed, the rows."""

    spec: FieldSpec
    meta: dict[str, Any]
    rows: pa.Table | None


def write_sidecar(folder: Path, layout: str, store: "FieldStore", places: Sequence[str]) -> None:
    """Write the sidecar of a store whose field i was written to places[i]."""
    data = {"format": "neuralfields-interop", "version": VERSION, "layout": layout, "num_fields": len(store)}
    data |= {"spec": store.spec.to_json(), "meta": store.meta}
    (folder / JSON_NAME).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    pq.write_table(store.index.append_column(PLACE, pa.array(list(places), pa.string())), folder / ROWS_NAME)


def read_sidecar(folder: Path, layout: str) -> Sidecar | None:
    """Read a folder's sidecar, None when it has none. Raises ValueError for one of another layout or version."""
    path = folder / JSON_NAME
    if not path.is_file():
        return None
    data = read_json(path)
    if not isinstance(data, dict) or {"layout", "version", "spec", "meta", "num_fields"} - set(data):
        raise ValueError(f"{path}: expected the keys layout, version, spec, meta and num_fields")
    if (data["layout"], data["version"]) != (layout, VERSION):
        said = f"layout {data['layout']!r} version {data['version']!r}"
        raise ValueError(f"{path}: {said}, expected layout {layout!r} version {VERSION}")
    rows_path = folder / ROWS_NAME
    if not rows_path.is_file():
        return Sidecar(FieldSpec.from_json(data["spec"]), data["meta"], None)
    try:
        rows = pq.read_table(rows_path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{rows_path}: not a readable Parquet file ({_first_line(error)})") from None
    if PLACE not in rows.column_names or rows.num_rows != data["num_fields"]:
        raise ValueError(f"{rows_path}: expected {data['num_fields']} rows with a column {PLACE!r}")
    return Sidecar(FieldSpec.from_json(data["spec"]), data["meta"], rows)


def resolve_spec(
    folder: Path,
    sidecar: Sidecar | None,
    dims: tuple[int, ...],
    given: Conventions,
    stated: Conventions,
    published: Conventions,
) -> FieldSpec:
    """Return the spec of a folder: the sidecar's, checked against all else, or one built from explicit conventions."""
    if sidecar is None:
        return build_spec(str(folder), dims, given, stated, published)
    check_spec(str(folder), sidecar.spec, dims, given, stated)
    return sidecar.spec


def arrange(folder: Path, listing: Listing, sidecar: Sidecar | None) -> tuple[np.ndarray, dict[str, Any]]:
    """Return which field of the listing each row of the result is, (N,), and the rows.

    With a sidecar both follow it, and it must agree with the folder; without one the folder's order is kept and ids
    count within each split, from 0 for train or none, 2**30 for test and 2**31 for val. Raises ValueError.
    """
    if sidecar is None or sidecar.rows is None:
        ids = split_ids(listing.splits)
        rows = {"id": ids, "label": listing.labels, "split": list(listing.splits), "name": list(listing.names)}
        return np.arange(len(listing.places)), rows
    hint = f"remove {ROWS_NAME} to follow the folder instead"
    positions = {place: i for i, place in enumerate(listing.places)}
    places = sidecar.rows.column(PLACE).to_pylist()
    absent = sorted(set(places) - set(positions))
    extra = sorted(set(positions) - set(places))
    if absent or extra:
        what = f"lists {absent[0]}, which is not there" if absent else f"does not list {extra[0]}"
        raise ValueError(f"{folder}/{ROWS_NAME} {what}: {hint}")
    order = np.array([positions[place] for place in places], dtype=np.int64)
    rows = {name: _plain(sidecar.rows.column(name)) for name in sidecar.rows.column_names if name != PLACE}
    _check_agreement(folder, listing, order, rows, hint)
    return order, rows


def split_ids(splits: Sequence[str | None]) -> np.ndarray:
    """Return an id per field: its position within its split plus the split's offset, uint32 (N,)."""
    seen: dict[int, int] = {}
    ids = np.zeros(len(splits), np.uint32)
    for row, split in enumerate(splits):
        offset = SPLIT_OFFSETS.get(split or "train", 0)
        ids[row] = offset + seen.get(offset, 0)
        seen[offset] = seen.get(offset, 0) + 1
    return ids


def check_shape(shape: Any) -> None:
    """Raise ValueError for a size of images that is neither None nor two positive whole numbers."""
    if shape is None:
        return
    sides = shape if isinstance(shape, Sequence) else ()
    if len(sides) != 2 or not all(isinstance(side, Integral) and int(side) >= 1 for side in sides):
        raise ValueError(f"shape={shape!r}: expected (height, width), positive whole numbers")


def meta_for(folder: Path, layout: str, spec: FieldSpec, shape: tuple[int, int] | None) -> dict[str, Any]:
    """Return the meta of a population that came without a sidecar; shape (H, W) of its images, where it is known."""
    signal = {"kind": "image", "shape": None if shape is None else list(shape), "channels": spec.out_dim}
    signal |= {"source": folder.name, "split": None, "classes": None}
    return {"recipe": None, "config": None, "signal": signal, "created_by": f"imported from {layout}"}


def peer_split(split: str | None) -> str:
    """Return the name that the public code uses for a split; a field without one is filed under train."""
    return {None: "train", "": "train", "validation": "val"}.get(split, split)  # pyright: ignore[reportReturnType]


def split_order(splits: Sequence[str | None]) -> np.ndarray:
    """Return positions sorted train, val, test, others, stable: the order of formats whose splits are ranges."""
    rank = {"train": 0, "val": 1, "test": 2}
    return np.argsort(np.array([rank.get(peer_split(split), 3) for split in splits], np.int64), kind="stable")


def range_splits(count: int, split_points: tuple[int, int] | None) -> list[str | None]:
    """Return splits by position: [0, v) train, [v, t) val, [t, N) test for split_points (v, t), else None for all."""
    if split_points is None:
        return [None] * count
    val, test = split_points
    if not 0 <= val <= test:
        raise ValueError(f"split_points={split_points}: expected two rising positions, such as (45000, 50000)")
    return ["train" if i < val else "val" if i < test else "test" for i in range(count)]


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ValueError in one line when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file ({_first_line(error)})") from None


def _check_agreement(folder: Path, listing: Listing, order: np.ndarray, rows: Mapping[str, Any], hint: str) -> None:
    labels = np.asarray(rows.get("label", listing.labels[order]))
    wrong = np.flatnonzero(labels != listing.labels[order])
    if len(wrong):
        row = int(wrong[0])
        found = int(listing.labels[order[row]])
        place = listing.places[order[row]]
        raise ValueError(f"{place} in {folder} has label {found}, {ROWS_NAME} says {int(labels[row])}: {hint}")
    for row, split in enumerate(rows.get("split", [])):
        found_split = listing.splits[order[row]]
        if found_split is not None and found_split != peer_split(split):
            place = listing.places[order[row]]
            raise ValueError(f"{place} in {folder} is in split {found_split!r}, {ROWS_NAME} says {split!r}: {hint}")


def _plain(column: pa.ChunkedArray) -> Any:
    """Numbers as an array of their own type, everything else (text, gaps, lists) as a list."""
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    return column.to_numpy() if numeric and column.null_count == 0 else column.to_pylist()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
