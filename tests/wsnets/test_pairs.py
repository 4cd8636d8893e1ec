"""Pairs of fields of one signal: by name, by id, by group, and what has no partner."""

from dataclasses import replace

import numpy as np
import pytest

from tests.wsnets.conftest import Memory
from wsnets.pairs import between, signals, within


class Named(Memory):
    """A population with an index of names."""

    names: np.ndarray

    def column(self, name: str) -> np.ndarray:
        if name != "name":
            raise ValueError(f"column={name!r}: expected name")
        return self.names


def named(population: Memory, names: list[str], ids: list[int] | None = None) -> Named:
    ids = list(range(len(names))) if ids is None else ids
    found = Named(population.fields[: len(names)], population.labels[: len(names)], np.array(ids, np.uint32), {})
    object.__setattr__(found, "names", np.array(names, object))
    return found


def test_names_pair_fields_in_any_order(population: Memory) -> None:
    first, second = named(population, ["a", "b", "c"]), named(population, ["c", "x", "a", "b"])
    assert between(first, second).tolist() == [2, 3, 0]


def test_ids_pair_fields_where_a_side_has_no_names(population: Memory) -> None:
    first, second = named(population, ["a", "b"], [7, 9]), named(population, ["", ""], [9, 7])
    assert signals(second).tolist() == [9, 7]
    assert between(first, second).tolist() == [1, 0]
    assert between(second, first).tolist() == [1, 0]
    shuffled = np.random.default_rng(0).permutation(len(population))
    assert (
        between(population, replace(population, ids=population.ids[shuffled])).tolist() == np.argsort(shuffled).tolist()
    )


def test_several_fits_of_a_signal_go_with_the_others_in_order(population: Memory) -> None:
    first, second = named(population, ["a", "b", "a", "a"]), named(population, ["a", "a", "b"])
    assert between(first, second).tolist() == [0, 2, 1, 0]


def test_pairs_within_groups(population: Memory) -> None:
    first, other = within(named(population, ["b", "a", "b", "c", "a", "b"]))
    assert list(zip(first.tolist(), other.tolist(), strict=True)) == [(0, 2), (1, 4), (0, 5)]
    first, other = within(replace(population, ids=population.ids // 2))
    assert (other - first == 1).all()
    assert len(other) == len(population) // 2


def test_refusals(population: Memory) -> None:
    with pytest.raises(ValueError, match="2 of 3 fields have no partner, the first is 'b'"):
        between(named(population, ["a", "b", "c"]), named(population, ["a"]))
    with pytest.raises(ValueError, match="no two of the 240 fields are of one signal"):
        within(population)
