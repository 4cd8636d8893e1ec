"""Populations as training data: labels checked, splits by source item, rows in memory or streamed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from neuralfields import philox
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec

# The counter word that keeps draws for splits apart from those of philox's own streams.
STREAM_SPLIT = 16
STREAM_TEST = 17
# The most classes that numbers alone may name: a confusion matrix of as many takes 2 GiB.
MAX_CLASSES = 16_384
_ROWS_AT_ONCE = 4096


class Population(Protocol):
    """What training needs of a population: a FieldStore is one, and so is a Subset of it.

    labels: (N,) int64, -1 where there is none; ids: (N,) uint32, the source item of each field; groups: (N,) uint32,
    equal for fields that a split keeps together (fits of one item, copies of one shape); meta: as stored;
    `population[positions]`: those fields, in that order.
    """

    @property
    def spec(self) -> FieldSpec: ...
    @property
    def meta(self) -> dict: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def ids(self) -> np.ndarray: ...
    @property
    def groups(self) -> np.ndarray: ...

    def __len__(self) -> int: ...
    def __getitem__(self, positions: Any, /) -> FieldBatch: ...


@dataclass(frozen=True)
class Subset:
    """Some fields of a population, by position: (n,) int64. Nothing is read or copied until it is indexed."""

    population: Population
    positions: np.ndarray

    @property
    def spec(self) -> FieldSpec:
        """The population's spec."""
        return self.population.spec

    @property
    def meta(self) -> dict:
        """The population's meta."""
        return self.population.meta

    @property
    def labels(self) -> np.ndarray:
        """Labels of the chosen fields: (n,) int64."""
        return np.asarray(self.population.labels)[self.positions]

    @property
    def ids(self) -> np.ndarray:
        """Ids of the chosen fields: (n,) uint32."""
        return np.asarray(self.population.ids)[self.positions]

    @property
    def groups(self) -> np.ndarray:
        """Groups of the chosen fields: (n,) uint32."""
        return np.asarray(self.population.groups)[self.positions]

    @property
    def index(self) -> Any:
        """Rows of the population's index for the chosen fields, where it has one: a pyarrow table."""
        return self.population.index.take(self.positions)  # type: ignore[attr-defined]

    @property
    def path(self) -> Any:
        """Where the population is stored, where it is."""
        return self.population.path  # type: ignore[attr-defined]

    def column(self, name: str) -> np.ndarray:
        """A column of the index for the chosen fields: (n,). Raises ValueError where the population has no index."""
        return column(self.population, name)[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, positions: Any, /) -> FieldBatch:
        return self.population[np.atleast_1d(self.positions[positions])]


def column(population: Population, name: str) -> np.ndarray:
    """A column of a population's index: (N,). Raises ValueError for a population without an index, or that column."""
    read = getattr(population, "column", None)
    if read is None:
        raise ValueError(f"column={name!r}: expected a population with an index, such as a store")
    return np.asarray(read(name))


def held_out(groups: np.ndarray, fraction: float, seed: int, stream: int = STREAM_SPLIT) -> np.ndarray:
    """Choose groups to hold out: (N,) bool, true where u(seed, group) < fraction.

    u is a counter-based uniform of the group alone, so that fields of one group stay together and a population that
    grows keeps its split. Raises ValueError for a fraction outside [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        name = "test_fraction" if stream == STREAM_TEST else "val_fraction"
        raise ValueError(f"{name}={fraction}: expected a number in [0, 1)")
    return philox.uniform(seed, np.asarray(groups, np.uint32), stream, 0, 1)[:, 0] < fraction


def split_test(population: Population, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Split into fields to train on and fields to test on, whole groups to one side, about `fraction` to the latter.

    Raises ValueError for a fraction outside [0, 1) and when either side is empty.
    """
    held = held_out(population.groups, fraction, seed, STREAM_TEST)
    if held.all() or not held.any():
        raise ValueError(f"test_fraction={fraction}: puts all {len(held):,} fields on one side, expected some on each")
    return Subset(population, np.flatnonzero(~held)), Subset(population, np.flatnonzero(held))


def class_names(population: Population) -> tuple[str, ...]:
    """Names of the classes: those stored with the signal, else "0" to the largest label.

    Raises ValueError when a label is missing (named by id), too large for the stored names or without any, or all are
    the same.
    """
    labels = np.asarray(population.labels)
    if len(labels) == 0:
        raise ValueError("population holds no fields: expected at least two classes of them")
    check_labelled(population)
    if len(np.unique(labels)) < 2:
        raise ValueError(f"all {len(labels)} fields have label {labels[0]}: expected at least two classes")
    names = stored_names(population) or tuple(map(str, range(count_classes(labels))))
    check_labelled(population, names)
    return names


def count_classes(labels: np.ndarray) -> int:
    """The number of classes of labels (N,): one more than the largest. Raises ValueError for more than MAX_CLASSES."""
    largest = int(labels.max())
    if largest >= MAX_CLASSES:
        raise ValueError(f"label {largest} is too large: expected labels below {MAX_CLASSES}, classes numbered from 0")
    return largest + 1


def stored_names(population: Population) -> tuple[str, ...]:
    """Names of the classes as stored with the signal, () where there are none."""
    return tuple(map(str, (population.meta.get("signal") or {}).get("classes") or ()))


def check_labelled(population: Population, classes: tuple[str, ...] | None = None) -> None:
    """Raise ValueError for a field without a label (named by id), or, where the `classes` to tell apart are given, for
    a label that none of them has, and for stored names other than theirs."""
    labels, ids = np.asarray(population.labels), np.asarray(population.ids)
    missing = labels < 0
    if missing.any():
        raise ValueError(
            f"{int(missing.sum())} of {len(labels)} fields have no label, the first is id "
            f"{ids[missing][0]}: expected a label for every field"
        )
    if classes is None:
        return
    if len(labels) and labels.max() >= len(classes):
        raise ValueError(
            f"label {labels.max()} has no name: expected labels below {len(classes)}, the number of classes"
        )
    named = stored_names(population)
    if named and named != classes:
        raise ValueError(f"classes are {', '.join(named)}: expected {', '.join(classes)}, in this order")


def check_finite(fields: FieldBatch, ids: np.ndarray, skippable: bool = False) -> None:
    """Raise ValueError naming the first field whose weights are not all finite; skippable: the caller has skip_bad."""
    bad = ~torch.isfinite(fields.flat()).all(dim=1)
    if bool(bad.any()):
        first = int(np.asarray(ids)[int(bad.nonzero()[0])])
        accepted = "finite weights" + (", or skip_bad to leave them out" if skippable else "")
        raise ValueError(
            f"field id {first} has NaN or infinite weights ({int(bad.sum())} such fields): expected {accepted}"
        )


def batches(population: Population, size: int = _ROWS_AT_ONCE, skippable: bool = False) -> Iterator[FieldBatch]:
    """All fields in order, at most `size` at a time, checked to be finite as `check_finite` does."""
    ids = np.asarray(population.ids)
    for start in range(0, len(population), size):
        positions = np.arange(start, min(start + size, len(population)))
        fields = population[positions]
        check_finite(fields, ids[positions], skippable)
        yield fields


def finite(population: Population) -> np.ndarray:
    """Positions of the fields whose weights are all finite: (n,) int64."""
    kept = []
    for start in range(0, len(population), _ROWS_AT_ONCE):
        fields = population[np.arange(start, min(start + _ROWS_AT_ONCE, len(population)))]
        kept.append(torch.isfinite(fields.flat()).all(dim=1).numpy())
    return np.flatnonzero(np.concatenate(kept or [np.zeros(0, bool)]))


class Rows:
    """Random access to the fields of a training: held in memory where they fit in memory_mb, else read each time.

    prepare: applied to fields once, as they are read. Raises ValueError for fields that are not finite.
    """

    def __init__(
        self,
        population: Population,
        memory_mb: int,
        prepare: Callable[[FieldBatch], FieldBatch] | None = None,
    ) -> None:
        self.population, self.prepare = population, prepare or _as_they_are
        self._ids = np.asarray(population.ids)
        size_mb = len(population) * population.spec.num_params * 4 / 2**20
        self.flat = None
        if 0 < size_mb <= memory_mb:
            self.flat = torch.cat([self.prepare(fields).flat() for fields in batches(population, skippable=True)])

    @property
    def resident(self) -> bool:
        """Whether the fields are held in memory."""
        return self.flat is not None

    def __getitem__(self, positions: Tensor) -> FieldBatch:
        """Fields at positions (B,) int64. Raises ValueError naming the first whose weights are not all finite."""
        if self.flat is not None:
            return FieldBatch.from_flat(self.population.spec, self.flat[positions])
        fields = self.population[positions.numpy()]
        check_finite(fields, self._ids[positions.numpy()], skippable=True)
        return self.prepare(fields)


def _as_they_are(fields: FieldBatch) -> FieldBatch:
    return fields
