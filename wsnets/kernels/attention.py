"""Set attention by the native kernel: a few sets at a time stay in cache, from the maps to what is added to a target.

Legend as in wsnets/models/dws_functions.py: N fields, T neurons, J targets, D channels of a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from wsnets.kernels.native import array


def add_set_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    heads: int,
    scale: float,
    sums: Sequence[Tensor],
    isa: str = "",
) -> tuple[Tensor, ...]:
    """Add scale z_j, as of dws_functions.SetAttention, to J sums in place: no z takes memory.

    Shapes: x (in, N, T); weight (3 D G, in), bias (3 D G,); out_weight (J, out, out), out_bias (J, out); sums J times
    (out, N, T), contiguous. `isa` forces an instruction set. A set's values do not depend on the others or on threads,
    gradients not on threads. Raises ValueError for shapes that do not fit.
    """
    keep = torch.is_grad_enabled()
    return AddSetAttention.apply(x, weight, bias, out_weight, out_bias, (heads, scale, keep, isa), *sums)


class AddSetAttention(Function):
    """See add_set_attention; kept for the gradient are x, the values after attention and the softmax's denominators."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        settings: tuple[int, float, bool, str],
        *sums: Tensor,
    ) -> tuple[Tensor, ...]:
        from wsnets.kernels import _native

        heads, scale, keep, isa = settings
        given = tuple(a.detach().contiguous() for a in (x, weight, bias, out_weight, out_bias))
        targets, out, _ = out_weight.shape
        saved = x.new_empty(targets, x.shape[1], out + heads, x.shape[2]) if keep else None
        _native.attend(
            *map(array, given),
            heads,
            scale,
            torch.get_num_threads(),
            isa,
            [array(z) for z in sums],
            array(saved),
        )
        ctx.mark_dirty(*sums)
        if saved is not None:
            ctx.save_for_backward(*given, saved)
        ctx.settings = settings
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, *d_sums: Tensor) -> tuple[Tensor | None, ...]:
        from wsnets.kernels import _native

        *given, saved = ctx.saved_tensors
        heads, scale, _, isa = ctx.settings
        d_sums = tuple(g.contiguous() for g in d_sums)
        dx = torch.empty_like(given[0]) if ctx.needs_input_grad[0] else None
        gradients = tuple(torch.empty_like(a) for a in given[1:])
        _native.attend_back(
            *map(array, given),
            heads,
            scale,
            torch.get_num_threads(),
            isa,
            [array(g) for g in d_sums],
            array(saved),
            array(dx),
            *map(array, gradients),
        )
        return dx, *gradients, None, *d_sums
