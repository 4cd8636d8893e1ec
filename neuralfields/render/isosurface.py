"""Surfaces of fields over three coordinates: coarse to fine, values only near the surface.

Legend: N fields, B points, P cells of one level, M cells of the finest, V vertices.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate
from neuralfields.render.cubes import CORNERS, march
from neuralfields.render.mesh import Mesh

Inside = Literal["below", "above"]
# (fields done, fields in all)
OnField = Callable[[int, int], None]
AT_ONCE = 1 << 17  # cells halved at a time
_HUGE = 1e30
# Of an edge, from its ends: at a corner the vertices of several edges would be one to whoever merges by position.
SHORTEST = 1e-3


@torch.no_grad()
def isosurface(
    fields: FieldBatch,
    resolution: int = 128,
    level: float = 0.0,
    box: float = 1.0,
    inside: Inside = "below",
    cap: bool = True,
    coarse: int = 32,
    progress: OnField | None = None,
) -> list[Mesh]:
    """Extract the surface {x : f(x) = level} of N fields over three coordinates, of the first value: N meshes.

    Runs in float32 on the fields' device. The other arguments are those of `surface`. Raises ValueError for fields of
    other than three coordinates.
    """
    if fields.spec.in_dim != 3:
        raise ValueError(f"fields have in_dim={fields.spec.in_dim}: expected 3 for a surface")
    fields = fields.to(torch.float32)
    device = next(iter(fields.parameters.values())).device
    meshes = []
    for place in range(len(fields)):
        field = fields[place : place + 1]

        def function(points: Tensor, field: FieldBatch = field) -> Tensor:
            return evaluate(field, points)[0, :, 0]

        meshes.append(surface(function, resolution, level, box, inside, cap, coarse, device))
        if progress is not None:
            progress(place + 1, len(fields))
    return meshes


@torch.no_grad()
def surface(
    function: Callable[[Tensor], Tensor],
    resolution: int = 128,
    level: float = 0.0,
    box: float = 1.0,
    inside: Inside = "below",
    cap: bool = True,
    coarse: int = 32,
    device: torch.device | str = "cpu",
) -> Mesh:
    """Extract the surface {x : function(x) = level} in the box [-box, box]^3 by marching cubes.

    function: points (B, 3) float32 -> values (B,). resolution: cells along the box. inside: the side of the level that
    is solid, "below" for distances, "above" for occupancy; faces point outwards. cap: the solid ends at the box, so
    that the mesh is watertight; else the surface stops there. The whole box is looked at with about `coarse` cells
    along it; cells that the surface may pass are halved until they have the asked size, and their neighbours wherever
    it leaves them: a part is lost only if it is smaller than a coarse cell and the values at its corners do not show
    it. A mesh without faces where there is no surface. Values that are NaN are outside. The lattices take 10 bytes per
    cell of the box at most. Raises ValueError for numbers out of range.
    """
    if inside not in get_args(Inside):
        raise ValueError(f"inside={inside!r}: expected one of {', '.join(get_args(Inside))}")
    if resolution < 1 or coarse < 1 or not (math.isfinite(box) and box > 0):
        raise ValueError(f"resolution={resolution}, coarse={coarse}, box={box}: expected positive numbers")
    if not math.isfinite(level):
        raise ValueError(f"level={level}: expected a finite number")
    side = 1.0 if inside == "below" else -1.0

    def signed(points: Tensor) -> Tensor:
        return (side * (function(points) - level)).float().nan_to_num(_HUGE, _HUGE, -_HUGE)

    step = 2 ** max(0, math.ceil(math.log2(resolution / coarse)))
    lattice = _Lattice.make(resolution, step, box, cap, torch.device(device))
    cells = _coarsest(lattice, signed)
    while lattice.step > 1:
        lattice, cells = _refine(lattice, cells, signed)
    return _mesh(lattice, cells)


@dataclass(frozen=True, eq=False)
class _Lattice:
    """The corners of the cells of one level, one layer beyond the box included.

    Points and cells have indices from -1; index i lies at i * step cells of the finest level from the corner of the
    box. A point beyond the box has the value of the nearest point in it, and is outside if the solid is capped.
    """

    resolution: int
    step: int
    box: float
    cap: bool
    values: Tensor  # (size^3,), unset where nobody asked

    @classmethod
    def make(cls, resolution: int, step: int, box: float, cap: bool, device: torch.device) -> "_Lattice":
        size = math.ceil(resolution / step) + 3
        return cls(resolution, step, box, cap, torch.empty(size**3, device=device))

    @property
    def size(self) -> int:
        """Points along an axis."""
        return math.ceil(self.resolution / self.step) + 3

    def keys(self, index: Tensor) -> Tensor:
        """Positions in `values` of points, or of the first corners of cells, with index (..., 3)."""
        i = index + 1
        return (i[..., 0] * self.size + i[..., 1]) * self.size + i[..., 2]

    def block(self, first: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Positions in `values` of the width^3 points from index first (P, 3) on, and whether each is beyond the box.

        Both (P, width, width, width). Points further out than the rim are those at the rim: their values are the same.
        """
        index = first[:, :, None] + torch.arange(width, device=first.device)
        beyond = (index < 0) | (index * self.step > self.resolution)
        i = (index + 1).clamp_(0, self.size - 1) * torch.tensor([[self.size**2], [self.size], [1]]).to(index)
        keys = i[:, 0, :, None, None] + i[:, 1, None, :, None] + i[:, 2, None, None, :]
        return keys, beyond[:, 0, :, None, None] | beyond[:, 1, None, :, None] | beyond[:, 2, None, None, :]

    def index(self, keys: Tensor) -> Tensor:
        """Indices (..., 3) of points."""
        return torch.stack([keys // self.size**2, keys // self.size % self.size, keys % self.size], dim=-1) - 1

    def points(self, index: Tensor) -> Tensor:
        """Where the values of points with index (..., 3) are taken: the nearest place in the box."""
        return self._coords((index * self.step).clamp(0, self.resolution))

    def corners(self, index: Tensor) -> Tensor:
        """Where points with index (..., 3) lie, also beyond the box."""
        return self._coords(index * self.step)

    def _coords(self, cells: Tensor) -> Tensor:
        return (cells.double() * (2.0 * self.box / self.resolution) - self.box).float()

    def solid(self, values: Tensor, beyond: Tensor) -> Tensor:
        """Whether points are inside."""
        return (values < 0) & ~beyond if self.cap else values < 0

    def has(self, cells: Tensor) -> Tensor:
        """Whether cells (P, 3) hold any of the cells asked for: those of the box, and one layer more for a cap."""
        low, high = (-1, self.resolution + 1) if self.cap else (0, self.resolution)
        return (((cells + 1) * self.step > low) & (cells * self.step < high)).all(-1)


def _coarsest(lattice: _Lattice, signed: Callable[[Tensor], Tensor]) -> Tensor:
    """Fill a lattice with values and return the cells (P, 3) that the surface passes or may pass.

    It may pass where |v| < L sqrt(3)/2 h at all corners, the farthest that a place of the cell is from one; L: the
    steepest slope seen in the cell and those around it, h: the cell's side.
    """
    size = lattice.size
    every = torch.arange(size**3, device=lattice.values.device)
    lattice.values[:] = signed(lattice.points(lattice.index(every)))
    cells = lattice.index(every.view(size, size, size)[:-1, :-1, :-1].reshape(-1))
    cells = cells[lattice.has(cells)]
    keys, beyond = lattice.block(cells, 2)
    values = lattice.values[keys]
    mixed = _mixed(lattice.solid(values, beyond).flatten(1))
    if lattice.step == 1:
        return cells[mixed]
    slopes = [values.diff(dim=axis).abs().flatten(1).amax(1).square() for axis in (1, 2, 3)]
    slope = torch.zeros_like(lattice.values)
    slope[lattice.keys(cells)] = (slopes[0] + slopes[1] + slopes[2]).sqrt()
    steepest = torch.nn.functional.max_pool3d(slope.view(1, 1, size, size, size), 3, 1, 1).view(-1)
    nearest = values.abs().flatten(1).amin(1)
    return cells[mixed | (nearest < math.sqrt(0.75) * steepest[lattice.keys(cells)])]


def _refine(lattice: _Lattice, cells: Tensor, signed: Callable[[Tensor], Tensor]) -> tuple[_Lattice, Tensor]:
    """Halve cells (P, 3) and return the finer lattice and those of its cells that the surface passes or may pass.

    It may pass where |v| < (|D_x| + |D_y| + |D_z|) / 2 at all corners, D the largest second differences of the 27
    points of the halved cell: four times what a smooth function can leave the interpolated one by, and what a kink
    in a distance can. Cells behind faces that the surface is seen to pass are halved too, until it leaves them nowhere.
    """
    fine = _Lattice.make(lattice.resolution, lattice.step // 2, lattice.box, lattice.cap, lattice.values.device)
    known = torch.zeros(len(fine.values), dtype=torch.bool, device=cells.device)
    seen = torch.zeros(len(lattice.values), dtype=torch.bool, device=cells.device)
    seen[lattice.keys(cells)] = True
    corners = torch.tensor(CORNERS, device=cells.device)
    found, todo = [cells[:0]], list(cells.split(AT_ONCE))
    while todo:
        part = todo.pop()
        keys, beyond = fine.block(2 * part, 3)
        new = _unique(keys[~known[keys]], len(known))
        fine.values[new] = signed(fine.points(fine.index(new)))
        known[new] = True
        values = fine.values[keys]
        solid = fine.solid(values, beyond)
        keep = _mixed(_windows(solid))
        if fine.step > 1:
            bends = [values.diff(n=2, dim=axis).abs().flatten(1).amax(1) for axis in (1, 2, 3)]
            bound = 0.5 * (bends[0] + bends[1] + bends[2])
            keep |= _windows(values.abs()).amin(-1) < bound[:, None]
        children = (2 * part[:, None] + corners)[keep]
        found.append(children[fine.has(children)])
        around = _behind(part, solid)
        around = around[lattice.has(around)]
        around = around[~seen[lattice.keys(around)]].unique(dim=0)
        seen[lattice.keys(around)] = True
        todo += [around] if len(around) else []
    return fine, torch.cat(found)


def _windows(block: Tensor) -> Tensor:
    """The corners of the eight halves of cells, both in the order of CORNERS: (P, 3, 3, 3) -> (P, 8, 8)."""
    return block.unfold(1, 2, 1).unfold(2, 2, 1).unfold(3, 2, 1).reshape(len(block), 8, 8)


def _mixed(solid: Tensor) -> Tensor:
    """Whether some but not all of the last dimension are inside."""
    return solid.any(-1) & ~solid.all(-1)


def _behind(cells: Tensor, solid: Tensor) -> Tensor:
    """The neighbours of cells (P, 3) across faces on which some of the nine points (P, 3, 3, 3) are inside, not all."""
    found = []
    for axis in range(3):
        for side, shift in ((0, -1), (2, 1)):
            crossed = cells[_mixed(solid.select(axis + 1, side).flatten(1))]
            found.append(crossed + shift * torch.eye(3, dtype=cells.dtype, device=cells.device)[axis])
    return torch.cat(found)


def _unique(keys: Tensor, count: int) -> Tensor:
    """Sorted distinct keys from [0, count): by marking when they are many, by sorting when they are few."""
    if len(keys) * 16 < count:
        return keys.unique()
    marks = torch.zeros(count, dtype=torch.bool, device=keys.device)
    marks[keys] = True
    return marks.nonzero()[:, 0]


def _mesh(lattice: _Lattice, cells: Tensor) -> Mesh:
    """Vertices where the linear function along an edge is 0: p0 + t (p1 - p0), t = v0 / (v0 - v1).

    A cap stands out by SHORTEST of a cell, so that its vertices around an edge of the box keep apart.
    """
    keys, beyond = lattice.block(cells, 2)
    solid = lattice.solid(lattice.values[keys], beyond).flatten(1)
    points = _unique(keys.flatten(), len(lattice.values))
    place = torch.empty(len(lattice.values), dtype=torch.int32, device=cells.device)
    place[points] = torch.arange(len(points), dtype=torch.int32, device=cells.device)
    start, axis, faces = march(place[keys.flatten(1)].long(), solid, len(points))
    first = points[start]
    second = first + torch.tensor([lattice.size**2, lattice.size, 1], device=cells.device)[axis]
    v0, v1 = lattice.values[first], lattice.values[second]
    t = (v0 / (v0 - v1)).nan_to_num(0.0)
    t = torch.where((lattice.index(first) < 0).any(-1), 1.0, t)  # beyond the box: the solid ends where it begins
    t = torch.where((lattice.index(second) > lattice.resolution).any(-1), 0.0, t).clamp_(SHORTEST, 1.0 - SHORTEST)[
        :, None
    ]
    p0, p1 = lattice.corners(lattice.index(first)), lattice.corners(lattice.index(second))
    vertices = p0 + t * (p1 - p0)
    return Mesh(vertices.cpu().numpy(), faces.cpu().numpy())
