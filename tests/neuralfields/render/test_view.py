"""The laws of pictures of radiance fields: the right pixels, chunks and grids that change nothing, smooth paths."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import neuralfields as nf
from neuralfields import inits
from neuralfields.render import cameras
from neuralfields.render.occupancy_grid import OccupancyGrid
from neuralfields.render.view import frames, interpolate, occupancy, radiance, render_rays, view
from neuralfields.render.volume import RayBatch, box_range

SPEC = nf.TriPlaneNeRF(
    hidden=(8,), encoding=nf.TriPlane(resolution=4, features=2), view=nf.ViewHead(hidden=(8,), features=3, bands=1)
)


def corner(positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """A green ball of radius 0.3 at (0.5, 0.5, 0)."""
    offset = positions - torch.tensor([0.5, 0.5, 0.0])
    return torch.tensor([0.0, 1.0, 0.0]).expand_as(positions), 200.0 * (offset.norm(dim=-1) < 0.3)


@pytest.fixture
def fields() -> nf.FieldBatch:
    return inits.initial(SPEC, np.array([1, 2], np.uint32), "random", 0)


def test_what_is_up_and_right_in_the_world_is_up_and_right_in_the_picture():
    camera = cameras.pinhole(cameras.look_at((0.0, 0.0, 4.0)), (40, 60), math.radians(40.0))
    seen = view(corner, camera, samples=200, background=1.0)
    assert seen.colour.shape == (1, 40, 60, 3)
    inside = seen.opacity[0] > 0.99
    rows, columns = inside.nonzero(as_tuple=True)
    at, depth = cameras.project(camera, np.array([[0.5, 0.5, 0.0]]))
    assert columns.float().mean() + 0.5 == pytest.approx(at[0, 0], abs=0.5)
    assert rows.float().mean() + 0.5 == pytest.approx(at[0, 1], abs=0.5)
    assert (seen.colour[0][inside] - torch.tensor([0.0, 1.0, 0.0])).abs().max() < 0.02
    assert (seen.colour[0][seen.opacity[0] == 0] == 1.0).all()
    nearest = seen.depth[0][inside].min().item()
    assert nearest == pytest.approx(math.hypot(depth[0], math.hypot(0.5, 0.5)) - 0.3, abs=0.03)


def test_chunks_change_nothing(fields):
    camera = cameras.pinhole(cameras.look_at((1.0, 2.0, 3.0)), 12)
    whole = view(fields, camera, samples=16)
    pieces = view(fields, camera, samples=16, chunk=7 * 16 * 2)
    torch.testing.assert_close(pieces.colour, whole.colour, rtol=0, atol=1e-6)
    torch.testing.assert_close(pieces.depth, whole.depth, rtol=0, atol=1e-5)


def test_a_field_in_a_batch_is_the_field_alone_seen_by_its_own_camera(fields):
    both = [cameras.pinhole(pose, 10) for pose in cameras.orbit(2, 3.0)]
    together = view(fields, both, samples=16)
    for position in range(2):
        alone = view(fields[position], both[position], samples=16)
        torch.testing.assert_close(alone.colour[0], together.colour[position], rtol=0, atol=1e-6)
    assert not torch.allclose(together.colour[0], together.colour[1], atol=1e-3)


def test_radiance_is_what_the_fields_evaluate_to(fields, generator):
    positions = torch.rand(2, 9, 3, generator=generator) * 2 - 1
    directions = torch.nn.functional.normalize(torch.randn(2, 9, 3, generator=generator), dim=-1)
    rgb, sigma = radiance(fields)(positions, directions)
    assert torch.equal(
        torch.cat([rgb, sigma.unsqueeze(-1)], -1), nf.evaluate(fields, torch.cat([positions, directions], -1))
    )
    assert (sigma >= 0).all()
    torch.testing.assert_close(nf.density(fields, positions), sigma)


def test_an_occupancy_grid_changes_nothing_that_can_be_seen():
    camera = cameras.pinhole(cameras.look_at((3.0, 1.0, 2.0)), 24)
    grid = OccupancyGrid.full(1, 32, 2 / 64, decay=1.0)
    for probe in range(4):
        grid = grid.updated(lambda at: corner(at, at)[1], 0, np.zeros(1), probe)
    assert grid.mask.float().mean() < 0.05
    skipped, everywhere = view(corner, camera, 64, grid=grid), view(corner, camera, 64)
    assert (skipped.colour - everywhere.colour).square().mean() < 1e-4


def test_occupancy_of_fields_keeps_their_dense_places(fields):
    grid = occupancy(fields, resolution=8, probes=2)
    places = torch.linspace(-0.99, 0.99, 50).view(1, -1, 1).expand(2, -1, 3)
    dense = nf.density(fields, places) > 4 * 0.01 * 64
    assert grid.occupied(places)[dense].all()
    assert grid.density.min() > 0


def test_rays_that_miss_the_box_show_the_background(fields):
    origins = torch.tensor([[[0.0, 5.0, 3.0], [0.0, 0.0, 3.0]]]).expand(2, -1, -1)
    directions = torch.tensor([0.0, 0.0, -1.0]).expand(2, 2, 3)
    rays = RayBatch(origins, directions, *box_range(origins, directions))
    shown = render_rays(radiance(fields), rays, 8, 0.25)
    assert (shown.colour[:, 0] == 0.25).all()
    assert (shown.opacity[:, 1] > 0).all()


def test_a_path_goes_through_its_poses_and_stays_rigid():
    poses = cameras.fibonacci_sphere(5, 2.0, lowest=-0.3, highest=0.6)
    path = interpolate(poses, 41)
    np.testing.assert_allclose(path[::10], poses, atol=1e-9)
    for pose in path:
        cameras.check_pose(pose)
    steps = np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1)
    assert steps.max() < 0.6
    closed = interpolate(cameras.orbit(8, 2.0), 32, closed=True)
    np.testing.assert_allclose(closed[::4], cameras.orbit(8, 2.0), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(closed[:, :3, 3], axis=1), 2.0, atol=5e-3)


def test_frames_are_views_as_pictures(fields):
    camera = cameras.pinhole(np.eye(4), (6, 8))
    poses = cameras.orbit(3, 3.0)
    shown = list(frames(fields, camera, poses, samples=16))
    assert [(f.shape, f.dtype) for f in shown] == [((2, 6, 8, 3), np.uint8)] * 3
    expected = view(fields, camera.at(poses[1]), 16, grid=occupancy(fields, samples=16)).colour
    np.testing.assert_allclose(shown[1], expected.numpy() * 255, atol=0.51)


def test_cameras_that_do_not_fit_are_refused(fields):
    camera = cameras.pinhole(cameras.look_at((1.0, 2.0, 3.0)), 12)
    with pytest.raises(ValueError, match="camera has 3 cameras"):
        view(fields, [camera] * 3)
    with pytest.raises(ValueError, match="expected 1 or 2 of one size"):
        view(fields, [camera, camera.resized(6, 6)])
    with pytest.raises(ValueError, match="expected radiance fields"):
        view(inits.initial(nf.SIREN(3, 1), np.zeros(1, np.uint32)), camera)
    with pytest.raises(ValueError, match="poses=1, count=5"):
        interpolate(np.eye(4)[None], 5)
