import math

import numpy as np
import pytest

from fitting.signals.lens import Lens

FOX = Lens(0.0578421, -0.0805099, -0.000980296, 0.00015575)
WIDE = Lens(k1=-0.2, k2=0.03, p1=0.004, p2=-0.003)


def positions(reach: float) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(-reach, reach, 23), np.linspace(-reach, reach, 17))
    return np.stack([x.ravel(), y.ravel()], axis=-1)


@pytest.mark.parametrize("lens", [FOX, WIDE, Lens(k1=0.3)])
def test_undistort_is_the_inverse_of_distort(lens):
    ideal = positions(0.7)
    seen = lens.distort(ideal)
    assert np.abs(seen - ideal).max() > 1e-3
    assert np.abs(lens.undistort(seen) - ideal).max() < 1e-9


def test_newton_converges_quadratically(monkeypatch):
    monkeypatch.setattr("fitting.signals.lens.NEWTON_STEPS", 5)
    ideal = positions(0.7)
    assert np.abs(WIDE.undistort(WIDE.distort(ideal)) - ideal).max() < 1e-9


def test_distortion_is_the_formula_of_opencv():
    x, y = 0.3, -0.4
    square = 0.25
    k1, k2, p1, p2 = 0.1, -0.05, 0.01, 0.02
    radial = 1 + k1 * square + k2 * square**2
    expected = (
        x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x),
        y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y,
    )
    assert Lens(k1, k2, p1, p2).distort(np.array([[x, y]]))[0] == pytest.approx(expected, abs=1e-14)


def test_a_pinhole_leaves_positions_alone():
    ideal = positions(2.0)
    assert np.array_equal(Lens().undistort(ideal), ideal)
    assert Lens().is_pinhole
    assert not FOX.is_pinhole


def test_positions_that_no_ray_reaches_are_refused():
    lens = Lens(k1=-0.5)  # r - r^3 / 2 is largest at r^2 = 2 / 3
    peak = math.sqrt(2 / 3) * 2 / 3
    edge = np.array([[0.999 * peak, 0.0]])
    assert lens.undistort(edge)[0, 0] < math.sqrt(2 / 3)
    with pytest.raises(ValueError, match="folds the picture over itself: 1 of 2 pixels lost"):
        lens.undistort(np.array([[0.1, 0.0], [0.0, 1.001 * peak]]))
    beyond = Lens(k1=-0.5, k2=0.1)  # grows again after r^2 = 2, where the picture is already folded
    again = beyond.distort(np.array([[2.0, 0.0]]))
    assert again[0, 0] > beyond.distort(np.array([[1.0, 0.0]]))[0, 0]
    for seen in (again, 2.0 * again):
        with pytest.raises(ValueError, match="1 of 1 pixels lost"):
            beyond.undistort(seen)
    with pytest.raises(ValueError, match="k1=nan: expected a finite number"):
        Lens(k1=math.nan)


def test_positions_are_not_changed_in_place():
    seen = positions(0.5)
    before = seen.copy()
    FOX.undistort(seen)
    assert np.array_equal(seen, before)
