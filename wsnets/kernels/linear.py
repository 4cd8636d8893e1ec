"""Linear maps of several sources each by the native kernel: all of a layer in one call, their gradients in another.

Legend as in wsnets/models/dws_maps.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from wsnets.kernels.native import array

# Of every map: its factor, and which sources it hears.
Plan = Sequence[tuple[float, list[int]]]


class LinearMaps(Function):
    """As dws_maps.apply_maps, given sources, weights and biases in a row; isa: forces an instruction set."""

    @staticmethod
    def forward(ctx, plan: Plan, isa: str, *given: Tensor) -> tuple[Tensor, ...]:
        from wsnets.kernels import _native

        given = tuple(x.contiguous() for x in given)
        count = len(given) - 2 * len(plan)
        sources, weights, biases = given[:count], given[count : count + len(plan)], given[count + len(plan) :]
        ways = zip(plan, weights, strict=True)
        ys = [w.new_empty(len(w), *sources[heard[0]].shape[1:]) for (_, heard), w in ways]
        arrays = _arrays(sources, plan, weights, biases)
        _native.map_linear(*arrays, [array(y) for y in ys], torch.get_num_threads(), isa)
        ctx.save_for_backward(*given)
        ctx.plan, ctx.isa = plan, isa
        return tuple(ys)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from wsnets.kernels import _native

        given, plan = ctx.saved_tensors, ctx.plan
        count = len(given) - 2 * len(plan)
        sources, weights, biases = given[:count], given[count : count + len(plan)], given[count + len(plan) :]
        d_sources = [torch.empty_like(x) if ctx.needs_input_grad[2 + i] else None for i, x in enumerate(sources)]
        d_maps = [torch.empty_like(x) for x in given[count:]]
        arrays = [array(x) for x in d_sources], [array(x) for x in d_maps[: len(plan)]]
        dys = [array(g.contiguous()) for g in gradients]
        _native.map_linear_back(
            *_arrays(sources, plan, weights, biases),
            dys,
            *arrays,
            [array(x) for x in d_maps[len(plan) :]],
            torch.get_num_threads(),
            ctx.isa,
        )
        return None, None, *d_sources, *d_maps


def _arrays(sources: Sequence[Tensor], plan: Plan, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple:
    maps = ([array(w) for w in weights], [array(b) for b in biases])
    return [array(x) for x in sources], [heard for _, heard in plan], [factor for factor, _ in plan], *maps
