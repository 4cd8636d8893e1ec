"""Gallery: a page of thumbnails of the fields in view, filtered and sorted; a click opens one."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.collection import Query
from apps.viewer.generation import Generation
from apps.viewer.jobs import Job
from apps.viewer.page import ACCENT, FAINT, INK, Page
from apps.viewer.pane import Pane
from apps.viewer.stage import WRONG
from apps.viewer.thumbnails import ABSENT, AT_ONCE, owner_of

if TYPE_CHECKING:
    from viser import GuiInputHandle

SIDES = {"small": 64, "medium": 96, "large": 160}
GAP, CAPTION, MARGIN, HEAD = 14, 20, 22, 46
ALL: str = "all"
STORED: str = "as stored"
LONGEST_LIST = 500  # entries of a dropdown of classes


@dataclass(frozen=True)
class Grid:
    """Where the thumbnails of a page stand: `rows` x `columns` tiles of side x side pixels, in a canvas of `size`."""

    size: tuple[int, int]
    side: int

    @property
    def columns(self) -> int:
        """Tiles in a row, one at least."""
        return max(1, (self.size[1] - 2 * MARGIN + GAP) // (self.side + GAP))

    @property
    def rows(self) -> int:
        """Rows of tiles, one at least."""
        return max(1, (self.size[0] - HEAD - MARGIN + GAP) // (self.side + CAPTION + GAP))

    @property
    def count(self) -> int:
        """Tiles of a page."""
        return self.rows * self.columns

    def corner(self, item: int) -> tuple[int, int]:
        """(row, column) of the first pixel of a tile; rows and columns are spread over the canvas."""
        row, column = divmod(item, self.columns)
        down = (self.size[0] - HEAD - MARGIN - self.side - CAPTION) / max(1, self.rows - 1)
        right = (self.size[1] - 2 * MARGIN - self.side) / max(1, self.columns - 1)
        return HEAD + int(row * down), MARGIN + int(column * right)

    def item(self, row: float, column: float) -> int | None:
        """The tile at a place given as shares of the canvas, its caption included; None between tiles."""
        y, x = row * self.size[0], column * self.size[1]
        for item in range(self.count):
            top, left = self.corner(item)
            if top <= y < top + self.side + CAPTION and left <= x < left + self.side:
                return item
        return None


class Gallery(Pane):
    """Thumbnails page by page. Only what is seen is read and drawn."""

    label = "Gallery"

    def build(self) -> None:
        """Controls: page, size, which fields, in which order."""
        gui, collection = self.session.gui, self.session.collection
        self._first = 0
        turn = gui.add_button_group("Page", ("First", "Back", "Next", "Last"))
        turn.on_click(lambda event: self._turn(str(event.target.value)))
        self._side = gui.add_dropdown("Size", tuple(SIDES), initial_value="medium")
        self._side.on_update(lambda _: self.redraw())
        self._worst = gui.add_button("Worst fits first", visible=bool(collection.quality))
        self._worst.on_click(lambda _: self.session.do("find", self._worst_first))
        self._inputs: list[GuiInputHandle] = []
        self._add_choices()
        gui.add_button("Show all").on_click(lambda _: self.session.do("find", self._show_all))
        Generation(self.session, self.show_part).build()

    def _add_choices(self) -> None:
        gui, collection = self.session.gui, self.session.collection
        names = [collection.label_name(label) for label in self._labels()]
        self._label = gui.add_dropdown("Class", (ALL, *names), visible=len(names) > 1)
        self._split = gui.add_dropdown("Split", (ALL, *collection.splits()), visible=len(collection.splits()) > 1)
        self._part = gui.add_dropdown("Made by", (ALL, *(part.name for part in collection.parts)), visible=False)
        self._prediction = gui.add_dropdown("Predicted", (ALL,), visible=False)
        self._sort = gui.add_dropdown("Sort by", (STORED, *collection.numeric))
        self._descending = gui.add_checkbox("Largest first", False)
        self._by = gui.add_dropdown("Keep where", (ALL, *collection.numeric))
        self._low = gui.add_number("from", 0.0, step=0.001, visible=False)
        self._high = gui.add_number("to", 0.0, step=0.001, visible=False)
        self._by.on_update(lambda _: self.session.do("range", self._set_range))
        self._choices = [self._label, self._split, self._part, self._prediction]
        self._inputs = [*self._choices, self._sort, self._descending, self._low, self._high]
        for handle in self._inputs:
            handle.on_update(lambda _: self.session.do("find", self._find))

    def _labels(self) -> list[int]:
        return [int(label) for label in np.unique(self.session.collection.labels)][:LONGEST_LIST]

    def _set_range(self) -> None:
        """Offer the whole range of the column that fields are kept by."""
        by = str(self._by.value)
        for handle in (self._low, self._high):
            handle.visible = by != ALL
        if by != ALL:
            values = self.session.collection.column(by)
            values = values[np.isfinite(values)]
            self._low.value = math.floor(float(values.min()) * 1000) / 1000
            self._high.value = math.ceil(float(values.max()) * 1000) / 1000
        self._find()

    def _find(self) -> None:
        collection, by, sort = self.session.collection, str(self._by.value), str(self._sort.value)
        labels = {collection.label_name(label): label for label in self._labels()}
        split, part, prediction = str(self._split.value), str(self._part.value), str(self._prediction.value)
        limits = {} if by == ALL else {"by": by, "low": float(self._low.value), "high": float(self._high.value)}
        self._apply(
            Query(
                label=labels.get(str(self._label.value)),
                split=None if split == ALL else split,
                part=None if part == ALL else part,
                prediction=None if prediction == ALL else prediction,
                sort="" if sort == STORED else sort,
                descending=bool(self._descending.value),
                **limits,
            )
        )

    def _worst_first(self) -> None:
        self._sort.value, self._descending.value = self.session.collection.quality, False
        self._apply(replace(self.session.query, sort=self.session.collection.quality, descending=False))

    def show_part(self, name: str) -> None:
        """Take all fields of a part into view, and no others."""
        self._show_all()
        self._part.value = name
        self._apply(Query(part=name))

    def _show_all(self) -> None:
        for handle in (*self._choices, self._by):
            handle.value = ALL
        self._sort.value, self._descending.value = STORED, False
        self._apply(Query())

    def _apply(self, query: Query) -> None:
        if query != self.session.query:
            self._first = 0
            self.session.find(query)

    def changed(self) -> None:
        """Offer the classes, splits, columns and parts that there are now."""
        collection = self.session.collection
        names = [collection.label_name(label) for label in self._labels()]
        parts = [part.name for part in collection.parts]
        lists = (
            (self._label, (ALL, *names), len(names) > 1),
            (self._split, (ALL, *collection.splits()), len(collection.splits()) > 1),
            (self._part, (ALL, *parts), len(parts) > 1),
            (self._prediction, (ALL, *collection.predictions()), bool(collection.predictions())),
            (self._sort, (STORED, *collection.numeric), True),
            (self._by, (ALL, *collection.numeric), True),
        )
        for handle, options, visible in lists:
            if tuple(handle.options) != options:
                handle.options = options
            handle.visible = visible
        self._worst.visible = bool(collection.quality)

    def grid(self) -> Grid:
        """The layout for the canvas as it is."""
        return Grid(self.session.stage.size, SIDES[str(self._side.value)])

    def shown(self, grid: Grid) -> np.ndarray:
        """Positions of the fields on the page."""
        return self.session.chosen[self._first : self._first + grid.count]

    def _turn(self, word: str) -> None:
        count, total = self.grid().count, len(self.session.chosen)
        last = max(0, (total - 1) // count * count)
        goal = {"First": 0, "Back": self._first - count, "Next": self._first + count, "Last": last}[word]
        self._first = min(max(goal, 0), last)
        self.redraw()

    def enter(self) -> None:
        """A page that shows all of itself."""
        self.session.stage.reset_window()

    def draw(self) -> Job:
        """Show the page with the thumbnails that are there, then draw the others a few at a time."""
        grid = self.grid()
        positions = self.shown(grid)
        found, missing = self._thumbnails(positions, grid.side)
        self._show(grid, positions, found)
        thumbnails, client = self.session.viewer.thumbnails, self.session.client.client_id
        while missing:
            part = self.session.collection.place(missing[0])[0]
            now = [at for at in missing if self.session.collection.place(at)[0] is part][: AT_ONCE[part.kind]]
            rows = np.array([self.session.collection.place(at)[1] for at in now])
            pictures = thumbnails.draw(part, rows, grid.side, owner_of(part, client))
            found.update(zip(now, pictures, strict=True))
            missing = [at for at in missing if at not in found]
            self._show(grid, positions, found)
            yield 0.0

    def _thumbnails(self, positions: np.ndarray, side: int) -> tuple[dict[int, np.ndarray], list[int]]:
        """Those that are kept, and the positions of the others."""
        found, missing = {}, []
        for position in positions.tolist():
            part, row = self.session.collection.place(position)
            owner = owner_of(part, self.session.client.client_id)
            picture = self.session.viewer.thumbnails.find(part, row, side, owner)
            if picture is None:
                missing.append(position)
            else:
                found[position] = picture
        return found, missing

    def _show(self, grid: Grid, positions: np.ndarray, found: dict[int, np.ndarray]) -> None:
        page = Page(grid.size)
        total, everything = len(self.session.chosen), len(self.session.collection)
        if total:
            shown = f"{self._first + 1:,} to {self._first + len(positions):,} of {total:,}"
            page.text(shown, 14, MARGIN, INK, 15, bold=True)
            of = "fields" if total == everything else f"fields, of {everything:,}"
            page.text(of, 14, MARGIN + 9 * len(shown) + 12, FAINT, 15)
        else:
            page.text(f"None of {everything:,} fields", 14, MARGIN, INK, 15, bold=True)
            page.text("Choose wider limits, or Show all.", HEAD, MARGIN, FAINT)
        blank = np.full((grid.side, grid.side, 3), ABSENT, np.uint8)
        for item, position in enumerate(positions.tolist()):
            top, left = grid.corner(item)
            is_open = position == self.session.position
            page.picture(
                found.get(position, blank), top, left, ACCENT if is_open else (205, 209, 216), 2 if is_open else 1
            )
            words = page.fit(self.session.collection.name(position), grid.side + GAP - 4, 11)
            colour = WRONG if self.session.collection.is_wrong(position) else ACCENT if is_open else FAINT
            page.text(words, top + grid.side + 4, left, colour, 11)
        self.session.stage.flat(page.array())

    def click(self, row: float, column: float) -> None:
        """Open the field that was clicked."""
        grid = self.grid()
        item = grid.item(row, column)
        positions = self.shown(grid)
        if item is not None and item < len(positions):
            self.session.open(int(positions[item]))
