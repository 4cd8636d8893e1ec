from types import SimpleNamespace

import numpy as np
import pytest

from neuralfields.render import turntable as module
from neuralfields.render.cameras import project
from neuralfields.render.mesh_picture import Look, mesh_picture
from neuralfields.render.turntable import frame_camera, turntable

LOOK = Look(ambient=0, supersample=1)


@pytest.mark.parametrize("size", [(50, 80), (80, 50), (64, 64)])
@pytest.mark.parametrize("direction", [None, (1.0, 0.2, 0.0), (-3.0, -4.0, 5.0)])
def test_the_whole_mesh_fills_the_picture(cube, size: tuple[int, int], direction) -> None:
    mesh = SimpleNamespace(vertices=cube.vertices * [0.2, 1.0, 3.0] + [5.0, -2.0, 1.0], faces=cube.faces)
    camera = frame_camera(mesh, size, direction)
    assert camera.shape == size
    pixels, depth = project(camera, mesh.vertices)
    assert depth.min() > 0
    reach = np.abs(pixels / [size[1], size[0]] - 0.5).max()
    assert reach == pytest.approx(0.47, abs=1e-6)  # 94 % of the picture, and no less
    if direction is not None:
        np.testing.assert_allclose(-camera.forward, np.array(direction) / np.linalg.norm(direction), atol=1e-12)


def test_a_direction_along_up_is_refused(cube) -> None:
    with pytest.raises(ValueError, match="up="):
        frame_camera(cube, 32, (0.0, 1.0, 0.0))
    with pytest.raises(ValueError, match="eye="):
        frame_camera(cube, 32, (0.0, 0.0, 0.0))


def test_a_turntable_goes_once_around_at_one_distance(sphere) -> None:
    frames = list(turntable(sphere, 4, (20, 30), LOOK))
    assert [frame.shape for frame in frames] == [(20, 30, 3)] * 4
    for frame in frames[1:]:  # a ball with lights that go along looks the same from everywhere
        assert np.abs(frame.astype(int) - frames[0]).mean() < 1.0
    assert frames[0].std() > 10


def test_every_frame_shows_another_side(cube) -> None:
    # Each side has its own colour.
    vertices = cube.vertices[cube.faces].reshape(-1, 3)
    mesh = SimpleNamespace(vertices=vertices, faces=np.arange(36).reshape(-1, 3))
    edges = vertices.reshape(-1, 3, 3)
    normals = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
    colours = np.repeat(0.5 + 0.5 * np.sign(np.round(normals, 6)), 3, axis=0).astype(np.float32)
    frames = list(turntable(mesh, 4, 40, LOOK, colours=colours))
    differences = [np.abs(a.astype(int) - b).max() for a in frames for b in frames if a is not b]
    assert min(differences) > 50
    again = list(turntable(mesh, 8, 40, LOOK, colours=colours))
    for frame, same in zip(frames, again[::2], strict=True):  # the circle is cut finer, at about the same distance
        assert np.abs(frame.astype(int) - same).mean() < 3


def test_pictures_of_a_turntable_are_made_when_they_are_asked_for(cube, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(module, "mesh_picture", lambda *arguments: made.append(arguments) or mesh_picture(*arguments))
    frames = turntable(cube, 5, 16, LOOK)
    for number in (1, 2, 3):
        next(frames)
        assert len(made) == number


def test_framed_pictures_leave_a_margin_of_background(cube) -> None:
    picture = mesh_picture(cube, frame_camera(cube, 60), LOOK)
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (edge == edge[0]).all()
    assert (picture != edge[0]).any()
