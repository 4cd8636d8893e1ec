"""Baselines of generation that need no training: a training field with noise, and the average of two.

Legend: N fields.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from neuralfields.batch import FieldBatch
from wsnets.align import lerp
from wsnets.data import Population, batches, check_finite

_SMALLEST, _LARGEST = 2.0**-6, 2.0**12  # amounts of noise, in spreads of the weights


@dataclass(frozen=True, eq=False)
class Sample:
    """Fields to judge, and the label that each was asked to show: (N,) int64, -1 where there is none."""

    fields: FieldBatch
    labels: np.ndarray


def take(population: Population, positions: np.ndarray) -> Sample:
    """Some fields of a population, single precision, with their labels.

    Raises ValueError for weights that are not finite: here, where the ids of the fields are still known.
    """
    fields = population[positions]
    check_finite(fields, np.asarray(population.ids)[positions])
    return Sample(fields.to(torch.float32), np.asarray(population.labels)[positions].astype(np.int64))


def spreads(population: Population) -> dict[str, float]:
    """For each parameter tensor, sqrt(mean over its weights of their variance over the population)."""
    count, first, second = 0, {}, {}
    for fields in batches(population):
        count += len(fields)
        for name, value in fields.parameters.items():
            value = value.double()
            first[name] = first.get(name, 0.0) + value.sum(0)
            second[name] = second.get(name, 0.0) + value.square().sum(0)
    return {
        name: float((second[name] / count - (first[name] / count).square()).clamp(min=0.0).mean().sqrt())
        for name in first
    }


def noisy(fields: FieldBatch, scales: dict[str, float], amount: float, generator: Generator) -> FieldBatch:
    """theta + amount * scale * z for each parameter tensor, z standard normal; scales: as `spreads` gives them."""

    def draw(name: str, value: Tensor) -> Tensor:
        return value + amount * scales[name] * torch.randn(value.shape, generator=generator, dtype=value.dtype)

    return FieldBatch(fields.spec, {name: draw(name, value) for name, value in fields.parameters.items()})


def amount_for(target: float, novelty: Callable[[float], float], halvings: int = 12) -> float | None:
    """The amount of noise at which `novelty`, a rising function of the amount that is 0 at 0, is `target`: bisection.

    The amount is doubled from 2^-6 until the novelty is at least the target, then the interval is halved `halvings`
    times. None for a target that is not positive and finite, and where 2^12 spreads of the weights do not reach it.
    """
    if not 0.0 < target < np.inf:
        return None
    low, high = 0.0, _SMALLEST
    while novelty(high) < target:
        low, high = high, 2.0 * high
        if high > _LARGEST:
            return None
    for _ in range(halvings):
        middle = (low + high) / 2.0
        low, high = (middle, high) if novelty(middle) < target else (low, middle)
    return (low + high) / 2.0


def averages(population: Population, count: int, generator: Generator) -> Sample:
    """Averages of the weights of two different fields of one class, (a + b) / 2, pairs at random; with their label.

    Of any two fields where the population has no labels. Raises ValueError when no class has two fields.
    """
    labels = np.asarray(population.labels)
    members = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    able = np.concatenate([own for own in members.values() if len(own) > 1] or [np.empty(0, np.int64)])
    if not len(able):
        raise ValueError(f"population: no class of its {len(labels)} fields has two of them to average")
    first = able[torch.randint(len(able), (count,), generator=generator).numpy()]
    place = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    second = np.empty_like(first)
    for number, one in enumerate(first):
        own = members[labels[one]]
        others = int(place[number] * (len(own) - 1))  # among those of its class without itself
        second[number] = own[others + (others >= np.searchsorted(own, one))]
    a, b = take(population, first), take(population, second)
    return Sample(lerp(a.fields, b.fields, 0.5), a.labels)
