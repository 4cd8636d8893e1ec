"""Pages of radiance fields: one picture over all of the canvas, or several side by side, with colour bars."""

from dataclasses import dataclass

import numpy as np

from apps.viewer.page import ACCENT, FAINT, INK, PAPER, Page
from apps.viewer.picture_pane import difference
from apps.viewer.scene_picture import Seen

MARGIN, HEAD, GAP, NAME, FOOT = 22, 46, 18, 20, 70
BAR = 360  # pixels of a colour bar, at most
NAMES = {"depth": "depth from the camera, half sides of the box", "opacity": "opacity"}


@dataclass(frozen=True, eq=False)
class Tile:
    """A picture of a page: name, colours (H, W, 3) in [0, 1], and words at the right of the name."""

    name: str
    picture: np.ndarray
    note: str = ""


def tile_size(size: tuple[int, int], count: int, shape: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of `count` tiles side by side on a page of a size, in the proportion of (H, W) `shape`."""
    width = (size[1] - 2 * MARGIN - (count - 1) * GAP) / count
    height = size[0] - HEAD - NAME - FOOT
    scale = min(width / shape[1], height / shape[0])
    return max(1, round(scale * shape[0])), max(1, round(scale * shape[1]))


def full_page(
    size: tuple[int, int], title: str, picture: np.ndarray, quantity: str, depths: tuple[float, float]
) -> np.ndarray:
    """One picture over all of a page, its name on it: uint8 (H, W, 3)."""
    page = Page(size)
    page.picture(scaled(picture, size), 0, 0, None)
    page.box(10, MARGIN - 8, 26, 9.5 * len(title) + 12, PAPER)
    page.text(title, 14, MARGIN, INK, 15, bold=True)
    _bar(page, size, quantity, depths)
    return page.array()


def tiles_page(
    size: tuple[int, int],
    title: str,
    tiles: list[Tile],
    each: tuple[int, int],
    quantity: str,
    depths: tuple[float, float],
) -> np.ndarray:
    """Pictures of size `each` side by side in the middle of a page: uint8 (H, W, 3)."""
    page = Page(size)
    page.text(title, 14, MARGIN, INK, 15, bold=True)
    left = (size[1] - len(tiles) * each[1] - (len(tiles) - 1) * GAP) / 2
    top = HEAD + NAME + max(0.0, (size[0] - HEAD - NAME - FOOT - each[0]) / 2)
    for number, tile in enumerate(tiles):
        page.text(page.fit(tile.name, each[1]), top - 20, left, ACCENT if number == 0 else FAINT)
        page.text(tile.note, top - 20, left + each[1], INK, anchor="ra")
        page.picture(scaled(tile.picture, each), top, left)
        left += each[1] + GAP
    _bar(page, size, quantity, depths)
    return page.array()


def beside(
    fields: list[tuple[str, Seen]],
    photograph: np.ndarray,
    quantity: str,
    depths: tuple[float, float],
    with_difference: bool,
    judged: bool,
) -> list[Tile]:
    """What fields show, the photograph (H, W, 3) of the same size, and the difference of the first one from it.

    judged: write the PSNR of each field too.
    """
    tiles = [
        Tile(name, seen.shown(quantity, depths), f"{psnr(seen.colour, photograph):.1f} dB" if judged else "")
        for name, seen in fields
    ]
    tiles.append(Tile("photograph", photograph))
    if with_difference:
        tiles.append(Tile("difference", difference(fields[0][1].colour, photograph), "white: none"))
    return tiles


def psnr(picture: np.ndarray, photograph: np.ndarray) -> float:
    """PSNR in dB of a picture of the same size, both in [0, 1]."""
    return float(-10.0 * np.log10(max(float(np.mean((picture - photograph) ** 2)), 1e-10)))


def scaled(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (h, w, 3) in [0, 1] as uint8 of another size, smooth in between."""
    from PIL import Image

    from neuralfields.render.colours import to_bytes

    image = Image.fromarray(np.ascontiguousarray(to_bytes(picture)))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _bar(page: Page, size: tuple[int, int], quantity: str, depths: tuple[float, float]) -> None:
    """The colours of a quantity with the ends of its scale, at the bottom left."""
    from neuralfields.render.colours import colour_bar

    if quantity in NAMES:
        low, high = depths if quantity == "depth" else (0.0, 1.0)
        paper = tuple(value / 255 for value in PAPER)
        bar = colour_bar(min(BAR, size[1] - 2 * MARGIN), low, high, "depth", NAMES[quantity], paper)  # type: ignore[arg-type]
        page.picture(bar, size[0] - len(bar) - 12, MARGIN - 8, None)
