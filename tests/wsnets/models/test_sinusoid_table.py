"""Sums of sinusoids from a table: as right as computing each one, with gradients, and only where it is worth it."""

import math

import pytest
import torch
from torch import Generator, Tensor

from neuralfields.testing import assert_matches_reference
from wsnets.models import sinusoid_table
from wsnets.models.sinusoid_table import direct, sinusoids


def _problem(count: int, std: float, generator: Generator) -> tuple[Tensor, ...]:
    """Numbers x (M,), K = 7 frequencies, cosines and sines (5, 7), bias (5,), in float64 but of float32's values."""
    shapes = ((count,), (7,), (5, 7), (5, 7), (5,))
    x, frequencies, *rest = (torch.randn(shape, generator=generator).double() for shape in shapes)
    return x, (2.0 * math.pi * std * frequencies).float().double(), *rest


def _with_gradients(function, problem: tuple[Tensor, ...], along: Tensor, dtype: torch.dtype) -> list[Tensor]:
    x, frequencies, *coefficients = (tensor.to(dtype) for tensor in problem)
    for coefficient in coefficients:
        coefficient.requires_grad_()
    result = function(x, frequencies, *coefficients)
    return [result, *torch.autograd.grad(result, coefficients, along.to(dtype))]


@pytest.mark.parametrize(("count", "std"), [(1013, 0.5), (5003, 3.0)])
def test_the_table_is_as_right_as_single_precision(
    count: int, std: float, generator: Generator, monkeypatch: pytest.MonkeyPatch
):
    problem, along = _problem(count, std, generator), torch.randn((count, 5), generator=generator)
    reference = _with_gradients(direct, problem, along, torch.float64)
    plain = _with_gradients(direct, problem, along, torch.float32)
    monkeypatch.setattr(sinusoid_table, "direct", None)
    tabulated = _with_gradients(sinusoids, problem, along, torch.float32)
    # The floor is relative to the largest |y|, the table exact to 1e-7 of the larger sum of the coefficients' sizes.
    for name, ours, exact, single in zip(("y", "dA", "dB", "db"), tabulated, reference, plain, strict=True):
        assert_matches_reference(ours, exact, single, name=name, floor=5e-7)


def test_few_numbers_and_double_precision_are_computed_one_by_one(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
):
    few, many = _problem(11, 3.0, generator), _problem(5003, 3.0, generator)
    monkeypatch.setattr(sinusoid_table, "tabulated", None)
    for problem in (tuple(tensor.float() for tensor in few), many):
        assert torch.equal(sinusoids(*problem), direct(*problem))
