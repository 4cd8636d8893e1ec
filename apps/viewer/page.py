"""Page: a flat picture with text, drawn by Pillow: what the stage shows of galleries, maps and pictures."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from apps.viewer.stage import ACCENT, FAINT, INK, LINE, PAPER

Colour = tuple[int, int, int]
TEXT = 13  # pixels


class Page:
    """A page of (height, width) pixels; places are (row, column) in pixels."""

    def __init__(self, size: tuple[int, int], paper: Colour = PAPER) -> None:
        from PIL import Image, ImageDraw

        self.size = size
        self._image = Image.new("RGB", (size[1], size[0]), paper)
        self._pen = ImageDraw.Draw(self._image)

    def picture(
        self, array: np.ndarray, row: float, column: float, frame: Colour | None = LINE, width: int = 1
    ) -> None:
        """Put uint8 (H, W, 3) with its top left corner at a place, with a frame around it."""
        from PIL import Image

        height, long = array.shape[:2]
        top, left = round(row), round(column)
        self._image.paste(Image.fromarray(np.ascontiguousarray(array)), (left, top))
        if frame is not None:
            box = (left - width, top - width, left + long + width - 1, top + height + width - 1)
            self._pen.rectangle(box, outline=frame, width=width)

    def text(
        self,
        words: str,
        row: float,
        column: float,
        colour: Colour = INK,
        size: int = TEXT,
        anchor: str = "la",
        bold=False,
    ) -> None:
        """Write words. anchor: as Pillow has it, "la" the top left corner, "ma" the middle of the top, "rs" ..."""
        self._pen.text((column, row), words, fill=colour, font=font(size, bold), anchor=anchor)

    def fit(self, words: str, width: float, size: int = TEXT) -> str:
        """Words cut off with dots where they are wider than so many pixels."""
        if self._pen.textlength(words, font(size)) <= width:
            return words
        while words and self._pen.textlength(words + "…", font(size)) > width:
            words = words[:-1]
        return words + "…"

    def line(self, points: Sequence[tuple[float, float]], colour: Colour = LINE, width: int = 1) -> None:
        """A line through places (row, column)."""
        self._pen.line([(column, row) for row, column in points], fill=colour, width=width, joint="curve")

    def dot(self, row: float, column: float, radius: float, colour: Colour, edge: Colour | None = None) -> None:
        """A filled circle."""
        box = (column - radius, row - radius, column + radius, row + radius)
        self._pen.ellipse(box, fill=colour, outline=edge)

    def ring(self, row: float, column: float, radius: float, colour: Colour, width: int = 1) -> None:
        """A circle that is not filled."""
        box = (column - radius, row - radius, column + radius, row + radius)
        self._pen.ellipse(box, outline=colour, width=width)

    def box(self, row: float, column: float, height: float, width: float, colour: Colour, outline=None) -> None:
        """A filled rectangle."""
        self._pen.rectangle((column, row, column + width, row + height), fill=colour, outline=outline)

    def array(self) -> np.ndarray:
        """The page: uint8 (H, W, 3)."""
        return np.asarray(self._image).copy()


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> Any:
    """The font that matplotlib brings, so that a page looks the same on every machine."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{name}", size)


__all__ = ["ACCENT", "FAINT", "INK", "LINE", "PAPER", "Colour", "Page", "font"]
