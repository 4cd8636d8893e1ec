"""The barrier of paths as a picture: how far values on the way are from the mixture of both ends."""

from collections.abc import Mapping, Sequence

import numpy as np

from apps.viewer.page import ACCENT, FAINT, INK, LINE, Colour, Page, font
from apps.viewer.paths import SHARES
from apps.viewer.stage import PAPER
from apps.viewer.weights_picture import COLOURS

FINER = 2  # lines are drawn in so many times more pixels, and averaged: Pillow's own have steps
LEFT, RIGHT, BOTTOM = 58, 16, 34  # around the axes, in pixels
SWATCH, APART = 24, 26  # of the legend: from a line's colour to its words, and to the next line
TEXT = 13
TITLE = "How far values on the way are from the mixture of those of A and B (root mean square)"
LEAST = 1e-3  # the axis goes at least up to here: rounding errors are no barrier


def barrier_picture(
    size: tuple[int, int], curves: Mapping[str, np.ndarray], names: Sequence[str], current: str, share: float
) -> np.ndarray:
    """Curves of root mean squared departures (21,), NaN where not measured yet: uint8 (H, W, 3).

    names: of all curves that there may be, each has its colour; current: the one that the slider is on, at share of
    the way. Each curve's largest value stands in the legend.
    """
    curves = {name: curves[name] for name in names if name in curves}
    page = Page((size[0] * FINER, size[1] * FINER), PAPER)
    _text(page, TITLE, 4, 0, FAINT)
    places = _legend_places(curves, current, size[1])
    axes = _Axes(size, max((row for row, _ in places), default=25) + 31, _highest(curves))
    _draw_grid(page, axes)
    for (name, values), (row, left) in zip(curves.items(), places, strict=True):
        colour = _colour(names.index(name))
        known, is_current = np.isfinite(values), name == current
        points = [axes.place(*at) for at in zip(SHARES[known], values[known], strict=True)]
        if len(points) > 1:
            width = (3 if is_current else 2) * FINER
            page.line([(y * FINER, x * FINER) for y, x in points], colour, width)
        page.box((row + 6) * FINER, left * FINER, 4 * FINER, 18 * FINER, colour)
        _text(page, legend(name, values), row, left + SWATCH, INK if is_current else FAINT, is_current)
    if current in curves:
        _mark(page, axes, share, curves[current], _colour(names.index(current)))
    drawn = page.array().reshape(size[0], FINER, size[1], FINER, 3)
    return drawn.mean(axis=(1, 3)).round().astype(np.uint8)


def legend(name: str, values: np.ndarray) -> str:
    """The name of a curve and its largest value, as far as it is measured."""
    if not np.isfinite(values).all():
        return f"{name}: {np.isfinite(values).sum()} of {len(values)}"
    worst = int(values.argmax())
    return f"{name}: at most {values[worst]:.3g}, at {SHARES[worst]:.2f}"


def value_at(values: np.ndarray, share: float) -> float:
    """The value of a curve at a share of the way, between its points as the line is drawn; NaN where not measured."""
    return float(np.interp(share, SHARES, values))


class _Axes:
    """Where values stand in a picture of (height, width), below its row `top`."""

    def __init__(self, size: tuple[int, int], top: float, highest: float) -> None:
        self.top, (self.step, self.highest) = top, _ticks(highest)
        self.bottom, self.right = size[0] - BOTTOM, size[1] - RIGHT

    def place(self, share: float, value: float) -> tuple[float, float]:
        """(row, column) in pixels."""
        row = self.bottom - value / self.highest * (self.bottom - self.top)
        return row, LEFT + share * (self.right - LEFT)


def _legend_places(curves: Mapping[str, np.ndarray], current: str, width: int) -> list[tuple[float, float]]:
    """(row, column) of the entries of the legend, in as many rows as it takes."""
    places, row, column = [], 25.0, 0.0
    for name, values in curves.items():
        long = SWATCH + font(TEXT, name == current).getlength(legend(name, values))
        if column > 0 and column + long > width:
            row, column = row + 19, 0.0
        places.append((row, column))
        column += long + APART
    return places


def _draw_grid(page: Page, axes: _Axes) -> None:
    for value in np.arange(0, axes.highest + axes.step / 2, axes.step):
        row = axes.place(0, value)[0]
        page.line([(row * FINER, LEFT * FINER), (row * FINER, axes.right * FINER)], LINE, FINER)
        _text(page, f"{value:.3g}", row, LEFT - 8, FAINT, anchor="rm")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        column = axes.place(share, 0)[1]
        page.line([(axes.bottom * FINER, column * FINER), ((axes.bottom + 5) * FINER, column * FINER)], LINE, FINER)
        words = {0.0: "A", 1.0: "B"}.get(share, f"{share:g}")
        _text(page, words, axes.bottom + 9, column, INK if words in "AB" else FAINT, words in "AB", "ma")


def _mark(page: Page, axes: _Axes, share: float, values: np.ndarray, colour: Colour) -> None:
    column = axes.place(share, 0)[1]
    page.line([(axes.top * FINER, column * FINER), (axes.bottom * FINER, column * FINER)], ACCENT, FINER)
    value = value_at(values, share)
    if not np.isfinite(value):
        return
    row = axes.place(share, value)[0]
    page.dot(row * FINER, column * FINER, 5 * FINER, colour, PAPER)
    words = f"{value:.3g}"
    long = font(TEXT, True).getlength(words)
    left = column - 10 - long if share > 0.85 else column + 10
    top = row - 22 if row - 22 > axes.top else row + 9
    page.box((top - 1) * FINER, (left - 3) * FINER, 17 * FINER, (long + 6) * FINER, PAPER)
    _text(page, words, top, left, INK, True)


def _text(
    page: Page, words: str, row: float, column: float, colour: Colour, bold: bool = False, anchor: str = "la"
) -> None:
    page.text(words, row * FINER, column * FINER, colour, TEXT * FINER, anchor, bold)


def _highest(curves: Mapping[str, np.ndarray]) -> float:
    known = [values[np.isfinite(values)] for values in curves.values()]
    return max([LEAST, *(float(values.max()) for values in known if values.size)])


def _ticks(highest: float) -> tuple[float, float]:
    """Step and end of an axis from 0: round numbers, three to six, that reach a value."""
    rough = highest / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(power * n for n in (1, 2, 5, 10) if power * n >= rough * (1 - 1e-9)))
    return step, step * max(1, int(np.ceil(highest / step - 1e-9)))


def _colour(number: int) -> Colour:
    text = COLOURS[number % len(COLOURS)]
    red, green, blue = (int(text[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue
