import numpy as np
import pytest
import torch

from neuralfields.render.colours import MAPS
from neuralfields.render.slices import enlarge, level_lines, line, slice_picture, slice_points


def ball(size: int = 100, radius: float = 0.5) -> np.ndarray:
    """Signed distance of a ball on the slice through its middle."""
    return slice_points("z", 0.0, size).norm(dim=-1).numpy() - radius


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_slices_are_seen_from_the_positive_end_and_never_mirrored(axis: str) -> None:
    points = slice_points(axis, 0.25, 8).double()
    right, up = points[0, 1] - points[0, 0], points[0, 0] - points[1, 0]
    out = torch.linalg.cross(right, up)
    expected = torch.zeros(3, dtype=torch.float64)
    expected["xyz".index(axis)] = 0.25**2
    torch.testing.assert_close(out, expected)
    assert (points[..., "xyz".index(axis)] == 0.25).all()
    if axis != "y":
        torch.testing.assert_close(up, torch.tensor([0.0, 0.25, 0.0], dtype=torch.float64))


def test_points_are_pixel_centres_of_the_square() -> None:
    points = slice_points("z", -0.5, 4, 2.0)
    assert points[0, 0].tolist() == [-1.5, 1.5, -0.5]
    assert points[3, 2].tolist() == [0.5, -1.5, -0.5]
    assert (points.shape, points.dtype) == ((4, 4, 3), torch.float32)


def test_inside_is_blue_outside_orange_and_the_surface_dark() -> None:
    picture = slice_picture(ball(), title=None, scale=1).astype(int)
    assert picture.shape == (100, 100, 3)
    inside, outside = picture[46, 46], picture[9, 9]  # between level lines
    assert inside[2] > inside[0] + 40
    assert outside[0] > outside[2] + 40
    rows, columns = np.nonzero(picture.sum(axis=-1) < 150)
    distance = np.hypot(rows - 49.5, columns - 49.5)
    assert distance.min() > 23
    assert distance.max() < 27
    assert len(rows) > 2 * np.pi * 25  # all around, thicker than a pixel


def test_the_strongest_colours_are_the_limit_and_beyond() -> None:
    values = np.tile(np.array([-3.0, -0.2, 0.2, np.inf])[:, None], (1, 20)).repeat(5, axis=0)
    picture = slice_picture(values, limit=0.2, spacing=0.0, title=None, scale=1)
    for row, place in ((1, 0), (7, 0), (12, -1), (18, -1)):
        np.testing.assert_allclose(picture[row, 10], 255 * np.array(MAPS["signed"][place]), atol=1)


def test_lines_have_their_width_at_any_slope() -> None:
    for slope in (0.01, 0.3, 2.0):
        ramp = np.tile((np.arange(60) - 29.7) * slope, (60, 1))
        steep = np.hypot(*np.gradient(ramp))
        for width in (1.0, 3.0):
            np.testing.assert_allclose(line(np.abs(ramp), steep, width).sum(axis=1), width, atol=0.3)
    assert (line(np.zeros((4, 4)), np.zeros((4, 4)), 3.0) == 0).all()  # a plateau is no line


def test_level_lines_lie_at_multiples_but_not_at_zero_and_fade_where_dense() -> None:
    ramp = np.tile(np.linspace(-1.0, 1.0, 201), (5, 1))
    slope = np.hypot(*np.gradient(ramp))
    cover = level_lines(ramp, slope, 0.25)[2]
    np.testing.assert_array_equal(np.flatnonzero(cover == cover.max()), [0, 25, 50, 75, 125, 150, 175, 200])
    assert cover[100] == 0
    assert level_lines(ramp, slope, 0.025).max() == 0  # two and a half pixels apart
    assert 0 < level_lines(ramp, slope, 0.045).max() < 1


def test_lines_stay_fine_and_in_place_when_a_slice_is_enlarged() -> None:
    dark = []
    for size, scale in ((50, 8), (100, 4), (400, 1)):
        picture = slice_picture(ball(size), title=None, scale=scale, spacing=0.0)
        assert picture.shape == (400, 400, 3)
        dark.append(picture.sum(axis=-1) < 150)
    for coarse in dark[:2]:
        assert (coarse ^ dark[2]).sum() < 0.15 * dark[2].sum()


def test_enlarged_values_of_a_plane_are_the_plane() -> None:
    plane = slice_points("z", 0.0, 10)[..., 0].numpy()
    fine = slice_points("z", 0.0, 30)[..., 0].numpy()
    np.testing.assert_allclose(enlarge(plane, 3)[:, 1:-1], fine[:, 1:-1], atol=1e-6)


def test_unknown_values_are_magenta_and_infinite_ones_do_not_spread() -> None:
    values = ball(40)
    values[3, 4], values[30, 30] = np.nan, np.inf
    picture = slice_picture(values, title=None, scale=1)
    magenta = (picture == (255, 0, 255)).all(axis=-1)
    assert np.argwhere(magenta).tolist() == [[3, 4]]
    assert (slice_picture(np.full((4, 4), np.nan), title=None) == (255, 0, 255)).all()


def test_the_bar_says_range_and_spacing_and_tensors_are_taken() -> None:
    values = torch.from_numpy(ball(96)).requires_grad_()
    picture = slice_picture(values)
    assert picture.shape == (384 + 58, 384, 3)
    np.testing.assert_array_equal(picture[:384], slice_picture(values, title=None))
    assert not np.array_equal(slice_picture(values, title="metres")[384:], picture[384:])
    np.testing.assert_array_equal(picture, slice_picture(values, limit=1.0, spacing=0.1))  # the largest is 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: slice_points("w", 0.0, 8), "axis='w': expected one of x, y, z"),
        (lambda: slice_points("x", float("nan"), 8), "offset=nan"),
        (lambda: slice_points("x", 0.0, 0), "size=0"),
        (lambda: slice_points("x", 0.0, 8, 0.0), "extent=0.0"),
        (lambda: slice_picture(np.zeros((4, 4, 1))), r"shape \(4, 4, 1\): expected \(H, W\)"),
        (lambda: slice_picture(np.zeros((1, 4))), r"shape \(1, 4\)"),
        (lambda: slice_picture(np.zeros((4, 4)), limit=0.0), "limit=0.0"),
        (lambda: slice_picture(np.zeros((4, 4)), spacing=-1.0), "spacing=-1.0"),
        (lambda: slice_picture(np.zeros((4, 4)), scale=0), "scale=0"),
    ],
)
def test_what_is_no_slice_is_refused_in_one_line(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
