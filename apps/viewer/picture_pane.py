"""PicturePane: a picture field at any zoom, evaluated anew for what is seen, beside its original and the difference."""

from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.field_pane import FieldPane
from apps.viewer.jobs import Job
from apps.viewer.page import ACCENT, FAINT, INK, Page
from apps.viewer.session import Session
from apps.viewer.stage import PAPER, Window

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields import FieldBatch

MARGIN, HEAD, GAP = 22, 46, 18
PREVIEW = 4  # times fewer pixels each way while the window moves


class PicturePane(FieldPane):
    """Field | original | difference, all through one window."""

    @classmethod
    def suits(cls, session: Session) -> bool:
        """Fields over two coordinates."""
        return session.viewer.part.kind == "pictures"

    def build_view(self) -> None:
        """Controls: zoom, and what stands beside."""
        gui = self.session.gui
        self.add_zoom()
        self._pixels = gui.add_checkbox("Pixels of the original", False)
        self._difference = gui.add_checkbox("Difference", True, visible=self.session.viewer.truth is not None)
        for handle in (self._pixels, self._difference):
            handle.on_update(lambda _: self.redraw())
        gui.add_markdown("The wheel zooms, the right button moves; what is seen is evaluated anew.")

    def enter(self) -> None:
        """All of the picture."""
        self.session.stage.reset_window()

    def moved(self) -> None:
        """Draw what is seen now."""
        self.redraw()

    def draw_view(self, field: "FieldBatch", altered: "list[tuple[str, FieldBatch]]") -> Job:
        """Coarse at once, fine when the window has come to rest."""
        tiles = self._tiles(field, altered)
        self._show(tiles, PREVIEW)
        yield 0.12
        self._show(tiles, 1)

    def _tiles(
        self, field: "FieldBatch", altered: "list[tuple[str, FieldBatch]]"
    ) -> "list[tuple[str, FieldBatch | Tensor | None]]":
        part, row = self.session.collection.place(self.session.position)
        tiles: list[tuple[str, FieldBatch | Tensor | None]] = [("field", field), *altered]
        truth = self.session.viewer.truth
        if truth is not None and part.name == "store":
            tiles.append(("original", truth.picture(part, row)))
            tiles += [("difference", None)] * bool(self._difference.value)
        return tiles

    def _show(self, tiles: list, coarser: int) -> None:
        session, page = self.session, Page(self.session.stage.size)
        window, (height, width) = session.stage.window(), page.size
        part, _ = session.collection.place(session.position)
        shape = part.size
        side = layout(page.size, len(tiles), shape[0] / shape[1])
        page.text(session.collection.name(session.position), 14, MARGIN, INK, 15, bold=True)
        page.text(f"zoom {window.zoom:.3g}", 16, width - MARGIN, FAINT, anchor="ra")
        size, drawn = (round(side[0]), round(side[1])), {}
        for number, (name, what) in enumerate(tiles):
            few = (max(1, size[0] // coarser), max(1, size[1] // coarser))
            if what is None:
                drawn[name] = difference(drawn["field"], drawn["original"])
            else:
                drawn[name] = through(what, window, few, shape, bool(self._pixels.value))
            left = MARGIN + number * (side[1] + GAP)
            top = HEAD + 18 + (height - HEAD - 18 - MARGIN - side[0]) / 2
            page.text(name, top - 20, left, ACCENT if number == 0 else FAINT)
            page.picture(enlarged(drawn[name], size), top, left)
        session.stage.flat(page.array())


def layout(size: tuple[int, int], count: int, aspect: float) -> tuple[float, float]:
    """(height, width) of tiles side by side on a page; aspect: height over width."""
    width = (size[1] - 2 * MARGIN - (count - 1) * GAP) / count
    height = min(width * aspect, size[0] - HEAD - 18 - MARGIN)
    return height, height / aspect


def through(
    what: "FieldBatch | Tensor", window: Window, size: tuple[int, int], whole: tuple[int, int], as_pixels: bool = False
) -> np.ndarray:
    """What is seen of a field or of a picture (H, W, C) through a window: float (h, w, 3), NaN outside of it.

    whole: (H, W) of the picture that the field was fitted to; as_pixels: show the field in as many pixels, instead of
    evaluating it at every pixel of the window.
    """
    import torch

    from neuralfields import FieldBatch

    top, left, bottom, right = window.bounds()
    rows = top + (bottom - top) * (np.arange(size[0]) + 0.5) / size[0]
    columns = left + (right - left) * (np.arange(size[1]) + 0.5) / size[1]
    if isinstance(what, FieldBatch) and as_pixels:
        from neuralfields.render import image

        what = image(what, whole)[0]
    inside = ((rows >= 0) & (rows < 1))[:, None] & ((columns >= 0) & (columns < 1))
    if isinstance(what, FieldBatch):
        values = evaluated(what, rows, columns, whole)
    else:
        picture = torch.as_tensor(what).numpy()
        at = [
            np.clip((share * n).astype(int), 0, n - 1) for share, n in zip((rows, columns), picture.shape, strict=False)
        ]
        values = picture[at[0]][:, at[1]]
    out = np.broadcast_to(np.clip(values, 0, 1), (*size, 3)).astype(np.float32).copy()
    out[~inside] = np.nan
    return out


def evaluated(field: "FieldBatch", rows: np.ndarray, columns: np.ndarray, whole: tuple[int, int]) -> np.ndarray:
    """Values (h, w, C) of a field at shares of the height and width of a picture of `whole` pixels."""
    import torch

    from neuralfields.evaluate import evaluate

    shares = [rows, columns]
    if field.spec.grid == "corners":  # the first and the last pixel have their middles at -1 and 1
        shares = [(share * n - 0.5) / max(n - 1, 1) for share, n in zip(shares, whole, strict=True)]
    grid = np.stack(np.meshgrid(*(2 * share - 1 for share in shares), indexing="ij"), axis=-1).astype(np.float32)
    grid = grid if field.spec.axes == "ij" else grid[..., ::-1].copy()
    with torch.no_grad():
        return evaluate(field, torch.from_numpy(grid).view(-1, 2))[0].view(len(rows), len(columns), -1).numpy()


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b|, averaged over channels and made three times as bright, from white to red: (h, w, 3)."""
    amount = np.clip(3 * np.abs(a - b).mean(axis=-1, keepdims=True), 0, 1)
    return 1 - amount * np.array([0.18, 0.82, 0.85], np.float32)


def enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Float (h, w, 3) in [0, 1] as uint8 of a size, NaN as the colour of nothing."""
    rows = np.arange(size[0]) * values.shape[0] // size[0]
    columns = np.arange(size[1]) * values.shape[1] // size[1]
    nothing = np.isnan(values).any(axis=-1)
    out = np.round(np.nan_to_num(values) * 255).astype(np.uint8)
    out[nothing] = PAPER
    return out[rows][:, columns]
