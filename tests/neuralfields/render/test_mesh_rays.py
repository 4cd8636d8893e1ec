import math
from types import SimpleNamespace

import numpy as np
import pytest

from neuralfields.render.mesh_rays import MeshScene, hemisphere, tangents, unit


def test_rays_meet_a_cube_where_they_should(cube) -> None:
    scene = MeshScene(cube)
    origins = np.array([[0.3, -0.2, 5.0], [5.0, 0.1, 0.6], [0.0, 3.0, 5.0]])
    directions = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    hits = scene.cast(origins, directions)
    assert hits.rays.tolist() == [0, 1]  # the third passes above
    np.testing.assert_allclose(hits.distance, 4.0, atol=1e-5)
    np.testing.assert_allclose(hits.point, [[0.3, -0.2, 1.0], [1.0, 0.1, 0.6]], atol=1e-5)
    np.testing.assert_allclose(scene.face_normals[hits.face], [[0, 0, 1], [1, 0, 0]], atol=1e-6)


def test_barycentric_weights_give_the_point_back(sphere) -> None:
    scene = MeshScene(sphere)
    out = unit(hemisphere(200) * [1.0, 1.0, 0.3])
    hits = scene.cast(3.0 * out, -out)
    assert len(hits.rays) == 200
    mixed = np.einsum("mc,mcx->mx", hits.weights, scene.triangles[hits.face])
    np.testing.assert_allclose(mixed, hits.point, atol=1e-5)


def test_distances_to_a_cube_are_those_of_the_formula(cube) -> None:
    points = np.random.default_rng(0).uniform(-3.0, 3.0, (500, 3))
    beyond = np.abs(points) - 1.0
    expected = np.linalg.norm(np.maximum(beyond, 0.0), axis=1) + np.minimum(beyond.max(axis=1), 0.0)
    np.testing.assert_allclose(MeshScene(cube).distance(points), np.abs(expected), atol=1e-5)


def test_centre_and_radius_are_of_the_bounding_box(cube) -> None:
    moved = SimpleNamespace(vertices=cube.vertices * [1.0, 2.0, 3.0] + 5.0, faces=cube.faces)
    scene = MeshScene(moved)
    np.testing.assert_allclose(scene.centre, 5.0)
    assert scene.radius == pytest.approx(math.sqrt(14.0))


def test_edges_of_a_cube_stay_sharp_and_a_sphere_is_smooth(cube, sphere) -> None:
    scene = MeshScene(cube)
    np.testing.assert_array_equal(scene.corner_normals(), np.repeat(scene.face_normals[:, None], 3, axis=1))
    smooth = MeshScene(sphere)
    np.testing.assert_allclose(smooth.corner_normals(), smooth.triangles, atol=0.01)


def test_smooth_normals_do_not_depend_on_how_squares_are_cut(cube) -> None:
    scene = MeshScene(cube)  # every vertex has three or up to six triangles: only weights by angle give the diagonal
    np.testing.assert_allclose(scene.corner_normals(math.pi), scene.triangles / math.sqrt(3.0), atol=1e-6)


def test_nothing_hides_the_sky_of_a_sphere_and_a_wall_hides_half_of_it(sphere) -> None:
    scene = MeshScene(sphere)
    normals = unit(sphere.vertices[:500]).astype(np.float32)
    open_ = scene.openness(scene.vertices[:500], normals, np.arange(500) % 4, (4, 8), 1.0)
    np.testing.assert_array_equal(open_, 1.0)
    wall = SimpleNamespace(vertices=[[0, 0, -1e3], [0, 2e3, 0], [0, 0, 1e3]], faces=[[0, 1, 2]])
    floor = np.tile(np.float32([0.01, 0.0, 0.0]), (64, 1))  # at the foot of the wall, looking up
    up = np.tile(np.float32([0.0, 1.0, 0.0]), (64, 1))
    share = MeshScene(wall).openness(floor, up, np.arange(64), (64, 8), 1e3)
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    near = MeshScene(wall).openness(floor + np.float32([0.5, 0, 0]), up, np.arange(64), (64, 8), 0.4)
    np.testing.assert_array_equal(near, 1.0)  # further away than the rays reach


def test_the_hemisphere_is_cosine_weighted() -> None:
    around = hemisphere(4096)
    np.testing.assert_allclose(np.linalg.norm(around, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(around.mean(axis=0), [0.0, 0.0, 2.0 / 3.0], atol=2e-3)
    np.testing.assert_allclose((around**2).mean(axis=0), [0.25, 0.25, 0.5], atol=2e-3)


def test_tangents_are_across_the_normal_everywhere() -> None:
    out = np.concatenate([hemisphere(100), -hemisphere(100), np.eye(3), -np.eye(3)]).astype(np.float32)
    first, second = tangents(out)
    frames = np.stack([first, second, out], axis=1)
    np.testing.assert_allclose(frames @ frames.swapaxes(1, 2), np.tile(np.eye(3), (len(out), 1, 1)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(frames), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (np.zeros((3, 3)), np.zeros((0, 3), int), "at least one face"),
        (np.zeros((3, 3)), np.zeros((1, 4), int), r"shape \(1, 4\)"),
        (np.zeros((3, 2)), np.array([[0, 1, 2]]), r"vertices of shape \(3, 2\)"),
        (np.full((3, 3), np.nan), np.array([[0, 1, 2]]), "3 vertices that are not finite"),
        (np.zeros((3, 3)), np.array([[0, 1, 3]]), "from 0 to 3: expected 0 to 2"),
        (np.zeros((3, 3)), np.array([[0, 1, -1]]), "from -1 to 1"),
    ],
)
def test_what_is_no_mesh_is_refused_in_one_line(vertices, faces, message: str) -> None:
    pytest.importorskip("open3d")
    with pytest.raises(ValueError, match=message):
        MeshScene(SimpleNamespace(vertices=vertices, faces=faces))
