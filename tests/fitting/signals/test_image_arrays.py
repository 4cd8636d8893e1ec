import numpy as np
import pytest
import torch

from fitting import images
from fitting.signals.image_arrays import to_grey


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4)), r"shape \(3, 4\): expected \(N, H, W\)"),
        (np.zeros((0, 4, 4)), "at least one image"),
        (np.zeros((3, 1, 4)), "1x4 pixels: expected at least 2x2"),
        (np.zeros((2, 8, 8, 5)), "5 channels .*expected 1 to 4"),
        (np.zeros((2, 3, 8, 8)), "8 channels .*move axis 1 to the end"),
        (np.zeros((2, 4, 4), np.int64), "dtype int64: expected uint8"),
        (np.zeros((2, 4, 4), np.complex64), "dtype complex64: expected uint8"),
        (np.full((2, 4, 4), 255.0), r"range from 255 to 255: expected floats in \[0, 1\]; divide by 255"),
        (np.full((2, 4, 4), -1.0), r"range from -1 to -1: expected floats in \[0, 1\]; rescale"),
    ],
)
def test_arrays_that_are_not_images_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        images.from_array(array)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_counted_and_located(generator, bad):
    pixels = torch.rand(5, 4, 4, generator=generator)
    pixels[2, 1, 1] = pixels[4, 0, 0] = pixels[4, 0, 1] = bad
    with pytest.raises(ValueError, match="3 NaN or infinite values in 2 of 5 images, the first in image 2"):
        images.from_array(pixels)


def test_every_dtype_means_the_same_values(random_bytes):
    levels = random_bytes(3, 4, 5, 3)
    expected = torch.from_numpy(levels).double() / 255
    deep = levels.astype(np.uint16) * 257
    for array in (levels, deep, levels / 255.0, (levels / 255.0).astype(np.float32)):
        values = images.from_array(array).values()
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), expected, rtol=1e-6, atol=0)
    mask = levels > 127
    assert torch.equal(images.from_array(mask).values(), torch.from_numpy(mask).float())


def test_grey_keeps_the_dtype_and_leaves_grey_alone(random_bytes):
    levels = random_bytes(2, 6, 5)
    rgb = levels[..., None].repeat(3, axis=-1)
    grey = to_grey(rgb)
    assert np.array_equal(grey[..., 0], levels)
    assert to_grey(grey) is grey
    colour = random_bytes(2, 6, 5, 3)
    exact = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(to_grey(colour)[..., 0] - exact).max() <= 0.501
    assert np.abs(to_grey((colour / 255).astype(np.float32))[..., 0] - exact / 255).max() < 1e-6


def test_resize_averages_and_keeps_constants(random_bytes, tmp_path):
    pixels = np.repeat(np.repeat(random_bytes(3, 2, 2), 8, axis=1), 8, axis=2)
    np.savez(tmp_path / "a.npz", x=pixels, constant=np.full((2, 9, 7), 0.7, np.float32))
    small = images.load(tmp_path / "a.npz", resize=(4, 6))
    assert small.pixels.shape == (3, 4, 6, 1)
    assert small.pixels.dtype == np.uint8
    assert np.abs(small.pixels.mean(axis=(1, 2, 3)) - pixels.mean(axis=(1, 2))).max() < 2.0
    constant = images.load(tmp_path / "a.npz", x_key="constant", resize=(5, 3)).pixels
    np.testing.assert_allclose(constant, 0.7, rtol=1e-6)
