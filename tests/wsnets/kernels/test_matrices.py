"""Laws of the native passes over middle weight matrices: torch's values and gradients, field by field."""

from itertools import product

import pytest
import torch
from torch import Generator, Tensor

from tests.wsnets.kernels.exactness import assert_as_exact
from wsnets.kernels import matrices, native
from wsnets.kernels.activation import BatchNorm
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
    """Results of the map and gradients, of a matrix in parts but for "raw"; kind: what the activation does, "raw",
    "relu", "past" or "batch"."""
    z, rows, columns, weight, gamma, beta = (x.clone().requires_grad_() for x in given)
    sides = (rows.movedim(0, 2), columns.movedim(0, 2))
    y = z if kind == "raw" else Spread.apply(z.clone(), *sides)
    mean, variance = dws_functions.moments(y.detach(), (0, 1, 2))
    variance = variance + 1.0 if kind == "past" else variance
    batch, normed = kind == "batch", kind in ("past", "batch")
    line = (gamma, beta) if normed else (None, None)
    if isa is None:
        last = Statistics(mean, (variance + 1e-5).rsqrt(), batch) if normed else None
        mapped, *pools = MatrixMap.apply(y, weight, pool, kind == "raw", *line, last, None)
        rows_pool, columns_pool = (p.permute(2, 0, 1) for p in pools)
        results = (mapped, rows_pool, columns_pool, dws_functions.reduce(rows_pool, 2, pool))
    else:
        own = (mean.new_full(mean.shape, torch.nan) if batch else mean, torch.empty_like(mean) if batch else variance)
        norm = BatchNorm(*own, batch, 1e-5) if normed else None
        parts = (z, None, None) if kind == "raw" else (z.clone(), rows, columns)
        results = matrices.MapMatrix.apply(*parts, weight, *line, norm, pool, kind == "raw", isa)
        mean, variance = (mean, variance) if norm is None else (norm.mean, norm.variance)
    inputs = (z, *((rows, columns) if kind != "raw" else ()), weight, *(x for x in line if x is not None))
    found = [*(r.detach() for r in results), *torch.autograd.grad(results, inputs, gradients)]
    return [*found, mean, variance] if batch else found


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maps_and_their_gradients_are_as_exact_as_torchs(shape: tuple[int, ...], isa: str, generator: Generator):
    n, num_rows, num_columns, channels, out = shape
    sides = ((channels, n, num_rows), (channels, n, num_columns))
    given = [_draw(*s, generator=generator) for s in (shape[:4], *sides, (out, channels), (channels,), (channels,))]
    sizes = ((n, num_rows, num_columns, out), *sides, (channels, n))
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
def test_spreading_is_torchs(shape: tuple[int, ...], isa: str, generator: Generator):
    n, num_rows, num_columns, channels, _ = shape
    sizes = ((n, num_rows, num_columns, channels), (channels, n, num_rows), (channels, n, num_columns))
    given = [_draw(*size, generator=generator) for size in sizes]
    gradient = _draw(*sizes[0], generator=generator)

    def spread(parts: list[Tensor], isa: str | None) -> list[Tensor]:
        z, rows, columns = (x.clone().requires_grad_() for x in parts)
        if isa is None:
            y = Spread.apply(z.clone(), rows.movedim(0, 2), columns.movedim(0, 2))
        else:
            y = matrices.SpreadMatrix.apply(z.clone(), rows, columns, isa)
        return [y.detach(), *torch.autograd.grad(y, (z, rows, columns), gradient.to(y.dtype))]

    single = [x.float() for x in given]
    assert_as_exact(spread(single, isa), spread(single, None), spread(given, None))


@pytest.mark.parametrize("isa", ISAS)
def test_statistics_far_from_zero_are_as_exact_as_torchs(isa: str, generator: Generator):
    y, weight = _draw(9, 6, 7, 5, generator=generator) + 300.0, torch.zeros(0, 5)
    norm = BatchNorm(torch.empty(5), torch.empty(5), True, 1e-5)
    matrices.MapMatrix.apply(y.float(), None, None, weight, torch.ones(5), torch.zeros(5), norm, "max", False, isa)
    exact, theirs = (list(dws_functions.moments(x, (0, 1, 2))) for x in (y.float().double(), y.float()))
    assert_as_exact([norm.mean, norm.variance], theirs, exact)


def test_a_field_alone_is_the_field_in_a_batch_and_threads_change_nothing(generator: Generator):
    y, weight = _draw(20, 6, 7, 5, generator=generator).float(), _draw(4, 5, generator=generator).float()
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        parts = y.clone().requires_grad_(), weight.clone().requires_grad_()
        values = matrices.MapMatrix.apply(parts[0], None, None, parts[1], None, None, None, "max", False)
        gradients = torch.autograd.grad([v.sum() for v in values], parts)
        results.append([*(v.detach() for v in values), *gradients])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    for field in range(3):
        alone = matrices.MapMatrix.apply(y[field : field + 1], None, None, weight, None, None, None, "max", False)
        assert torch.equal(alone[0][0], results[0][0][field])
        assert all(torch.equal(a[:, 0], b[:, field]) for a, b in zip(alone[1:], results[0][1:4], strict=True))


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_not_finite_is_pooled(isa: str):
    y, weight = torch.zeros(2, 5, 4, 3), torch.ones(2, 3)
    y[1, 2, 1, 0] = torch.nan
    for pool in ("max", "mean", "sum"):
        _, rows, columns, pooled = matrices.MapMatrix.apply(y, None, None, weight, None, None, None, pool, False, isa)
        assert rows.isnan().nonzero().tolist() == [[0, 1, 2]]
        assert columns.isnan().nonzero().tolist() == [[0, 1, 1]]
        assert pooled.isnan().nonzero().tolist() == [[0, 1]]


@pytest.mark.parametrize("needed", ["z", "rows", "columns", "weight", "gamma", "beta"])
def test_what_alone_is_asked_for_has_its_gradient(needed: str, generator: Generator):
    shapes = {"z": (2, 3, 4, 5), "rows": (5, 2, 3), "columns": (5, 2, 4), "weight": (6, 5), "gamma": (5,), "beta": (5,)}
    given = {name: _draw(*shape, generator=generator).float() for name, shape in shapes.items()}

    def gradients(names: list[str]) -> list[Tensor]:
        inputs = {name: x.clone().requires_grad_(name in names) for name, x in given.items()}
        norm = BatchNorm(torch.empty(5), torch.empty(5), True, 1e-5)
        parts = {**inputs, "z": inputs["z"] + 0.0}
        results = matrices.MapMatrix.apply(*parts.values(), norm, "max", False)
        return list(torch.autograd.grad([r.square().sum() for r in results], [inputs[name] for name in names]))

    everything = dict(zip(shapes, gradients(list(shapes)), strict=True))
    assert torch.equal(gradients([needed])[0], everything[needed])


def test_what_is_lost_cannot_be_used_again(generator: Generator):
    z, sides = _draw(1, 2, 2, 3, generator=generator).float().requires_grad_().exp(), torch.ones(3, 1, 2)
    mapped = matrices.MapMatrix.apply(z, sides, sides, torch.ones(2, 3), None, None, None, "max", False)[0]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        mapped.sum().backward()


def test_what_does_not_fit_is_refused(generator: Generator):
    y, weight = _draw(2, 3, 4, 5, generator=generator).float(), _draw(6, 4, generator=generator).float()
    with pytest.raises(ValueError, match="weight: expected"):
        matrices.MapMatrix.apply(y, None, None, weight, None, None, None, "max", False)
    with pytest.raises(ValueError, match="pool: expected max, mean or sum"):
        matrices.MapMatrix.apply(y, None, None, weight[:, :1].repeat(1, 5), None, None, None, "min", False)
    with pytest.raises(ValueError, match="rows, columns: expected"):
        matrices.SpreadMatrix.apply(y, torch.zeros(5, 2, 3), torch.zeros(5, 2, 3))
