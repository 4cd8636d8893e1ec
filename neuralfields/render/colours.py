"""Colour maps, colour bars and lettering for pictures.

A map is a list of colours at equal steps, interpolated linearly. Legend: H rows, W columns.
"""

import math
from typing import Any

import numpy as np

from neuralfields.render.sheet import EDGE, FAINT, FONT, INK, PAPER

# Lightness rises or falls steadily in the first two; `signed` is white in the middle, blue below, orange above.
MAPS = {
    "error": ((0.85, 0.88, 0.89), (0.99, 0.87, 0.50), (0.97, 0.59, 0.24), (0.84, 0.24, 0.19), (0.42, 0.05, 0.20)),
    "depth": (
        (0.99, 0.95, 0.78),
        (0.98, 0.72, 0.47),
        (0.86, 0.42, 0.43),
        (0.58, 0.24, 0.48),
        (0.30, 0.16, 0.42),
        (0.10, 0.08, 0.22),
    ),
    "signed": (
        (0.08, 0.19, 0.42),
        (0.17, 0.42, 0.69),
        (0.54, 0.74, 0.89),
        (0.97, 0.97, 0.95),
        (0.98, 0.80, 0.55),
        (0.87, 0.49, 0.18),
        (0.48, 0.20, 0.05),
    ),
}


def colourise(values: np.ndarray, low: float, high: float, colours: str = "error") -> np.ndarray:
    """Return colours (..., 3) float32 in [0, 1] of values (...), clipped to low..high.

    colours: "error" (light to dark red), "depth" (light to dark blue) or "signed" (blue, white, orange). Raises
    ValueError for another map, an empty range and values that are NaN.
    """
    if colours not in MAPS:
        raise ValueError(f"colours={colours!r}: expected one of {', '.join(MAPS)}")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"low={low}, high={high}: expected two finite numbers, the first below the second")
    if np.isnan(values).any():
        raise ValueError(f"values has {int(np.isnan(values).sum())} NaN: expected numbers")
    stops = np.array(MAPS[colours], np.float32)
    place = np.clip((values - low) / (high - low), 0.0, 1.0) * (len(stops) - 1)
    before = np.minimum(place.astype(np.int64), len(stops) - 2)
    part = (place - before)[..., None].astype(np.float32)
    return stops[before] * (1.0 - part) + stops[before + 1] * part


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """Return values in [0, 1] (clipped) as uint8, rounded."""
    return (np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def colour_bar(
    width: int,
    low: float,
    high: float,
    colours: str,
    title: str = "",
    background: tuple[float, float, float] | None = None,
) -> np.ndarray:
    """Return a colour bar lying down, three numbers below it and a title below those: uint8 (58, width, 3).

    Where the numbers would touch, the middle one is left out; a title that is too long is cut, with an ellipsis.
    background: RGB in [0, 1], by default that of sheets. width: pixels, at least 16; raises ValueError for fewer.
    """
    if width < 16:
        raise ValueError(f"width={width}: expected at least 16 pixels for a colour bar")
    paper = PAPER if background is None else tuple(int(v) for v in to_bytes(np.array(background)))
    page = np.full((58 if title else 42, width, 3), paper, np.uint8)
    left, right = margins(width)
    ramp = colourise(np.linspace(low, high, right - left), low, high, colours)
    page[8:18, left - 1 : right + 1] = EDGE
    page[9:17, left:right] = to_bytes(ramp)
    middle = 0.5 * (left + right)
    numbers = [(left, low, "ls"), (middle, 0.5 * (low + high), "ms"), (right, high, "rs")]
    if sum(text_width(number(value)) + FONT for _, value, _ in numbers) > right - left:
        del numbers[1]
    for x, value, anchor in numbers:
        letter(page, (x, 33), number(value), anchor=anchor)
    return letter(page, (middle, 51), shorten(title, right - left), FAINT, "ms")


def margins(width: int) -> tuple[int, int]:
    """First and last column of a colour bar in a picture of this width."""
    edge = max(2, min(width // 12, 24))
    return edge, width - edge


def number(value: float) -> str:
    """Return a short text for a number, never "-0"."""
    return f"{value + 0.0:.3g}"


def nice(value: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least `value`, 1 for 0.

    Raises ValueError for values below 0 and those that are not finite.
    """
    if not 0.0 <= value < math.inf:
        raise ValueError(f"value={value}: expected a finite number, 0 or more")
    if value == 0.0:
        return 1.0
    power = math.floor(math.log10(value))
    steps = (float(f"{digit}e{exponent}") for exponent in (power, power + 1) for digit in (1, 2, 5))
    return next(step for step in steps if step >= value * (1.0 - 1e-9))


def text_width(text: str, size: int = FONT) -> int:
    """Return how many pixels wide a text is."""
    return math.ceil(font(size).getlength(text))


def shorten(text: str, width: float, size: int = FONT) -> str:
    """Return the text, or as much of its beginning as fits into `width` pixels with an ellipsis."""
    if text_width(text, size) <= width:
        return text
    fits = (end for end in range(len(text) - 1, 0, -1) if text_width(text[:end].rstrip() + "…", size) <= width)
    end = next(fits, 0)
    return text[:end].rstrip() + "…" if end else ""


def letter(
    page: np.ndarray,
    at: tuple[float, float],
    text: str,
    colour: tuple[int, int, int] = INK,
    anchor: str = "ls",
    size: int = FONT,
) -> np.ndarray:
    """Write text into a page (H, W, 3) uint8 in place and return it.

    at: x, y of Pillow's anchor ("ls": left end of the baseline).
    """
    from PIL import Image, ImageDraw

    if text:
        picture = Image.fromarray(page)
        ImageDraw.Draw(picture).text(at, text, colour, font(size), anchor=anchor)
        page[:] = np.asarray(picture)
    return page


def font(size: int = FONT) -> Any:
    """Return Pillow's own font at a size in pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
