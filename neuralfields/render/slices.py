"""Slices through signed distance fields as pictures: colours by sign, level lines, a thick line where the surface is.

Legend: H rows, W columns, R resolution.
"""

import math

import numpy as np
import torch
from torch import Tensor

from neuralfields.grids import axis as grid_axis
from neuralfields.render.colours import colour_bar, colourise, nice, number, to_bytes
from neuralfields.render.sheet import NOT_A_NUMBER

# Right and up as (axis, sign): seen from the positive end of the axis, never mirrored, y up where it can be.
VIEWS = {"x": ((2, -1.0), (1, 1.0)), "y": ((0, 1.0), (2, -1.0)), "z": ((0, 1.0), (1, 1.0))}
SIDE = 384  # pixels that the longer side of a slice is enlarged to, about
LINE, SURFACE = 1.0, 3.0  # widths in pixels
LINE_COLOUR, SURFACE_COLOUR = (0.25, 0.27, 0.32), (0.05, 0.05, 0.07)
LINE_STRENGTH = 0.45


def slice_points(axis: str, offset: float, resolution: int, extent: float = 1.0) -> Tensor:
    """Return the points of a square slice across an axis: (R, R, 3) float32, row 0 at the top of the picture.

    axis: "x", "y" or "z"; the slice lies at `offset` on it and covers [-extent, extent] on both others, at pixel
    centres. It is seen from the positive end of the axis: right and up are -z, y for "x"; x, -z for "y"; x, y for "z".
    Raises ValueError for another axis, an offset that is not finite, a resolution below 1, an extent not above 0.
    """
    if axis not in VIEWS:
        raise ValueError(f"axis={axis!r}: expected one of {', '.join(VIEWS)}")
    if not math.isfinite(offset) or not 0.0 < extent < math.inf:
        raise ValueError(f"offset={offset}, extent={extent}: expected a finite number and a positive one")
    along = grid_axis(resolution) * extent
    (right, right_sign), (up, up_sign) = VIEWS[axis]
    points = torch.full((resolution, resolution, 3), float(offset))
    points[..., right] = along * right_sign
    points[..., up] = (along * -up_sign)[:, None]
    return points


def slice_picture(
    values: np.ndarray | Tensor,
    limit: float | None = None,
    spacing: float | None = None,
    title: str | None = "signed distance",
    scale: int | None = None,
) -> np.ndarray:
    """Draw a signed distance on a slice: uint8 (H', W', 3), blue inside, white at the surface, orange outside.

    values: (H, W), negative inside; NaN is painted magenta. limit: the distance of the strongest colours, by default
    the largest there is, rounded up to 1, 2 or 5 times a power of ten. spacing: thin lines at its multiples, by default
    a tenth of the limit, 0 for none; they fade where they would touch; the line at 0 is thick. title: text of the
    colour bar below, with the unit; None for no bar. scale: whole factor of enlargement (bilinear, before the lines are
    drawn, so that they stay fine), by default so that the longer side is about 384 pixels. Raises ValueError for
    other values.
    """
    field = np.asarray(torch.as_tensor(values).detach().cpu(), np.float32)
    if field.ndim != 2 or min(field.shape) < 2:
        raise ValueError(f"values has shape {field.shape}: expected (H, W), at least 2 by 2")
    if limit is None:
        known = np.abs(field[np.isfinite(field)])
        limit = nice(float(known.max(initial=0.0)))
    spacing = 0.1 * limit if spacing is None else spacing
    factor = max(1, round(SIDE / max(field.shape))) if scale is None else scale
    if not 0.0 < limit < math.inf or not 0.0 <= spacing < math.inf or factor < 1:
        given = f"limit={limit}, spacing={spacing}, scale={scale}"
        raise ValueError(f"{given}: expected a positive number, one that is 0 or more and a whole number from 1")
    field = enlarge(np.clip(field, -100.0 * limit, 100.0 * limit), factor)  # infinite values would spread as NaN
    unknown = np.isnan(field)
    field[unknown] = limit
    page = colourise(field, -limit, limit, "signed")
    slope = np.hypot(*np.gradient(field))
    if spacing > 0.0:
        page = _over(page, LINE_COLOUR, LINE_STRENGTH * level_lines(field, slope, spacing))
    page = _over(page, SURFACE_COLOUR, line(np.abs(field), slope, SURFACE))
    page[unknown] = np.array(NOT_A_NUMBER, np.float32) / 255.0
    picture = to_bytes(page)
    if title is None:
        return picture
    text = f"{title}; a line every {number(spacing)}" if spacing > 0.0 else title
    return np.concatenate([picture, colour_bar(picture.shape[1], -limit, limit, "signed", text)])


def line(distance: np.ndarray, slope: np.ndarray, width: float) -> np.ndarray:
    """Return how much of every pixel a line covers, (H, W) in [0, 1]: clip((width + 1) / 2 - d / |grad|, 0, 1).

    distance: of the values from the level, slope: change per pixel; both (H, W). width: in pixels.
    """
    near = distance < slope * (0.5 * width + 0.5)  # all others are nothing: no division by a slope that vanishes
    pixels = np.divide(distance, slope, out=np.full_like(distance, np.inf), where=near)
    return np.clip(0.5 * width + 0.5 - pixels, 0.0, 1.0)


def level_lines(field: np.ndarray, slope: np.ndarray, spacing: float) -> np.ndarray:
    """Return how much of every pixel lines at the multiples of `spacing` other than 0 cover: (H, W) in [0, 1].

    Lines nearer to each other than six pixels fade, and are gone at three.
    """
    nearest = np.round(field / spacing)
    dense = 3.0 * slope / spacing
    covered = line(np.abs(field - nearest * spacing), slope, LINE)
    return covered * np.clip(1.0 / np.maximum(dense, 1e-3) - 1.0, 0.0, 1.0) * (nearest != 0.0)


def enlarge(field: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge values (H, W) by a whole factor, bilinearly between pixel centres: (H * factor, W * factor)."""
    if factor == 1:
        return field.copy()
    stack = torch.from_numpy(np.ascontiguousarray(field))[None, None]
    return torch.nn.functional.interpolate(stack, scale_factor=factor, mode="bilinear")[0, 0].numpy()


def _over(page: np.ndarray, colour: tuple[float, float, float], cover: np.ndarray) -> np.ndarray:
    """Paint a colour over a page (H, W, 3), cover (H, W) in [0, 1]."""
    return page + cover[..., None].astype(np.float32) * (np.array(colour, np.float32) - page)
