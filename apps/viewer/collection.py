"""Collection: the fields that one browser looks at: those of a store, and those that were made while looking."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from neuralfields import FieldBatch, FieldSpec, FieldStore

QUALITY = ("iou", "psnr", "ssim")  # the first that a store has says how good a fit is; higher is better
NO_LABEL = -1
KINDS = {2: "pictures", 3: "shapes"}


@dataclass(frozen=True, eq=False)
class Part:
    """Fields of one spec. name: unique in a collection; columns: figures and words of each field; meta: of the store.

    It can be asked like a store for its spec, meta, column(name) and path.
    """

    name: str
    fields: "FieldStore | FieldBatch"
    columns: dict[str, np.ndarray]
    meta: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["label"])

    @property
    def spec(self) -> "FieldSpec":
        """The spec of its fields."""
        return self.fields.spec

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the pictures that its fields were fitted to; (1, 1) where it is not known."""
        shape = (self.meta.get("signal") or {}).get("shape") or (1, 1)
        return int(shape[0]), int(shape[1])

    @property
    def path(self) -> str:
        """What errors call it."""
        return str(getattr(self.fields, "path", self.name))

    def column(self, name: str) -> np.ndarray:
        """One column, as FieldStore.column. Raises ValueError for a name that is not there."""
        if name not in self.columns:
            raise ValueError(f"column={name!r}: expected one of {', '.join(self.columns)}")
        return self.columns[name]

    def key(self, row: int) -> tuple[str, int]:
        """What tells a field apart while its part grows: its id, where it has one; others may land before it."""
        return self.name, int(self.columns["id"][row]) if "id" in self.columns else int(row)

    @property
    def kind(self) -> str:
        """What its fields show: pictures, shapes or scenes."""
        return "scenes" if self.spec.view is not None else KINDS[self.spec.in_dim]


@dataclass(frozen=True)
class Query:
    """Which fields, in which order. label, split, part, prediction: None takes all; by, low, high: only fields whose
    column `by` lies in [low, high]; sort: a column, "" for the stored order; descending: largest first. Fields without
    a figure come last, and lie outside of every range."""

    label: int | None = None
    split: str | None = None
    part: str | None = None
    prediction: str | None = None
    by: str = ""
    low: float = -np.inf
    high: float = np.inf
    sort: str = ""
    descending: bool = False


class Collection:
    """Parts one after another, never changed; a position counts through all of them."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, as the first part's store has them."""
        return [str(name) for name in (self.parts[0].meta.get("signal") or {}).get("classes") or []]

    @cached_property
    def quality(self) -> str:
        """The column that says how good a fit is; "" where there is none."""
        return next((name for name in QUALITY if name in self.numeric), "")

    @cached_property
    def numeric(self) -> list[str]:
        """Columns of numbers that say something of some field, without ids."""
        names = dict.fromkeys(name for part in self.parts for name in part.columns)
        return [name for name in names if name not in ("id", "label", "group", "steps") and self._says(name)]

    def _says(self, name: str) -> bool:
        values = self.column(name)
        return values.dtype.kind == "f" and bool(np.isfinite(values).any())

    def column(self, name: str) -> np.ndarray:
        """One figure or word of every field: float64, or text; NaN or "" where a part does not have it."""
        found = [part.columns.get(name) for part in self.parts]
        text = any(values is not None and values.dtype.kind in "OUS" for values in found)
        empty: Any = "" if text else np.nan
        parts = [
            np.full(len(part), empty, object if text else np.float64) if values is None else values
            for part, values in zip(self.parts, found, strict=True)
        ]
        return np.concatenate([values.astype(object if text else np.float64) for values in parts])

    @property
    def labels(self) -> np.ndarray:
        """Labels (N,) int64; -1 where a field has none."""
        return np.concatenate([part.columns["label"] for part in self.parts]).astype(np.int64)

    def splits(self) -> list[str]:
        """Names of the splits, sorted."""
        return sorted({str(name) for name in self.column("split")} - {""})

    def predictions(self) -> list[str]:
        """What a network has read of the fields, each once; [] where none has."""
        if not any("prediction" in part.columns for part in self.parts):
            return []
        found = {str(name) for name in self.column("prediction")} - {""}
        return sorted(found, key=lambda name: (self.classes.index(name) if name in self.classes else -1, name))

    def is_wrong(self, position: int) -> bool:
        """Whether a network has read a field as what it is not."""
        part, row = self.place(position)
        return {"prediction", "right"} <= set(part.columns) and bool(part.columns["right"][row] == 0)

    def label_name(self, label: int) -> str:
        """A label for people."""
        classes = self.classes
        return "none" if label == NO_LABEL else classes[label] if label < len(classes) else str(label)

    def place(self, position: int) -> tuple[Part, int]:
        """The part of a field and its row there. Raises ValueError for a position outside the collection."""
        row = int(position)
        for part in self.parts:
            if 0 <= row < len(part):
                return part, row
            row -= len(part)
        raise ValueError(f"position={position}: expected 0 to {len(self) - 1}")

    def field(self, position: int) -> "FieldBatch":
        """One field, as a batch of one, in float32."""
        import torch

        part, row = self.place(position)
        return part.fields[row : row + 1].to(torch.float32)

    def name(self, position: int) -> str:
        """One line for people: position, class, and how good the fit is."""
        part, row = self.place(position)
        words = [f"#{position}"]
        label = int(part.columns["label"][row])
        if label != NO_LABEL:
            wrong = f" → {part.columns['prediction'][row]}" if self.is_wrong(position) else ""
            words.append(self.label_name(label) + wrong)
        elif str(part.columns.get("name", [""] * len(part))[row]):
            words.append(str(part.columns["name"][row]))
        quality = self.quality
        value = float(part.columns[quality][row]) if quality in part.columns else np.nan
        if np.isfinite(value):
            words.append(f"{value:.1f} dB" if quality == "psnr" else f"{quality.upper()} {value:.3f}")
        return " · ".join(words)

    def choose(self, query: Query) -> np.ndarray:
        """Positions of the fields that a query asks for, in its order: (n,) int64."""
        kept = np.ones(len(self), bool)
        if query.label is not None:
            kept &= self.labels == query.label
        if query.split is not None:
            kept &= self.column("split") == query.split
        if query.part is not None:
            kept &= np.concatenate([np.full(len(part), part.name == query.part) for part in self.parts])
        if query.prediction is not None:
            kept &= self.column("prediction") == query.prediction
        if query.by:
            values = self.column(query.by)
            kept &= (values >= query.low) & (values <= query.high)  # NaN lies in no range
        positions = np.flatnonzero(kept)
        if not query.sort:
            return positions[::-1] if query.descending else positions
        values = self.column(query.sort)[positions]
        order = np.argsort(-values if query.descending else values, kind="stable")  # NaN goes last either way
        return positions[order]


def of_store(store: "FieldStore") -> Part:
    """The fields of a store; reads its index, no weights. Raises ValueError for fields that cannot be looked at."""
    spec = store.spec
    if spec.view is None and spec.in_dim not in KINDS:
        raise ValueError(f"{store.path} holds {spec.describe()}: expected fields of pictures, shapes or scenes")
    if spec.in_dim == 2 and spec.out_dim not in (1, 3):
        raise ValueError(f"{store.path} holds pictures of {spec.out_dim} channels: expected 1 or 3")
    columns = {name: store.index[name].to_numpy() for name in store.index.column_names}
    return Part("store", store, columns, store.meta)


def with_columns(part: Part, columns: dict[str, np.ndarray]) -> Part:
    """The same fields with more columns of floats or words, (n,) of the first n fields; NaN or "" for the others."""
    filled = {}
    for name, values in columns.items():
        filled[name] = np.full(len(part), np.nan if values.dtype.kind == "f" else "", values.dtype)
        filled[name][: len(values)] = values[: len(part)]
    return replace(part, columns={**part.columns, **filled})


def grown_rows(before: Part, after: Part) -> np.ndarray:
    """Rows (n,) at which the fields of a part stand once it has grown: others may have landed before them."""
    ids, now = before.columns["id"], after.columns["id"]
    if np.array_equal(now[: len(ids)], ids):
        return np.arange(len(ids))
    order = np.argsort(now, kind="stable")
    return order[np.searchsorted(now, ids, sorter=order)]


def moved(columns: dict[str, np.ndarray], rows: np.ndarray, part: Part) -> dict[str, np.ndarray]:
    """Columns of floats or words, (n,), of the fields that stand at rows (n,) of a part; NaN or "" for the others."""
    filled = {}
    for name, values in columns.items():
        filled[name] = np.full(len(part), np.nan if values.dtype.kind == "f" else "", values.dtype)
        filled[name][rows] = values
    return filled


def of_batch(name: str, fields: "FieldBatch", columns: dict[str, np.ndarray], like: Part) -> Part:
    """Fields that were made while looking, shown as those of another part are: its meta tells size and level."""
    count = len(fields)
    filled = {"label": np.full(count, NO_LABEL), "name": np.full(count, "", object), "split": np.full(count, "made")}
    return Part(name, fields, {**filled, **columns}, like.meta)
