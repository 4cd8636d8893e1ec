"""Laws of the native activation of sets: torch's values and gradients, the same bits whatever else is in the batch."""

from itertools import product

import pytest
import torch
from torch import Generator, Tensor

from tests.wsnets.kernels.exactness import assert_all_as_exact
from wsnets.kernels import native
from wsnets.kernels.activation import BatchNorm, SetValues, activate_sets
from wsnets.models import dws_functions
from wsnets.models.dws_functions import Activate, Statistics
from wsnets.models.dws_sites import Site, SiteActivation, see

ISAS = native.isas()
if not ISAS:
    pytest.skip("the native module is not built here", allow_module_level=True)

pytestmark = pytest.mark.native
# (groups, channels, fields, neurons)
SHAPES = [(2, 3, 40, 32), (1, 1, 1, 1), (1, 5, 7, 33), (3, 2, 5, 1), (1, 4, 70, 5)]


def _values(given: list[Tensor], gradients: list[Tensor], pool: str, kind: str, isa: str | None) -> list[Tensor]:
    """Values, pools and gradients; kind: "relu", or statistics "past" or of the "batch". By torch where isa is None."""
    y, gamma, beta = (x.clone().requires_grad_() for x in given)
    grouped, shape = y.view(-1, len(gamma), *y.shape[1:]), (len(gamma), 1, 1)
    mean, variance = dws_functions.moments(grouped.detach(), (0, 2, 3))
    variance = variance + 1.0 if kind == "past" else variance
    batch, normed = kind == "batch", kind != "relu"
    if isa is None:
        statistics = Statistics(mean.view(shape), (variance + 1e-5).rsqrt().view(shape), batch) if normed else None
        line = (gamma.view(shape), beta.view(shape)) if normed else (None, None)
        x = Activate.apply(grouped, *line, statistics, None).view(y.shape)
        results = (x, dws_functions.reduce(x, 2, pool))
    else:
        own = (torch.empty_like(mean), torch.empty_like(mean)) if batch else (mean, variance)
        norm = BatchNorm(*own, batch, 1e-5) if normed else None
        (results,) = activate_sets([SetValues(y, *((gamma, beta) if normed else (None, None)), norm)], pool, isa)
        mean, variance = own
    inputs = (y, gamma, beta) if normed else (y,)
    found = [*(r.detach() for r in results), *torch.autograd.grad(results, inputs, gradients)]
    return [*found, mean, variance] if batch else found


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_as_exact_as_torchs(shape: tuple[int, ...], isa: str, generator: Generator):
    groups, channels, fields, neurons = shape
    for pool, kind in product(("max", "mean", "sum"), ("relu", "past", "batch")):
        if kind == "batch" and groups * fields * neurons == 1:
            continue  # one value has no variance
        draws = []
        for _ in range(16):
            sizes = ((groups * channels, fields, neurons), (channels,), (channels,))
            given, gradients = (
                [torch.randn(s, generator=generator).double() for s in some]
                for some in (sizes, (sizes[0], sizes[0][:2]))
            )
            single = [[x.float() for x in parts] for parts in (given, gradients)]
            exact, theirs = _values(given, gradients, pool, kind, None), _values(*single, pool, kind, None)
            draws.append((_values(*single, pool, kind, isa), theirs, exact))
        assert_all_as_exact(draws)


@pytest.mark.parametrize("isa", ISAS)
def test_statistics_far_from_zero_are_as_exact_as_torchs(isa: str, generator: Generator):
    y = torch.randn(6, 50, 33, generator=generator) + 300.0
    norm = BatchNorm(torch.empty(3), torch.empty(3), True, 1e-5)
    activate_sets([SetValues(y, torch.ones(3), torch.zeros(3), norm)], "max", isa)
    grouped = y.view(2, 3, 50, 33)
    exact, theirs = (list(dws_functions.moments(g, (0, 2, 3))) for g in (grouped.double(), grouped))
    assert_all_as_exact([([norm.mean, norm.variance], theirs, exact)])


def test_equal_largest_values_share_the_gradient():
    y = torch.tensor([[[2.0, 1.0, 2.0, 2.0], [-1.0, 0.0, -3.0, -1.0]]], requires_grad=True)
    ((_, pooled),) = activate_sets([SetValues(y)], "max")
    (gradient,) = torch.autograd.grad(pooled.sum(), y)
    assert pooled.tolist() == [[2.0, 0.0]]
    torch.testing.assert_close(gradient, torch.tensor([[[1.0, 0.0, 1.0, 1.0], [0.0] * 4]]) / 3.0)


def test_several_sets_are_each_of_them_alone(generator: Generator):
    numbers = [torch.rand(3, generator=generator) for _ in range(4)]
    shapes, found = ((6, 4, 33), (3, 4, 1), (5, 4, 7)), []
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [
        (torch.randn(shape, generator=generator), torch.randn(shape[:2], generator=generator)) for shape in shapes
    ]
    for together in (True, False):
        sets = []
        for i, y in enumerate(values):
            line = [x.clone().requires_grad_() for x in numbers[:2]] if i < 2 else [None, None]
            norm = (
                BatchNorm(torch.empty(3), torch.empty(3), True, 1e-5)
                if i == 0
                else BatchNorm(*numbers[2:], False, 1e-5)
            )
            sets.append(SetValues(y.clone().requires_grad_(), *line, norm if i < 2 else None))
        pairs = activate_sets(sets, "max") if together else [activate_sets([s], "max")[0] for s in sets]
        results, wanted = [x for pair in pairs for x in pair], [g for pair in gradients for g in pair]
        inputs = [x for s in sets for x in (s.y, s.gamma, s.beta) if x is not None]
        found.append([*(x.detach() for x in results), *torch.autograd.grad(results, inputs, wanted)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_set_alone_is_the_set_in_a_batch_and_threads_change_nothing(generator: Generator):
    y, gradient = (torch.randn(6, 20, 7, generator=generator) for _ in range(2))
    gamma, norm = torch.rand(3, generator=generator), BatchNorm(torch.zeros(3), torch.ones(3), False, 1e-5)
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        given = y.clone().requires_grad_(), gamma.clone().requires_grad_()
        ((x, pooled),) = activate_sets([SetValues(*given, torch.zeros(3), norm)], "mean")
        results.append([x.detach(), pooled.detach(), *torch.autograd.grad(x, given, gradient)])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    for n in range(20):
        ((x, pooled),) = activate_sets([SetValues(y[:, n : n + 1], gamma, torch.zeros(3), norm)], "mean")
        assert torch.equal(x[:, 0], results[0][0][:, n])
        assert torch.equal(pooled[:, 0], results[0][1][:, n])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("place", [0, 3, 18, 32])
def test_what_is_not_finite_is_pooled(place: int, isa: str):
    y = torch.zeros(2, 3, 33)
    y[0, 1, place] = torch.nan
    for pool in ("max", "mean", "sum"):
        ((_, pooled),) = activate_sets([SetValues(y)], pool, isa)
        assert pooled.isnan().tolist() == [[False, True, False], [False] * 3]


def test_gradients_are_of_the_statistics_of_the_forward_pass(generator: Generator):
    model = SiteActivation(Site((1,), (0,), 1), 3, "batch", 0.0).eval()
    y = torch.randn(3, 4, 5, generator=generator, requires_grad=True)
    place = Site((1,), (0,), 1)
    first = torch.autograd.grad(see([place], [y], [model], "max", None)[0].along[1].sum(), y)[0]
    x = see([place], [y], [model], "max", None)[0].along[1]
    model.running_var.mul_(4.0)
    assert torch.equal(torch.autograd.grad(x.sum(), y)[0], first)


def test_what_is_changed_before_the_gradient_is_noticed(generator: Generator):
    gamma = torch.ones(3, requires_grad=True)
    norm = BatchNorm(torch.empty(3), torch.empty(3), True, 1e-5)
    values = SetValues(torch.randn(3, 4, 5, generator=generator), gamma, torch.zeros(3), norm)
    ((x, _),) = activate_sets([values], "max")
    with torch.no_grad():
        gamma.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


def test_what_does_not_fit_is_refused():
    y, numbers = torch.zeros(6, 2, 4), torch.ones(4)
    norm = BatchNorm(numbers, numbers, False, 1e-5)
    with pytest.raises(ValueError, match="channels: expected a divisor of the number of rows"):
        activate_sets([SetValues(y, numbers, numbers, norm)], "max")
    with pytest.raises(ValueError, match="pool: expected max, mean or sum"):
        activate_sets([SetValues(y)], "min")
    with pytest.raises(ValueError, match="gamma, beta, mean, variance: expected"):
        activate_sets([SetValues(y, numbers[:3], numbers[:2], norm)], "max")
