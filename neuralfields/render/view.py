"""Pictures of radiance fields: what a camera sees of every field, and frames along a path of cameras.

Legend: N fields, R rays, H rows, W columns.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import density, evaluate
from neuralfields.render.cameras import Camera, check_pose, rays
from neuralfields.render.occupancy_grid import OccupancyGrid
from neuralfields.render.volume import RadianceField, RayBatch, Rendered, box_range, march


@dataclass(frozen=True, eq=False)
class View:
    """Pictures of N fields: colour (N, H, W, 3) in [0, 1], opacity (N, H, W) in [0, 1], depth (N, H, W) in the
    scene's units from the camera, 0 where nothing is seen."""

    colour: Tensor
    opacity: Tensor
    depth: Tensor


def radiance(fields: FieldBatch) -> RadianceField:
    """Fields with a view head as the callable that volume rendering takes. Raises ValueError for other fields."""
    if fields.spec.view is None:
        raise ValueError(f"fields are {fields.spec.describe()}: expected radiance fields (with a view head)")

    def field(positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        values = evaluate(fields, torch.cat([positions, directions], dim=-1))
        return values[..., :3], values[..., 3]

    return field


def occupancy(fields: FieldBatch, resolution: int = 64, probes: int = 4, samples: int = 128) -> OccupancyGrid:
    """Occupancy of finished fields, for views that skip empty cells: the largest of `probes` densities in every cell.

    A cell is empty for steps of length 2 / samples. The places are drawn as for seed 0 and ids 0 to N - 1.
    """
    grid = OccupancyGrid.full(len(fields), resolution, 2.0 / samples, decay=1.0)  # forgets nothing
    for probe in range(probes):
        grid = grid.updated(lambda at: density(fields, at), 0, np.arange(len(fields)), probe)
    return grid


@torch.no_grad()
def view(
    fields: FieldBatch | RadianceField,
    camera: Camera | Sequence[Camera],
    samples: int = 128,
    background: Tensor | float = 1.0,
    grid: OccupancyGrid | None = None,
    chunk: int = 2**18,
) -> View:
    """Render what a camera sees of every field in the box [-1, 1]^3, at any resolution.

    camera: one for all, or one per field, of equal sizes, in the fields' coordinates; a callable field takes one per
    field. samples: per ray, at the middles of equal intervals between where it enters and leaves the box. background: a
    number or (3,), 1 is white. grid: rules out empty cells. chunk: samples in work at once, over all fields. Raises
    ValueError for cameras that do not fit.
    """
    cameras = [camera] if isinstance(camera, Camera) else list(camera)
    count = len(fields) if isinstance(fields, FieldBatch) else len(cameras)
    if len(cameras) not in (1, count) or len({c.shape for c in cameras}) != 1:
        sizes = sorted({c.shape for c in cameras})
        raise ValueError(f"camera has {len(cameras)} cameras of sizes {sizes}: expected 1 or {count} of one size")
    pairs = [rays(c) for c in cameras]
    origins = torch.stack([origin.view(-1, 3) for origin, _ in pairs]).expand(count, -1, -1)
    directions = torch.stack([direction.view(-1, 3) for _, direction in pairs]).expand(count, -1, -1)
    batch = RayBatch(origins, directions, *box_range(origins, directions))
    field = radiance(fields) if isinstance(fields, FieldBatch) else fields
    shown = render_rays(field, batch, samples, background, grid, chunk)
    h, w = cameras[0].shape
    return View(
        shown.colour.clamp(0.0, 1.0).view(count, h, w, 3),
        shown.opacity.view(count, h, w),
        shown.depth.view(count, h, w),
    )


@torch.no_grad()
def render_rays(
    field: RadianceField,
    batch: RayBatch,
    samples: int = 128,
    background: Tensor | float = 1.0,
    grid: OccupancyGrid | None = None,
    chunk: int = 2**18,
) -> Rendered:
    """March any number of rays, `chunk` samples of all fields at once, at the middles of their intervals."""
    count, total = batch.near.shape
    step = max(1, chunk // max(1, count * samples))
    occupied = None if grid is None else grid.occupied
    parts = [
        march(field, batch[slice(first, first + step)], samples, background, 0.5, occupied)
        for first in range(0, total, step)
    ]
    return Rendered(
        torch.cat([p.colour for p in parts], dim=1),
        torch.cat([p.opacity for p in parts], dim=1),
        torch.cat([p.depth for p in parts], dim=1),
    )


def interpolate(poses: np.ndarray, count: int, closed: bool = False) -> np.ndarray:
    """Return `count` poses (count, 4, 4) of a smooth path through the poses (K, 4, 4), spent evenly between them.

    Positions on a cubic spline, rotations on a spline of continuous angular velocity; the path starts at the first pose
    and ends at the last or, closed, just before the first again. Raises ValueError for fewer than 2 poses or frames.
    """
    from scipy.interpolate import CubicSpline
    from scipy.spatial.transform import Rotation, RotationSpline

    knots = np.stack([check_pose(pose) for pose in poses]) if len(poses) else np.zeros((0, 4, 4))
    if len(knots) < 2 or count < 2:
        raise ValueError(f"poses={len(knots)}, count={count}: expected at least 2 of each")
    knots = np.concatenate([knots, knots[:1]]) if closed else knots
    at = np.arange(len(knots), dtype=np.float64)
    times = np.linspace(0.0, at[-1], count, endpoint=not closed)
    path = np.tile(np.eye(4), (count, 1, 1))
    kind = "periodic" if closed else "natural"
    path[:, :3, 3] = CubicSpline(at, knots[:, :3, 3], bc_type=kind)(times)
    path[:, :3, :3] = RotationSpline(at, Rotation.from_matrix(knots[:, :3, :3]))(times).as_matrix()
    return path


def frames(
    fields: FieldBatch, camera: Camera, poses: Iterable[np.ndarray], samples: int = 128, background: float = 1.0
) -> Iterator[np.ndarray]:
    """Yield pictures (N, H, W, 3) uint8 of all fields from each of the poses, such as `cameras.orbit` or `interpolate`.

    Empty cells are found once, before the first frame.
    """
    grid = occupancy(fields, samples=samples)
    for pose in poses:
        colour = view(fields, camera.at(pose), samples, background, grid).colour
        yield (colour * 255.0 + 0.5).to(torch.uint8).numpy()
