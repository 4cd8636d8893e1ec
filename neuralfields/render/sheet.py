"""Contact sheets: many small pictures on one page, with captions, so that a person can look before believing a number.

Legend: N pictures, H rows, W columns, C channels, K tensors shown side by side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PAPER, INK, FAINT, EDGE, NOT_A_NUMBER = (252, 252, 250), (38, 38, 42), (120, 120, 126), (205, 205, 205), (255, 0, 255)
TILE = 96  # pixels that a small picture is enlarged to, about
ASPECT = 1.5  # width over height that the default number of columns aims at
FONT, TITLE_FONT = 13, 16


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels: a block is one item, its K pictures side by side and the caption below."""

    columns: int
    rows: int
    tile: tuple[int, int]  # (height, width)
    block: tuple[int, int]
    gap: int
    inner: int
    top: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the page."""
        height = self.top + self.rows * (self.block[0] + self.gap)
        return height, self.gap + self.columns * (self.block[1] + self.gap)

    def corner(self, item: int) -> tuple[int, int]:
        """(y, x) of the first pixel of a block."""
        row, column = divmod(item, self.columns)
        return self.top + row * (self.block[0] + self.gap), self.gap + column * (self.block[1] + self.gap)


def sheet(
    pictures: Tensor | Sequence[Tensor],
    *,
    columns: int | None = None,
    scale: int | None = None,
    captions: Sequence[str] | None = None,
    headers: Sequence[str] | None = None,
    title: str | None = None,
    gap: int = 12,
) -> np.ndarray:
    """Lay out pictures as one page: uint8 (H', W', 3).

    pictures: (N, H, W, C) with C 1 or 3 in [0, 1] (clipped; NaN is painted magenta), or K such tensors, whose item i
    stand side by side, as original and reconstruction. columns: items in a row, by default what makes the page about
    three by two. scale: whole factor of nearest-neighbour enlargement, by default so that the longer side of a picture
    is about 96 pixels. captions: one text below every item; headers: one text above every one of the K pictures.
    Raises ValueError for tensors that do not fit together and texts of another number.
    """
    stacks = [_to_bytes(p) for p in ([pictures] if isinstance(pictures, Tensor) else pictures)]
    _check(stacks, columns, scale, captions, headers, gap)
    count, height, width, _ = stacks[0].shape
    factor = scale if scale is not None else max(1, round(TILE / max(height, width)))
    tile = (height * factor, width * factor)
    layout = _arrange(count, len(stacks), tile, columns, gap, captions, headers, title)
    page = np.empty((*layout.size, 3), np.uint8)
    page[:] = PAPER
    for item in range(count):
        y, x = layout.corner(item)
        for stack in stacks:
            page[y - 1 : y + tile[0] + 1, x - 1 : x + tile[1] + 1] = EDGE
            page[y : y + tile[0], x : x + tile[1]] = stack[item].repeat(factor, axis=0).repeat(factor, axis=1)
            x += tile[1] + layout.inner
    return _write_texts(page, layout, count, captions, headers, title)


def save_png(path: str | Path, array: np.ndarray) -> None:
    """Write a uint8 picture (H, W, 3) as PNG; the folder has to exist. Raises ValueError for other arrays."""
    from PIL import Image

    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"array has shape {array.shape}, dtype {array.dtype}: expected (H, W, 3) uint8")
    Image.fromarray(array).save(Path(path), format="PNG")


def _to_bytes(pictures: Tensor) -> np.ndarray:
    if pictures.ndim != 4 or pictures.shape[-1] not in (1, 3) or 0 in pictures.shape:
        raise ValueError(f"pictures has shape {tuple(pictures.shape)}: expected (N, H, W, C), C 1 or 3, not empty")
    values = pictures.detach().to("cpu", torch.float32).expand(*pictures.shape[:-1], 3)
    unknown = values.isnan().any(dim=-1).numpy()
    out = values.nan_to_num(0.0).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8).numpy()
    out[unknown] = NOT_A_NUMBER
    return out


def _check(
    stacks: list[np.ndarray],
    columns: int | None,
    scale: int | None,
    captions: Sequence[str] | None,
    headers: Sequence[str] | None,
    gap: int,
) -> None:
    if not stacks:
        raise ValueError("pictures=[]: expected at least one tensor (N, H, W, C)")
    shapes = {stack.shape[:3] for stack in stacks}
    if len(shapes) > 1:
        raise ValueError(f"pictures have different (N, H, W): {sorted(shapes)}; expected the same for all")
    for name, value, least in (("columns", columns, 1), ("scale", scale, 1), ("gap", gap, 2)):
        if value is not None and value < least:
            raise ValueError(f"{name}={value}: expected {least} or more")
    for name, texts, number in (("captions", captions, len(stacks[0])), ("headers", headers, len(stacks))):
        if texts is not None and len(texts) != number:
            raise ValueError(f"{name} has {len(texts)} texts: expected {number}")


def _arrange(
    count: int,
    side_by_side: int,
    tile: tuple[int, int],
    columns: int | None,
    gap: int,
    captions: Sequence[str] | None,
    headers: Sequence[str] | None,
    title: str | None,
) -> _Layout:
    inner = max(2, gap // 3)
    wide_header = max((_width(text, FONT) for text in headers or ()), default=0)
    inner = max(inner, wide_header - tile[1] + gap // 2)  # neighbouring headers must not touch
    wide_caption = max((_width(text, FONT) for text in captions or ()), default=0)
    width = max(side_by_side * tile[1] + (side_by_side - 1) * inner, wide_caption, wide_header)
    height = tile[0] + (0 if captions is None else FONT + 7)
    if columns is None:
        columns = _good_columns(count, math.sqrt(count * ASPECT * (height + gap) / (width + gap)))
    columns = min(columns, count)
    if title is not None:
        width = max(width, math.ceil((_width(title, TITLE_FONT) + gap) / columns) - gap)
    top = gap + (0 if title is None else TITLE_FONT + gap) + (0 if headers is None else FONT + 7)
    return _Layout(columns, math.ceil(count / columns), tile, (height, width), gap, inner, top)


def _good_columns(count: int, wanted: float) -> int:
    """Number of columns near `wanted`, preferably one that leaves no hole in the last row."""
    near = range(max(1, math.ceil(0.7 * wanted)), max(1, math.floor(1.4 * wanted)) + 1)
    return min(near, key=lambda columns: (count % columns != 0, abs(columns - wanted)))


def _write_texts(
    page: np.ndarray,
    layout: _Layout,
    count: int,
    captions: Sequence[str] | None,
    headers: Sequence[str] | None,
    title: str | None,
) -> np.ndarray:
    from PIL import Image, ImageDraw

    picture = Image.fromarray(page)
    draw = ImageDraw.Draw(picture)
    if title is not None:
        draw.text((layout.gap, layout.gap), title, INK, _font(TITLE_FONT), anchor="lt")
    for column in range(layout.columns if headers else 0):
        y, x = layout.corner(column)
        for number, text in enumerate(headers or ()):
            at = (x + number * (layout.tile[1] + layout.inner), y - 6)
            draw.text(at, text, FAINT, _font(FONT), anchor="ls")
    for item in range(count if captions is not None else 0):
        y, x = layout.corner(item)
        draw.text((x, y + layout.tile[0] + FONT + 2), (captions or ())[item], INK, _font(FONT), anchor="ls")
    return np.array(picture)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _width(text: str, size: int) -> int:
    return math.ceil(_font(size).getlength(text))
