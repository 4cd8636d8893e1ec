import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from neuralfields.render import mesh_picture as module
from neuralfields.render.cameras import Camera, look_at, pinhole
from neuralfields.render.colours import MAPS
from neuralfields.render.mesh_picture import (
    LOOK,
    Look,
    depth_map,
    depth_picture,
    error_picture,
    mesh_picture,
    normal_map,
    normal_picture,
)

PLAIN = Look(ambient=0, relief=0.0, supersample=1)


def front(size: int | tuple[int, int] = 40, distance: float = 4.0) -> Camera:
    return pinhole(look_at((0.0, 0.0, distance)), size)


def rotation() -> np.ndarray:
    return look_at((1.0, 2.0, 3.0))[:3, :3]


def test_a_ball_covers_the_disc_that_geometry_says(sphere) -> None:
    camera = front((50, 60))
    picture = mesh_picture(sphere, camera, replace(LOOK, background=None, ambient=0))
    assert picture.shape == (50, 60, 4)
    radius = camera.fl_x / math.sqrt(4.0**2 - 1.0)  # of the cone that touches the ball
    assert picture[..., 3].sum() / 255.0 == pytest.approx(math.pi * radius**2, rel=0.01)


def test_transparent_over_the_background_is_the_opaque_picture(sphere) -> None:
    opaque = mesh_picture(sphere, front()).astype(float)
    clear = mesh_picture(sphere, front(), replace(LOOK, background=None)).astype(float)
    alpha = clear[..., 3:] / 255.0
    blended = clear[..., :3] * alpha + (1.0 - alpha) * 255.0 * np.array(LOOK.background)
    assert np.abs(blended - opaque).max() <= 1.5  # rounding of colour and alpha


def test_the_size_of_bands_changes_no_byte(sphere, monkeypatch) -> None:
    whole = mesh_picture(sphere, front(33))
    monkeypatch.setattr(module, "BAND", 500)
    np.testing.assert_array_equal(mesh_picture(sphere, front(33)), whole)


def test_depth_is_along_the_view_not_along_the_ray(cube) -> None:
    depth = depth_map(cube, front())
    face = depth[np.isfinite(depth)]
    np.testing.assert_allclose(face, 3.0, atol=1e-5)
    half = 20 / math.tan(math.radians(20.0)) / 3.0  # pixels from the middle to the edge of the face
    assert len(face) == (2 * math.floor(half + 0.5)) ** 2
    assert depth[0, 0] == np.inf


def test_depth_pictures_are_light_near_and_dark_far(sphere) -> None:
    picture = depth_picture(sphere, front(41), PLAIN).astype(int)
    middle, edge = picture[20, 20], picture[20, np.flatnonzero(np.isfinite(depth_map(sphere, front(41))[20]))[0]]
    np.testing.assert_allclose(middle, 255 * np.array(MAPS["depth"][0]), atol=3)
    assert edge.sum() < middle.sum() - 200
    away = pinhole(look_at((0, 0, 4), (0, 0, 8)), 8)
    assert (depth_picture(sphere, away, PLAIN) == depth_picture(sphere, away, PLAIN)[0, 0]).all()


def test_normals_of_a_ball_are_its_points(sphere) -> None:
    camera = front()
    normals, depth = normal_map(sphere, camera), depth_map(sphere, camera)
    row, column = np.nonzero(np.isfinite(depth))
    seen = depth[row, column]
    points = [(column + 0.5 - 20) / camera.fl_x * seen, -(row + 0.5 - 20) / camera.fl_y * seen, 4.0 - seen]
    np.testing.assert_allclose(normals[row, column], np.stack(points, axis=1), atol=0.02)
    assert (normals[~np.isfinite(depth)] == 0).all()


@pytest.mark.parametrize("eye", [(0.0, 0.0, 4.0), (4.0, 0.0, 0.0), (1.0, -3.0, 2.0)])
def test_normal_pictures_are_in_camera_axes(sphere, eye: tuple[float, float, float]) -> None:
    picture = normal_picture(sphere, pinhole(look_at(eye), 41), PLAIN).astype(int)
    np.testing.assert_allclose(picture[20, 20], [127.5, 127.5, 255], atol=3)
    assert picture[20, 28, 0] > 160 > 90 > picture[20, 12, 0]  # red to the right
    assert picture[12, 20, 1] > 160 > 90 > picture[28, 20, 1]  # green upwards


def test_faces_seen_from_behind_have_their_own_colour_and_normals_to_the_viewer(sphere) -> None:
    inside_out = SimpleNamespace(vertices=sphere.vertices, faces=sphere.faces[:, ::-1])
    np.testing.assert_allclose(mesh_picture(inside_out, front(41), PLAIN)[20, 20], 255 * np.array(PLAIN.back), atol=1)
    np.testing.assert_allclose(mesh_picture(sphere, front(41), PLAIN)[20, 20], 255 * np.array(PLAIN.colour), atol=1)
    same = normal_picture(inside_out, front(), PLAIN).astype(int) - normal_picture(sphere, front(), PLAIN)
    assert np.abs(same).max() <= 1
    outward = normal_map(inside_out, front(41))[20, 20]
    np.testing.assert_allclose(outward, [0, 0, -1], atol=0.02)  # as the mesh is oriented


def test_turning_everything_together_changes_nothing(cube) -> None:
    turn, pose = rotation(), look_at((2.0, 1.0, 3.0))
    moved = pose.copy()
    moved[:3] = turn @ pose[:3]
    turned = SimpleNamespace(vertices=cube.vertices @ turn.T, faces=cube.faces)
    look = Look(ambient=0)
    first = mesh_picture(cube, pinhole(pose, 40), look).astype(int)
    second = mesh_picture(turned, pinhole(moved, 40), replace(look, up=tuple(turn[:, 1]))).astype(int)
    assert np.median(np.abs(first - second)) == 0
    assert np.abs(first - second).mean() < 0.2  # single samples on edges may fall to the other side
    assert first.std() > 10


@pytest.mark.parametrize("lights", ["world", "camera"])
def test_lights_of_the_world_give_a_face_one_colour_from_everywhere(cube, lights) -> None:
    look = Look(ambient=0, lights=lights)
    shown = []
    for eye in ((0.5, 0.3, 5.0), (-2.0, 1.5, 4.0), (2.5, -2.0, 4.5)):
        shown.append(mesh_picture(cube, pinhole(look_at(eye, (0.0, 0.0, 1.0)), 9), look)[4, 4].astype(int))
    spread = np.ptp(np.stack(shown), axis=0).max()
    assert spread == 0 if lights == "world" else spread > 10


def test_ambient_occlusion_darkens_where_faces_meet_and_only_there(cube) -> None:
    floor = cube.vertices * [4.0, 0.05, 4.0] - [0.0, 1.05, 0.0]  # under the cube
    both = SimpleNamespace(
        vertices=np.concatenate([cube.vertices, floor]), faces=np.concatenate([cube.faces, cube.faces + 8])
    )
    camera = pinhole(look_at((0.0, 3.0, 9.0)), 60)
    lit, dark = (mesh_picture(both, camera, Look(ambient=n)).astype(int).sum(axis=-1) for n in (0, 8))
    floor_rows = np.flatnonzero((normal_map(both, camera)[:, 30, 1] > 0.5) & (np.arange(60) > 35))  # in front of it
    darker = (lit - dark)[floor_rows, 30]
    assert darker[0] > 40
    assert darker[-1] < 10
    alone = mesh_picture(cube, camera, Look(ambient=8)).astype(int) - mesh_picture(cube, camera, Look(ambient=0))
    assert np.abs(alone).max() <= 1  # a convex shape hides nothing from itself


def test_colours_of_vertices_are_mixed_over_faces_and_relief_0_leaves_them(cube) -> None:
    colours = (cube.vertices * 0.4 + 0.5).astype(np.float32)
    picture = mesh_picture(cube, front(41), PLAIN, colours)
    np.testing.assert_allclose(picture[20, 20], 255 * np.array([0.5, 0.5, 0.9]), atol=1)
    assert picture[20, 30, 0] > picture[20, 10, 0] + 50
    with pytest.raises(ValueError, match=r"colours has shape \(3, 3\): expected \(8, 3\)"):
        mesh_picture(cube, front(), LOOK, colours[:3])


def test_supersampling_is_the_mean_of_finer_pixels(cube) -> None:
    colours = (cube.vertices * 0.4 + 0.5).astype(np.float32)
    fine = mesh_picture(cube, front(60), PLAIN, colours).reshape(20, 3, 20, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(mesh_picture(cube, front(20), replace(PLAIN, supersample=3), colours), fine, atol=1)


def test_errors_are_colours_of_their_bar(sphere) -> None:
    page = error_picture(sphere, np.full(len(sphere.vertices), 0.05), front(100), 0.1, PLAIN)
    assert page.shape == (158, 100, 3)
    middle = np.array(MAPS["error"][2]) * 255  # half of the limit
    np.testing.assert_allclose(page[50, 50], middle, atol=2)
    np.testing.assert_allclose(page[112, 50], middle, atol=4)
    bare = error_picture(sphere, np.full(len(sphere.vertices), 0.05), front(100), 0.1, PLAIN, None)
    np.testing.assert_array_equal(page[:100], bare)
    clear = error_picture(sphere, np.zeros(len(sphere.vertices)), front(100), 0.1, replace(PLAIN, background=None))
    assert clear.shape == (158, 100, 4)
    assert (clear[100:, :, 3] == 255).all()
    assert clear[0, 0, 3] == 0


@pytest.mark.parametrize(
    ("errors", "limit", "message"),
    [
        (np.zeros(7), 1.0, r"shape \(7,\): expected \(8,\)"),
        (np.zeros(8), 0.0, "limit=0.0"),
        (np.full(8, np.nan), 1.0, "8 NaN"),
    ],
)
def test_errors_that_do_not_fit_are_refused(cube, errors, limit: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        error_picture(cube, errors, front(), limit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supersample": 0}, "supersample=0"),
        ({"ambient": -1}, "ambient=-1"),
        ({"reach": 0.0}, "reach=0.0"),
        ({"relief": 1.5}, "relief=1.5"),
        ({"lights": "sun"}, "lights='sun': expected camera or world"),
        ({"colour": (0.0, 0.0, 2.0)}, "colour="),
        ({"background": (0.0, 0.0)}, "background="),
    ],
)
def test_a_look_out_of_range_is_refused_in_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Look(**options)
    assert "\n" not in str(caught.value)
