"""Laws of the native set attention: torch's values and gradients, the same bits whatever else is in the batch."""

import pytest
import torch
from torch import Generator, Tensor

from tests.wsnets.kernels.exactness import assert_all_as_exact
from wsnets.kernels import native
from wsnets.kernels.attention import Block, attend_sets
from wsnets.models.dws_functions import SetAttention

ISAS = native.isas()
if not ISAS:
    pytest.skip("the native module is not built here", allow_module_level=True)

pytestmark = pytest.mark.native
FACTOR = 0.25
# (in, heads, channels of a head, targets, fields, units): one unit, odd ones, a vector more or less, channels in
# registers and beyond them.
CASES = [
    (3, 8, 4, 2, 9, 32),
    (1, 1, 1, 1, 1, 1),
    (2, 8, 1, 1, 6, 33),
    (33, 8, 3, 3, 4, 5),
    (5, 8, 8, 1, 5, 33),
    (4, 1, 3, 1, 2, 32),
    (4, 1, 8, 2, 3, 1),
    (6, 1, 20, 1, 3, 33),
    (2, 1, 33, 2, 2, 5),
    (1, 2, 5, 1, 130, 7),
]

# With scores of hundreds, of which the largest of a row must be subtracted first.
LARGE = [(3, 8, 4, 2, 9, 32), (33, 8, 3, 3, 4, 5), (6, 1, 20, 1, 3, 33)]


def _inputs(case: tuple[int, ...], generator: Generator, size: float = 1.0) -> tuple[Tensor, ...]:
    num_in, heads, channels, targets, fields, units = case
    out = heads * channels
    shapes = (
        (num_in, fields, units),
        (3 * out * targets, num_in),
        (3 * out * targets,),
        (targets, out, out),
        (targets, out),
    )
    x, weight, bias, out_weight, out_bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return x, size * weight / num_in**0.5, 0.1 * bias, out_weight / out**0.5, 0.1 * out_bias


def _packed(maps: list[Tensor]) -> tuple[Tensor, Tensor]:
    """As Attentions.packed, with gradients."""
    matrices = [x.flatten() for i in range(0, len(maps), 4) for x in (maps[i], *maps[i + 2 : i + 4])]
    return torch.cat(matrices).unsqueeze(1), torch.cat(list(maps[1::4]))


def _native(inputs: tuple[Tensor, ...], heads: int, start: Tensor, isa: str = "") -> Tensor:
    x, *maps = inputs
    starts = [s.clone() for s in start.unbind(0)]
    block = Block(0, tuple(range(len(starts))), heads, maps[3].shape[1])
    return torch.stack(
        attend_sets([block], _packed(maps), [x], starts, [s.new_zeros(s.shape[:2]) for s in starts], FACTOR, isa)
    )


def _values(inputs, heads: int, start: Tensor, gradient: Tensor, isa: str | None) -> list[Tensor]:
    """Sums and all gradients: by torch where isa is None."""
    given = [x.clone().requires_grad_() for x in (*inputs, start)]
    if isa is None:
        z = given[-1] + FACTOR * SetAttention.apply(*given[:-1], heads)
    else:
        z = _native(given[:-1], heads, given[-1], isa)
    return [z.detach(), *torch.autograd.grad(z, given, gradient)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("case", "size"), [*((c, 1.0) for c in CASES), *((c, 10.0) for c in LARGE)], ids=str)
def test_values_and_gradients_are_as_exact_as_torchs(
    case: tuple[int, ...], size: float, isa: str, generator: Generator
):
    heads, targets, out = case[1], case[3], case[1] * case[2]
    draws = []
    for _ in range(8):
        inputs = _inputs(case, generator, size)
        shape = (targets, out, *case[4:])
        start, gradient = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        exact = _values(inputs, heads, start, gradient, None)
        single = ([x.float() for x in inputs], heads, start.float(), gradient.float())
        draws.append((_values(*single, isa), _values(*single, None), exact))
    assert_all_as_exact(draws)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("units", [1, 5, 32, 33])
def test_a_set_alone_is_the_set_in_a_batch(units: int, isa: str, generator: Generator):
    case = (3, 2, 4, 2, 11, units)
    x, *maps = (t.float() for t in _inputs(case, generator))
    start = torch.zeros(2, 8, 11, units)
    together = _native((x, *maps), 2, start, isa)
    for n in range(11):
        alone = _native((x[:, n : n + 1].contiguous(), *maps), 2, start[:, :, n : n + 1].contiguous(), isa)
        assert torch.equal(alone, together[:, :, n : n + 1])


def test_threads_change_nothing(generator: Generator):
    inputs = [t.float() for t in _inputs((3, 8, 4, 2, 70, 32), generator)]
    start, gradient = torch.zeros(2, 32, 70, 32), torch.randn(2, 32, 70, 32, generator=generator)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(_values(inputs, 8, start, gradient, ISAS[0]))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_is_not_finite_stays_so(generator: Generator):
    x, *maps = (t.float() for t in _inputs((3, 2, 4, 1, 2, 5), generator))
    x[0, 0, 0] = torch.nan
    z = _native((x, *maps), 2, torch.zeros(1, 8, 2, 5))
    assert bool(z[:, :, 0].isnan().all())
    assert bool(z[:, :, 1].isfinite().all())


def test_only_what_the_kernel_has_is_taken(generator: Generator):
    x = torch.randn(2, 3, 4, generator=generator)
    assert native.takes(x)
    assert not native.takes(x.double())
    assert not native.takes(x[:0])
    assert torch.func.vmap(lambda y: y if native.takes(y) else y + 1)(x).equal(x + 1)


# Blocks as (source, targets, heads, channels of a head): two sources of 3 and 18 channels, three targets, of which the
# second begins with a level alone and the third is wider.
BLOCKS = [(0, (0, 1), 2, 4), (0, (2,), 2, 9), (1, (1, 0), 4, 2), (1, (2,), 1, 18)]
WIDTHS = (8, 8, 18)


def _several(fields: int, units: int, generator: Generator) -> list[Tensor]:
    """Sources, maps of all blocks, starts of the first and the third target, levels of all."""
    shapes = [(3, fields, units), (18, fields, units)]
    for source, targets, heads, channels in BLOCKS:
        out, count = heads * channels, len(targets)
        shapes += [(3 * out * count, shapes[source][0]), (3 * out * count,), (count, out, out), (count, out)]
    shapes += [(8, fields, units), (18, fields, units), *((width, fields) for width in WIDTHS)]
    return [torch.randn(s, generator=generator, dtype=torch.float64) / s[-1] ** 0.5 for s in shapes]


def _starts_and_levels(given: list[Tensor]) -> tuple[list[Tensor | None], list[Tensor]]:
    return [given[-5].clone(), None, given[-4].clone()], given[-3:]


def _attend_several(given: list[Tensor], isa: str = "") -> tuple[Tensor, ...]:
    blocks = [Block(*b[:3], b[2] * b[3]) for b in BLOCKS]
    return attend_sets(blocks, _packed(given[2:-5]), given[:2], *_starts_and_levels(given), FACTOR, isa)


def _values_of_several(inputs: list[Tensor], gradients: list[Tensor], isa: str | None) -> list[Tensor]:
    given = [x.clone().requires_grad_() for x in inputs]
    if isa is None:
        starts, levels = _starts_and_levels(given)
        sums = [v.unsqueeze(2) + (0.0 if s is None else s) for s, v in zip(starts, levels, strict=True)]
        for i, (source, targets, heads, _) in enumerate(BLOCKS):
            terms = SetAttention.apply(given[source], *given[2 + 4 * i : 6 + 4 * i], heads).unbind(0)
            for target, term in zip(targets, terms, strict=True):
                sums[target] = sums[target] + FACTOR * term
    else:
        sums = list(_attend_several(given, isa))
    return [*(z.detach() for z in sums), *torch.autograd.grad(sums, given, gradients)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("fields", "units"), [(1, 1), (9, 32), (5, 33), (37, 7)])
def test_several_blocks_are_as_exact_as_torch(fields: int, units: int, isa: str, generator: Generator):
    draws = []
    for _ in range(16):
        inputs = _several(fields, units, generator)
        gradients = [torch.randn(w, fields, units, generator=generator, dtype=torch.float64) for w in WIDTHS]
        single = ([x.float() for x in inputs], [g.float() for g in gradients])
        exact = _values_of_several(inputs, gradients, None)
        draws.append((_values_of_several(*single, isa), _values_of_several(*single, None), exact))
    assert_all_as_exact(draws)


def test_several_blocks_do_not_depend_on_the_batch_or_on_threads(generator: Generator):
    inputs = [x.float() for x in _several(23, 7, generator)]
    gradients = [torch.randn(w, 23, 7, generator=generator) for w in WIDTHS]
    together, before = _values_of_several(inputs, gradients, ISAS[0]), torch.get_num_threads()
    torch.set_num_threads(3)
    threaded = _values_of_several(inputs, gradients, ISAS[0])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(together, threaded, strict=True))
    for n in range(23):
        alone = [x[:, n : n + 1].contiguous() if x.ndim > 1 and x.shape[1] == 23 else x for x in inputs]
        for one, many in zip(_attend_several(alone), together, strict=False):
            assert torch.equal(one, many[:, n : n + 1])


def test_what_does_not_fit_is_refused(generator: Generator):
    x, *maps = (t.float() for t in _inputs((3, 2, 4, 1, 2, 5), generator))
    start, level = torch.zeros(8, 2, 5), torch.zeros(8, 2)

    def attend(x=x, source=0, targets=(0,), heads=2, starts=(start,), isa="", xs=1):
        block = Block(source, targets, heads, 8)
        return attend_sets(
            [block], _packed(maps), [x] * xs, [s.clone() for s in starts], [level] * len(starts), 1.0, isa
        )

    for wrong, message in [
        ({"x": x[:2].contiguous()}, "matrices, biases: expected"),
        ({"heads": 3}, "heads: expected a divisor"),
        ({"starts": (torch.zeros(8, 2, 4),)}, "sums: expected \\(out, N, T\\)"),
        ({"starts": (start, start)}, "sums: expected each to be a target"),
        ({"targets": (0, 0)}, "matrices, biases: expected"),
        ({"targets": (1,)}, "targets: expected indices of sums"),
        ({"source": 1}, "sources: expected indices of xs"),
        ({"xs": 2}, "xs: expected each to be a source"),
        ({"isa": "mmx"}, "isa='mmx': this machine or build does not have it"),
    ]:
        with pytest.raises(ValueError, match=message):
            attend(**wrong)
