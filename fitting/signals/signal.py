"""What fit() asks of signals, whatever they are: points with targets, and a judgement of the fitted fields."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from fitting.config import Loss
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec


@dataclass(frozen=True)
class Points:
    """What fields are fitted to.

    coords: (M, I) shared by all signals or (N, M, I) for each its own, in [-1, 1]; targets: (N, M, O) in raw output
    space; grid: (rows, columns) when coords are exactly that product grid, row by row, else None; normals: (N, S, I)
    unit normals of the surface at the first S of each signal's own points, else None; bound: where targets are clipped.
    """

    coords: Tensor
    targets: Tensor
    grid: tuple[int, int] | None = None
    normals: Tensor | None = None
    bound: float = math.inf


class Signals(Protocol):
    """N signals: ids (N,) uint32 are what the randomness of their fields hangs on; labels (N,) int64 or None."""

    @property
    def ids(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def split(self) -> str | None: ...

    @property
    def channels(self) -> int:
        """Number of values per point."""
        ...

    @property
    def losses(self) -> tuple[Loss, ...]:
        """Losses under which the values of fitted fields are the signals': "bce" where raw outputs are logits."""
        ...

    def __len__(self) -> int: ...

    def select(self, positions: slice) -> "Signals":
        """The signals at these positions, with their ids kept."""
        ...

    def points(self, spec: FieldSpec) -> Points:
        """Coordinates and targets of all signals."""
        ...

    def quality(self, fields: FieldBatch) -> dict[str, np.ndarray]:
        """Columns of the index that say how well each field stands for its signal, such as psnr: name -> (N,)."""
        ...

    def columns(self) -> dict[str, np.ndarray]:
        """Columns of the index that are known before any fit, such as group: name -> (N,)."""
        ...

    def describe(self) -> dict:
        """JSON values that a store keeps about its signals."""
        ...
