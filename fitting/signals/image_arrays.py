"""Image arrays in the two forms that are kept: uint8, or float32 in [0, 1]; every check in one place.

Legend: N images, H rows, W columns, C channels.
"""

from dataclasses import dataclass

import numpy as np

MAX_CHANNELS = 4


@dataclass(frozen=True, eq=False)
class RawImages:
    """What a reader found: pixels (N, H, W) or (N, H, W, C) of any dtype, labels, names, classes and the split."""

    pixels: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...]
    split: str | None = None
    classes: tuple[str, ...] | None = None


def as_pixels(array: np.ndarray, name: str = "pixels") -> np.ndarray:
    """Return images as (N, H, W, C), uint8 kept as it is and everything else float32 in [0, 1].

    bool becomes 0 and 255, uint16 is divided by 65535, floats have to be in [0, 1] already. Raises ValueError for
    other dtypes, other numbers of dimensions or channels, images below 2 x 2, no images, NaN, infinity, or a range
    beyond [0, 1].
    """
    if array.ndim not in (3, 4):
        raise ValueError(f"{name} has shape {array.shape}: expected (N, H, W) or (N, H, W, C)")
    pixels = array[..., None] if array.ndim == 3 else array
    count, height, width, channels = pixels.shape
    if count == 0:
        raise ValueError(f"{name} has shape {array.shape}: expected at least one image")
    if not 1 <= channels <= MAX_CHANNELS:
        hint = "; channels come last, so move axis 1 to the end" if pixels.shape[1] <= MAX_CHANNELS else ""
        raise ValueError(f"{name} has {channels} channels (shape {array.shape}): expected 1 to {MAX_CHANNELS}{hint}")
    if min(height, width) < 2:
        raise ValueError(f"{name} has images of {height}x{width} pixels: expected at least 2x2")
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint16:
        return pixels.astype(np.float32) / np.float32(65535)
    if pixels.dtype.kind != "f":
        raise ValueError(f"{name} has dtype {pixels.dtype}: expected uint8, uint16, bool or floats in [0, 1]")
    check_range(pixels, name)
    return pixels.astype(np.float32, copy=False)


def check_range(pixels: np.ndarray, name: str = "pixels") -> None:
    """Raise ValueError unless all floats (N, ...) are finite and in [0, 1]; the first bad image is named."""
    low, high = float(pixels.min()), float(pixels.max())
    if np.isfinite(low) and np.isfinite(high):
        if low < 0.0 or high > 1.0:
            hint = "divide by 255 or store uint8" if low >= 0.0 and 2.0 < high <= 255.0 else "rescale them"
            raise ValueError(f"{name} range from {low:g} to {high:g}: expected floats in [0, 1]; {hint}")
        return
    bad = ~np.isfinite(pixels).reshape(len(pixels), -1)
    images = np.flatnonzero(bad.any(axis=1))
    raise ValueError(
        f"{name}: {int(bad.sum())} NaN or infinite values in {len(images)} of {len(pixels)} images, "
        f"the first in image {images[0]}: expected finite numbers in [0, 1]"
    )


def as_labels(labels: np.ndarray, count: int, name: str = "labels") -> np.ndarray:
    """Return labels (N,) or (N, 1) of any integer type as int64 (N,). Raises ValueError for anything else."""
    if len(labels) != count or labels.size != count:
        raise ValueError(f"{name} has shape {labels.shape}: expected one label for each of the {count} images")
    if labels.dtype.kind not in "iub":
        raise ValueError(f"{name} has dtype {labels.dtype}: expected integers")
    return labels.reshape(count).astype(np.int64)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Luma of RGB images: (N, H, W, 3) -> (N, H, W, 1) of the same dtype; one channel stays as it is.

    Y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded to nearest for uint8. Raises ValueError for 2 or 4 channels.
    """
    if pixels.shape[-1] == 1:
        return pixels
    if pixels.shape[-1] != 3:
        raise ValueError(f"grey=True: expected images of 1 or 3 channels, got {pixels.shape[-1]}")
    out = np.empty((*pixels.shape[:-1], 1), pixels.dtype)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    for row, image in enumerate(pixels):  # one image at a time: uint8 populations are never inflated to float
        luma = image.astype(np.float32) @ weights
        out[row, ..., 0] = np.rint(luma) if pixels.dtype == np.uint8 else np.clip(luma, 0.0, 1.0)
    return out


def resize_image(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample one image (H, W, C), uint8 or float32, to `shape`: antialiased triangle filter, never overshoots."""
    from PIL import Image

    if pixels.shape[:2] == tuple(shape):
        return pixels
    size = (shape[1], shape[0])
    planes = [Image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(pixels.shape[-1])]
    return np.stack([np.asarray(p.resize(size, Image.Resampling.BILINEAR)) for p in planes], axis=-1)


def resize_all(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample all images (N, H, W, C) to (N, *shape, C), as `resize_image` does."""
    if pixels.shape[1:3] == tuple(shape):
        return pixels
    out = np.empty((len(pixels), *shape, pixels.shape[-1]), pixels.dtype)
    for row, image in enumerate(pixels):
        out[row] = resize_image(image, shape)
    return out if out.dtype == np.uint8 else np.clip(out, 0.0, 1.0)


def number_names(prefix: str, count: int) -> tuple[str, ...]:
    """Names of images that have none of their own: 'train-00000', 'train-00001', ..."""
    return tuple(f"{prefix}-{i:05d}" for i in range(count))
