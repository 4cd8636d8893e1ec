"""Laws of the native messages: what torch gathers and its gradients, field by field."""

import pytest
import torch
from torch import Generator, Tensor

from tests.wsnets.kernels.exactness import assert_all_as_exact
from wsnets.kernels import messages, native
from wsnets.models import neural_graph_messages
from wsnets.models.neural_graph_messages import Layout, aggregate

ISAS = native.isas()
if not ISAS:
    pytest.skip("the native module is not built here", allow_module_level=True)

pytestmark = pytest.mark.native
# (fields, channels, widths of the layers): one of each, odd ones, whole vectors, more sources than are summed at once.
CASES = [(1, 1, (1, 1, 1)), (3, 5, (2, 7, 3)), (20, 16, (3, 2)), (2, 19, (2, 40, 33, 1)), (2, 64, (2, 32, 32, 1))]


def _inputs(case: tuple, generator: Generator) -> list[Tensor]:
    n, channels, dims = case
    shapes = ((n * Layout(dims).blocks[-1].stop, 2 * channels), (n, sum(dims), 2 * channels))
    return [torch.randn(shape, generator=generator).double() for shape in shapes]


def _values(inputs: list[Tensor], gradient: Tensor, dims: tuple[int, ...], last: bool = False) -> list[Tensor]:
    """What is gathered and its gradients; last: from the edges into the last layer alone."""
    layout, (modulation, nodes) = Layout(dims), [x.clone().requires_grad_() for x in inputs]
    read = modulation[: len(nodes) * layout.num_last] if last else modulation
    gathered = aggregate(read, nodes, layout)
    return [gathered.detach(), *torch.autograd.grad(gathered, (modulation, nodes), gradient)]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_as_exact_as_torchs(case, isa, last, generator: Generator, monkeypatch):
    n, channels, dims = case
    draws = []
    for _ in range(4):
        inputs = _inputs(case, generator)
        gradient = torch.randn(n, sum(dims), 4 * channels, generator=generator).double()
        if min(dims) == 1:  # one message has no spread: what rounding makes of it is not compared
            gradient[..., 3 * channels :] = 0.0
        single = [x.float() for x in inputs], gradient.float()
        with monkeypatch.context() as patch:
            patch.setattr(neural_graph_messages, "takes", lambda _: False)
            exact, theirs = (_values(*given, dims, last) for given in ((inputs, gradient), single))
        with monkeypatch.context() as patch:
            for name in ("gather", "gather_back"):
                function = getattr(messages, name)
                patch.setattr(messages, name, lambda *given, function=function: function(*given, isa))
            draws.append((_values(*single, dims, last), theirs, exact))
    assert_all_as_exact(draws)


def test_a_field_alone_is_the_field_in_a_batch_and_threads_change_nothing(generator: Generator):
    dims, count = (2, 7, 5), 20
    layout = Layout(dims)
    modulation, nodes = (x.float() for x in _inputs((count, 6, dims), generator))
    gradient = torch.randn(count, sum(dims), 24, generator=generator)
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(_values([modulation, nodes], gradient, dims))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    blocks = layout.split_edges(modulation, count)
    for n in (0, 7, 19):
        alone = torch.cat([block[n].flatten(0, 1) for block in blocks])
        assert torch.equal(aggregate(alone, nodes[n : n + 1], layout)[0], results[0][0][n])


def test_an_extreme_that_several_messages_share_gives_each_its_gradient(generator: Generator):
    _, nodes = (x.float() for x in _inputs((1, 3, (4, 2)), generator))
    modulation = torch.zeros(16, 6)  # all messages are zero
    gradient = torch.zeros(1, 6, 12)
    gradient[..., 3:9] = 1.0
    _, d_modulation, _ = _values([modulation, nodes], gradient, (4, 2))
    assert bool((d_modulation[:, 3:] == 2.0).all())


def test_what_does_not_fit_is_refused(generator: Generator):
    change, nodes = torch.zeros(2, 3, 4, 10), torch.zeros(2, 9, 10)
    statistics = torch.zeros(2, 9, 4, 5)
    for given, message in [
        ((change[..., :9].contiguous(), nodes, statistics, (0, 3), True), "modulation: expected"),
        ((change, nodes[..., :8].contiguous(), statistics, (0, 3), True), "nodes: expected"),
        ((change, nodes, statistics[:, :8].contiguous(), (0, 3), True), "statistics: expected"),
        ((change, nodes, statistics, (0, 6), True), "first_target, first_source: expected"),
        ((change, nodes, statistics, (0, 2), True), "apart from each other"),
    ]:
        with pytest.raises(ValueError, match=message):
            messages.gather(*given)
