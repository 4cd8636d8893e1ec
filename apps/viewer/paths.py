"""Paths between two fields: through which space they are straight, their fields, and their barrier."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from apps import interpolate

if TYPE_CHECKING:
    from apps.viewer.collection import Part
    from apps.viewer.networks import Entry, Networks
    from neuralfields import FieldBatch, FieldSpec

WEIGHTS, ALIGNED, LATENTS = "weights", "aligned weights", "latents"
SHARES = np.linspace(0.0, 1.0, 21)  # of the way, where the barrier is measured
VALUES_AT_ONCE = 1 << 16  # measured between two places where the work may be dropped
UNKNOWN = (64, 64)  # pixels that are compared where a store does not say how large its pictures were


def embeddings(networks: "Networks", spec: "FieldSpec") -> "dict[str, Entry]":
    """What the paths through latents are called, and their embeddings: those of fields of a spec."""
    found = [one for one in networks.of("embed") if one.spec == spec]
    return {LATENTS if len(found) == 1 else f"{LATENTS} of {one.name}": one for one in found}


class Way:
    """One path between two fields. errors: mean squared departure of its values at SHARES, NaN until measured."""

    def __init__(self, ends: "FieldBatch", walk: interpolate.Walk, size: tuple[int, int] | None) -> None:
        self._ends, self._walk, self._size = ends, walk, size
        self.errors = np.full(len(SHARES), np.nan)

    def field(self, share: float) -> "FieldBatch":
        """The field at a share of the way, as a batch of one."""
        return self._walk(np.array([share]))

    @property
    def is_measured(self) -> bool:
        """Whether all errors are known."""
        return not bool(np.isnan(self.errors).any())

    def measure(self) -> Iterator[float]:
        """Find what is still missing of the errors, yielding between pieces."""
        values = interpolate.POINTS_OF_SHAPES**3 if self._size is None else self._size[0] * self._size[1]
        step, truth = max(1, VALUES_AT_ONCE // values), None
        while (missing := np.flatnonzero(np.isnan(self.errors))).size:
            at = missing[:step]
            truth = interpolate.compared(self._ends, self._size) if truth is None else truth
            found = interpolate.compared(self._walk(SHARES[at]), self._size)
            self.errors[at] = np.nan_to_num(interpolate.departure(found, truth, SHARES[at]), nan=np.inf)
            yield 0.0


def way(ends: "FieldBatch", through: str, part: "Part", networks: "Networks") -> Way:
    """The path between two fields. part: of the first, says what is compared; through: WEIGHTS, ALIGNED, or a name of
    `embeddings`. Raises ValueError for another one, and for fields that it does not take."""
    known = embeddings(networks, ends.spec)
    if through in known:
        walk = _through(known[through], ends, networks)
    elif through in (WEIGHTS, ALIGNED):
        walk = interpolate.straight(ends, through == ALIGNED)
    else:
        raise ValueError(f"through={through!r}: expected {', '.join((WEIGHTS, ALIGNED, *known))} for these fields")
    size = None if part.kind == "shapes" else part.size if part.size != (1, 1) else UNKNOWN
    return Way(ends, walk, size)


def _through(one: "Entry", ends: "FieldBatch", networks: "Networks") -> interpolate.Walk:
    with networks.using(one) as network:
        walk = interpolate.through_latents(ends, network)

    def one_at_a_time(shares: np.ndarray) -> "FieldBatch":
        with networks.using(one):
            return walk(shares)

    return one_at_a_time
