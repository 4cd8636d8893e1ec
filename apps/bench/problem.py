"""The work every side of the fitting benchmark does: N sine fields on one grid, full batch, float32, Adam."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from apps.bench.rows import parse_case
from neuralfields import grids, inits
from neuralfields.batch import FieldBatch
from neuralfields.spec import SIREN

LEARNING_RATE = 1e-4
BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class Problem:
    """start: N fields; coords: (M, 2) of a square picture; targets: (N, M, O) in [0, 1]; threads: cores to use."""

    start: FieldBatch
    coords: Tensor
    targets: Tensor
    threads: int


class Side(Protocol):
    """One way to run the fit; it keeps its own copy of the weights."""

    def __init__(self, problem: Problem) -> None: ...

    def advance(self, steps: int) -> None:
        """Take optimizer steps, and return when they are done."""

    def flat(self) -> Tensor:
        """Return the weights as (N, P), in the order of FieldSpec.shapes."""
        ...


def build(spec: str, points: int, count: int, threads: int) -> Problem:
    """Make the problem for a spec such as '2-32-32-1'. Raises ValueError when points is not a square."""
    dims, side = parse_case(spec, points), math.isqrt(points)
    field_spec = SIREN(2, dims[-1], hidden=dims[1:-1])
    start = inits.initial(field_spec, np.arange(count, dtype=np.uint32), mode="random")
    targets = torch.rand(count, points, dims[-1], generator=torch.Generator().manual_seed(0))
    return Problem(start, grids.image_coords(field_spec, (side, side)), targets, threads)
