"""Maps of blocks of weights by the native kernel: entries stay in cache from the product until their means are known.

Legend as in wsnets/models/nfn_layers.py: N fields, O out, I in, C channels, D new channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from wsnets.kernels.native import array


class MapBlock(Function):
    """As nfn_layers.MapBlock, in float32 on a CPU; isa: forces an instruction set.

    A field's values do not depend on the others, nor do gradients on threads. Kept for the gradient are x and a bit for
    every entry of z. Raises ValueError for shapes that do not fit.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        row: Tensor,
        column: Tensor,
        gain: Tensor | None,
        scale: float,
        keep: bool,
        isa: str = "",
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        from wsnets.kernels import _native

        given = tuple(a.contiguous() for a in (x, weight, row, column))
        gain = None if gain is None else gain.flatten(1).contiguous()
        sizes, width = x.shape[:3], len(weight)
        z = x.new_empty(*sizes, width) if keep else None
        signs = x.new_empty(*sizes, -(-width // 32)) if any(ctx.needs_input_grad) else None
        by_row, by_column = (torch.empty_like(side) for side in given[2:])
        results = (gain, z, signs, by_row, by_column)
        _native.map_blocks(*map(array, (*given, *results)), torch.get_num_threads(), isa)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given[:2], signs)
        ctx.scale, ctx.isa = scale, isa
        return z, by_row, by_column

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None, by_row: Tensor | None, by_column: Tensor | None) -> tuple[Any, ...]:
        from wsnets.kernels import _native

        x, weight, signs = ctx.saved_tensors
        (count, rows, columns, _), width = x.shape, len(weight)
        by_row = torch.zeros(count, rows, width) if by_row is None else by_row.contiguous()
        by_column = torch.zeros(count, columns, width) if by_column is None else by_column.contiguous()
        dz = None if dz is None else dz.contiguous()
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        d_weight, d_row, d_column = map(torch.empty_like, (weight, by_row, by_column))
        given = (*map(array, (x, weight, signs)), ctx.scale)
        arrays = map(array, (dz, by_row, by_column, dx, d_weight, d_row, d_column))
        _native.map_blocks_back(*given, *arrays, torch.get_num_threads(), ctx.isa)
        return dx, d_weight, d_row, d_column, None, None, None, None
