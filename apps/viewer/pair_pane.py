"""PairPane: the way from one field to another, with a slider on it, and the barrier that it crosses."""

import textwrap
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.barrier_picture import barrier_picture
from apps.viewer.collection import Part
from apps.viewer.jobs import Job
from apps.viewer.page import ACCENT, FAINT, INK, LINE, Page
from apps.viewer.pair_tiles import Tiles
from apps.viewer.pane import Pane
from apps.viewer.paths import ALIGNED, WEIGHTS, Way, embeddings, way
from apps.viewer.picture_pane import GAP, HEAD, MARGIN, layout
from apps.viewer.session import Session, nearest_position

if TYPE_CHECKING:
    from viser import GuiInputHandle

    from neuralfields import FieldBatch

REST_S, FRAME_S = 0.25, 0.02  # before a finer picture, between two steps of Play
STEPS = 20  # of Play, each way
KEPT = 8  # pairs
LEAST_CURVES, MOST_CURVES, APART = 190, 440, 30  # pixels: height of the curves, and between the tiles and them


class Pair:
    """Two fields of one spec: their pictures, and the ways between them that were looked at."""

    def __init__(self, part: Part, ends: "FieldBatch") -> None:
        self.part, self.ends, self.tiles = part, ends, Tiles(part, ends)
        self.ways: dict[str, Way] = {}

    def curves(self) -> dict[str, np.ndarray]:
        """Root mean squared departure of every way, by the space it goes through."""
        return {name: np.sqrt(found.errors) for name, found in self.ways.items()}


class PairPane(Pane):
    """A | on the way | B, above the barrier."""

    label = "Two fields"

    @classmethod
    def suits(cls, session: Session) -> bool:
        """Pictures and shapes."""
        return session.viewer.part.kind in ("pictures", "shapes")

    def build(self) -> None:
        """Controls: the ends, the space, the place on the way."""
        gui, last = self.session.gui, len(self.session.collection) - 1
        self._pairs: OrderedDict[tuple, Pair] = OrderedDict()
        self._is_chosen = False  # until then the ends follow the open field
        self._ends: list[GuiInputHandle] = [
            gui.add_number("A", 0, min=0, max=last, step=1),
            gui.add_number("B", 0, min=0, max=last, step=1),
        ]
        for handle in self._ends:
            handle.on_update(lambda event: self._typed() if event.client else None)
        buttons = gui.add_button_group("Set", ("A := open field", "B := open field", "Swap"))
        buttons.on_click(lambda event: self.session.do("ends", lambda: self._set(str(event.target.value))))
        viewer = self.session.viewer
        self._names = (WEIGHTS, ALIGNED, *embeddings(viewer.networks, viewer.part.spec))
        self._through = gui.add_dropdown("Through", self._names)
        self._through.on_update(lambda _: self.redraw())
        self._share = gui.add_slider("Way", 0.0, 1.0, 0.01, 0.5)
        self._share.on_update(lambda event: self.redraw() if event.client else None)
        gui.add_button("Play").on_click(lambda _: self.session.do("draw", self._play))
        gui.add_markdown(
            "A field on the way shows nearly a mixture of A and B where the curve is low; a hill is a barrier."
        )
        self._open_and_next()

    def enter(self) -> None:
        """A page that shows all of itself."""
        self.session.stage.reset_window()

    def changed(self) -> None:
        """Another field is open, or there are more or fewer."""
        last = len(self.session.collection) - 1
        for handle in self._ends:
            handle.max = last  # type: ignore[attr-defined]
            handle.value = min(int(handle.value), last)
        if not self._is_chosen:
            self._open_and_next()

    def follow(self, now: np.ndarray) -> None:
        """The ends stay the same fields."""
        for handle in self._ends:
            handle.max = len(self.session.collection) - 1  # type: ignore[attr-defined]
            handle.value = int(now[int(handle.value)])

    def _open_and_next(self) -> None:
        """The open field, and the next one in view."""
        session = self.session
        following = nearest_position(session.chosen, session.position, 1) if len(session.chosen) else session.position
        for handle, position in zip(self._ends, (session.position, following), strict=True):
            handle.value = position

    def _typed(self) -> None:
        self._is_chosen = True
        self.redraw()

    def _set(self, word: str) -> None:
        self._is_chosen = True
        a, b = self._ends
        if word == "Swap":
            a.value, b.value = b.value, a.value
        else:
            (a if word.startswith("A") else b).value = self.session.position
        self.redraw()

    def draw(self) -> Job:
        """Coarse at once, then with the barrier, then finer when the slider has come to rest."""
        try:
            pair, through = self._pair(), str(self._through.value)
            if through not in pair.ways:
                pair.ways[through] = way(pair.ends, through, pair.part, self.session.viewer.networks)
        except ValueError as error:
            self._refuse(str(error))
            return
        path = pair.ways[through]
        was_measured = path.is_measured
        self._show(pair, through, False)
        yield from path.measure()
        if pair.tiles.is_solid:
            yield REST_S
            for number in (0, 1):
                pair.tiles.end(number, self._tile_size(pair), True)
                yield 0.0
        if pair.tiles.is_solid or not was_measured:
            self._show(pair, through, True)

    def _play(self) -> Job:
        """Move the slider there and back."""
        there = np.linspace(0.0, 1.0, STEPS + 1).round(2).tolist()
        for share in [*there, *there[-2::-1]]:
            self._share.value = share
            next(self.draw(), None)  # the coarse picture alone
            yield FRAME_S
        yield from self.draw()

    def _pair(self) -> Pair:
        """The pair that is asked for. Raises ValueError for fields of two specs."""
        places = [self.session.collection.place(int(handle.value)) for handle in self._ends]
        key = tuple((id(part.fields), row) for part, row in places)
        if key not in self._pairs:
            a, b = (self.session.collection.field(int(handle.value)) for handle in self._ends)
            self._pairs[key] = Pair(places[0][0], both(a, b))
        self._pairs.move_to_end(key)
        while len(self._pairs) > KEPT:
            self._pairs.popitem(last=False)
        return self._pairs[key]

    def _tile_size(self, pair: Pair) -> tuple[int, int]:
        height, width = self.session.stage.size
        room = max(height - max(LEAST_CURVES, round(0.38 * height)), 2 * HEAD)
        shape = (1, 1) if pair.tiles.is_solid else pair.part.size
        high, long = layout((room, width), 3, shape[0] / shape[1])
        return max(1, round(high)), max(1, round(long))

    def _show(self, pair: Pair, through: str, is_fine: bool) -> None:
        stage, share = self.session.stage, float(self._share.value)
        page, size = Page(stage.size), self._tile_size(pair)
        tiles = [pair.tiles.end(0, size, is_fine), None, pair.tiles.end(1, size, is_fine)]
        tiles[1] = pair.tiles.draw(pair.ways[through].field(share), size, is_fine)
        a, b = (self.session.collection.name(int(handle.value)) for handle in self._ends)
        words = (f"A  {a}", f"{share:.2f} of the way", f"B  {b}")
        gap = min((page.size[1] - 2 * MARGIN - 3 * size[1]) / 2, 3 * GAP)
        first = (page.size[1] - 3 * size[1] - 2 * gap) / 2
        for number, (name, tile) in enumerate(zip(words, tiles, strict=True)):
            left = first + number * (size[1] + gap)
            is_middle = number == 1
            page.text(page.fit(name, size[1]), HEAD - 24, left, ACCENT if is_middle else INK, bold=is_middle)
            page.picture(tile, HEAD, left, ACCENT if is_middle else LINE)
        top = HEAD + size[0] + APART
        room = (min(page.size[0] - top - 6, MOST_CURVES), page.size[1] - 2 * MARGIN)
        curves = barrier_picture(room, pair.curves(), self._names, through, share)
        page.picture(curves, top, MARGIN, None)
        stage.flat(page.array())

    def _refuse(self, reason: str) -> None:
        page = Page(self.session.stage.size)
        page.text("No way between these", 14, MARGIN, INK, 15, bold=True)
        for number, line in enumerate(textwrap.wrap(reason, (page.size[1] - 2 * MARGIN) // 8)):
            page.text(line, HEAD + 20 * number, MARGIN, FAINT)
        self.session.stage.flat(page.array())


def both(a: "FieldBatch", b: "FieldBatch") -> "FieldBatch":
    """Two fields as one batch. Raises ValueError for fields of two specs."""
    from neuralfields import FieldBatch

    if a.spec != b.spec:
        raise ValueError(f"A is {a.spec.describe()}, B is {b.spec.describe()}: expected two fields of one spec")
    return FieldBatch.cat([a, b])
