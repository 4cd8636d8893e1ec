"""The page of a map: its words, its dots, rings around some of them, and what their colours mean."""

from collections.abc import Sequence

import numpy as np

from apps.viewer.map_colours import Colours, scale
from apps.viewer.map_picture import GROUND, Frame, dots, mixed, radius
from apps.viewer.page import ACCENT, FAINT, INK, LINE, Page
from apps.viewer.projections import FlatMap
from apps.viewer.share import words as column_words
from apps.viewer.stage import Window

MARGIN, LEGEND, APART = 22, 132, 14  # pixels: around the page, of the legend's width, between it and the map
PALE = (221, 224, 230)  # dots of fields that are not in view
TEXT, ROW = 12, 19
BAR, PROGRESS = (14, 220), (260, 8)  # width and height of the colour bar, and of what says how far work is
RINGS = 5.0, 2.5  # pixels around the chosen dot, and around its neighbours


class MapPage:
    """A page with a title, around a frame."""

    def __init__(self, frame: Frame, title: str) -> None:
        self.frame, self.page = frame, Page(frame.size)
        self._at, self._size = np.zeros((0, 2)), 0.0
        self.page.text(title, 14, MARGIN, INK, 15, bold=True)

    def say(self, words: str, aside: str) -> None:
        """A line below the title, and a few words at the right of it."""
        width = self.frame.size[1]
        self.page.text(aside, 16, width - MARGIN, FAINT, anchor="ra")
        self.page.text(self.page.fit(words, width - 2 * MARGIN, TEXT), 37, MARGIN, FAINT, TEXT)

    def bar(self, share: float) -> None:
        """How far work is."""
        width, height = PROGRESS
        self.page.box(self.frame.top, MARGIN, height, width, LINE)
        if share > 0:
            self.page.box(self.frame.top, MARGIN, height, round(width * min(share, 1.0)), ACCENT)

    def draw(self, flat: FlatMap, found: Colours, strong: np.ndarray, window: Window) -> None:
        """The dots, pale where they are not strong (n,) bool, and the legend."""
        self._at, order = self.frame.place(flat, window), mixed(strong)
        self._size = radius(len(flat.rows), window)
        shown = np.where(strong[:, None], found.dots, PALE)
        picture = dots(self.frame, self._at[order], shown[order], self._size)
        self.page.picture(picture, self.frame.top, self.frame.left, LINE)
        draw_legend(self.page, found, self.frame.top, self.frame.right + APART, LEGEND)

    def mark(self, flat: FlatMap, chosen: int, near: Sequence[int]) -> None:
        """Rings around the dot of the chosen field and those of its neighbours, where they are seen."""
        for position in (*near, chosen):
            wide, colour, width = (RINGS[0], ACCENT, 3) if position == chosen else (RINGS[1], INK, 1)
            for row, column in self._at[flat.rows == position]:
                if self.frame.holds(row, column):
                    self.page.ring(row, column, self._size + wide + 1.5, GROUND, width + 3)  # apart from other dots
                    self.page.ring(row, column, self._size + wide, colour, width)


def sentence(flat: FlatMap, strong: np.ndarray, num_made: int) -> str:
    """What is shown of a population, and how. strong (n,) bool: in view; num_made: fields that were made here."""
    count = len(flat.rows)
    is_whole = count + flat.num_bad == flat.total
    words = [f"{count:,} fields" if is_whole else f"{count:,} of {flat.total:,} fields, spread evenly"]
    if not strong.all():
        words.append(f"{int(strong.sum()):,} of them in view")
    if flat.num_bad:
        words.append(f"{flat.num_bad:,} left out: NaN weights")
    if num_made:
        words.append(f"{num_made:,} made here left out")
    return " · ".join([*words, flat.note])


def draw_legend(page: Page, colours: Colours, top: float, left: float, width: float) -> None:
    """The names of the classes with how many of them are in view, or the bar of the scale with its ends."""
    page.text(page.fit(column_words(colours.title), width, TEXT), top, left, INK, TEXT, bold=True)
    top += ROW + 4
    for number, (name, colour, count) in enumerate(colours.names):
        row, words = top + number * ROW, f"{count:,}"
        page.dot(row + 7, left + 5, 5, colour)
        page.text(page.fit(name, width - 24 - 7 * len(words), TEXT), row, left + 17, INK if count else FAINT, TEXT)
        page.text(words, row, left + width, FAINT, TEXT, "ra")
    if colours.ends is not None:
        shares = np.linspace(1, 0, BAR[1])
        page.picture(np.repeat(scale(shares)[:, None], BAR[0], axis=1), top, left + 1, LINE)
        low, high = colours.words()
        places = [(0.0, high), (0.5, f"{sum(colours.ends) / 2:.4g}"), (1.0, low)]
        for share, words in places:
            page.text(words, top + share * BAR[1], left + BAR[0] + 10, INK, TEXT, "lm")
        top += BAR[1] + 14
    if colours.num_unknown:
        page.text(f"{colours.num_unknown:,} without: grey", top, left, FAINT, TEXT)
