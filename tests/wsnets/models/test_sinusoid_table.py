"""Sums of sinusoids from a table: as right as computing each one, with gradients, and only where it is worth it."""

import math

import pytest
import torch
from torch import Generator, Tensor

from neuralfields.testing import assert_matches_reference
from wsnets.heads import linear
from wsnets.models import sinusoid_table
from wsnets.models.neural_graph_features import ScalarEmbedding
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


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("where", ["spread", "zeros", "one number", "on the grid", "tiny", "one sign"])
def test_the_table_is_as_exact_as_it_says_at_every_frequency_and_number(share: float, where: str, generator: Generator):
    highest = 20.0
    step = math.pi / (2 * highest)
    x = {
        "spread": torch.rand(3001, generator=generator) * 60 - 30,
        "zeros": torch.zeros(301),
        "one number": torch.full((301,), 0.37),
        "on the grid": torch.arange(-40, 41) * step,
        "tiny": torch.randn(301, generator=generator) * 1e-30,
        "one sign": torch.rand(301, generator=generator) * 2 + 7,
    }[where].double()
    frequencies = torch.tensor([share * highest], dtype=torch.float64)
    cosines, sines, bias = torch.tensor([[1.0]]), torch.tensor([[-0.5]]), torch.tensor([2.0])
    single = (cosines, sines, bias)
    double = [tensor.double() for tensor in single]
    expected = direct(x.float().double(), frequencies.float().double(), *double)
    size = 1.0 + 0.5 + 2.0
    exact = sinusoid_table.tabulated(x.float().double(), step, frequencies.float().double(), *double)
    assert float((exact - expected).abs().max()) <= 3e-7 * size
    rounded = sinusoid_table.tabulated(x.float(), step, frequencies.float(), *single)
    assert float((rounded - expected).abs().max()) <= 2e-6 * size


def test_single_precision_embeddings_are_looked_up_under_autocast(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
):
    embed, then = ScalarEmbedding(2, 6, 7, 3.0, generator, torch.float32), linear(6, 4, generator)
    x = torch.randn(5003, generator=generator)
    expected = embed(x, (1.0, -1.0), then).detach()
    monkeypatch.setattr(sinusoid_table, "direct", None)
    with torch.autocast("cpu", torch.bfloat16):
        low = embed(x, (1.0, -1.0), then)
    assert low.dtype == torch.float32
    assert float((low - expected).detach().abs().max() / expected.abs().max()) < 0.02
    low.sum().backward()
    assert then.weight.grad is not None
    assert bool(then.weight.grad.any())


def test_whatever_wants_a_gradient_or_cannot_be_looked_up_is_computed_one_by_one(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
):
    x, frequencies, *rest = (tensor.float() for tensor in _problem(5003, 0.5, generator))
    monkeypatch.setattr(sinusoid_table, "tabulated", None)
    wanted = frequencies.clone().requires_grad_()
    (slope,) = torch.autograd.grad(sinusoids(x, wanted, *rest).sum(), wanted)
    assert bool((slope != 0).all())
    x[7] = 1e9
    assert torch.equal(sinusoids(x, frequencies, *rest), direct(x, frequencies, *rest))
    x[7] = torch.nan
    found = sinusoids(x, frequencies, *rest)
    assert bool(found[7].isnan().all())
    assert int(found.isnan().sum()) == 5
    assert sinusoids(x[:0], frequencies, *rest).shape == (0, 5)
