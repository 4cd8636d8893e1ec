"""Cloud: the fields of a part as points of a space, read in pieces, kept where they take work and there is room."""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.collection import Part
from apps.viewer.spaces import Points, Space

if TYPE_CHECKING:
    from neuralfields import FieldBatch

MOST = 20_000  # fields of a cloud
ROOM = 1 << 25  # numbers kept of one cloud, 128 MiB
AT_ONCE, NUMBERS_AT_ONCE = 256, 1 << 22  # fields read between two places where work may be dropped, and numbers
SOME = 128  # fields that a space is prepared with


class Cloud:
    """Points of the fields `rows` (n,) of a part, once `fill` came to its end. num_bad: fields that were left out, as
    their weights are not finite; dim: numbers of a point."""

    def __init__(self, part: Part, space: Space) -> None:
        self.part, self.space = part, space
        self.rows, self.num_bad, self.dim = np.zeros(0, np.int64), 0, 0
        self._points: Points | None = None
        self._kept: np.ndarray | None = None
        self._step = max(1, min(AT_ONCE, NUMBERS_AT_ONCE // part.spec.num_params))
        self._done = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_bytes(self) -> int:
        """Of the kept points."""
        return 0 if self._kept is None else self._kept.nbytes

    def fill(self) -> Iterator[float]:
        """Find the fields, and the points that are kept; gives the share that is done, goes on where it was dropped.

        Raises ValueError where no field has finite weights.
        """
        if self._points is None:
            yield from self._find_rows()
            some = self._read(self.rows[spread(len(self.rows), SOME)])
            points = self.space.prepare(some)
            self.dim = points(some[0]).shape[1]
            if self.space.is_kept:
                self.rows = self.rows[spread(len(self.rows), max(1, ROOM // self.dim))]
                self._kept = np.empty((len(self.rows), self.dim), np.float32)
            self._points = points
        while self._kept is not None and self._done < len(self):
            start = self._done
            rows = self.rows[start : start + self._step]
            self._kept[start : start + len(rows)] = self._points(self._read(rows))
            self._done += len(rows)
            yield self._done / len(self)

    def _find_rows(self) -> Iterator[float]:
        import torch

        drawn = spread(len(self.part), MOST)
        finite = np.zeros(len(drawn), bool)
        for start in range(0, len(drawn), self._step):
            flat = self._read(drawn[start : start + self._step]).flat()
            finite[start : start + self._step] = torch.isfinite(flat).all(dim=1).numpy()
            yield 0.0
        if not finite.any():
            raise ValueError(f"fields of {self.part.path}: none has finite weights, expected one at least")
        self.rows, self.num_bad = drawn[finite], int((~finite).sum())

    def _read(self, rows: np.ndarray) -> "FieldBatch":
        import torch

        return self.part.fields[rows].to(torch.float32)

    def points(self, fields: "FieldBatch") -> np.ndarray:
        """Finite fields of the part's spec as points: float32 (n, dim)."""
        assert self._points is not None
        return self._points(fields)

    def at(self, places: np.ndarray) -> np.ndarray:
        """The points at places (m,) of the cloud: float32 (m, dim)."""
        return self.points(self._read(self.rows[places])) if self._kept is None else self._kept[places]

    def pieces(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All points in order: places, and float32 (m, dim)."""
        for start in range(0, len(self), self._step):
            here = slice(start, min(start + self._step, len(self)))
            yield here, self.at(np.arange(here.start, here.stop))

    def nearest(
        self, point: np.ndarray, count: int, without: int | None = None
    ) -> Generator[float, None, tuple[np.ndarray, np.ndarray]]:
        """Rows (m,) of the fields nearest to a point (dim,), in order, and their Euclidean distances (m,).

        m <= count; without: a row that is passed over. Gives the share that is done.
        """
        far = np.empty(len(self))
        for here, points in self.pieces():
            far[here] = np.linalg.norm(points - point, axis=1)
            yield here.stop / len(self)
        far[self.rows == without] = np.inf
        order = np.argsort(far, kind="stable")[:count]
        order = order[np.isfinite(far[order])]
        return self.rows[order], far[order]


def spread(total: int, most: int) -> np.ndarray:
    """All of 0 .. total - 1, or `most` of them, evenly spread: (n,) int64, ascending."""
    if total <= most:
        return np.arange(total)
    return np.arange(most) * total // most
