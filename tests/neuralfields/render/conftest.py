"""Meshes of known shape for the tests of pictures."""

from dataclasses import dataclass

import numpy as np
import pytest


@dataclass(frozen=True, eq=False)
class Mesh:
    """vertices (V, 3), faces (F, 3)."""

    vertices: np.ndarray
    faces: np.ndarray


def box(half: float = 1.0) -> Mesh:
    """A cube from -half to half, 8 vertices, 12 triangles that look outward."""
    corners = np.array([[x, y, z] for x in (-half, half) for y in (-half, half) for z in (-half, half)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return Mesh(corners, np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]))


def ball(radius: float = 1.0, rings: int = 48) -> Mesh:
    """A sphere of latitudes and longitudes, closed, looking outward."""
    across = 2 * rings
    theta = np.pi * np.arange(1, rings) / rings
    phi = 2 * np.pi * np.arange(across) / across
    ring = np.stack(np.broadcast_arrays(*_sphere(theta[:, None], phi[None])), axis=-1).reshape(-1, 3)
    points = np.concatenate([ring, [[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]]) * radius
    first, last = len(points) - 2, len(points) - 1
    faces = []
    for column in range(across):
        beside = (column + 1) % across
        faces.append((first, column, beside))
        faces.append((last, (rings - 2) * across + beside, (rings - 2) * across + column))
        for row in range(rings - 2):
            a, b = row * across + column, row * across + beside
            faces += [(a, a + across, b), (b, a + across, b + across)]
    return Mesh(points, np.array(faces))


def _sphere(theta: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.sin(theta) * np.sin(phi), np.cos(theta) + 0.0 * phi, np.sin(theta) * np.cos(phi)


@pytest.fixture(scope="session")
def cube() -> Mesh:
    """The cube from -1 to 1; skipped where Open3D, which casts the rays, is not installed."""
    pytest.importorskip("open3d")
    return box()


@pytest.fixture(scope="session")
def sphere() -> Mesh:
    """The unit sphere, fine enough that its surface lies within 0.001 of the true one."""
    pytest.importorskip("open3d")
    return ball()
