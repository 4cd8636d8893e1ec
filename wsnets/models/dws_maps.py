"""Linear maps of many pooled values in one function: a DWS layer has dozens, each smaller than what autograd costs.

Legend: N fields, M columns, C channels. Values keep channels first, (C, ...).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from wsnets.kernels.linear import LinearMaps, Plan
from wsnets.kernels.native import takes


class LinearMap(NamedTuple):
    """y = factor (W [x_1 ... x_k] + b), sources below each other.

    Shapes: weight (out, in_1 + ... + in_k), bias (out, 1), or several to be summed, (S, out, 1); sources (in_i, ...).
    """

    weight: Tensor
    bias: Tensor
    sources: tuple[Tensor, ...]
    factor: float


def apply_maps(maps: Sequence[LinearMap]) -> tuple[Tensor, ...]:
    """y of every map, (out, ...); sources that several maps share are one tensor."""
    if not maps:
        return ()
    unique = {id(x): x for m in maps for x in m.sources}
    where = {key: i for i, key in enumerate(unique)}
    plan = [(m.factor, [where[id(x)] for x in m.sources]) for m in maps]
    given = (*unique.values(), *(m.weight for m in maps), *(m.bias for m in maps))
    return LinearMaps.apply(plan, "", *given) if takes(given[0]) else TorchMaps.apply(plan, *given)


class TorchMaps(Function):
    """See apply_maps; by torch."""

    @staticmethod
    def forward(ctx, plan: Plan, *given: Tensor) -> tuple[Tensor, ...]:
        count = len(given) - 2 * len(plan)
        sources, weights, biases = given[:count], given[count : count + len(plan)], given[count + len(plan) :]
        results, inputs = [], []
        for (factor, heard), weight, bias in zip(plan, weights, biases, strict=True):
            x = (sources[heard[0]] if len(heard) == 1 else torch.cat([sources[i] for i in heard])).flatten(1)
            level = bias.sum(0) if bias.ndim == 3 else bias
            y = x.new_empty(len(weight), *sources[heard[0]].shape[1:])  # no view, so that it may be added to in place
            torch.addmm(level, weight, x, beta=factor, alpha=factor, out=y.flatten(1))
            results.append(y)
            inputs.append(x)
        ctx.save_for_backward(*inputs, *weights)
        ctx.plan, ctx.shapes = plan, [x.shape for x in sources]
        ctx.bias_shapes = [bias.shape for bias in biases]
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weights = ctx.saved_tensors[: len(ctx.plan)], ctx.saved_tensors[len(ctx.plan) :]
        d_sources: list[Tensor | None] = [None] * len(ctx.shapes)
        d_weights, d_biases = [], []
        ways = zip(ctx.plan, gradients, inputs, weights, ctx.bias_shapes, strict=True)
        for (factor, heard), gradient, x, weight, bias_shape in ways:
            dy = gradient.flatten(1)
            d_weights.append(torch.mm(dy, x.T).mul_(factor))
            d_biases.append(dy.sum(1, keepdim=True).mul_(factor).expand(bias_shape))
            dx = torch.mm(weight.T * factor, dy)
            for i, part in zip(heard, dx.split([ctx.shapes[i][0] for i in heard]), strict=True):
                before = d_sources[i]
                d_sources[i] = part.view(ctx.shapes[i]) if before is None else before.add_(part.view(ctx.shapes[i]))
        return None, *d_sources, *d_weights, *d_biases
