"""Metrics of surfaces against what is known of spheres."""

import numpy as np
import pytest
import trimesh

from fitting.shape_metrics import compare, iou, surface_samples
from neuralfields.render.mesh import Mesh


def sphere(radius: float) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    return Mesh(np.asarray(made.vertices, np.float32), np.asarray(made.faces, np.int64))


def test_iou_counts_points():
    a, b = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert iou(a, b) == 1 / 3
    assert iou(~a & a, ~b & b) == 1.0


def test_samples_lie_on_the_surface_evenly_and_again():
    points, normals = surface_samples(sphere(0.5), 20_000, seed=3)
    assert np.abs(np.linalg.norm(points, axis=1) - 0.5).max() < 0.002
    assert np.abs(np.square(points).mean(0) - 0.25 / 3).max() < 0.003
    assert np.einsum("ij,ij->i", normals, points).min() > 0.49
    assert np.array_equal(points, surface_samples(sphere(0.5), 20_000, seed=3)[0])


def test_concentric_spheres_are_as_far_apart_as_their_radii():
    found = compare(sphere(0.50), sphere(0.55), samples=40_000)
    assert found["chamfer_l1"] == pytest.approx(0.05, abs=0.001)
    assert found["chamfer_l2"] == pytest.approx(0.0025, rel=0.04)
    assert found["f_score"] == 0
    assert found["normal_consistency"] > 0.999
    same = compare(sphere(0.5), sphere(0.5), samples=40_000)
    assert same["f_score"] == 1
    assert same["chamfer_l1"] < 0.005


def test_a_surface_without_vertices_is_refused():
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))
    with pytest.raises(ValueError, match="reconstruction has no vertices"):
        compare(empty, sphere(0.5))


def test_the_seed_and_the_key_decide_where_samples_lie():
    first, _ = surface_samples(sphere(0.5), 100, seed=3)
    assert not np.array_equal(first, surface_samples(sphere(0.5), 100, seed=4)[0])
    assert not np.array_equal(first, surface_samples(sphere(0.5), 100, seed=3, key=1)[0])


def test_faces_get_samples_by_their_area():
    # Two triangles of areas 1.5 and 0.5 and one without any, which no sample may name: it has no normal.
    vertices = np.array([[0, 0, 0], [3, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]], np.float32)
    mesh = Mesh(vertices, np.array([[0, 1, 2], [3, 4, 5], [3, 3, 3]]))
    points, normals = surface_samples(mesh, 1000)
    assert abs(int((points[:, 2] == 0).sum()) - 750) <= 1
    assert np.array_equal(normals, np.tile([0.0, 0.0, 1.0], (1000, 1)))


def test_a_cloud_is_sampled_by_its_own_points():
    cloud = Mesh(np.random.default_rng(0).random((500, 3), np.float32), np.zeros((0, 3), np.int64))
    points, _ = surface_samples(cloud, 500, seed=1)
    assert np.array_equal(np.sort(points, axis=0), np.sort(cloud.vertices.astype(np.float64), axis=0))
    assert np.isnan(compare(cloud, cloud, samples=500)["normal_consistency"])


@pytest.mark.parametrize(
    ("count", "rows", "words"), [(0, 1, "count=0: expected at least one"), (10, 0, "no vertices"), (10, 1, "area of 0")]
)
def test_what_cannot_be_sampled_is_refused(count: int, rows: int, words: str):
    mesh = Mesh(np.zeros((rows, 3), np.float32), np.zeros((rows, 3), np.int64))
    with pytest.raises(ValueError, match=words):
        surface_samples(mesh, count)
