"""Occupancy grids: where fields have density, so that rays skip where they have none.

Legend: N fields, G cells along each axis of the box [-1, 1]^3, M points.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralfields import philox

# positions (N, M, 3) -> densities (N, M) in 1 / length
Density = Callable[[Tensor], Tensor]
# The third counter word of the places at which cells are probed; see neuralfields.philox.
STREAM_CELLS = 24


@dataclass(frozen=True, eq=False)
class OccupancyGrid:
    """Largest recent density in every cell of N boxes, and which cells may not be empty.

    density (N, G, G, G) in 1 / length, axes x, y, z; mask (N, G, G, G) bool. A cell is empty when a step of length
    `step` through it would be less than `threshold` opaque, sigma * step < threshold, and its density is below the
    mean of its field. Mueller et al., "Instant neural graphics primitives", SIGGRAPH 2022, appendix E.1.
    """

    density: Tensor
    mask: Tensor
    step: float
    threshold: float = 0.01
    decay: float = 0.9

    def __post_init__(self) -> None:
        side = self.density.shape[-1]
        if self.density.ndim != 4 or self.density.shape[1:] != (side, side, side):
            raise ValueError(f"density has shape {tuple(self.density.shape)}: expected (N, G, G, G)")
        if self.mask.shape != self.density.shape or self.mask.dtype != torch.bool:
            raise ValueError(f"mask is {self.mask.dtype} {tuple(self.mask.shape)}: expected bool like density")
        if not (math.isfinite(self.step) and self.step > 0):
            raise ValueError(f"step={self.step}: expected a positive length")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay={self.decay}: expected a number in [0, 1]")

    @classmethod
    def full(cls, count: int, resolution: int, step: float, **options: float) -> "OccupancyGrid":
        """A grid that rules nothing out yet. Raises ValueError unless resolution is positive."""
        if resolution < 1:
            raise ValueError(f"resolution={resolution}: expected at least 1 cell along an axis")
        shape = (count, resolution, resolution, resolution)
        return cls(torch.zeros(shape), torch.ones(shape, dtype=torch.bool), step, **options)

    @torch.no_grad()
    def updated(self, density: Density, seed: int, ids: np.ndarray, update: int, mask: bool = True) -> "OccupancyGrid":
        """Return the grid after one look at the fields: density = max(decay * density, sigma(a place in the cell)).

        The place is drawn uniformly in each cell from (seed, field id, update); ids (N,). mask=False is for the first
        steps of a fit, where nothing should be ruled out and densities are not worth remembering: density = sigma.
        """
        count, side = self.density.shape[0], self.density.shape[-1]
        offsets = philox.uniform(seed, ids, STREAM_CELLS, update, 3 * side**3).reshape(count, side**3, 3)
        axis = torch.arange(side, dtype=torch.float32)
        corners = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
        found = density((corners + torch.from_numpy(offsets)) * (2.0 / side) - 1.0).view_as(self.density)
        if not mask:
            return self._with(found.to(self.density), self.mask)
        merged = torch.maximum(self.density * self.decay, found.to(self.density))
        return self._with(merged, self._occupied(merged))

    def _occupied(self, density: Tensor) -> Tensor:
        # The mean is the lower bar while a field is faint everywhere: some cells are always left to learn in.
        bar = density.mean((1, 2, 3), keepdim=True).clamp_max(self.threshold / self.step)
        return density >= bar

    def _with(self, density: Tensor, mask: Tensor) -> "OccupancyGrid":
        return OccupancyGrid(density, mask, self.step, self.threshold, self.decay)

    def occupied(self, positions: Tensor) -> Tensor:
        """Whether something may be at positions (N, ..., 3): (N, ...) bool; nothing is outside the box."""
        side = self.mask.shape[-1]
        inside = (positions.abs() <= 1.0).all(-1)
        cell = ((positions + 1.0) * (0.5 * side)).long().clamp_(0, side - 1)
        flat = (cell[..., 0] * side + cell[..., 1]) * side + cell[..., 2]
        found = self.mask.flatten(1).gather(1, flat.flatten(1)).view_as(inside)
        return found & inside

    def select(self, positions: slice) -> "OccupancyGrid":
        """The grids of some of the fields."""
        return self._with(self.density[positions], self.mask[positions])

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `restored` makes this grid again: density and mask."""
        return {"density": self.density, "mask": self.mask}

    def restored(self, state: dict[str, Tensor]) -> "OccupancyGrid":
        """Return the grid with a stored state. Raises ValueError when it is of another size."""
        found = tuple(state["density"].shape)
        if found != tuple(self.density.shape):
            raise ValueError(f"state has density {found}: expected {tuple(self.density.shape)}")
        return self._with(state["density"], state["mask"])
