import numpy as np
import pytest
import torch

from fitting.signals.scene_box import SceneBox, box_around, near_far
from neuralfields.render.cameras import look_at, orbit, pinhole, rays


def test_mapping_and_its_inverse():
    box = SceneBox((1.0, -2.0, 0.5), 4.0)
    corners = np.array([[5.0, 2.0, 4.5], [-3.0, -6.0, -3.5]])
    assert np.allclose(box.to_scene(corners), [[1, 1, 1], [-1, -1, -1]])
    assert np.allclose(box.to_world(box.to_scene(corners)), corners)
    camera = pinhole(orbit(3, 7.0)[1], (4, 6))
    moved = box.camera_to_scene(camera)
    assert np.allclose(moved.position, box.to_scene(camera.position))
    assert np.array_equal(moved.pose[:3, :3], camera.pose[:3, :3])
    assert np.allclose(box.camera_to_world(moved).pose, camera.pose)


@pytest.mark.parametrize(("centre", "half"), [((0.0, 0.0, 0.0), 0.0), ((0.0, np.nan, 0.0), 1.0), ((0.0, 0.0), 1.0)])
def test_boxes_that_are_none_are_refused(centre, half):
    with pytest.raises(ValueError, match="expected"):
        SceneBox(centre, half)


def test_near_and_far_are_where_samples_along_rays_are_inside(generator):
    origins = 4.0 * torch.rand(400, 3, generator=generator) - 2.0
    directions = torch.nn.functional.normalize(torch.randn(400, 3, generator=generator), dim=-1)
    near, far = near_far(origins, directions)
    at = torch.linspace(0.0, 12.0, 4001)
    inside = ((origins[:, None] + at[:, None] * directions[:, None]).abs() <= 1.0).all(dim=-1)
    between = (at > near[:, None]) & (at < far[:, None])
    edge = torch.minimum((at - near[:, None]).abs(), (at - far[:, None]).abs()) < 1e-5
    assert torch.equal(inside | edge, between | edge)
    missed = near >= far
    assert 0.1 < missed.float().mean() < 0.9
    assert (near[missed] == 0.0).all()
    assert (far[missed] == 0.0).all()


def test_rays_along_the_axes():
    origins = torch.tensor([[-2.0, 0.0, 1.0], [-2.0, 0.0, 1.1], [2.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    directions = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    near, far = near_far(origins, directions)
    assert near.tolist() == [1.0, 0.0, 0.0, 0.0]  # on a side, beside it, behind the ray, from inside
    assert far.tolist() == [3.0, 0.0, 0.0, 1.5]


def test_box_of_cameras_around_an_object():
    target = np.array([3.0, -1.0, 2.0])
    poses = np.concatenate([orbit(9, 5.0, target), orbit(5, 3.0, target, elevation=1.0)])
    box = box_around(list(poses))
    assert np.allclose(box.centre, target)
    assert box.half == pytest.approx(5.0)
    for pose in poses:
        camera = box.camera_to_scene(pinhole(pose, 3))
        near, far = near_far(*(v.reshape(-1, 3) for v in rays(camera)))
        assert (near < far).all()
    assert box_around(list(poses), SceneBox((0.0, 0.0, 0.0), 1.5)) == SceneBox((0.0, 0.0, 0.0), 1.5)
    assert box_around(list(poses), SceneBox((0.0, 0.0, 0.0), 24.0)) == box


def test_box_of_cameras_that_look_outwards_has_room_for_what_they_see():
    poses = [look_at(2.0 * d, 9.0 * d) for d in np.vstack([np.eye(3)[[0, 2]], -np.eye(3)[[0, 2]]])]
    box = box_around(poses)
    assert np.allclose(box.centre, 0.0)
    assert box.half == pytest.approx(8.0)


def test_cameras_that_do_not_tell_the_scene_are_refused():
    one = look_at((0.0, 0.0, 4.0))
    aside = one.copy()
    aside[0, 3] = 1.0
    for poses in ([one], [one, aside]):
        with pytest.raises(ValueError, match=r"parallel views do not tell the centre: expected .*, or a box"):
            box_around(poses)
        assert box_around(poses, SceneBox((0.0, 0.0, 0.0), 2.0)).half == 2.0
    turning = [look_at((0.0, 0.0, 4.0), target) for target in np.eye(3)]
    with pytest.raises(ValueError, match=r"all cameras stand at one place.*: expected .*, or a box"):
        box_around(turning)
