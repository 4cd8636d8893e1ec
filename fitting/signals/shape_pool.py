"""Sample pools: the points at which a shape is known, drawn once, from which each fitting step draws its own.

Legend: M points of the pool, T test points.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from fitting.signals.distance import ShapeDistance
from fitting.signals.mesh_repair import face_normals
from neuralfields import philox

STREAM_POOL = 8  # the counter word that keeps these draws apart from others
_SURFACE, _NEAR, _UNIFORM, _TEST, _CHECK = 0, 1, 100, 101, 102
CHECKED = 4096  # points on which the two rules of inside are compared
BOUND = 1.0  # pools lie in the box [-1, 1]^3


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """What a pool is made of.

    surface: points on the surface, at distance 0; near: (sigma, count) of surface points moved by a normal of
    standard deviation sigma along every axis, in units of the normalised shape, whose largest side is 1.8; uniform:
    points of the box [-1, 1]^3; test: uniform points kept aside, of which only the side is known; seed. Moved points
    that leave the box are put back on its border. Raises ValueError for negative numbers and an empty pool.
    """

    surface: int = 0
    near: tuple[tuple[float, int], ...] = ((0.01, 60_000), (0.05, 30_000))
    uniform: int = 30_000
    test: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        near = tuple((float(sigma), int(count)) for sigma, count in self.near)
        object.__setattr__(self, "near", near)
        counts = (self.surface, self.uniform, self.test, *(count for _, count in near))
        if min(counts) < 0 or any(not sigma > 0 for sigma, _ in near):
            raise ValueError(f"pool={self}: expected counts of zero or more and positive sigmas")
        if self.size < 1 or self.test < 1:
            raise ValueError(f"pool={self}: expected at least one point, and one to test on")

    @property
    def size(self) -> int:
        """Number of points M."""
        return self.surface + self.uniform + sum(count for _, count in self.near)

    def to_json(self) -> dict:
        """Return plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, data: dict) -> "PoolConfig":
        """Read `to_json` output. Raises ValueError for unknown keys."""
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"pool: unknown keys {unknown}; expected {[f.name for f in fields(cls)]}")
        return cls(**data)

    def fingerprint(self) -> str:
        """A short hash of everything that decides what a pool holds."""
        return hashlib.sha256(json.dumps([1, self.to_json()]).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Pool:
    """points (M, 3) float32; distance (M,) float32, negative inside where there is an inside; normals (surface, 3)
    float32: of the surface points, which come first; inside (T,) bool: of the uniform test points, which
    `held_out_points` draws again."""

    points: np.ndarray
    distance: np.ndarray
    normals: np.ndarray
    inside: np.ndarray


def draw_pool(shape: ShapeDistance, config: PoolConfig, key: int) -> Pool:
    """Draw the pool of one shape; key in [0, 2^32): with the config's seed the only source of randomness."""
    places, normals = _on_surface(shape, config.surface, config.seed, key, _SURFACE)
    parts = [places]
    for number, (sigma, count) in enumerate(config.near):
        near, _ = _on_surface(shape, count, config.seed, key, _NEAR + 2 * number)
        parts.append(near + sigma * _normal(config.seed, key, _NEAR + 2 * number + 1, count))
    parts.append(_box(config.seed, key, _UNIFORM, config.uniform))
    points = np.clip(np.concatenate(parts), -BOUND, BOUND).astype(np.float32)
    distance = np.zeros(len(points), np.float32)
    distance[config.surface :] = shape.signed(points[config.surface :])
    tests = held_out_points(config, key)
    inside = np.zeros(len(tests), bool) if shape.rule == "none" else shape.inside(tests)
    return Pool(points, distance, normals.astype(np.float32), inside)


def held_out_points(config: PoolConfig, key: int) -> np.ndarray:
    """Return the uniform points kept aside: (T, 3) float32 in [-1, 1]."""
    return _box(config.seed, key, _TEST, config.test)


def check_points(config: PoolConfig, key: int) -> np.ndarray:
    """Return the uniform points on which the rules of inside are compared: (4096, 3) float32 in [-1, 1]."""
    return _box(config.seed, key, _CHECK, CHECKED)


def _uniform(seed: int, key: int, step: int, count: int, columns: int) -> np.ndarray:
    draws = philox.uniform(seed, np.array([key], np.uint32), STREAM_POOL, step, count * columns)
    return draws.reshape(count, columns)


def _box(seed: int, key: int, step: int, count: int) -> np.ndarray:
    return (_uniform(seed, key, step, count, 3) * 2 - 1).astype(np.float32) * np.float32(BOUND)


def _normal(seed: int, key: int, step: int, count: int) -> np.ndarray:
    """Standard normals by Box-Muller: (count, 3) float64."""
    u = _uniform(seed, key, step, count, 6).astype(np.float64)
    return np.sqrt(-2.0 * np.log1p(-u[:, :3])) * np.cos(2.0 * np.pi * u[:, 3:])


def _on_surface(shape: ShapeDistance, count: int, seed: int, key: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Points spread evenly over the surface with their normals, (count, 3) each; a cloud gives its own points."""
    geometry = shape.geometry
    draws = _uniform(seed, key, step, count, 3).astype(np.float64)
    if geometry.is_cloud:
        chosen = (draws[:, 0] * len(geometry.vertices)).astype(np.int64)
        normals: Any = np.zeros_like(geometry.vertices) if geometry.normals is None else geometry.normals
        return geometry.vertices[chosen], normals[chosen]
    normals, areas = face_normals(geometry)
    total = np.cumsum(areas)
    face = np.minimum(np.searchsorted(total, draws[:, 0] * total[-1], side="right"), len(total) - 1)
    # The square root spreads points evenly over a triangle: Osada et al., "Shape distributions", TOG 2002.
    root, along = np.sqrt(draws[:, 1:2]), draws[:, 2:3]
    a, b, c = (geometry.vertices[geometry.faces[face, corner]] for corner in range(3))
    return (1 - root) * a + root * (1 - along) * b + root * along * c, normals[face]
