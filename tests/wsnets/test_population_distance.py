"""MMD, COV, 1-NNA and the Frechet distance: what they are for sets of which it is known."""

import numpy as np
import pytest
import scipy.linalg

from wsnets.population_distance import (
    coverage,
    frechet_distance,
    minimum_matching_distance,
    nearest_neighbour_accuracy,
)


def points(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)) + shift


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b, axis=-1)


def accuracy(a: np.ndarray, b: np.ndarray) -> float:
    return nearest_neighbour_accuracy(distances(a, a), distances(a, b), distances(b, b))


def test_equal_sets() -> None:
    a = points(50, 0)
    order = np.random.default_rng(1).permutation(50)
    d = distances(a, a[order])
    assert minimum_matching_distance(d) == 0
    assert coverage(d) == 1
    assert accuracy(a, a[order]) == 0  # the nearest of every item is its copy in the other set


def test_sets_that_are_far_apart() -> None:
    a, b = points(40, 0), points(40, 1, shift=100.0)
    assert accuracy(a, b) == 1
    assert minimum_matching_distance(distances(a, b)) > 100
    assert coverage(distances(a, b)) < 0.3


def test_samples_of_one_distribution_cannot_be_told_apart() -> None:
    a, b = points(800, 0), points(800, 1)
    assert accuracy(a, b) == pytest.approx(0.5, abs=0.04)
    assert 0.5 < coverage(distances(a, b)) < 0.7


def test_a_collapsed_set_covers_one_item_and_shows_itself() -> None:
    a, b = np.zeros((30, 3)) + 1e-9 * points(30, 2), points(30, 1)
    assert coverage(distances(a, b)) == 1 / 30
    assert accuracy(a, b) > 0.7


def test_exchanging_the_sets_or_their_order_changes_nothing() -> None:
    a, b = np.round(points(60, 0)), np.round(points(60, 1))  # rounded: many are equally far
    assert accuracy(a, b) == accuracy(b, a) == accuracy(a[::-1], b)


def test_mmd_by_hand() -> None:
    d = np.array([[1.0, 5.0, 2.0], [3.0, 4.0, 0.0]])
    assert minimum_matching_distance(d) == pytest.approx((1 + 4 + 0) / 3)
    assert coverage(d) == pytest.approx(2 / 3)


def test_what_cannot_be_compared_covers_nothing_and_is_told_apart() -> None:
    d = np.array([[1.0, 5.0], [np.inf, np.inf]])
    assert coverage(d) == 0.5
    within = np.array([[0.0, np.inf], [np.inf, 0.0]])
    real = np.array([[0.0, 0.5], [0.5, 0.0]])
    # The first generated item is nearest to a real one; the second stands alone; both real ones are nearest to real.
    assert nearest_neighbour_accuracy(within, d, real) == 0.75


def test_frechet_distance_has_its_closed_form() -> None:
    a, b = points(400, 0), points(300, 1) @ np.diag([1.0, 2.0, 0.5]) + [1.0, 0.0, 0.0]
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(ca @ cb)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + np.array([3.0, 4.0, 0.0])) == pytest.approx(25)


def test_frechet_distance_of_singular_covariances_is_real() -> None:
    a, b = points(50, 0), points(50, 1)
    a[:, 2] = b[:, 1] = 0.0
    expected = np.square(a.mean(0) - b.mean(0)).sum()
    found = frechet_distance(a, b) - expected
    assert 0 < found < np.trace(np.cov(a.T) + np.cov(b.T))


def test_bad_input_is_one_line() -> None:
    good, bad = np.ones((3, 3)), np.full((3, 3), np.nan)
    with pytest.raises(ValueError, match=r"distances has shape \(0, 3\): expected"):
        coverage(np.ones((0, 3)))
    with pytest.raises(ValueError, match="distances has negative or NaN"):
        minimum_matching_distance(bad)
    with pytest.raises(ValueError, match=r"within_b has shape \(2, 2\)"):
        nearest_neighbour_accuracy(good, good, np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"b has shape \(5, 2\)"):
        frechet_distance(points(5, 0), points(5, 0)[:, :2])
    with pytest.raises(ValueError, match="a has NaN"):
        frechet_distance(np.full((4, 2), np.nan), np.zeros((4, 2)))
