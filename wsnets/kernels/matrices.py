"""Middle weight matrices by the native kernel: what MatrixMap, Spread and moments of dws_functions do, in fewer passes.

Legend as in wsnets/models/dws_functions.py: N fields, O rows, I columns, C channels.
"""

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from wsnets.kernels.activation import BatchNorm
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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
        activation = (None, None, None) if raw else _activation(y, gamma, beta, norm)
        arrays = (array(y), array(weight), pool, *map(array, activation), array(mapped), *map(array, pools))
        _native.map_matrices(*arrays, torch.get_num_threads(), isa)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, weight, *pools)
        ctx.activation, ctx.norm, ctx.pool, ctx.isa = activation, norm, pool, isa
        return mapped, *pools

    @staticmethod
    @once_differentiable
    def backward(ctx, d_mapped: Tensor | None, *d_pools: Tensor | None) -> tuple[Tensor | None, ...]:
        from wsnets.kernels import _native

        y, weight, *pools = ctx.saved_tensors
        d_mapped = y.new_zeros(*y.shape[:3], len(weight)) if d_mapped is None else d_mapped.contiguous()
        d_pools = tuple(None if g is None else g.contiguous() for g in d_pools)
        needed = ctx.needs_input_grad  # z, rows, columns, weight, gamma, beta
        of_sides = needed[1] or needed[2]
        dy = torch.empty_like(y) if needed[0] or of_sides or needed[4] or needed[5] else None
        d_weight, d_shift, d_scaled = torch.empty_like(weight), y.new_empty(y.shape[3]), y.new_empty(y.shape[3])
        given = (array(y), array(weight), ctx.pool, *map(array, ctx.activation), array(d_mapped))
        others = (*pools, *d_pools, dy, d_weight, d_shift, d_scaled)
        threads = torch.get_num_threads()
        _native.map_matrices_back(*given, *map(array, others), threads, ctx.isa)
        affine, d_gamma = _slope(ctx, y, d_shift, d_scaled)
        sides = [torch.empty_like(p) if of_sides else None for p in pools[:2]]
        if dy is not None and (of_sides or affine[0] is not None):
            moved = None if affine[0] is None else y
            _native.settle_back(array(dy), array(moved), *map(array, affine), *map(array, sides), threads, ctx.isa)
        return dy, *sides, d_weight, d_gamma, None if d_gamma is None else d_shift, None, None, None, None


def _activation(
    y: Tensor, gamma: Tensor | None, beta: Tensor | None, norm: BatchNorm | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, shift and mean of every channel."""
    if gamma is None or beta is None or norm is None:
        zeros = y.new_zeros(y.shape[3])
        return torch.ones_like(zeros), zeros, zeros
    scale = gamma * norm.inverse()
    return scale, beta - norm.mean * scale, norm.mean


def _slope(ctx, y: Tensor, d_shift: Tensor, d_scaled: Tensor) -> tuple[tuple[Tensor | None, ...], Tensor | None]:
    """Numbers of the affine map of the gradient d of the normalised y, and of y, that gives y's; gradient of gamma.

    scale (d - mean(d) - h mean(h d)), h = (y - mean) inverse.
    """
    if ctx.norm is None:
        return (None, None, None), None
    (scale, _, mean), inverse = ctx.activation, ctx.norm.inverse()
    d_gamma, count = d_scaled * inverse, y.numel() // y.shape[3]
    if not ctx.norm.of_batch:
        return (scale, torch.zeros_like(scale), torch.zeros_like(scale)), d_gamma
    slope = -scale * inverse * d_gamma / count
    return (scale, slope, -scale * d_shift / count - slope * mean), d_gamma


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
        _native.settle_back(
            array(dy), None, None, None, None, array(rows), array(columns), torch.get_num_threads(), ctx.isa
        )
        return dy, rows, columns, None
