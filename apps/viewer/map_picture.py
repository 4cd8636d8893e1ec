"""A map as a picture: dots in a frame, seen through a window."""

from dataclasses import dataclass

import numpy as np

from apps.viewer.projections import FlatMap
from apps.viewer.stage import Window

FINER = 2  # dots are drawn in so many times more pixels, and averaged
GROUND = (255, 255, 255)
OUTLIERS, FEW = 0.1, 500  # percent that may lie outside of the frame, where there are so many dots
BORDER = 0.05  # of the frame, free of dots


@dataclass(frozen=True)
class Frame:
    """Where the map is on a page of `size`: first and last row and column, in pixels."""

    size: tuple[int, int]
    top: int
    left: int
    bottom: int
    right: int

    def place(self, flat: FlatMap, window: Window) -> np.ndarray:
        """(row, column) in pixels of all dots, (n, 2), seen through a window over the page; both axes alike."""
        low, high = limits(flat.places)
        room = np.array([self.right - self.left, self.bottom - self.top]) * (1 - 2 * BORDER)
        extent = high - low
        unit = float(min((r / e for r, e in zip(room, extent, strict=True) if e > 0), default=1.0))
        middle = np.array([(self.top + self.bottom) / 2, (self.left + self.right) / 2])
        across = (flat.places - (low + high) / 2) * unit
        at = middle + np.stack([-across[:, 1], across[:, 0]], axis=1)
        top, left, bottom, right = window.bounds()
        return (at / self.size - (top, left)) / (bottom - top, right - left) * self.size

    def holds(self, row: float, column: float) -> bool:
        """Whether a place lies in the frame."""
        return self.top <= row < self.bottom and self.left <= column < self.right


def limits(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest x and y that are shown at first."""
    if len(places) < FEW:
        return places.min(axis=0).astype(float), places.max(axis=0).astype(float)
    low, high = np.percentile(places, (OUTLIERS, 100 - OUTLIERS), axis=0)
    return low, high


def radius(count: int, window: Window) -> float:
    """Of a dot in pixels: small where there are many, larger as the window closes in."""
    return float(np.clip(70 / max(count, 1) ** 0.4, 1.8, 6.0) * np.clip(window.zoom**0.35, 0.6, 2.5))


def dots(frame: Frame, at: np.ndarray, colours: np.ndarray, size: float) -> np.ndarray:
    """Dots at (row, column) (n, 2) of a page, later ones above: the picture of the frame, uint8 (h, w, 3)."""
    height, width = (frame.bottom - frame.top) * FINER, (frame.right - frame.left) * FINER
    middle = np.floor((at - (frame.top, frame.left)) * FINER).clip(-1e6, 1e6).astype(np.int64)
    reach = max(1, round(size * FINER))
    across = np.arange(-reach, reach + 1)
    down, right = (offset.ravel() for offset in np.meshgrid(across, across, indexing="ij"))
    disc = down**2 + right**2 <= (reach + 0.3) ** 2
    seen = np.flatnonzero((middle > -reach).all(axis=1) & (middle < (height + reach, width + reach)).all(axis=1))
    owner = np.full((height, width), -1, np.int64)
    for offset in zip(down[disc], right[disc], strict=True):
        rows, columns = (middle[seen] + offset).T
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        rows, columns, own = rows[inside], columns[inside], seen[inside]
        above = own > owner[rows, columns]
        owner[rows[above], columns[above]] = own[above]  # of equal places, the last one stays
    drawn = np.concatenate([colours, [GROUND]]).astype(np.uint8)[owner]
    coarse = drawn.reshape(height // FINER, FINER, width // FINER, FINER, 3)
    return coarse.mean(axis=(1, 3), dtype=np.float32).round().astype(np.uint8)


def mixed(strong: np.ndarray) -> np.ndarray:
    """Order in which n dots are drawn: those in view (n,) bool above the others, else none by its class."""
    order = np.random.default_rng(0).permutation(len(strong))
    return order[np.argsort(strong[order], kind="stable")]
