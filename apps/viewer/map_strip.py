"""The strip below a map: the chosen field, and its nearest neighbours in the whole space, with their distances."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.clouds import Cloud
from apps.viewer.collection import Collection
from apps.viewer.page import ACCENT, FAINT, INK, LINE, Page
from apps.viewer.stage import WRONG
from apps.viewer.thumbnails import ABSENT, AT_ONCE, Thumbnails, owner_of

if TYPE_CHECKING:
    from apps.viewer.session import Session

COUNT = 10  # neighbours
GAP, APART = 10, 16  # between two tiles, and more between the field and its neighbours
SIDES = 40, 128
HEAD, CAPTION = 24, 32
TEXT = 11


@dataclass(frozen=True, eq=False)
class Near:
    """Neighbours of the field at a position: positions and distances (m,), in order, among fields of a space."""

    position: int
    space: str
    total: int
    positions: np.ndarray
    distances: np.ndarray
    among: int


@dataclass(frozen=True)
class Strip:
    """Where the tiles stand in a page: below row `top`, from column `left` to `right`."""

    top: int
    left: int
    right: int

    @classmethod
    def height(cls, width: int) -> int:
        """Of a strip that is so many pixels wide."""
        return HEAD + cls(0, 0, width).side + CAPTION

    @property
    def side(self) -> int:
        """Of a tile in pixels."""
        room = (self.right - self.left - APART - COUNT * GAP) // (COUNT + 1)
        return min(max(room, SIDES[0]), SIDES[1])

    def corner(self, item: int) -> tuple[int, int]:
        """(row, column) of the first pixel of tile 0, the field, to COUNT, its last neighbour."""
        return self.top + HEAD, self.left + item * (self.side + GAP) + (APART if item else 0)

    def item(self, row: float, column: float, count: int) -> int | None:
        """The tile, of so many, at a place in pixels, its caption included; None between tiles."""
        for item in range(count):
            top, left = self.corner(item)
            if top <= row < top + self.side + CAPTION and left <= column < left + self.side:
                return item
        return None


def find_near(cloud: Cloud, collection: Collection, position: int) -> Generator[float, None, Near]:
    """Neighbours of a field. Raises ValueError for a field that is no point of the cloud's space."""
    field, (part, row) = collection.field(position), collection.place(position)
    if part.spec != cloud.part.spec:
        raise ValueError(f"#{position} is {part.spec.describe()}: it has no place among {cloud.part.spec.describe()}")
    if not bool(field.flat().isfinite().all()):
        raise ValueError(f"#{position} has NaN or infinite weights: it has no place on a map")
    without = row if part.name == cloud.part.name else None
    rows, distances = yield from cloud.nearest(cloud.points(field)[0], COUNT, without)
    return Near(position, cloud.space.name, len(cloud.part), rows, distances, len(cloud))


def draw_strip(page: Page, strip: Strip, session: "Session", near: Near, has_dot: bool) -> None:
    """Draw it, with the thumbnails that are there. has_dot: whether the chosen field is on the map."""
    collection = session.collection
    title = f"Nearest of {near.among:,} fields in {near.space}"
    title += "" if has_dot else "; the chosen one is not among the dots"
    page.text("Chosen", strip.top, strip.left, INK, 12, bold=True)
    page.text(title, strip.top, strip.corner(1)[1], INK, 12, bold=True)
    blank = np.full((strip.side, strip.side, 3), ABSENT, np.uint8)
    for item, position in enumerate([near.position, *near.positions.tolist()]):
        top, left = strip.corner(item)
        picture = found(session, position, strip.side)
        is_first = item == 0
        page.picture(
            blank if picture is None else picture, top, left, ACCENT if is_first else LINE, 2 if is_first else 1
        )
        part, row = collection.place(position)
        label = int(part.columns["label"][row])
        name = f"#{position}" + (f" · {collection.label_name(label)}" if label >= 0 else "")
        colour = WRONG if collection.is_wrong(position) else ACCENT if is_first else FAINT
        page.text(page.fit(name, strip.side + GAP - 2, TEXT), top + strip.side + 3, left, colour, TEXT)
        if item:
            page.text(f"{near.distances[item - 1]:#.4g}".rstrip("."), top + strip.side + 17, left, INK, TEXT)
    page.text("distance", strip.top + HEAD + strip.side + 17, strip.left, FAINT, TEXT)


def draw_missing(session: "Session", near: Near, side: int) -> Generator[float, None, None]:
    """Draw the thumbnails that are not there, a few at a time."""
    thumbnails: Thumbnails = session.viewer.thumbnails
    positions = [near.position, *near.positions.tolist()]
    while missing := [at for at in positions if found(session, at, side) is None]:
        part = session.collection.place(missing[0])[0]
        now = [at for at in missing if session.collection.place(at)[0] is part][: AT_ONCE[part.kind]]
        rows = np.array([session.collection.place(at)[1] for at in now])
        thumbnails.draw(part, rows, side, owner_of(part, session.client.client_id))
        yield 0.0


def found(session: "Session", position: int, side: int) -> np.ndarray | None:
    """The thumbnail of a field, if it is there."""
    part, row = session.collection.place(position)
    return session.viewer.thumbnails.find(part, row, side, owner_of(part, session.client.client_id))
