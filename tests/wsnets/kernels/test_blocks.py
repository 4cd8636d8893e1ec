"""Laws of the native map of blocks of weights: torch's values and gradients, field by field."""

import pytest
import torch
from torch import Generator, Tensor

from tests.wsnets.kernels.exactness import assert_as_exact
from wsnets.kernels import blocks, native

ISAS = native.isas()
if not ISAS:
    pytest.skip("the native module is not built here", allow_module_level=True)

pytestmark = pytest.mark.native
# (fields, rows, columns, channels, new channels)
SHAPES = [(3, 32, 32, 64, 96), (1, 1, 1, 1, 1), (5, 3, 7, 5, 33), (2, 33, 150, 16, 40), (40, 2, 3, 35, 8)]
SCALE = 1.25


def _draw(shape: tuple[int, ...], generator: Generator) -> list[Tensor]:
    """x, weight, row, column, gain of float32 numbers in float64."""
    n, rows, columns, channels, out = shape
    sizes = (shape[:4], (out, channels), (n, rows, out), (n, columns, out))
    drawn = [torch.randn(size, generator=generator).double() for size in sizes]
    return [*drawn, (torch.rand(n, 1, out, generator=generator) < 0.8).double() * SCALE]


def _exact(given: list[Tensor], gained: bool) -> list[Tensor]:
    x, weight, row, column, gain = given
    z = (x @ weight.T + row.unsqueeze(2) + column.unsqueeze(1)).relu()
    z = z * gain.unsqueeze(1) if gained else z
    return [z, z.mean(2), z.mean(1)]


def _all(given: list[Tensor], heard: list[Tensor], gained: bool, keep: bool, isa: str | None) -> list[Tensor]:
    """Results and gradients, by the kernel or by torch's own gradients."""
    inputs = [x.clone().requires_grad_() for x in given[:4]]
    if isa is None:
        results = _exact([*inputs, given[4]], gained)
    else:
        how = (given[4], SCALE) if gained else (None, 1.0)
        results = list(blocks.MapBlock.apply(*inputs, *how, keep, isa))
    results, heard = (results, heard) if keep else (results[1:], heard[1:])
    return [*(r.detach() for r in results), *torch.autograd.grad(results, inputs, heard)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maps_and_their_gradients_are_as_exact_as_torchs(shape: tuple[int, ...], isa: str, generator: Generator):
    n, rows, columns, _, out = shape
    given = _draw(shape, generator)
    heard = [
        torch.randn(s, generator=generator).double() for s in ((*shape[:3], out), (n, rows, out), (n, columns, out))
    ]
    single, heard_single = ([x.float() for x in parts] for parts in (given, heard))
    for gained in (False, True):
        for keep in (False, True):
            ours = _all(single, heard_single, gained, keep, isa)
            assert_as_exact(
                ours, _all(single, heard_single, gained, keep, None), _all(given, heard, gained, keep, None)
            )


def test_a_field_alone_is_the_field_in_a_batch_and_threads_change_nothing(generator: Generator):
    given = [x.float() for x in _draw((20, 6, 7, 5, 9), generator)]
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        heard = [torch.ones(20, 6, 7, 9), torch.ones(20, 6, 9), torch.ones(20, 7, 9)]
        results.append(_all(given, heard, True, True, ""))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    for field in range(3):
        part = slice(field, field + 1)
        x, weight, row, column, gain = given
        alone = blocks.MapBlock.apply(x[part], weight, row[part], column[part], gain[part], SCALE, True)
        assert all(torch.equal(a[0], b[field]) for a, b in zip(alone, results[0][:3], strict=True))


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_not_finite_stays(isa: str):
    x, weight = torch.zeros(2, 5, 4, 3), torch.ones(2, 3)
    x[1, 2, 1, 0] = torch.nan
    z, by_row, by_column = blocks.MapBlock.apply(
        x, weight, torch.zeros(2, 5, 2), torch.zeros(2, 4, 2), None, 1.0, True, isa
    )
    assert z.isnan().any(3).nonzero().tolist() == [[1, 2, 1]]
    assert by_row.isnan().any(2).nonzero().tolist() == [[1, 2]]
    assert by_column.isnan().any(2).nonzero().tolist() == [[1, 1]]


@pytest.mark.parametrize("needed", range(4), ids=["x", "weight", "row", "column"])
def test_what_alone_is_asked_for_has_its_gradient(needed: int, generator: Generator):
    given = [x.float() for x in _draw((3, 4, 5, 6, 7), generator)]

    def gradients(wanted: list[int]) -> list[Tensor]:
        inputs = [x.clone().requires_grad_(i in wanted) for i, x in enumerate(given[:4])]
        results = blocks.MapBlock.apply(*inputs, given[4], SCALE, True)
        return list(torch.autograd.grad(sum(r.square().sum() for r in results), [inputs[i] for i in wanted]))

    assert torch.equal(gradients([needed])[0], gradients([0, 1, 2, 3])[needed])


def test_what_does_not_fit_is_refused(generator: Generator):
    x, weight, row, column, _ = (a.float() for a in _draw((2, 3, 4, 5, 6), generator))
    with pytest.raises(ValueError, match="weight: expected"):
        blocks.MapBlock.apply(x, weight[:, :4], row, column, None, 1.0, True)
    with pytest.raises(ValueError, match="of rows, of columns: expected"):
        blocks.MapBlock.apply(x, weight, row[:, :2], column, None, 1.0, True)
    with pytest.raises(ValueError, match="gains: expected"):
        blocks.MapBlock.apply(x, weight, row, column, torch.ones(2, 1, 5), 1.0, True)
