"""Pictures of posed views: read, blended over a background, shrunk by area.

Legend: H rows, W columns.
"""

from pathlib import Path

import numpy as np

BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}
Colour = tuple[float, float, float]


def as_background(background: str | tuple[float, ...]) -> Colour:
    """Return a background as (r, g, b). Raises ValueError unless it is "white", "black" or three numbers in [0, 1]."""
    value = BACKGROUNDS.get(background, background) if isinstance(background, str) else background
    if isinstance(value, str) or len(value) != 3 or not all(0.0 <= v <= 1.0 for v in value):
        raise ValueError(f"background={background!r}: expected 'white', 'black' or (r, g, b) in [0, 1]")
    return float(value[0]), float(value[1]), float(value[2])


def read_view(path: Path, background: Colour) -> np.ndarray:
    """Read a picture as (H, W, 3) float32 in [0, 1]: alpha value + (1 - alpha) background where it has an alpha.

    Values are the file's own (sRGB), the blend is on them, as published nerf-synthetic figures are. Grey becomes grey
    RGB. The orientation that a camera noted is not applied: poses and intrinsics are those of the stored pixels.
    Raises ValueError for files that cannot be decoded.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            file.load()
            if file.mode in ("I", "F"):
                raise ValueError(f"pixels of mode {file.mode}: expected 8 or 16 bits")
            deep = file.mode.startswith("I;16")
            pixels = np.asarray(file if deep else file.convert("RGBA" if file.has_transparency_data else "RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable picture ({' '.join(str(error).split())})") from error
    values = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=-1)
    if values.shape[-1] == 3:
        return values
    alpha = values[..., 3:]
    return alpha * values[..., :3] + (1.0 - alpha) * np.asarray(background, np.float32)


def shrink(picture: np.ndarray, scale: float) -> np.ndarray:
    """Return a picture (H, W, 3) shrunk to round(scale H) x round(scale W): the mean over each new pixel's area."""
    from skimage.transform import resize_local_mean

    h, w = picture.shape[:2]
    shape = max(1, round(scale * h)), max(1, round(scale * w))
    if shape == (h, w):
        return picture
    small = resize_local_mean(picture, shape, grid_mode=True, preserve_range=True, channel_axis=-1)
    return np.clip(small.astype(np.float32), 0.0, 1.0)
