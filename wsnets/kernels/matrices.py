"""Middle weight matrices by the native kernel: what MatrixMap, Spread and moments of dws_functions do, in fewer passes.

Legend as in wsnets/models/dws_functions.py: N fields, O rows, I columns, C channels.
"""

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from wsnets.kernels.native import array


def moments(y: Tensor, isa: str = "") -> tuple[Tensor, Tensor]:
    """Mean and variance (divided by the count) of every channel of y (N, O, I, C), field by field, then over fields."""
    from wsnets.kernels import _native

    y = y.contiguous()
    means, squares = y.new_empty(len(y), y.shape[3]), y.new_empty(len(y), y.shape[3])
    _native.moments(array(y), array(means), array(squares), torch.get_num_threads(), isa)
    per_field, of_fields = means.double(), squares.double()
    mean = per_field.mean(0)
    variance = (per_field - mean).square().mean(0) + of_fields.mean(0) / y[0, ..., 0].numel()
    return mean.to(y.dtype), variance.to(y.dtype)


class MapMatrix(Function):
    """As dws_functions.MatrixMap without a mask: activation, linear map and pools; isa: forces an instruction set.

    Pools are channels first, over I, over O and over both, of which equal largest rows share the gradient. Shapes: y
    (N, O, I, C), weight (C', C); z (N, O, I, C'), rows (C, N, O), columns (C, N, I), pooled (C, N); gamma, beta, mean and inverse (C,), or None for relu(y), or y where `raw`.
    of_batch: mean and inverse are of this very y.
    """

    @staticmethod
    def forward(
        ctx,
        y: Tensor,
        weight: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        statistics: tuple[Tensor, Tensor, bool] | None,
        pool: str,
        raw: bool,
        isa: str = "",
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from wsnets.kernels import _native

        y, weight = y.contiguous(), weight.contiguous()
        n, num_rows, num_columns, channels = y.shape
        z = y.new_empty(n, num_rows, num_columns, len(weight))
        shapes = ((channels, n, num_rows), (channels, n, num_columns), (channels, n))
        pools = tuple(y.new_empty(shape) for shape in shapes)
        activation = (None, None, None) if raw else _activation(y, gamma, beta, statistics)
        arrays = (array(y), array(weight), pool, *map(array, activation), array(z), *map(array, pools))
        _native.map_matrices(*arrays, torch.get_num_threads(), isa)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, weight, *pools)
        ctx.activation, ctx.statistics, ctx.pool, ctx.isa = activation, statistics, pool, isa
        return z, *pools

    @staticmethod
    @once_differentiable
    def backward(ctx, dz: Tensor | None, *d_pools: Tensor | None) -> tuple[Tensor | None, ...]:
        from wsnets.kernels import _native

        y, weight, *pools = ctx.saved_tensors
        dz = y.new_zeros(*y.shape[:3], len(weight)) if dz is None else dz
        d_pools = tuple(None if g is None else g.contiguous() for g in d_pools)
        dy = torch.empty_like(y) if ctx.needs_input_grad[0] or ctx.needs_input_grad[2] else None
        d_weight, d_shift, d_scaled = torch.empty_like(weight), y.new_empty(y.shape[3]), y.new_empty(y.shape[3])
        given = (array(y), array(weight), ctx.pool, *map(array, ctx.activation), array(dz.contiguous()))
        others = (*pools, *d_pools, dy, d_weight, d_shift, d_scaled)
        _native.map_matrices_back(*given, *map(array, others), torch.get_num_threads(), ctx.isa)
        if ctx.statistics is None or dy is None:
            return dy, d_weight, None, None, None, None, None, None
        (scale, _, mean), (_, inverse, of_batch) = ctx.activation, ctx.statistics
        d_gamma, count = d_scaled * inverse, y.numel() // y.shape[3]
        # scale (dx - mean(dx) - h mean(h dx)), h = (y - mean) inverse: an affine map of dx and y.
        slope = -scale * inverse * d_gamma / count if of_batch else torch.zeros_like(scale)
        level = -scale * d_shift / count - slope * mean if of_batch else torch.zeros_like(scale)
        parts = (dy, y, scale, slope, level)
        _native.affine(*map(array, parts), torch.get_num_threads(), ctx.isa)
        return dy, d_weight, d_gamma, d_shift, None, None, None, None


def _activation(
    y: Tensor, gamma: Tensor | None, beta: Tensor | None, statistics: tuple[Tensor, Tensor, bool] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, shift and mean of every channel."""
    if gamma is None or beta is None or statistics is None:
        zeros = y.new_zeros(y.shape[3])
        return torch.ones_like(zeros), zeros, zeros
    mean, inverse, _ = statistics
    scale = gamma * inverse
    return scale, beta - mean * scale, mean.contiguous()


class SpreadMatrix(Function):
    """As dws_functions.Spread, channels first: z (N, O, I, C) + rows (C, N, O) + columns (C, N, I), in place."""

    @staticmethod
    def forward(ctx, z: Tensor, rows: Tensor, columns: Tensor, isa: str = "") -> Tensor:
        from wsnets.kernels import _native

        parts = (z, rows.contiguous(), columns.contiguous())
        _native.spread(*map(array, parts), torch.get_num_threads(), isa)
        ctx.mark_dirty(z)
        ctx.isa = isa
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        from wsnets.kernels import _native

        dy = dy.contiguous()
        rows, columns = (dy.new_empty(dy.shape[3], len(dy), dy.shape[axis]) for axis in (1, 2))
        _native.gather(array(dy), array(rows), array(columns), torch.get_num_threads(), ctx.isa)
        return dy, rows, columns, None
