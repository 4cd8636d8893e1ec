"""Laws of the native linear maps of several sources: torch's values and gradients, column by column."""

import pytest
import torch
from torch import Generator, Tensor

from tests.wsnets.kernels.exactness import assert_all_as_exact
from wsnets.kernels import native
from wsnets.kernels.linear import LinearMaps
from wsnets.models import dws_maps

ISAS = native.isas()
if not ISAS:
    pytest.skip("the native module is not built here", allow_module_level=True)

pytestmark = pytest.mark.native
CHANNELS = (3, 17, 32)
# Factor, sources, outputs, biases to be summed.
MAPS = [(0.25, [0, 1], 5, 2), (1.5, [2], 33, 1), (0.5, [2, 0, 1], 16, 3)]
PLAN = [(factor, heard) for factor, heard, _, _ in MAPS]


def _draw(columns: tuple[int, ...], generator: Generator) -> tuple[list[Tensor], list[Tensor]]:
    """What LinearMaps is given, and gradients of its values."""
    sources = [torch.randn(c, *columns, generator=generator) for c in CHANNELS]
    weights = [torch.randn(out, sum(CHANNELS[i] for i in heard), generator=generator) for _, heard, out, _ in MAPS]
    biases = [torch.randn(*((n,) if n > 1 else ()), out, 1, generator=generator) for _, _, out, n in MAPS]
    return [*sources, *weights, *biases], [torch.randn(out, *columns, generator=generator) for _, _, out, _ in MAPS]


def _found(given: list[Tensor], gradients: list[Tensor], isa: str | None) -> list[Tensor]:
    """Values and gradients; by torch where isa is None."""
    given = [x.clone().requires_grad_() for x in given]
    ys = dws_maps.TorchMaps.apply(PLAN, *given) if isa is None else LinearMaps.apply(PLAN, isa, *given)
    return [*(y.detach() for y in ys), *torch.autograd.grad(ys, given, gradients)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", [(1,), (5,), (128,), (7, 100), (20, 64)], ids=str)
def test_maps_and_their_gradients_are_as_exact_as_torchs(columns: tuple[int, ...], isa: str, generator: Generator):
    draws = []
    for _ in range(8):
        given, gradients = _draw(columns, generator)
        exact = _found([x.double() for x in given], [x.double() for x in gradients], None)
        draws.append((_found(given, gradients, isa), _found(given, gradients, None), exact))
    assert_all_as_exact(draws)


def test_a_column_is_the_same_alone_and_threads_change_nothing(generator: Generator):
    given, gradients = _draw((1200,), generator)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(_found(given, gradients, ""))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    for n in (0, 255, 256, 1199):
        alone = LinearMaps.apply(PLAN, "", *(x[:, n : n + 1] for x in given[:3]), *given[3:])
        assert all(torch.equal(y[:, 0], all_of_them[:, n]) for y, all_of_them in zip(alone, found[0], strict=False))


def test_maps_that_share_no_source_may_have_other_columns(generator: Generator):
    few, many = torch.randn(3, 4, generator=generator), torch.randn(2, 4, 9, generator=generator)
    weights, biases = (torch.ones(5, 3), torch.ones(6, 2)), (torch.zeros(5, 1), torch.zeros(6, 1))
    levels, sides = LinearMaps.apply([(1.0, [0]), (2.0, [1])], "", few, many, *weights, *biases)
    torch.testing.assert_close(levels, few.sum(0).expand(5, 4))
    torch.testing.assert_close(sides, 2.0 * many.sum(0).expand(6, 4, 9))


def test_sources_without_gradient_are_left_alone(generator: Generator):
    given, gradients = _draw((6,), generator)
    wanted = [x.clone().requires_grad_(i != 1) for i, x in enumerate(given)]
    ys = LinearMaps.apply(PLAN, "", *wanted)
    torch.autograd.backward(ys, gradients)
    found = _found(given, gradients, "")[len(MAPS) :]
    assert wanted[1].grad is None
    assert all(torch.equal(x.grad, g) for i, (x, g) in enumerate(zip(wanted, found, strict=True)) if i != 1)


def test_what_does_not_fit_is_refused():
    x, weight, bias = torch.zeros(3, 4), torch.zeros(5, 3), torch.zeros(5, 1)
    for plan, given, message in [
        ([(1.0, [0, 1])], (x, weight, bias), "heard: expected indices of xs"),
        ([(1.0, [0])], (x, torch.zeros(5, 2), bias), "weight: expected"),
        ([(1.0, [0])], (x, weight, torch.zeros(4, 1)), "bias: expected"),
        ([(1.0, [0, 1])], (x, torch.zeros(3, 2), torch.zeros(5, 6), bias), "xs: expected as many columns"),
    ]:
        with pytest.raises(ValueError, match=message):
            LinearMaps.apply(plan, "", *given)
