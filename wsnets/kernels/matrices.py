"""Middle weight matrices by the native kernel: what MatrixMap, Spread and moments of dws_functions do, in fewer passes.

Legend as in wsnets/models/dws_functions.py: N fields, O rows, I columns, C channels.
"""

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from wsnets.kernels.activation import BatchNorm, numbers_of
from wsnets.kernels.native import array


class MapMatrix(Function):
    """As dws_functions.Spread and MatrixMap without a mask: y = z + rows + columns, activation, linear map and pools.

    Pools are channels first, over I, over O and over both, of which equal largest rows share the gradient. Shapes: z
    (N, O, I, C), which is lost where rows (C, N, O) and columns (C, N, I) are given; weight (C', C); gamma, beta (C,),
    or None for relu(y), or y where `raw`; x W^T (N, O, I, C'), pools (C, N, O), (C, N, I), (C, N). isa: forces an
    instruction set.
    """

    @staticmethod
    def forward(
        ctx,
        z: Tensor,
        rows: Tensor | None,
        columns: Tensor | None,
        weight: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        norm: BatchNorm | None,
        pool: str,
        raw: bool,
        isa: str = "",
    ) -> tuple[Tensor, ...]:
        from wsnets.kernels import _native

        y, weight = z.contiguous(), weight.contiguous()
        sides = tuple(None if s is None else s.contiguous() for s in (rows, columns))
        statistics = (norm.mean, norm.variance) if norm is not None and norm.of_batch else (None, None)
        if sides[0] is not None or statistics[0] is not None:
            _native.settle(array(y), *map(array, sides), *map(array, statistics), torch.get_num_threads(), isa)
        if sides[0] is not None:
            torch.autograd.graph.increment_version(z)  # z is no output, so that it cannot be marked dirty
        n, num_rows, num_columns, channels = y.shape
        mapped = y.new_empty(n, num_rows, num_columns, len(weight))
        shapes = ((channels, n, num_rows), (channels, n, num_columns), (channels, n))
        pools = tuple(y.new_empty(shape) for shape in shapes)
        arrays = (array(y), array(weight), pool, raw, *_norm(gamma, beta, norm), array(mapped), *map(array, pools))
        _native.map_matrices(*arrays, torch.get_num_threads(), isa)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, weight, gamma, beta, *pools)
        ctx.norm, ctx.how, ctx.isa = norm, (pool, raw), isa
        return mapped, *pools

    @staticmethod
    @once_differentiable
    def backward(ctx, d_mapped: Tensor | None, *d_pools: Tensor | None) -> tuple[Tensor | None, ...]:
        from wsnets.kernels import _native

        y, weight, gamma, beta, *pools = ctx.saved_tensors
        d_mapped = y.new_zeros(*y.shape[:3], len(weight)) if d_mapped is None else d_mapped.contiguous()
        d_pools = tuple(None if g is None else g.contiguous() for g in d_pools)
        needed = ctx.needs_input_grad  # z, rows, columns, weight, gamma, beta
        of_sides = needed[1] or needed[2]
        dy = torch.empty_like(y) if needed[0] or of_sides or needed[4] or needed[5] else None
        d_weight, d_shift, d_scaled = torch.empty_like(weight), y.new_empty(y.shape[3]), y.new_empty(y.shape[3])
        given = (array(y), array(weight), *ctx.how, *_norm(gamma, beta, ctx.norm), array(d_mapped))
        others = (*pools, *d_pools, dy, d_weight, d_shift, d_scaled)
        threads = torch.get_num_threads()
        _native.map_matrices_back(*given, *map(array, others), threads, ctx.isa)
        sides = [torch.empty_like(p) if of_sides else None for p in pools[:2]]
        d_gamma = None if ctx.norm is None or dy is None else torch.empty_like(d_scaled)
        if dy is not None and (of_sides or d_gamma is not None):
            moved = (None, None, None, None) if d_gamma is None else (y, d_shift, d_scaled, d_gamma)
            how = (*_norm(gamma, beta, ctx.norm), ctx.norm is not None and ctx.norm.of_batch)
            after = (*map(array, moved[1:]), *map(array, sides))
            _native.settle_back(array(dy), array(moved[0]), *how, *after, threads, ctx.isa)
        return dy, *sides, d_weight, d_gamma, None if d_gamma is None else d_shift, None, None, None, None


def _norm(gamma: Tensor | None, beta: Tensor | None, norm: BatchNorm | None) -> tuple[list, float]:
    """A normalisation as the module takes it: its numbers, and epsilon."""
    return [array(x) for x in numbers_of(gamma, beta, norm)], 0.0 if norm is None else norm.epsilon


class SpreadMatrix(Function):
    """As dws_functions.Spread, channels first: z (N, O, I, C) + rows (C, N, O) + columns (C, N, I), in place."""

    @staticmethod
    def forward(ctx, z: Tensor, rows: Tensor, columns: Tensor, isa: str = "") -> Tensor:
        from wsnets.kernels import _native

        sides = (rows.contiguous(), columns.contiguous())
        _native.settle(array(z), *map(array, sides), None, None, torch.get_num_threads(), isa)
        ctx.mark_dirty(z)
        ctx.isa = isa
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        from wsnets.kernels import _native

        dy = dy.contiguous()
        rows, columns = (dy.new_empty(dy.shape[3], len(dy), dy.shape[axis]) for axis in (1, 2))
        norm = ([None] * 4, 0.0, False, None, None, None)
        _native.settle_back(array(dy), None, *norm, array(rows), array(columns), torch.get_num_threads(), ctx.isa)
        return dy, rows, columns, None
