"""Pairs: fields that were fitted to one signal, in two stores or in one.

Legend: N fields of the first population, M of the second, P pairs.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from wsnets.data import Population, column


def signals(population: Population) -> np.ndarray:
    """What tells which signal every field shows: names where all fields have one, else ids; (N,)."""
    try:
        names = column(population, "name")
    except ValueError:  # no index
        return np.asarray(population.ids)
    return names if len(names) and all(names) else np.asarray(population.ids)


def between(first: Population, second: Population) -> np.ndarray:
    """For every field of the first population, the position of a field of the second that shows its signal: (N,) int64.

    By name where all fields of both have names, else by id. Of several fits of one signal, the k-th goes with the
    k-th, round and round. Raises ValueError for a signal that the second does not have, naming the first such.
    """
    own, others = signals(first), signals(second)
    if own.dtype != others.dtype:  # names in one only
        own, others = np.asarray(first.ids), np.asarray(second.ids)
    places: dict[Any, list[int]] = defaultdict(list)
    for position, signal in enumerate(others.tolist()):
        places[signal].append(position)
    missing = [signal for signal in own.tolist() if signal not in places]
    if missing:
        raise ValueError(
            f"{len(missing):,} of {len(own):,} fields have no partner, the first is {missing[0]!r}: expected a field "
            f"of the same signal for each, by name or id"
        )
    seen: dict[Any, int] = defaultdict(int)
    partner = np.empty(len(own), np.int64)
    for position, signal in enumerate(own.tolist()):
        partner[position] = places[signal][seen[signal] % len(places[signal])]
        seen[signal] += 1
    return partner


def within(population: Population) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of fields of one group: the first of every group with each of its others, positions (P,) int64 twice.

    Groups are the population's; where all are different, its names. Raises ValueError where no two fields share one.
    """
    groups = np.asarray(population.groups)
    if len(np.unique(groups)) == len(groups):
        groups = signals(population)
    values, start = np.unique(groups, return_index=True)
    first = start[np.searchsorted(values, groups)]
    other = np.flatnonzero(first != np.arange(len(groups)))
    if len(other) == 0:
        raise ValueError(f"no two of the {len(groups):,} fields are of one signal: expected a group of two at least")
    return first[other].astype(np.int64), other.astype(np.int64)
