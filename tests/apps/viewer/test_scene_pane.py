"""Radiance fields in the viewer: cameras there and back, pictures in pieces, and the pane in a browser."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from apps.viewer.collection import of_store
from apps.viewer.photographs import photographs, smaller
from apps.viewer.scene_cameras import angle_of, camera_of, go, mean_up, pose_of, quaternion, stored
from apps.viewer.scene_picture import Grids, Seen, of_camera, render
from fitting.signals import views
from fitting.views_fit import fit_views
from neuralfields import HashGrid, HashNeRF
from neuralfields.render.cameras import fibonacci_sphere, look_at, pinhole
from neuralfields.render.view import view
from tests.apps.viewer.conftest import until

SIDE = 16
SPEC = HashNeRF(hidden=(8,), encoding=HashGrid(levels=2, features=2, log2_size=8, base=8, scale=1.5))
POSES = fibonacci_sphere(6, 4.0, lowest=-0.3, highest=0.7)


def picture(number: int, tint: tuple[int, int, int]) -> np.ndarray:
    """A disc that is brighter in later views, on white: uint8 (SIDE, SIDE, 3)."""
    at = np.linspace(-1, 1, SIDE)
    disc = at[:, None] ** 2 + at**2 < 0.4
    colour = np.array(tint) * (0.4 + 0.1 * number)
    return np.where(disc[..., None], colour.clip(0, 255), 255).astype(np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder of two scenes of six views each."""
    from PIL import Image

    root = tmp_path_factory.mktemp("scenes")
    for name, tint in (("red", (255, 60, 40)), ("blue", (40, 80, 255))):
        (root / name).mkdir()
        frames = []
        for number, pose in enumerate(POSES):
            Image.fromarray(picture(number, tint)).save(root / name / f"r_{number}.png")
            frames.append({"file_path": f"r_{number}.png", "transform_matrix": pose.tolist()})
        about = {"camera_angle_x": math.radians(40), "frames": frames}
        (root / name / "transforms.json").write_text(json.dumps(about))
    return root


@pytest.fixture(scope="module")
def scenes(source, tmp_path_factory):
    """One small field of each scene."""
    signals = views.load_many(source, scale=0.75)
    options = {"steps": 60, "rays": 128, "samples": 16, "lr": 0.03, "threads": 1}
    return fit_views(signals, SPEC, out=tmp_path_factory.mktemp("fit") / "store", **options)


def browser(pose: np.ndarray, fov: float = 0.8) -> SimpleNamespace:
    """What a browser tells of its camera."""
    return SimpleNamespace(wxyz=quaternion(pose), position=pose[:3, 3], fov=fov)


@pytest.mark.parametrize("number", range(6))
def test_a_pose_comes_back_from_a_browser_as_it_was(number):
    np.testing.assert_allclose(pose_of(browser(POSES[number])), POSES[number], atol=1e-12)


def test_a_browser_sees_what_our_camera_sees():
    goal = pinhole(POSES[2], (30, 40))
    camera = camera_of(browser(goal.pose, angle_of(goal, goal.shape)), goal.shape)
    for name in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
        assert getattr(camera, name) == pytest.approx(getattr(goal, name))
    narrow = angle_of(goal, (40, 20))  # a canvas taller than the picture still shows all of its width
    assert math.tan(narrow / 2) * 20 / 40 == pytest.approx(0.5 * goal.w / goal.fl_x)


@pytest.mark.parametrize("roll", [0.0, 0.4, 2.5])
def test_a_browser_is_sent_to_the_pose_itself(roll):
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]]
    goal, handle = pinhole(POSES[1] @ turn, 20), SimpleNamespace()
    go(handle, goal, (20, 20), np.array([0.0, 1.0, 0.0]))
    pose = look_at(handle.position, handle.look_at, handle.up_direction)
    np.testing.assert_allclose(pose, goal.pose, atol=1e-9)


def test_up_is_the_mean_of_the_cameras_own(scenes):
    assert mean_up([]).tolist() == [0.0, 1.0, 0.0]
    places = stored(of_store(scenes), 0)
    assert len(places) == 6
    assert mean_up(places)[1] > 0.99


def test_pieces_make_the_picture_that_one_piece_makes(scenes, monkeypatch):
    monkeypatch.setattr("apps.viewer.scene_picture.PIECE", 16 * 40)
    field, camera = scenes[0], pinhole(POSES[0], (12, 14))
    grid = Grids().find(field, 16)
    job, waits = render(field, of_camera(camera), camera.shape, 16, 1.0, grid), 0
    while True:
        try:
            next(job)
            waits += 1
        except StopIteration as end:
            seen = end.value
            break
    assert waits > 3
    whole = view(field, camera, 16, 1.0, grid)
    torch.testing.assert_close(torch.from_numpy(seen.colour), whole.colour[0])
    torch.testing.assert_close(torch.from_numpy(seen.depth), whole.depth[0])


def test_grids_are_kept_by_what_the_weights_are(scenes):
    grids = Grids()
    first = grids.find(scenes[0], 16)
    assert grids.find(scenes[0], 16) is first
    assert grids.find(scenes[1], 16) is not first


def test_what_is_faint_has_no_depth():
    seen = Seen(np.zeros((1, 3, 3)), np.array([[1.0, 0.9, 0.1]]), np.array([[2.0, 3.0, 9.0]]))
    assert seen.depths() == (2.0, 3.0)
    assert seen.shown("depth", seen.depths())[0, 2].tolist() == [1.0, 1.0, 1.0]
    assert seen.along(pinhole(np.eye(4), (1, 3)))[0].tolist() == [pytest.approx(2, rel=0.1), 3.0, 100.0]
    assert Seen(np.zeros((1, 1, 3)), np.zeros((1, 1)), np.zeros((1, 1))).depths() == (0.0, 1.0)


def test_photographs_are_those_that_were_fitted(scenes, source):
    part, signals = of_store(scenes), views.load_many(source, scale=0.75)
    for row, scene in enumerate(signals.scenes):
        found = photographs(part, row, str(source))
        assert torch.equal(found.images, scene.images)
        assert found.held_out.tolist() == scene.held_out.tolist()
    assert smaller(found, 6).shape == (6, 6)
    with pytest.raises(ValueError, match="has no scene 'blue'"):
        photographs(part, 0, str(source.parent))
    with pytest.raises(FileNotFoundError):
        photographs(part, 0, str(source / "no"))


def test_a_radiance_field_in_a_browser(serve, look, scenes, source, monkeypatch):
    from apps.viewer import scene_pane

    monkeypatch.setattr(scene_pane, "LEVELS", (12, 24, 48))
    heights = []
    monkeypatch.setattr(scene_pane, "render", lambda *a: heights.append(a[2][0]) or render(*a))
    page = look(serve(scenes, beside=str(source)))
    page.session.open(0)
    page.rest()
    pane = page.session.pane
    assert type(pane).__name__ == "ScenePane"
    np.testing.assert_allclose(pose_of(page.session.client.camera), pane._places[0].camera.pose, atol=1e-5)
    assert pane._place is pane._places[0]  # it begins at a photograph, which is shown beside
    page.save("scene-beside")
    beside = page.picture()
    page.pick("View", "from anywhere")
    alone = page.picture()
    assert np.abs(alone.astype(int) - beside).mean() > 2
    heights.clear()
    height, width = page.session.stage.size
    page.page.mouse.move(0.5 * width, 0.5 * height)
    page.page.mouse.down()
    page.page.mouse.move(0.7 * width, 0.45 * height, steps=3)
    page.page.mouse.up()
    page.rest()
    assert heights[-3:] == [12, 24, 48]  # coarse, then finer, then fine
    turned = page.picture()
    assert np.abs(turned.astype(int) - alone).mean() > 0.5
    assert page.session.pane is pane  # turning is no click on a page
    page.pick("Quantity", "depth")
    assert np.abs(page.picture().astype(int) - turned).mean() > 2
    page.page.mouse.move(0.5 * width, 0.5 * height)
    page.page.mouse.wheel(0, 3000)  # away from the box, so that cameras stand before it
    page.rest()
    before = page.picture()
    page.page.get_by_label("Cameras", exact=True).check()
    page.rest()
    assert len(pane._nodes._cameras) == 6
    until(lambda: (np.abs(page.picture().astype(int) - before).max(axis=-1) > 40).sum() > 20)
    page.save("scene")
    page.press("Gallery")
    assert not pane._nodes._cameras
    page.press("Field")
    page.press("Next")
    assert page.session.position == 1
    assert pane._scene == ("store", 1)
