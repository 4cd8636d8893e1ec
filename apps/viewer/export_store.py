"""The fields in view as a store of their own: their weights bit for bit, with all that the index says of them."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from apps.viewer.collection import Collection, Part
from apps.viewer.export import Say

MOST_FIELDS = 100_000
SHARD = 4096


def save_selection(
    collection: Collection, positions: np.ndarray, folder: Path, say: Say
) -> Generator[float, None, None]:
    """Write fields as a store into an empty folder, with their columns, ids and meta.

    Fields that were made while looking have no id: they get those after the largest that is there; a store of them
    alone keeps of the meta what their pictures need, as they were not fitted. Raises ValueError for none, for more than
    MOST_FIELDS, and for fields of several specs.
    """
    from neuralfields import FieldBatch
    from neuralfields.store_writer import StoreWriter

    if not 0 < len(positions) <= MOST_FIELDS:
        raise ValueError(f"{len(positions):,} fields are in view: expected 1 to {MOST_FIELDS:,} for a store")
    places = [collection.place(position) for position in positions.tolist()]
    spec, names = places[0][0].spec, sorted({part.name for part, _ in places})
    if any(part.spec != spec for part, _ in places):
        raise ValueError(f"fields in view are of several specs, of {', '.join(names)}: expected those of one")
    meta = collection.parts[0].meta
    if collection.parts[0].name not in names:
        meta = {"signal": meta["signal"]} if "signal" in meta else {}
    rows, curves = columns(places), curves_of(places)
    with StoreWriter(folder, spec, meta, len(places), SHARD) as writer:
        for shard, where in writer.missing():
            fields = FieldBatch.cat([some.fields[at] for some, at in _runs(places[where])])
            own = {name: values[where] for name, values in rows.items()}
            writer.write(shard, fields, own, None if curves is None else curves[where])
            say(f"{where.stop:,} of {len(places):,} fields")
            yield 0.0
        writer.finish({})


def columns(places: list[tuple[Part, int]]) -> dict[str, Any]:
    """Columns of the index of some fields: those of all their parts; what a part does not have is filled in."""
    parts = list({id(part): part for part, _ in places}.values())
    names = dict.fromkeys(["id", *(name for part in parts for name in part.columns)])
    found: dict[str, Any] = {name: _column(name, parts, places) for name in names}
    ids = [part.columns["id"][row] if "id" in part.columns else None for part, row in places]
    following = iter(range(max([int(number) for number in ids if number is not None], default=-1) + 1, 1 << 32))
    found["id"] = np.array([next(following) if number is None else number for number in ids], np.uint32)
    return found


def _column(name: str, parts: list[Part], places: list[tuple[Part, int]]) -> list:
    having = [part.columns[name] for part in parts if name in part.columns]
    kind = having[0].dtype.kind if having else "f"
    missing = {"f": float("nan"), "i": -1, "u": -1, "b": False}.get(kind, "")
    values = {id(part): part.columns[name].tolist() if name in part.columns else None for part in parts}
    return [missing if (own := values[id(part)]) is None else own[row] for part, row in places]


def curves_of(places: list[tuple[Part, int]]) -> Any:
    """Learning curves (N, K) of fields; None where some have none, or of another length."""
    import torch

    readers = {id(part): getattr(part.fields, "curve", None) for part, _ in places}
    if any(read is None for read in readers.values()):
        return None
    found = [readers[id(part)](row) for part, row in places]  # type: ignore[misc]
    if any(curve is None for curve in found) or len({len(curve) for curve in found}) > 1:
        return None
    return torch.from_numpy(np.stack(found))


def _runs(places: list[tuple[Part, int]]) -> Iterator[tuple[Part, np.ndarray]]:
    """Neighbours of one part together: parts with their rows, in the given order."""
    start = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or places[end][0] is not places[start][0]:
            yield places[start][0], np.array([row for _, row in places[start:end]])
            start = end
