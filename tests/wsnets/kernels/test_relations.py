"""Laws of the native relational attention: torch's values and gradients, field by field."""

import pytest
import torch
from torch import Generator, Tensor

from tests.wsnets.kernels.exactness import assert_all_as_exact
from wsnets.kernels import native
from wsnets.kernels.relations import Relate
from wsnets.models import neural_graph_attention
from wsnets.models.neural_graph_attention import attend

ISAS = native.isas()
if not ISAS:
    pytest.skip("the native module is not built here", allow_module_level=True)

pytestmark = pytest.mark.native
# (fields, rows, nodes, width of an edge, heads, channels of a head): one of each, odd ones, whole vectors and more.
CASES = [(1, 1, 1, 1, 1, 1), (3, 4, 33, 20, 3, 5), (2, 7, 7, 4, 2, 3), (20, 1, 16, 16, 2, 8), (2, 19, 37, 32, 8, 16)]
TORCH = neural_graph_attention._Attend


def _inputs(case: tuple[int, ...], generator: Generator, size: float = 1.0) -> list[Tensor]:
    n, rows, nodes, width, heads, channels = case
    shapes = (
        (n, rows, nodes, width),
        (3, heads, channels, width),
        (heads, channels, n, rows),
        (heads, channels, n, nodes),
        (heads, channels, n, nodes),
    )
    return [size * torch.randn(shape, generator=generator).double() for shape in shapes]


def _values(function, inputs: list[Tensor], gradients: list[Tensor], *isa: str) -> list[Tensor]:
    """Results and all gradients."""
    given = [x.clone().requires_grad_() for x in inputs]
    results = function.apply(*given, (given[1].shape[1] * given[1].shape[2]) ** -0.5, *isa)
    return [*(x.detach() for x in results), *torch.autograd.grad(results, given, gradients)]


def _gradients(case: tuple[int, ...], generator: Generator) -> list[Tensor]:
    n, rows, _, width, heads, channels = case
    shapes = ((heads, channels, n, rows), (n, rows, heads, width))
    return [torch.randn(shape, generator=generator).double() for shape in shapes]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("case", "size"), [*((case, 1.0) for case in CASES), (CASES[1], 2.0)], ids=str)
def test_values_and_gradients_are_as_exact_as_torchs(case, size: float, isa: str, generator: Generator):
    """Large inputs have scores of a hundred, of which the largest of a row must be subtracted first."""
    draws = []
    for _ in range(16):
        inputs, gradients = _inputs(case, generator, size), _gradients(case, generator)
        single = [x.float() for x in inputs], [x.float() for x in gradients]
        draws.append((_values(Relate, *single, isa), _values(TORCH, *single), _values(TORCH, inputs, gradients)))
    assert all(bool(x.isfinite().all()) for draw in draws for x in draw[2])
    assert_all_as_exact(draws)


def test_a_field_alone_is_the_field_in_a_batch_and_threads_change_nothing(generator: Generator):
    case = (20, 5, 9, 6, 2, 4)
    inputs, gradients = _inputs(case, generator), _gradients(case, generator)
    single = [x.float() for x in inputs], [x.float() for x in gradients]
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(_values(Relate, *single))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    edges, weight, *nodes = single[0]
    for n in (0, 7, 19):
        values, gathered = Relate.apply(edges[n : n + 1], weight, *(x[:, :, n : n + 1] for x in nodes), 8**-0.5)
        assert torch.equal(values, results[0][0][:, :, n : n + 1])
        assert torch.equal(gathered, results[0][1][n : n + 1])


def test_attention_takes_the_kernel_and_keeps_nothing_without_gradients(generator: Generator, monkeypatch):
    inputs = [x.float() for x in _inputs((2, 3, 5, 4, 2, 3), generator)]
    edges, weight, *nodes = inputs
    by_kernel = attend(edges, weight, tuple(nodes), 0.3)
    monkeypatch.setattr(neural_graph_attention, "takes", lambda _: False)
    by_torch = attend(edges, weight, tuple(nodes), 0.3)
    for a, b in zip(by_kernel, by_torch, strict=True):
        torch.testing.assert_close(a, b)
        assert not torch.equal(a, b)


def test_what_is_not_finite_stays_so(generator: Generator):
    edges, weight, *nodes = (x.float() for x in _inputs((2, 3, 5, 4, 2, 3), generator))
    edges[0, 1, 2, 0] = torch.nan
    values, gathered = Relate.apply(edges, weight, *nodes, 0.3)
    assert bool(values[:, :, 0, 1].isnan().all())
    assert bool(gathered[0, 1].isnan().all())
    assert bool(values[:, :, 0, [0, 2]].isfinite().all())
    assert bool(values[:, :, 1].isfinite().all())


def test_what_does_not_fit_is_refused(generator: Generator):
    edges, weight, q, k, v = (x.float() for x in _inputs((2, 3, 5, 4, 2, 3), generator))
    for given, message in [
        ((edges[..., :3], weight, q, k, v), "weight: expected"),
        ((edges, weight, k, k, v), "q, values: expected"),
        ((edges, weight, q, q, v), "k, v: expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            Relate.apply(*given, 1.0)
