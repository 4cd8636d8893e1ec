"""Figures of a classifier against a count by hand."""

import numpy as np
import pytest

from wsnets.evaluation import assess, confusion_matrix, format_table

LABELS = np.array([0, 0, 0, 1, 1, 3])
PREDICTIONS = np.array([0, 0, 1, 1, 0, 1])


def evaluation():
    probabilities = np.full((6, 4), 0.1)
    probabilities[np.arange(6), PREDICTIONS] = 0.7
    return assess(probabilities, LABELS, ("zero", "one", "two", "three"))


def test_confusion_has_true_rows_and_predicted_columns():
    expected = [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert confusion_matrix(LABELS, PREDICTIONS, 4).tolist() == expected


def test_figures_of_each_class():
    found = evaluation()
    zero, one, two, three = found.per_class
    assert (zero["precision"], zero["recall"], zero["f1"], zero["count"]) == (2 / 3, 2 / 3, 2 / 3, 3)
    assert (one["precision"], one["recall"], one["f1"], one["count"]) == (1 / 3, 1 / 2, 2 / 5, 2)
    assert (two["precision"], two["recall"], two["f1"], two["count"]) == (0, 0, 0, 0)
    assert (three["precision"], three["recall"], three["f1"], three["count"]) == (0, 0, 0, 1)
    assert found.accuracy == pytest.approx(0.5)
    assert found.loss == pytest.approx(-(3 * np.log(0.7) + 3 * np.log(0.1)) / 6)


def test_a_zero_probability_gives_a_finite_loss():
    assert np.isfinite(assess(np.array([[1.0, 0.0]]), np.array([1]), ("a", "b")).loss)


def test_table_names_every_class_and_aligns():
    lines = format_table(evaluation()).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["zero", "one", "two", "three"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[-1] == "accuracy 50.00 % (3 of 6)"


def test_refusals():
    with pytest.raises(ValueError, match=r"labels range over 0\.\.3: expected 0\.\.1"):
        confusion_matrix(LABELS, PREDICTIONS, 2)
    with pytest.raises(ValueError, match="at least one field"):
        assess(np.zeros((0, 2)), np.zeros(0, np.int64), ("a", "b"))
