import math

import numpy as np
import pytest
import torch

from neuralfields.render import cameras
from neuralfields.render.cameras import Camera, fibonacci_sphere, look_at, orbit, pinhole, project, rays, up_frame

UPS = [(0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.3, -2.0, 0.7)]


@pytest.fixture
def camera() -> Camera:
    """Nothing about it is square, centred or at a round number."""
    return Camera(look_at((1.5, 2.0, -3.0), (0.2, -0.1, 0.3)), 50.0, 61.0, 13.2, 21.7, 31, 37)


def test_points_on_a_ray_project_to_its_pixel(camera: Camera, generator: torch.Generator) -> None:
    origins, directions = rays(camera)
    assert origins.shape == directions.shape == (37, 31, 3)
    along = 0.5 + 4.0 * torch.rand(37, 31, 1, generator=generator, dtype=torch.float64)
    points = (origins.double() + along * directions.double()).reshape(-1, 3).numpy()
    pixels, depth = project(camera, points)
    np.testing.assert_allclose(pixels, cameras.pixel_centres(camera).reshape(-1, 2), atol=1e-4)
    np.testing.assert_allclose(depth, (points - camera.position) @ camera.forward, rtol=1e-6)
    np.testing.assert_allclose(directions.norm(dim=-1), 1.0, atol=1e-6)


def test_rays_through_given_pixels_are_those_of_the_grid(camera: Camera) -> None:
    chosen = torch.tensor([[0.5, 0.5], [30.5, 0.5], [4.5, 36.5]], dtype=torch.float64)
    grid = rays(camera)[1]
    assert torch.equal(rays(camera, chosen)[1], torch.stack([grid[0, 0], grid[0, 30], grid[36, 4]]))


def test_the_first_pixel_is_up_and_left_and_the_principal_point_straight_ahead(camera: Camera) -> None:
    right, up = camera.pose[:3, 0], camera.pose[:3, 1]
    first = rays(camera)[1][0, 0].numpy()
    assert first @ right < 0 < first @ up
    middle = rays(camera, torch.tensor([camera.cx, camera.cy], dtype=torch.float64))[1].numpy()
    np.testing.assert_allclose(middle, camera.forward, atol=1e-7)


def test_points_behind_the_camera_have_no_picture(camera: Camera) -> None:
    pixels, depth = project(camera, (camera.position - camera.forward)[None])
    assert np.isnan(pixels).all()
    np.testing.assert_allclose(depth, [-1.0])


def test_opencv_and_back_is_the_same_pose(camera: Camera) -> None:
    turned = cameras.to_opencv(camera.pose)
    np.testing.assert_allclose(turned[:3, 2], camera.forward)  # +z forward
    np.testing.assert_allclose(turned[:3, 1], -camera.pose[:3, 1])  # +y down
    np.testing.assert_allclose(turned[:3, 3], camera.position)
    assert np.linalg.det(turned[:3, :3]) == pytest.approx(1.0)
    np.testing.assert_array_equal(cameras.from_opencv(turned), camera.pose)


def test_opencv_projection_of_a_pose_agrees_with_ours(camera: Camera) -> None:
    point = np.array([0.4, 0.1, -0.2])
    x, y, z = (np.linalg.inv(cameras.to_opencv(camera.pose)) @ [*point, 1.0])[:3]
    expected = [camera.cx + camera.fl_x * x / z, camera.cy + camera.fl_y * y / z]
    np.testing.assert_allclose(project(camera, point[None])[0][0], expected)


@pytest.mark.parametrize("up", UPS)
def test_look_at_sees_its_target_in_the_middle_and_up_above_it(up: tuple[float, float, float]) -> None:
    target = np.array([0.3, 0.2, -0.5])
    camera = pinhole(look_at((2.0, 1.7, 3.0), target, up), (40, 60))
    (at, higher), depth = project(camera, np.stack([target, target + 0.1 * np.array(up)]))
    np.testing.assert_allclose(at, [30.0, 20.0], atol=1e-9)
    assert depth[0] == pytest.approx(np.linalg.norm([1.7, 1.5, 3.5]))
    assert higher[0] == pytest.approx(30.0)
    assert higher[1] < 20.0


@pytest.mark.parametrize("up", UPS)
def test_orbit_is_a_circle_about_up_that_closes(up: tuple[float, float, float]) -> None:
    target, elevation = np.array([1.0, 2.0, 3.0]), 0.4
    poses = orbit(7, 2.5, target, elevation, up)
    out = poses[:, :3, 3] - target
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 2.5)
    np.testing.assert_allclose(out @ up / np.linalg.norm(up), 2.5 * math.sin(elevation))
    steps = np.linalg.norm(out - np.roll(out, 1, axis=0), axis=1)
    np.testing.assert_allclose(steps, 2 * 2.5 * math.cos(elevation) * math.sin(math.pi / 7))
    np.testing.assert_allclose(-poses[:, :3, 2], -out / 2.5, atol=1e-12)


def test_orbit_counts_from_z_towards_x_for_y_up() -> None:
    eyes = orbit(4, 1.0, elevation=0.0, start=0.0)[:, :3, 3]
    np.testing.assert_allclose(eyes, [[0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]], atol=1e-12)


def test_fibonacci_views_are_spread_evenly_over_the_band() -> None:
    out = fibonacci_sphere(200, 1.0)[:, :3, 3]
    assert np.abs(out[:, 1]).max() <= 0.95
    near = np.sort(np.arccos(np.clip(out @ out.T, -1, 1)), axis=1)[:, 1]
    assert near.min() > 0.6 * near.mean()
    assert near.max() < 1.6 * near.mean()
    assert np.abs(out.mean(axis=0)).max() < 0.02


def test_a_hemisphere_stays_above_and_a_phase_moves_every_view() -> None:
    low = fibonacci_sphere(24, 2.0, lowest=0.0, highest=1.0)[:, :3, 3]
    assert low[:, 1].min() > 0.0
    turned = fibonacci_sphere(24, 2.0, lowest=0.0, highest=1.0, phase=1.0)[:, :3, 3]
    np.testing.assert_allclose(turned[:, 1], low[:, 1])
    assert np.linalg.norm(turned[:, None] - low, axis=-1).min() > 0.05


@pytest.mark.parametrize("up", UPS)
def test_up_frame_is_a_rotation_whose_second_row_is_up(up: tuple[float, float, float]) -> None:
    frame = up_frame(up)
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(frame) == pytest.approx(1.0)
    np.testing.assert_allclose(frame[1], np.array(up) / np.linalg.norm(up))


def test_up_frame_of_y_changes_nothing() -> None:
    np.testing.assert_array_equal(up_frame((0.0, 3.0, 0.0)), np.eye(3))


def test_a_resized_camera_sees_the_same(camera: Camera) -> None:
    fine = camera.resized(62, 111)
    assert fine.shape == (111, 62)
    assert fine.angle_x == pytest.approx(camera.angle_x)
    corners = torch.tensor([[0.0, 0.0], [31.0, 0.0], [31.0, 37.0]], dtype=torch.float64)
    torch.testing.assert_close(rays(fine, corners * torch.tensor([2.0, 3.0]))[1], rays(camera, corners)[1])


def test_pinhole_has_the_angle_it_was_given() -> None:
    camera = pinhole(np.eye(4), (30, 80), 0.8)
    assert (camera.shape, camera.fl_x) == ((30, 80), camera.fl_y)
    assert camera.angle_x == pytest.approx(0.8)
    edges = rays(camera, torch.tensor([[0.0, 15.0], [80.0, 15.0]], dtype=torch.float64))[1]
    assert math.acos(float(edges[0] @ edges[1])) == pytest.approx(0.8, abs=1e-6)
    assert camera.intrinsics()["camera_angle_x"] == camera.angle_x


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pinhole(np.eye(3), 8), r"pose has shape \(3, 3\)"),
        (lambda: pinhole(np.diag([1.0, 1.0, -1.0, 1.0]), 8), "expected a rotation"),
        (lambda: pinhole(2.0 * np.eye(4), 8), "expected a rotation"),
        (lambda: pinhole(np.eye(4) + np.eye(4)[[3, 3, 3, 0]] * 0.5, 8), "expected 0 0 0 1"),
        (lambda: pinhole(np.eye(4), 0), "w=0"),
        (lambda: pinhole(np.eye(4), 8, math.pi), "angle_x="),
        (lambda: Camera(np.eye(4), 0.0, 1.0, 1.0, 1.0, 2, 2), "fl_x=0.0"),
        (lambda: Camera(np.eye(4), 1.0, 1.0, math.nan, 1.0, 2, 2), "cx=nan"),
        (lambda: look_at((1, 1, 1), (1, 1, 1)), "eye="),
        (lambda: look_at((0, 2, 0)), "up="),
        (lambda: orbit(0, 1.0), "count=0"),
        (lambda: orbit(3, 0.0), "radius=0.0"),
        (lambda: orbit(3, 1.0, up=(0, 0, 0)), "up="),
        (lambda: orbit(3, 1.0, elevation=2.0), "elevation=2.0"),
        (lambda: fibonacci_sphere(3, 1.0, lowest=0.5, highest=0.5), "lowest=0.5"),
    ],
)
def test_what_is_no_camera_is_refused_in_one_line(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
