"""The differentiable fit: plain SGD when looked at from outside, exact gradients through all its steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from neuralfields import SIREN, FieldBatch, FieldSpec, ReLUField
from neuralfields.evaluate import evaluate
from neuralfields.testing import assert_gradients, random_fields
from wsnets.meta_fit import fit, squared_error

SPEC = SIREN(2, 3, hidden=(4, 5, 3), w0=5.0, w0_hidden=1.0)
STEPS, POINTS, COUNT = 3, 7, 4


@pytest.fixture
def start(generator: Generator) -> FieldBatch:
    return random_fields(SPEC, 1, generator)


@pytest.fixture
def coords(generator: Generator) -> Tensor:
    return torch.rand(POINTS, 2, generator=generator, dtype=torch.float64) * 2.0 - 1.0


@pytest.fixture
def targets(generator: Generator) -> Tensor:
    return torch.rand(COUNT, POINTS, 3, generator=generator, dtype=torch.float64)


def drawn_rates(generator: Generator, spec: FieldSpec = SPEC, layers: int = 4) -> dict[str, Tensor]:
    """Step sizes of the first so many layers."""
    return {
        name: 0.1 * torch.rand(STEPS, *shape, generator=generator, dtype=torch.float64)
        for name, shape in spec.shapes.items()
        if int(name.split(".")[1]) < layers
    }


def by_autograd(start: FieldBatch, rates: dict[str, Tensor], coords: Tensor, targets: Tensor) -> FieldBatch:
    """The same by its definition: autograd of the mean squared error, kept differentiable."""
    spec, count = start.spec, len(targets)
    moving = {name: value.expand(count, *value.shape[1:]) for name, value in start.parameters.items()}
    for step in range(STEPS):
        error = (evaluate(FieldBatch(spec, moving), coords) - targets).square().mean(dim=(1, 2)).sum()
        slopes = torch.autograd.grad(error, [moving[name] for name in rates], create_graph=True)
        for name, slope in zip(rates, slopes, strict=True):
            moving[name] = moving[name] - rates[name][step] * slope
    return FieldBatch(spec, moving)


def test_without_steps_sizes_the_fields_are_the_start(start, coords, targets):
    still = {name: torch.zeros(STEPS, *shape, dtype=torch.float64) for name, shape in SPEC.shapes.items()}
    assert torch.equal(fit(start, still, coords, targets).flat(), start.flat().expand(COUNT, -1))


def test_constant_rates_are_plain_sgd_on_the_mean_squared_error(start, coords, targets):
    rates = {name: torch.full((STEPS, *shape), 0.07, dtype=torch.float64) for name, shape in SPEC.shapes.items()}
    fitted = fit(start, rates, coords, targets)
    for number in range(COUNT):
        module = start.module()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.07)
        for _ in range(STEPS):
            optimizer.zero_grad()
            (module(coords) - targets[number]).square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(evaluate(fitted[number], coords)[0], module(coords), rtol=1e-10, atol=1e-12)


def test_fields_at_once_equal_single_fields(start, coords, targets, generator):
    rates = drawn_rates(generator)
    together = fit(start, rates, coords, targets)
    alone = [fit(start, rates, coords, targets[number : number + 1]) for number in range(COUNT)]
    torch.testing.assert_close(together.flat(), FieldBatch.cat(alone).flat(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("layers", [3, 4])
def test_gradients_through_all_steps_equal_those_of_autograd(layers: int, start, coords, targets, generator):
    rates = drawn_rates(generator, layers=layers)
    leaves = [*start.parameters.values(), *rates.values(), targets]
    for leaf in leaves:
        leaf.requires_grad_()
    direction = torch.randn(COUNT, SPEC.num_params, generator=generator, dtype=torch.float64)

    def gradients(way: Callable[..., FieldBatch]) -> tuple[Tensor, ...]:
        return torch.autograd.grad((way(start, rates, coords, targets).flat() * direction).sum(), leaves)

    for ours, expected in zip(gradients(fit), gradients(by_autograd), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


def test_gradients_equal_finite_differences(generator):
    spec = SIREN(1, 2, hidden=(2, 3), w0=2.0, w0_hidden=1.0)
    start, names = random_fields(spec, 1, generator), list(spec.shapes)
    rates = drawn_rates(generator, spec, layers=2)
    coords = torch.rand(4, 1, generator=generator, dtype=torch.float64) * 2.0 - 1.0
    targets = torch.rand(2, 4, 2, generator=generator, dtype=torch.float64)

    def fitted(*inputs: Tensor) -> Tensor:
        theta = FieldBatch(spec, dict(zip(names, inputs[: len(names)], strict=True)))
        moved = dict(zip(rates, inputs[len(names) :], strict=True))
        return fit(theta, moved, coords, targets).flat()

    assert_gradients(fitted, [*start.parameters.values(), *rates.values()])


def test_each_step_sees_its_own_points(start, coords, targets, generator):
    rates = drawn_rates(generator)
    samples = torch.stack([torch.randperm(POINTS, generator=generator)[:4] for _ in range(STEPS)])
    fitted = fit(start, rates, coords, targets, samples)
    moving = start
    for step, at in enumerate(samples):
        now = {name: rate[step : step + 1] for name, rate in rates.items()}
        parts = [fit(moving[min(n, len(moving) - 1)], now, coords[at], targets[n : n + 1, at]) for n in range(COUNT)]
        moving = FieldBatch.cat(parts)
    torch.testing.assert_close(fitted.flat(), moving.flat(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(fit(start, rates, coords, targets, torch.arange(POINTS).expand(STEPS, -1)).flat(),
                               fit(start, rates, coords, targets).flat())  # fmt: skip


def test_squared_error_is_that_of_the_values(generator, coords, targets):
    fields = random_fields(SPEC, COUNT, generator)
    expected = (evaluate(fields, coords) - targets).square().mean(dim=(1, 2))
    torch.testing.assert_close(squared_error(fields, coords, targets), expected)


def test_what_cannot_be_fitted_is_refused(start, coords, targets, generator):
    rates = drawn_rates(generator)
    relu = random_fields(ReLUField(2, 3, hidden=(4,)), 1, generator)
    with pytest.raises(ValueError, match="expected a sine field without an encoding"):
        fit(relu, rates, coords, targets)
    with pytest.raises(ValueError, match="start has 2 fields: expected 1"):
        fit(FieldBatch.cat([start, start]), rates, coords, targets)
    with pytest.raises(ValueError, match=r"rates=.*: expected some of"):
        fit(start, {}, coords, targets)
    with pytest.raises(ValueError, match=r"rates have \[2, 3\] steps"):
        fit(start, {**rates, "biases.0": rates["biases.0"][:2]}, coords, targets)
    with pytest.raises(ValueError, match="targets has shape"):
        fit(start, rates, coords, targets[..., :1])
