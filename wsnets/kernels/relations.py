"""Relational attention by the native kernel: what is made of two rows of edges at a time stays in cache.

Legend as in wsnets/models/neural_graph_attention.py: N fields, I nodes that attend, V nodes attended to, H heads, D
channels of a head, E channels of an edge.
"""

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from wsnets.kernels.native import array


class Relate(Function):
    """As neural_graph_attention.attend, in float32 on a CPU; isa: forces an instruction set.

    A field's values do not depend on the others, nor do gradients on threads. Kept for the gradient are the attention
    and, for every channel of a value, the mean edge under it. Raises ValueError for shapes that do not fit.
    """

    @staticmethod
    def forward(
        ctx, edges: Tensor, weight: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, isa: str = ""
    ) -> tuple[Tensor, Tensor]:
        from wsnets.kernels import _native

        given = tuple(x.contiguous() for x in (edges, weight, q, k, v))
        (n, rows, nodes, width), (heads, size) = edges.shape, weight.shape[1:3]
        values, gathered = torch.empty_like(given[2]), edges.new_empty(n, rows, heads, width)
        kept: tuple[Tensor | None, ...] = (None, None)
        if any(ctx.needs_input_grad):
            kept = (edges.new_empty(n, rows, heads, nodes), edges.new_empty(n, rows, heads, size, width))
        arrays = (*map(array, given), scale, *map(array, (values, gathered, *kept)))
        _native.relate(*arrays, torch.get_num_threads(), isa)
        ctx.save_for_backward(*given, *kept)
        ctx.scale, ctx.isa = scale, isa
        return values, gathered

    @staticmethod
    @once_differentiable
    def backward(ctx, d_values: Tensor, d_gathered: Tensor) -> tuple[Tensor | None, ...]:
        from wsnets.kernels import _native

        *given, attention, mixed = ctx.saved_tensors
        gradients = tuple(torch.empty_like(x) for x in given)
        parts = (d_values.contiguous(), d_gathered.contiguous(), attention, mixed, *gradients)
        _native.relate_back(*map(array, given), ctx.scale, *map(array, parts), torch.get_num_threads(), ctx.isa)
        return *gradients, None, None
