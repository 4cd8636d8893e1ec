"""MapPane: the population as dots on a plane; a click chooses a field and shows its neighbours."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from apps.viewer.jobs import Job
from apps.viewer.map_colours import colours, columns
from apps.viewer.map_page import APART, LEGEND, MARGIN, MapPage, sentence
from apps.viewer.map_picture import Frame
from apps.viewer.map_strip import Near, Strip, draw_missing, draw_strip, find_near
from apps.viewer.maps import WAITING
from apps.viewer.markdown import plain
from apps.viewer.page import FAINT
from apps.viewer.pane import Pane
from apps.viewer.projections import FlatMap, Progress, methods
from apps.viewer.spaces import Space, spaces

if TYPE_CHECKING:
    from apps.viewer.collection import Part

HEAD = 62
REACH = 8.0  # pixels between a click and a dot, at most
WAIT_S = 0.1  # between two looks at what another browser works out
SEEN = 0.02  # of the bar: smaller steps are not drawn
ASK = "Click a dot: its field and its nearest neighbours in the whole space stand here."

Key = tuple[str, str, int]
T = TypeVar("T")


class MapPane(Pane):
    """Dots, coloured by what is known of their fields; those in view strong, the others pale."""

    label = "Map"

    def build(self) -> None:
        """Controls: space, method, colour, and what part of the map is seen."""
        gui, viewer = self.session.gui, self.session.viewer
        found, notices = spaces(viewer.networks, viewer.part.spec)
        self._spaces = {space.name: space for space in found}
        self._making: Key | None = None  # the map that is being worked out
        self._progress: Progress = "", 0.0
        self._refused: dict[Key, str] = {}
        self._chosen: int | None = None  # position of the field that is marked
        self._open = self.session.position
        self._near: Near | None = None
        self._seeking: tuple[int | None, str, int] | None = None  # the field whose neighbours are being looked for
        self._no_near = ""
        self._space = gui.add_dropdown("Space", tuple(self._spaces))
        if notices:
            gui.add_markdown("  \n".join(map(plain, notices)))
        self._method = gui.add_dropdown("Method", tuple(methods()))
        for handle in (self._space, self._method):
            handle.on_update(lambda _: self.session.do("other map", self._other))
        self._colour = gui.add_dropdown("Colour by", tuple(columns(self.session.collection)))
        self._colour.on_update(lambda _: self.redraw())
        self.add_zoom()
        gui.add_markdown(
            "A click on a dot chooses its field; a click on a picture below opens it. The wheel zooms, the right "
            "button moves. Fields that the gallery's filter leaves out are pale."
        )

    def enter(self) -> None:
        """All of the map."""
        self.session.stage.reset_window()

    def moved(self) -> None:
        """Draw what is seen now."""
        self.redraw()

    def changed(self) -> None:
        """Offer the columns that there are now; mark a field that was opened elsewhere."""
        options = tuple(columns(self.session.collection))
        if tuple(self._colour.options) != options:
            self._colour.options = options
        if self.session.position != self._open:
            self._open = self._chosen = self.session.position

    def follow(self, now: np.ndarray) -> None:
        """The marked field stays the same one."""
        self._open = int(now[self._open])
        self._chosen = None if self._chosen is None else int(now[self._chosen])

    def _other(self) -> None:
        self.session.stage.reset_window()
        self.redraw()

    @property
    def space(self) -> Space:
        """The one that is looked at."""
        return self._spaces[str(self._space.value)]

    def frame(self) -> Frame:
        """Where the map is on the page."""
        height, width = self.session.stage.size
        bottom = height - MARGIN - Strip.height(width - 2 * MARGIN) - APART
        return Frame((height, width), HEAD, MARGIN, max(bottom, HEAD + 60), width - MARGIN - LEGEND - APART)

    def strip(self) -> Strip:
        """Where the neighbours are."""
        return Strip(self.frame().bottom + APART, MARGIN, self.session.stage.size[1] - MARGIN)

    def flat(self) -> FlatMap | None:
        """The map that is asked for, if it is worked out; that of fewer fields while the store grows."""
        found = self.session.viewer.maps.find(self.space, str(self._method.value))
        return None if found is None or found.total > len(self._part) else found.at(self._part)

    @property
    def _part(self) -> "Part":
        """The fields of the store, as many as this browser knows of."""
        return self.session.collection.parts[0]

    def draw(self) -> Job | None:
        """Show the map, and ask for what is missing of it."""
        flat, count = self.flat(), len(self._part)
        key = self.space.name, str(self._method.value), count
        if (flat is None or flat.total != count) and key not in self._refused and not self._follows(key):
            self.session.do("map", self._make)
        if flat is None:
            self._show_waiting(*((self._refused[key], 0.0) if key in self._refused else self._progress))
            return
        self._show(flat)
        known = None if self.near is None else (self.near.position, self.near.space, self.near.total)
        if self._chosen is not None and (self._chosen, self.space.name, count) not in (known, self._seeking):
            self.session.do("near", self._find_near)

    def _follows(self, key: Key) -> bool:
        """Whether a map of this kind is being worked out: that of fewer fields is brought to its end."""
        return self._making is not None and self._making[:2] == key[:2]

    def _make(self) -> Job:
        """Work out the map that is asked for, and show how far it is."""
        part, space, method = self._part, self.space, str(self._method.value)
        self._making = key = space.name, method, len(part)
        self._progress = "", 0.0
        try:
            yield from paced(self.session.viewer.maps.make(part, space, method), self._tell)
        except ValueError as error:
            self._refused[key] = str(error)
        finally:
            self._making = None
        self.redraw()

    def _tell(self, words: str, share: float) -> None:
        """How far the map is, on the page if there is nothing else to show."""
        if words != self._progress[0] or share > self._progress[1] + SEEN:
            self._progress = words, share
            if self.session.pane is self and self.flat() is None:
                self._show_waiting(words, share)

    def _find_near(self) -> Job:
        """Find the neighbours of the chosen field, then draw their pictures."""
        session, part, space, position = self.session, self._part, self.space, self._chosen
        if position is None:
            return
        self._seeking = position, space.name, len(part)
        try:
            cloud = yield from paced(session.viewer.maps.cloud(part, space))
            self._near, self._no_near = (yield from find_near(cloud, session.collection, position)), ""
        except ValueError as error:
            self._near = Near(position, space.name, len(part), np.zeros(0, int), np.zeros(0), 0)
            self._no_near = str(error)
        finally:
            self._seeking = None
        self.redraw()
        for pause in draw_missing(session, self._near, self.strip().side):
            self.redraw()
            yield pause

    @property
    def near(self) -> Near | None:
        """The neighbours of the chosen field, if they are known."""
        return self._near if self._near is not None and self._near.position == self._chosen else None

    def click(self, row: float, column: float) -> None:
        """Choose the field of the nearest dot, none where there is no dot; open the field of a picture of the strip."""
        flat, frame, strip = self.flat(), self.frame(), self.strip()
        y, x = row * frame.size[0], column * frame.size[1]
        if y >= strip.top and (near := self.near) is not None:
            item = strip.item(y, x, 1 + len(near.positions))
            if item is not None:
                self.session.open(int([near.position, *near.positions][item]))
        elif flat is not None and frame.holds(y, x):
            position = self._dot(flat, y, x)
            self._chosen = position
            if position is None:
                self.redraw()
            else:
                self._open = position
                self.session.choose_field(position)

    def _dot(self, flat: FlatMap, row: float, column: float) -> int | None:
        """The nearest dot to a place in pixels, one in view before others; None where none is near."""
        far = np.linalg.norm(self.frame().place(flat, self.session.stage.window()) - (row, column), axis=1)
        for kept in (self._is_strong(flat), np.ones(len(far), bool)):
            at = int(np.where(kept, far, np.inf).argmin())
            if kept[at] and far[at] <= REACH:
                return int(flat.rows[at])
        return None

    def _is_strong(self, flat: FlatMap) -> np.ndarray:
        """Which dots are in view: (n,) bool."""
        chosen = np.zeros(len(self.session.collection), bool)
        chosen[self.session.chosen] = True
        return chosen[flat.rows]

    def _show(self, flat: FlatMap) -> None:
        session, strong = self.session, self._is_strong(flat)
        found = colours(session.collection, flat.rows, str(self._colour.value), strong)
        page = MapPage(self.frame(), self._title)
        made = len(session.collection) - len(self._part)
        page.say(sentence(flat, strong, made), f"zoom {session.stage.window().zoom:.3g}")
        page.draw(flat, found, strong, session.stage.window())
        near = self.near
        if self._chosen is not None:
            page.mark(flat, self._chosen, [] if near is None else near.positions.tolist())
        if near is not None and len(near.positions):
            draw_strip(page.page, self.strip(), session, near, bool((flat.rows == self._chosen).any()))
        else:
            waits = f"Looking for the neighbours of #{self._chosen} ..."
            words = ASK if self._chosen is None else waits if near is None else self._no_near
            page.page.text(page.page.fit(words, self.strip().right - MARGIN), self.strip().top, MARGIN, FAINT)
        session.stage.flat(page.page.array())

    def _show_waiting(self, words: str, share: float) -> None:
        page = MapPage(self.frame(), self._title)
        page.say(words, "")
        page.bar(share)
        self.session.stage.flat(page.page.array())

    @property
    def _title(self) -> str:
        title = f"{self.space.name}, {self._method.value}"
        return title[0].upper() + title[1:]


def paced(
    work: Generator[Progress, None, T], tell: Callable[[str, float], None] | None = None
) -> Generator[float, None, T]:
    """Work as a job, which waits while another browser has its turn, and gives what the work gives at its end."""
    while True:
        try:
            words, share = next(work)
        except StopIteration as end:
            return end.value
        if tell is not None:
            tell(words, share)
        yield WAIT_S if words == WAITING else 0.0
