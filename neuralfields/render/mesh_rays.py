"""Rays against triangle meshes: what a camera sees, distances to the surface, ambient occlusion.

The rays are cast by Open3D's RaycastingScene (Embree): no OpenGL, no display.

Legend: V vertices, F faces, B rays or points, K rays per point.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

NOTHING = 0xFFFFFFFF  # Open3D's name for no face


class HasTriangles(Protocol):
    """Anything with vertices (V, 3) and faces (F, 3)."""

    @property
    def vertices(self) -> Any: ...

    @property
    def faces(self) -> Any: ...


@dataclass(frozen=True, eq=False)
class Hits:
    """Where B rays meet a mesh for the first time; all arrays are over the M rays that do.

    rays (M,) int64: which rays; distance (M,): along the unit ray; point (M, 3): in the world; face (M,) int64;
    weights (M, 3): barycentric, of the corners of the face.
    """

    rays: np.ndarray
    distance: np.ndarray
    point: np.ndarray
    face: np.ndarray
    weights: np.ndarray


class MeshScene:
    """A mesh made ready for rays: build once, cast often.

    vertices (V, 3) float32, faces (F, 3) int64, face_normals (F, 3) float32: unit, by the right-hand rule, zero for
    faces without area. Raises ValueError for meshes without faces, with NaN or infinite vertices, or indices out of
    range.
    """

    def __init__(self, mesh: HasTriangles) -> None:
        import open3d as o3d

        self.vertices, self.faces = check_mesh(mesh)
        self.triangles = self.vertices[self.faces]
        edges = self.triangles[:, 1:] - self.triangles[:, :1]
        self.face_normals = unit(np.cross(edges[:, 0], edges[:, 1]))
        self._scene = o3d.t.geometry.RaycastingScene()
        self._tensor = o3d.core.Tensor
        self._scene.add_triangles(self._tensor(self.vertices), self._tensor(self.faces.astype(np.uint32)))

    @property
    def centre(self) -> np.ndarray:
        """Middle of the bounding box: (3,)."""
        return 0.5 * (self.vertices.min(0) + self.vertices.max(0))

    @property
    def radius(self) -> float:
        """Largest distance of a vertex from the middle of the bounding box."""
        return float(np.linalg.norm(self.vertices - self.centre, axis=1).max())

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """Return where rays from origins (B, 3) along unit directions (B, 3) first meet the mesh."""
        rays = np.concatenate([origins, directions], axis=-1, dtype=np.float32)
        found = self._scene.cast_rays(self._tensor(rays))
        faces = found["primitive_ids"].numpy()
        seen = np.flatnonzero(faces != NOTHING)
        distance = found["t_hit"].numpy()[seen]
        uv = found["primitive_uvs"].numpy()[seen]
        weights = np.concatenate([1.0 - uv.sum(axis=1, keepdims=True), uv], axis=1, dtype=np.float32)
        point = rays[seen, :3] + distance[:, None] * rays[seen, 3:]
        return Hits(seen, distance, point, faces[seen].astype(np.int64), weights)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return the unsigned distance of points (B, 3) to the surface, (B,) float32, in the units of the mesh."""
        return self._scene.compute_distance(self._tensor(np.ascontiguousarray(points, np.float32))).numpy()

    def corner_normals(self, crease: float = math.radians(40.0)) -> np.ndarray:
        """Return unit normals for the corners of all faces (F, 3, 3), smooth but for edges.

        A corner takes the mean of the normals around its vertex, weighted by the angles of the faces there (Thuermer
        and Wuethrich, "Computing Vertex Normals from Polygonal Facets", 1998), unless that differs from the normal of
        its own face by more than `crease` radians: then the face is flat there.
        """
        sides = unit(np.roll(self.triangles, -1, axis=1) - self.triangles)
        angles = np.arccos(np.clip(-(sides * np.roll(sides, 1, axis=1)).sum(-1), -1.0, 1.0))
        weighted = (self.face_normals[:, None] * angles[..., None]).reshape(-1, 3)
        at = self.faces.ravel()
        sums = [np.bincount(at, weights=weighted[:, axis], minlength=len(self.vertices)) for axis in range(3)]
        smooth = unit(np.stack(sums, axis=1).astype(np.float32))[self.faces]
        own = np.broadcast_to(self.face_normals[:, None], smooth.shape)
        same = (smooth * own).sum(-1, keepdims=True) > math.cos(crease)
        return np.where(same, smooth, own).astype(np.float32)

    def openness(
        self, points: np.ndarray, normals: np.ndarray, cells: np.ndarray, sets: tuple[int, int], reach: float
    ) -> np.ndarray:
        """Return the share of the sky that points see: (B,) float32 in [0, 1], 1 where nothing is near.

        Of K rays over the hemisphere around normals (B, 3), cosine-weighted and no longer than `reach`, the share that
        meets nothing. sets: number of sets of directions, and K; cells (B,): the set that a point takes, 0 up. All sets
        together are one low-discrepancy sequence: points near each other that take one each count as one with all.
        Zhukov et al., "An ambient light illumination model", 1998.
        """
        number, count = sets
        around = hemisphere(number * count).reshape(count, number, 3)
        tangent, bitangent = tangents(normals)
        start = points + normals * np.float32(1e-3 * reach)
        local = around[:, cells]  # (K, B, 3)
        rays = np.empty((*local.shape[:2], 6), np.float32)
        rays[..., :3] = start
        rays[..., 3:] = local[..., :1] * tangent + local[..., 1:2] * bitangent + local[..., 2:] * normals
        hit = self._scene.test_occlusions(self._tensor(rays), tnear=0.0, tfar=reach).numpy()
        return np.float32(1.0) - hit.mean(axis=0, dtype=np.float32)


def check_mesh(mesh: HasTriangles) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices (V, 3) float32 and faces (F, 3) int64 of a mesh that can be drawn, or raise ValueError."""
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if faces.ndim != 2 or faces.shape[-1] != 3 or len(faces) == 0:
        raise ValueError(f"mesh has faces of shape {faces.shape}: expected (F, 3) with at least one face")
    if vertices.ndim != 2 or vertices.shape[-1] != 3:
        raise ValueError(f"mesh has vertices of shape {vertices.shape}: expected (V, 3)")
    if not np.isfinite(vertices).all():
        raise ValueError(f"mesh has {(~np.isfinite(vertices)).any(axis=1).sum()} vertices that are not finite")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"mesh has faces from {faces.min()} to {faces.max()}: expected 0 to {len(vertices) - 1}")
    return np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int64)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (..., 3) divided by their lengths; zero stays zero."""
    length = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    return vectors / np.maximum(length, np.finfo(np.float32).tiny).astype(vectors.dtype)


def hemisphere(count: int) -> np.ndarray:
    """Return unit directions (count, 3) around +z, cosine-weighted, spread by the R2 sequence.

    Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018.
    """
    index = np.arange(count) + 0.5
    radius = np.sqrt((index * 0.7548776662466927) % 1.0)
    angle = 2.0 * math.pi * ((index * 0.5698402909980532) % 1.0)
    xyz = [radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1.0 - radius**2)]
    return np.stack(xyz, axis=1).astype(np.float32)


def tangents(normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two unit vectors (B, 3) across each unit normal (Duff et al., "Building an orthonormal basis", 2017)."""
    x, y, z = normals[:, 0], normals[:, 1], normals[:, 2]
    sign = np.copysign(np.float32(1.0), z)
    a = -1.0 / (sign + z)
    b = x * y * a
    first = np.stack([1.0 + sign * x * x * a, sign * b, -sign * x], axis=1)
    return first, np.stack([b, sign + y * y * a, -y], axis=1)
