"""Laws of the points that shapes are known by."""

import numpy as np
import pytest
import trimesh

from fitting.signals.distance import ShapeDistance
from fitting.signals.mesh_files import Geometry
from fitting.signals.mesh_repair import clean
from fitting.signals.shape_pool import PoolConfig, draw_pool, held_out_points

SMALL = PoolConfig(surface=500, near=((0.01, 800), (0.1, 300)), uniform=400, test=600)


@pytest.fixture(scope="module")
def ball() -> ShapeDistance:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=0.9)
    return ShapeDistance(*clean(Geometry(np.asarray(mesh.vertices, float), np.asarray(mesh.faces, np.int64))))


def test_a_pool_holds_what_its_config_says(ball):
    pool = draw_pool(ball, SMALL, key=3)
    assert pool.points.shape == (SMALL.size, 3) == (2000, 3)
    assert np.abs(pool.points).max() <= 1
    radius = np.linalg.norm(pool.points, axis=1)
    assert np.abs(radius[:500] - 0.9).max() < 0.005
    assert not pool.distance[:500].any()
    assert np.einsum("ij,ij->i", pool.normals, pool.points[:500] / radius[:500, None]).min() > 0.99
    moved = (radius - 0.9)[500:1300]
    assert 0.009 < moved.std() < 0.011
    assert np.abs(pool.distance[500:] - (radius[500:] - 0.9)).max() < 0.005
    assert abs(pool.points[1600:].mean()) < 0.06
    within = np.linalg.norm(held_out_points(SMALL, 3), axis=1) < 0.9
    assert (pool.inside != within).mean() < 0.01


def test_surface_points_are_spread_evenly(ball):
    pool = draw_pool(ball, PoolConfig(surface=20_000, near=(), uniform=0, test=1), key=1)
    assert np.abs(pool.points.mean(0)).max() < 0.02
    assert np.abs(np.square(pool.points).mean(0) - 0.27).max() < 0.006  # r^2 / 3 along every axis


def test_the_key_and_the_seed_decide(ball):
    first, again = draw_pool(ball, SMALL, 3), draw_pool(ball, SMALL, 3)
    for name in ("points", "distance", "normals", "inside"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.points, draw_pool(ball, SMALL, 4).points)
    other = PoolConfig(**{**SMALL.to_json(), "seed": 1})
    assert not np.array_equal(first.points, draw_pool(ball, other, 3).points)
    assert other.fingerprint() != SMALL.fingerprint()


def test_configs_round_trip_and_refuse():
    assert PoolConfig.from_json(SMALL.to_json()) == SMALL
    with pytest.raises(ValueError, match=r"pool: unknown keys \['sigma'\]"):
        PoolConfig.from_json({"sigma": 1})
    with pytest.raises(ValueError, match="expected counts of zero or more and positive sigmas"):
        PoolConfig(near=((0.0, 5),))
    with pytest.raises(ValueError, match="expected at least one point"):
        PoolConfig(near=(), uniform=0)
