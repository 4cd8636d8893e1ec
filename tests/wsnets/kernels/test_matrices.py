"""Laws of the native passes over middle weight matrices: torch's values and gradients, field by field."""

from itertools import product

import pytest
import torch
from torch import Generator, Tensor

from tests.wsnets.kernels.exactness import assert_as_exact
from wsnets.kernels import matrices, native
from wsnets.models import dws_functions
from wsnets.models.dws_functions import MatrixMap, Spread, Statistics

ISAS = native.isas()
if not ISAS:
    pytest.skip("the native module is not built here", allow_module_level=True)

pytestmark = pytest.mark.native
# (fields, rows, columns, channels, channels of the map)
SHAPES = [(3, 32, 32, 32, 32), (1, 1, 1, 1, 1), (5, 3, 7, 5, 9), (2, 33, 5, 16, 0), (40, 2, 3, 4, 8)]


def _draw(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _map(given: list[Tensor], gradients: list[Tensor], pool: str, kind: str, isa: str | None) -> list[Tensor]:
    """Results of the map and gradients; kind: "raw", "relu", "past" or "batch", what the activation does."""
    y, weight, gamma, beta = (x.clone().requires_grad_() for x in given)
    statistics = None
    if kind in ("past", "batch"):
        mean, variance = dws_functions.moments(y.detach(), (0, 1, 2))
        variance = variance + 1.0 if kind == "past" else variance
        statistics = (mean, (variance + 1e-5).rsqrt(), kind == "batch")
    norm = (gamma, beta) if statistics is not None else (None, None)
    if isa is None:
        last = None if statistics is None else Statistics(*statistics)
        results = MatrixMap.apply(y, weight, pool, kind == "raw", *norm, last, None)
    else:
        results = matrices.MapMatrix.apply(y, weight, *norm, statistics, pool, kind == "raw", isa)
    inputs = (y, weight, *(x for x in norm if x is not None))
    return [*(r.detach() for r in results), *torch.autograd.grad(results, inputs, gradients)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maps_and_their_gradients_are_as_exact_as_torchs(shape: tuple[int, ...], isa: str, generator: Generator):
    n, num_rows, num_columns, channels, out = shape
    given = [_draw(*shape[:4], generator=generator), _draw(out, channels, generator=generator)]
    given += [_draw(channels, generator=generator) for _ in range(2)]
    sizes = ((n, num_rows, num_columns, out), (n, num_rows, channels), (n, num_columns, channels))
    gradients = [_draw(*size, generator=generator) for size in sizes]
    # The same numbers in both precisions: otherwise rounding of an input alone decides at the kinks.
    given, gradients = ([x.float().double() for x in parts] for parts in (given, gradients))
    single = [[x.float() for x in parts] for parts in (given, gradients)]
    for pool, kind in product(("max", "mean", "sum"), ("raw", "relu", "past", "batch")):
        if kind == "batch" and n * num_rows * num_columns == 1:
            continue  # one value has no variance
        exact, theirs = _map(given, gradients, pool, kind, None), _map(*single, pool, kind, None)
        assert_as_exact(_map(*single, pool, kind, isa), theirs, exact)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_spreading_and_moments_are_torchs(shape: tuple[int, ...], isa: str, generator: Generator):
    n, num_rows, num_columns, channels, _ = shape
    sizes = ((n, num_rows, num_columns, channels), (n, num_rows, channels), (n, num_columns, channels))
    given = [_draw(*size, generator=generator) for size in sizes]
    gradient = _draw(*sizes[0], generator=generator)

    def spread(parts: list[Tensor], function: type[torch.autograd.Function], *isa: str) -> list[Tensor]:
        z, rows, columns = (x.clone().requires_grad_() for x in parts)
        y = function.apply(z.clone(), rows, columns, *isa)
        return [y.detach(), *torch.autograd.grad(y, (z, rows, columns), gradient.to(y.dtype))]

    single = [x.float() for x in given]
    assert_as_exact(spread(single, matrices.SpreadMatrix, isa), spread(single, Spread), spread(given, Spread))
    shifted = [x + 3.0 for x in (given[0], single[0])]
    exact, theirs = (list(dws_functions.moments(y, (0, 1, 2))) for y in shifted)
    assert_as_exact(list(matrices.moments(shifted[1], isa)), theirs, exact)


def test_a_field_alone_is_the_field_in_a_batch_and_threads_change_nothing(generator: Generator):
    y, weight = _draw(20, 6, 7, 5, generator=generator).float(), _draw(4, 5, generator=generator).float()
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        parts = y.clone().requires_grad_(), weight.clone().requires_grad_()
        values = matrices.MapMatrix.apply(*parts, None, None, None, "max", False)
        gradients = torch.autograd.grad([v.sum() for v in values], parts)
        results.append([*(v.detach() for v in values), *gradients])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    for field in range(3):
        alone = matrices.MapMatrix.apply(y[field : field + 1], weight, None, None, None, "max", False)
        assert all(torch.equal(a[0], b[field]) for a, b in zip(alone, results[0][:3], strict=True))


def test_what_does_not_fit_is_refused(generator: Generator):
    y, weight = _draw(2, 3, 4, 5, generator=generator).float(), _draw(6, 4, generator=generator).float()
    with pytest.raises(ValueError, match="weight: expected"):
        matrices.MapMatrix.apply(y, weight, None, None, None, "max", False)
    with pytest.raises(ValueError, match="pool: expected max, mean or sum"):
        matrices.MapMatrix.apply(y, weight[:, :1].repeat(1, 5), None, None, None, "min", False)
    with pytest.raises(ValueError, match="rows, columns: expected"):
        matrices.SpreadMatrix.apply(y, y[:, :, 0], y[:, 0, 1:])
