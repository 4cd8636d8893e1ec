"""How near a reconstructed surface is to its source, from points drawn on both.

Legend: V vertices, F faces, S samples on each surface.
"""

from typing import Protocol

import numpy as np

from neuralfields import philox

STREAM_METRICS = 9  # the counter word that keeps these draws apart from others
F_DISTANCE = 0.02  # of the F-score: one hundredth of the side of the box [-1, 1]^3


class Triangles(Protocol):
    """vertices (V, 3), faces (F, 3); without faces the vertices are a point cloud."""

    @property
    def vertices(self) -> np.ndarray: ...

    @property
    def faces(self) -> np.ndarray: ...


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return |A and B| / |A or B| of two insides on the same points, (T,) bool each; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def surface_samples(mesh: Triangles, count: int, seed: int = 0, key: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return points spread evenly over the surface and the unit normals of their faces: two (S, 3) float64.

    Sample i lies in the i-th of S equal shares of the area, uniformly; (seed, key) decide where, key as a field's id. A
    point cloud gives its own points, every one about equally often, and normals of zero. Raises ValueError for a
    count below 1 and for a mesh without vertices or without area.
    """
    if count < 1:
        raise ValueError(f"count={count}: expected at least one sample")
    if not len(mesh.vertices):
        raise ValueError("mesh has no vertices: expected a surface")
    draws = philox.uniform(seed, np.array([key], np.uint32), STREAM_METRICS, 0, 3 * count)[0].reshape(count, 3)
    share = (np.arange(count) + draws[:, 0].astype(np.float64)) / count
    vertices = np.asarray(mesh.vertices, np.float64)
    if not len(mesh.faces):
        return vertices[(share * len(vertices)).astype(np.int64)], np.zeros((count, 3))
    a, b, c = (vertices[np.asarray(mesh.faces)[:, corner]] for corner in range(3))
    cross = np.cross(b - a, c - a)
    double = np.linalg.norm(cross, axis=1)
    total = np.cumsum(double)
    if not total[-1] > 0:
        raise ValueError(f"mesh has {len(mesh.faces)} faces with an area of {total[-1] / 2}: expected a surface")
    face = np.searchsorted(total, share * total[-1], side="right").clip(max=np.flatnonzero(double)[-1])
    root, along = np.sqrt(draws[:, 1:2]), draws[:, 2:3]
    points = (1 - root) * a[face] + root * (1 - along) * b[face] + root * along * c[face]
    return points, cross[face] / double[face, None]


def compare(reconstruction: Triangles, source: Triangles, samples: int = 100_000, seed: int = 0) -> dict[str, float]:
    """Compare two surfaces by S points on each: chamfer_l1, chamfer_l2, f_score, normal_consistency.

    With d the distance of a sample to the nearest sample of the other surface, in units of the box whose side is 2:
    chamfer_l1 is the mean over both directions of mean d, chamfer_l2 of mean d^2; f_score the harmonic mean of the
    shares of samples with d < 0.02 (1 % of the side); normal_consistency the mean over both directions of
    |n . n'| of a sample and its nearest, NaN for clouds. Samples of one surface are about sqrt(area / S) apart, which
    bounds chamfer_l1 from below. Raises ValueError for a surface without vertices.
    """
    from scipy.spatial import KDTree

    for name, mesh in (("reconstruction", reconstruction), ("source", source)):
        if not len(mesh.vertices):
            raise ValueError(f"{name} has no vertices: expected a surface")
    # Another key for the source: equal draws would fall on equal places of equal meshes.
    (p, n), (q, m) = surface_samples(reconstruction, samples, seed, 0), surface_samples(source, samples, seed, 1)
    to_source, nearest = KDTree(q).query(p, workers=-1)
    to_made, nearest_made = KDTree(p).query(q, workers=-1)
    precision, recall = float((to_source < F_DISTANCE).mean()), float((to_made < F_DISTANCE).mean())
    clouds = not (len(reconstruction.faces) and len(source.faces))
    along = (
        np.abs(np.einsum("ij,ij->i", n, m[nearest])).mean() + np.abs(np.einsum("ij,ij->i", m, n[nearest_made])).mean()
    )
    return {
        "chamfer_l1": float(to_source.mean() + to_made.mean()) / 2,
        "chamfer_l2": float(np.square(to_source).mean() + np.square(to_made).mean()) / 2,
        "f_score": 2 * precision * recall / max(precision + recall, 1e-12),
        "normal_consistency": float("nan") if clouds else float(along) / 2,
    }
