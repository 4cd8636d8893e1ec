"""Laws of splits and of reading populations."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wsnets.data import MAX_CLASSES, STREAM_TEST, Rows, Subset, batches, class_names, finite, held_out, split_test


def test_a_split_is_by_item_and_survives_growth():
    ids = np.arange(1000, dtype=np.uint32)
    held = held_out(ids, 0.2, seed=3)
    assert 150 < held.sum() < 250
    assert np.array_equal(held_out(ids[:600], 0.2, seed=3), held[:600])
    assert np.array_equal(held_out(np.repeat(ids, 3), 0.2, seed=3), np.repeat(held, 3))
    assert not np.array_equal(held_out(ids, 0.2, seed=4), held)


def test_a_larger_fraction_holds_out_a_superset():
    ids = np.arange(1000, dtype=np.uint32)
    small, large = held_out(ids, 0.1, seed=0), held_out(ids, 0.3, seed=0)
    assert not (small & ~large).any()
    assert not held_out(ids, 0.0, seed=0).any()


def test_a_test_part_takes_whole_groups_and_is_another_than_the_validation_part(population):
    train, test = split_test(replace(population, ids=np.arange(240, dtype=np.uint32) // 2), 0.3, seed=0)
    assert len(train) + len(test) == 240
    assert 30 < len(test) < 120
    assert not set(train.groups) & set(test.groups)
    ids = np.arange(4000, dtype=np.uint32)
    in_test, in_val = held_out(ids, 0.5, 0, STREAM_TEST), held_out(ids, 0.5, 0)
    assert 0.2 < (in_test & in_val).mean() < 0.3
    with pytest.raises(ValueError, match=r"test_fraction=1e-09: puts all 240 fields on one side"):
        split_test(population, 1e-9, seed=0)


def test_fraction_out_of_range():
    with pytest.raises(ValueError, match=r"val_fraction=1.0: expected a number in \[0, 1\)"):
        held_out(np.zeros(2, np.uint32), 1.0, seed=0)


def test_a_subset_reads_like_the_population(population):
    positions = np.array([7, 3, 100])
    part = Subset(population, positions)
    assert len(part) == 3
    assert part.spec == population.spec
    assert np.array_equal(part.labels, population.labels[positions])
    assert np.array_equal(part.ids, population.ids[positions])
    assert torch.equal(part[np.array([2, 0])].flat(), population[np.array([100, 7])].flat())
    assert torch.equal(part[1].flat(), population[np.array([3])].flat())


def test_rows_in_memory_and_streamed_are_the_same(population):
    memory, streamed = Rows(population, 100), Rows(population, 0)
    assert (memory.resident, streamed.resident) == (True, False)
    positions = torch.tensor([5, 1, 200])
    assert torch.equal(memory[positions].flat(), streamed[positions].flat())


def test_batches_are_all_fields_in_order(population):
    parts = list(batches(population, 100))
    assert [len(part) for part in parts] == [100, 100, 40]
    assert torch.equal(torch.cat([part.flat() for part in parts]), population.fields.flat())


def test_a_field_that_is_not_finite_is_named_by_id(population):
    flat = population.fields.flat().clone()
    flat[17, 3] = float("nan")
    bad = replace(population.with_flat(flat), ids=population.ids + 1000)
    with pytest.raises(ValueError, match="field id 1017 has NaN"):
        list(batches(bad, 10))


def test_a_streamed_field_that_is_not_finite_is_named_by_id(population):
    flat = population.fields.flat().clone()
    flat[17, 3] = float("inf")
    rows = Rows(replace(population.with_flat(flat), ids=population.ids + 1000), 0)
    assert len(rows[torch.tensor([16, 18])]) == 2
    with pytest.raises(ValueError, match=r"field id 1017 has NaN or infinite weights \(1 such fields\)"):
        rows[torch.tensor([200, 17])]


def test_skip_bad_is_named_only_where_there_is_such_a_setting(population):
    flat = population.fields.flat().clone()
    flat[17, 3] = float("inf")
    broken = population.with_flat(flat)
    with pytest.raises(ValueError, match=r"\(1 such fields\): expected finite weights$"):
        list(batches(broken, 10))
    for read in (
        lambda: list(batches(broken, skippable=True)),
        lambda: Rows(broken, 100),
        lambda: Rows(broken, 0)[torch.tensor([17])],
    ):
        with pytest.raises(
            ValueError, match=r"\(1 such fields\): expected finite weights, or skip_bad to leave them out$"
        ):
            read()


def test_finite_fields_are_found_among_any_number(population):
    flat = population.fields.flat().clone()
    flat[[3, 17], 3] = float("nan")
    assert np.array_equal(finite(population.with_flat(flat)), np.delete(np.arange(240), [3, 17]))
    assert finite(Subset(population, np.zeros(0, np.int64))).shape == (0,)


def test_class_names(population):
    assert class_names(population) == ("0", "1", "2")
    named = replace(population, meta={"signal": {"classes": ["a", "b", "c", "d"]}})
    assert class_names(named) == ("a", "b", "c", "d")


@pytest.mark.parametrize("label", [MAX_CLASSES, 8710398500017])
def test_labels_that_are_no_numbers_of_classes_are_refused_before_memory_is_taken(label: int, population):
    labels = population.labels.copy()
    labels[7] = MAX_CLASSES - 1
    assert len(class_names(replace(population, labels=labels))) == MAX_CLASSES
    labels[7] = label
    with pytest.raises(ValueError, match=rf"^label {label} is too large: expected labels below {MAX_CLASSES}, "):
        class_names(replace(population, labels=labels))
    named = replace(population, labels=labels, meta={"signal": {"classes": ["a", "b", "c"]}})
    with pytest.raises(ValueError, match=rf"^label {label} has no name: expected labels below 3, "):
        class_names(named)


def test_labels_that_cannot_be_learned(population):
    missing = population.labels.copy()
    missing[[4, 9]] = -1
    with pytest.raises(ValueError, match="2 of 240 fields have no label, the first is id 4"):
        class_names(replace(population, labels=missing))
    with pytest.raises(ValueError, match="all 240 fields have label 0: expected at least two classes"):
        class_names(replace(population, labels=np.zeros(240, np.int64)))
    with pytest.raises(ValueError, match="label 2 has no name"):
        class_names(replace(population, meta={"signal": {"classes": ["a", "b"]}}))
    with pytest.raises(ValueError, match="no fields"):
        class_names(Subset(population, np.zeros(0, np.int64)))
