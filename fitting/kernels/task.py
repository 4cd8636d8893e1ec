"""What every fitting kernel takes and gives back: one signature for reference, native and CUDA steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fitting.config import FitConfig
from neuralfields.batch import FieldBatch


@dataclass(frozen=True)
class StepTask:
    """N fields to be fitted from where they are, each for all its steps.

    start: initial weights; encoded: coordinates after the spec's encoding (before it where it is trained), (M, E)
    shared by all fields or (N, M, E) for each its own; targets: (N, M, O) in raw output space; ids: (N,) uint32; grid:
    (rows, columns) when the unencoded coordinates are exactly that product grid, row by row, else None; config:
    optimizer, loss, batch, stop rule; lr: (steps,) float32; coords (N, M, I): the coordinates themselves, normals
    (N, S, I): of the surface at the first S points, bound: where raw targets are clipped; these three where a loss
    needs the gradient of the field.
    """

    start: FieldBatch
    encoded: Tensor
    targets: Tensor
    ids: np.ndarray
    grid: tuple[int, int] | None
    config: FitConfig
    lr: np.ndarray
    coords: Tensor | None = None
    normals: Tensor | None = None
    bound: float = math.inf


@dataclass(frozen=True)
class StepResult:
    """Fitted fields; steps: (N,) int32 updates made; curves: (N, K) float32 loss before the update at steps 0,
    curve_every, ...; NaN after a field stopped."""

    fields: FieldBatch
    steps: np.ndarray
    curves: np.ndarray


# (field-steps done, fields done, mean squared error in value space of the fields in work)
OnProgress = Callable[[int, int, float], None]
