"""Lens distortion: OpenCV's radial and tangential polynomial, and its inverse.

Positions are on the plane at distance 1 before the camera, x to the right and y down: pixel (u, v) is at
((u - cx) / fl_x, (v - cy) / fl_y). Legend: B positions.
"""

import math
from dataclasses import dataclass

import numpy as np

NEWTON_STEPS = 20
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Lens:
    """Two radial (k1, k2) and two tangential (p1, p2) coefficients, named as in transforms.json; all 0: a pinhole.

    x_d = x (1 + k1 r^2 + k2 r^4) + 2 p1 x y + p2 (r^2 + 2 x^2), y_d = y (1 + k1 r^2 + k2 r^4) + p1 (r^2 + 2 y^2) +
    2 p2 x y, with r^2 = x^2 + y^2. Brown, "Decentering distortion of lenses", 1966, as in OpenCV and COLMAP.
    """

    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    def __post_init__(self) -> None:
        for name in ("k1", "k2", "p1", "p2"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: expected a finite number")

    @property
    def is_pinhole(self) -> bool:
        """Whether the lens leaves every position where it is."""
        return self == Lens()

    def distort(self, positions: np.ndarray) -> np.ndarray:
        """Return where ideal positions (B, 2) appear through the lens: (B, 2)."""
        return self._distort(np.asarray(positions, np.float64))[0]

    def undistort(self, positions: np.ndarray) -> np.ndarray:
        """Return the ideal positions (B, 2) of what appears at `positions` (B, 2), by Newton's method.

        Raises ValueError where there is none before the radius at which the lens folds the picture over itself.
        """
        seen = np.asarray(positions, np.float64)
        if self.is_pinhole:
            return seen
        ideal = seen.copy()
        with np.errstate(all="ignore"):  # what diverges is found below
            for _ in range(NEWTON_STEPS):
                at, ((xx, xy), (yx, yy)) = self._distort(ideal)
                error = at - seen
                if np.abs(error).max(initial=0.0) < TOLERANCE:
                    break
                determinant = xx * yy - xy * yx
                ideal[:, 0] -= (yy * error[:, 0] - xy * error[:, 1]) / determinant
                ideal[:, 1] -= (xx * error[:, 1] - yx * error[:, 0]) / determinant
            good = np.abs(self.distort(ideal) - seen).max(axis=1) < 1e-6
            good &= (ideal**2).sum(axis=1) < self._fold()
        if not good.all():
            raise ValueError(f"{self} folds the picture over itself: {int((~good).sum())} of {len(seen)} pixels lost")
        return ideal

    def _distort(self, xy: np.ndarray) -> tuple[np.ndarray, tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]]:
        """Distorted positions (B, 2) and the derivatives ((dxd/dx, dxd/dy), (dyd/dx, dyd/dy)), each (B,)."""
        x, y = xy[:, 0], xy[:, 1]
        square = x * x + y * y
        radial = 1.0 + square * (self.k1 + square * self.k2)
        slope = 2.0 * self.k1 + 4.0 * self.k2 * square  # d radial / dx = x slope
        at_x = x * radial + 2.0 * self.p1 * x * y + self.p2 * (square + 2.0 * x * x)
        at_y = y * radial + self.p1 * (square + 2.0 * y * y) + 2.0 * self.p2 * x * y
        xx = radial + x * x * slope + 2.0 * self.p1 * y + 6.0 * self.p2 * x
        yy = radial + y * y * slope + 6.0 * self.p1 * y + 2.0 * self.p2 * x
        mixed = x * y * slope + 2.0 * self.p1 * x + 2.0 * self.p2 * y
        return np.stack([at_x, at_y], axis=-1), ((xx, mixed), (mixed, yy))

    def _fold(self) -> float:
        """The squared radius at which r (1 + k1 r^2 + k2 r^4) stops growing; infinity when it never does."""
        roots = np.roots([5.0 * self.k2, 3.0 * self.k1, 1.0])
        real = roots.real[(np.abs(roots.imag) < 1e-12) & (roots.real > 0.0)]
        return float(real.min(initial=math.inf))
