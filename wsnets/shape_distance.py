"""Distances between the surfaces of shape fields: points on the surfaces, and how far those of two fields are apart.

Legend: N, M fields, K points on a surface, V vertices, F faces.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from neuralfields.batch import FieldBatch
from neuralfields.render.isosurface import Inside, isosurface
from neuralfields.render.mesh import Mesh

if TYPE_CHECKING:
    from scipy.spatial import KDTree

OnPart = Callable[[int, int], None]  # (done, in all)


def draws(num_points: int, generator: Generator) -> Tensor:
    """The uniform numbers that `on_surface` places its points by: (K, 3) float64 in [0, 1).

    The first column rises, one number in each K-th of [0, 1), so that points lie evenly over the area. Raises
    ValueError for fewer than one point.
    """
    if num_points < 1:
        raise ValueError(f"num_points={num_points}: expected one or more")
    uniform = torch.rand(num_points, 3, generator=generator, dtype=torch.float64)
    uniform[:, 0] = (uniform[:, 0] + torch.arange(num_points)) / num_points
    return uniform


def on_surface(mesh: Mesh, uniform: Tensor) -> Tensor:
    """Points on a mesh, evenly by area: (K, 3) float64; NaN throughout for a mesh without area.

    Point k lies on the face at which the running sum of areas passes u_k0 of the total, at corners (a, b, c) weighed
    (1 - sqrt(u_k1), sqrt(u_k1) (1 - u_k2), sqrt(u_k1) u_k2). Osada et al., "Shape distributions", ACM TOG 2002.
    uniform: (K, 3), see `draws`; one mesh and one uniform always give the same points.
    """
    u = uniform.numpy()
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    total = np.cumsum(areas)
    if not len(total) or not total[-1] > 0.0:
        return torch.full((len(u), 3), torch.nan, dtype=torch.float64)
    faces = np.searchsorted(total, u[:, 0] * total[-1], side="right").clip(max=len(total) - 1)
    root = np.sqrt(u[:, 1:2])
    a, b, c = (corners[faces, corner] for corner in range(3))
    return torch.from_numpy((1.0 - root) * a + root * (1.0 - u[:, 2:]) * b + root * u[:, 2:] * c)


def surface_points(
    fields: FieldBatch,
    uniform: Tensor,
    resolution: int = 64,
    level: float = 0.0,
    inside: Inside = "below",
    progress: OnPart | None = None,
) -> Tensor:
    """Points on the surfaces {f = level} of N fields over three coordinates: (N, K, 3) float64 in the box [-1, 1]^3.

    NaN throughout for a field that has no surface: see `empty`. uniform: see `draws`; the same for all fields, so that
    the points of a field do not depend on its batch and equal fields have equal points. The other arguments are those
    of `isosurface`.
    """
    meshes = isosurface(fields, resolution, level, inside=inside, progress=progress)
    points = [on_surface(mesh, uniform) for mesh in meshes]
    return torch.stack(points) if points else uniform.new_empty(0, *uniform.shape)


def empty(points: Tensor) -> Tensor:
    """Which fields have no surface: points (N, K, 3) -> (N,) bool."""
    return points.isnan().flatten(1).any(dim=1)


def chamfer(a: Tensor, b: Tensor, progress: OnPart | None = None) -> np.ndarray:
    """Root mean square Chamfer distance of points on surfaces, in their units: (N, K, 3), (M, K, 3) -> (N, M).

    d(X, Y)^2 = (mean over x of min over y of |x - y|^2 + mean over y of min over x of |x - y|^2) / 2: half of the
    squared Chamfer distance of PointFlow (Yang et al., ICCV 2019), so that nearest ones, COV and 1-NNA are the same,
    while the distance of moved copies grows with the way and not with its square. Where one has no surface the
    distance is inf, where both have none 0. When a is b, each pair is measured once. As many threads as torch has.
    """
    trees_a = _trees(a)
    trees_b = trees_a if a is b else _trees(b)

    def row(i: int) -> list[float]:
        first = i + 1 if a is b else 0
        return [0.0] * first + [_distance(trees_a[i], other) for other in trees_b[first:]]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        rows = []
        for found in pool.map(row, range(len(a))):
            rows.append(found)
            if progress is not None:
                progress(len(rows), len(a))
    distances = np.array(rows, np.float64).reshape(len(a), len(b))
    return np.maximum(distances, distances.T) if a is b else distances


def _distance(tree: "KDTree | None", other: "KDTree | None") -> float:
    if tree is None or other is None:
        return 0.0 if tree is other else np.inf
    there, back = other.query(tree.data)[0], tree.query(other.data)[0]
    return float(np.sqrt((np.square(there).mean() + np.square(back).mean()) / 2.0))


def _trees(points: Tensor) -> list["KDTree | None"]:
    """A KD-tree of the points of every field, None for one without a surface."""
    from scipy.spatial import KDTree

    return [None if bool(gone) else KDTree(own.numpy()) for own, gone in zip(points, empty(points), strict=True)]
