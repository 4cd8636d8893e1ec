"""HashGrid: trained features on grids of many resolutions, the fine ones kept in hash tables."""

import math
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import product
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from neuralfields.lookup import lookup

# 1, 2654435761 and 805459861 in 32 bits, with a sign: products may wrap around, their low bits are the same.
_PRIMES = (1, 2654435761 - 2**32, 805459861)


class Level(NamedTuple):
    """One resolution: positions are x * scale + 0.5 for x in [0, 1]; its rows are table[start : start + rows]."""

    scale: float
    resolution: int
    start: int
    rows: int
    hashed: bool


@dataclass(frozen=True)
class HashGrid:
    """Multiresolution hash encoding: per level l the d-linear interpolation of trained rows of F numbers, concatenated.

    scale_l = base * scale^l - 1, resolution_l = ceil(scale_l) + 1, cell position = x * scale_l + 0.5 with x = (coords +
    1) / 2. A level of resolution^I <= 2^log2_size vertices has a row for each (number sum_i c_i resolution^i, rows
    rounded up to a multiple of 8, modulo rows); a finer one 2^log2_size rows, found by (xor_i c_i prime_i) mod rows,
    primes 1, 2654435761, 805459861, in 32 bits. Shapes: coords (B, I) or (N, B, I) in [-1, 1], I 2 or 3, table
    (N, T, F), levels one after another -> (N, B, levels * F). Raises ValueError for settings out of range. Mueller et
    al., "Instant neural graphics primitives with a multiresolution hash encoding", SIGGRAPH 2022; numbers and order as
    in its code, tiny-cuda-nn.
    """

    name: ClassVar[str] = "hash_grid"
    levels: int = 16
    features: int = 2
    log2_size: int = 19
    base: int = 16
    scale: float = 1.382

    def __post_init__(self) -> None:
        for name, low, high in (("levels", 1, 64), ("features", 1, 64), ("log2_size", 3, 28), ("base", 1, 2**16)):
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name}={value!r}: expected an integer from {low} to {high}")
        if not 1.0 <= self.scale <= 16.0 or self.base * self.scale ** (self.levels - 1) > 2**24:
            raise ValueError(f"scale={self.scale}: expected 1 to 16, with base * scale^(levels - 1) up to 2^24")

    def to_json(self) -> dict:
        """Return plain JSON values."""
        return {"name": self.name, **asdict(self)}

    def out_dim(self, in_dim: int) -> int:
        """Number of encoded features for I coordinates."""
        return self.levels * self.features

    def shapes(self, in_dim: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the trained parameters of one field. Raises ValueError unless I is 2 or 3."""
        last = self.grids(in_dim)[-1]
        return {"encoding.table": (last.start + last.rows, self.features)}

    def init_range(self, name: str) -> tuple[float, float]:
        """Initial values are uniform in this range: +-1e-4, as in the paper."""
        return -1e-4, 1e-4

    def scratch(self, in_dim: int) -> int:
        """Numbers of 4 bytes per point and field that encoding holds at once."""
        return self.levels * 2**in_dim * 8

    def grids(self, in_dim: int) -> tuple[Level, ...]:
        """The levels, coarse to fine. Raises ValueError unless I is 2 or 3."""
        if in_dim not in (2, 3):
            raise ValueError(f"in_dim={in_dim}: expected 2 or 3 for a hash grid")
        start, found = 0, []
        for level in range(self.levels):
            scale = self.base * self.scale**level - 1.0
            # A power that is a whole number but for rounding must not gain a vertex: shapes would hang on the machine.
            resolution = math.ceil(scale - 1e-9 * self.base * self.scale**level) + 1
            vertices = resolution**in_dim
            rows = min(-(-vertices // 8) * 8, 2**self.log2_size)
            found.append(Level(scale, resolution, start, rows, vertices > rows))
            start += rows
        return tuple(found)

    def __call__(self, coords: Tensor, table: Tensor) -> Tensor:
        """Encode coordinates (B, I) or (N, B, I) with tables (N, T, F)."""
        coords = coords.unsqueeze(0) if coords.ndim == 2 else coords
        grids = self.grids(coords.shape[-1])
        scales = coords.new_tensor([grid.scale for grid in grids])
        positions = [((x + 1.0) * 0.5).unsqueeze(-1) * scales + 0.5 for x in coords.unbind(-1)]
        cells = [position.detach().floor() for position in positions]
        weights = corner_weights([p - cell for p, cell in zip(positions, cells, strict=True)])
        # Half as wide is twice as fast on a CPU.
        integer = torch.int32 if table.shape[0] * table.shape[1] < 2**31 else torch.int64
        index = torch.empty(weights.shape, dtype=integer, device=coords.device)
        dense = sum(not grid.hashed for grid in grids)  # they come first: resolutions do not fall
        _dense(index[..., :dense, :], [cell[..., :dense].to(integer) for cell in cells], grids[:dense])
        _hashed(index[..., dense:, :], [cell[..., dense:].to(integer) for cell in cells], grids[dense:])
        return lookup(table, index, weights)


def corner_weights(fractions: list[Tensor]) -> Tensor:
    """Weights of the 2^I corners of a cell, coordinate 0 slowest: I times (...) -> (..., 2^I)."""
    pairs = [(1.0 - fraction, fraction) for fraction in fractions]
    stacked = torch.stack([reduce(torch.mul, corner) for corner in product(*pairs)])
    return stacked.movedim(0, -1).contiguous()  # three times as fast as to stack along the last dimension


# Corners are written one by one: tensors whose last dimension is the 2 of a pair cost twice as much on a CPU.
def _dense(index: Tensor, cells: list[Tensor], grids: tuple[Level, ...]) -> None:
    """Row numbers of the corners of cells, I times (M, B, L), of levels with a row per vertex: into (M, B, L, 2^I)."""
    rows, starts, side = (cells[0].new_tensor([getattr(g, k) for g in grids]) for k in ("rows", "start", "resolution"))
    pairs = [(cell * side**axis, (cell + 1) * side**axis) for axis, cell in enumerate(cells)]
    for number, corner in enumerate(product(*pairs)):
        # Positions reach half a cell past the last vertex, where rows wrap around, as in the paper's code.
        torch.add(reduce(torch.add, corner).remainder_(rows), starts, out=index[..., number])


def _hashed(index: Tensor, cells: list[Tensor], grids: tuple[Level, ...]) -> None:
    """The same for hashed levels."""
    starts = cells[0].new_tensor([grid.start for grid in grids])
    mask = grids[0].rows - 1 if grids else 0
    pairs = [(cell * prime, (cell + 1) * prime) for cell, prime in zip(cells, _PRIMES, strict=False)]
    for number, corner in enumerate(product(*pairs)):
        torch.add(reduce(torch.bitwise_xor, corner).bitwise_and(mask), starts, out=index[..., number])
