"""Weighted sums of table rows: what grid encodings read from their trained tables.

Legend: N fields, M 1 or N, B points, K rows of features per point, C corners per row, T table rows, F features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

# Up to so many features, one scatter per feature is the fastest gradient on a CPU; above, sorting rows first is.
_NARROW = 16


def lookup(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Return sum_c weight[c] * table[index[c]] for every row of every point, differentiable twice in table and weight.

    Shapes: table (N, T, F), index (int32 or int64) and weight (M, B, K, C), M = 1 when all fields share their points ->
    (N, B, K * F).
    """
    count, rows, features = table.shape
    shared, points, per_point, corners = index.shape
    if count == 0 or points == 0:
        return table.new_zeros(count, points, per_point * features)
    if shared == 1 and count > 1 and rows <= index.numel():
        # One lookup serves all fields: their rows side by side. Worth it only where the copy is the smaller part.
        together = table.transpose(0, 1).reshape(rows, count * features)
        found = _Lookup.apply(together, index.view(-1, corners), weight.reshape(-1, corners))
        return found.view(points, per_point, count, features).permute(2, 0, 1, 3).flatten(2)  # type: ignore[union-attr]
    starts = torch.arange(0, count * rows, rows, dtype=index.dtype, device=table.device).view(count, 1, 1, 1)
    index, weight = index + starts, weight.expand(count, -1, -1, -1)
    found = _Lookup.apply(table.flatten(0, 1), index.view(-1, corners), weight.reshape(-1, corners))
    return found.view(count, points, per_point * features)  # type: ignore[union-attr]


class _Lookup(torch.autograd.Function):
    """(T, F), (B, C), (B, C) -> (B, F)."""

    @staticmethod
    def forward(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        table, index, weight = ctx.saved_tensors
        to_table = to_weight = None
        if ctx.needs_input_grad[0]:
            to_table = _scatter(gradient, index, weight, len(table))
        if ctx.needs_input_grad[2]:
            found = table.index_select(0, index.view(-1)).view(*index.shape, -1)
            to_weight = torch.einsum("bf,bcf->bc", gradient, found)
        return to_table, None, to_weight


def _scatter(gradient: Tensor, index: Tensor, weight: Tensor, rows: int) -> Tensor:
    """Add weight[b, c] * gradient[b] to row index[b, c] of zeros: (B, F), (B, C), (B, C) -> (rows, F)."""
    features, flat = gradient.shape[1], index.reshape(-1).long()
    if torch.is_grad_enabled() or gradient.device.type != "cpu":
        spread = (gradient.unsqueeze(1) * weight.unsqueeze(2)).flatten(0, 1)
        return gradient.new_zeros(rows, features).index_add(0, flat, spread)
    if features <= _NARROW:
        total = gradient.new_zeros(features, rows)
        for feature, values in enumerate(gradient.T.contiguous()):
            total[feature].scatter_add_(0, flat, (values.unsqueeze(1) * weight).view(-1))
        return total.T.contiguous()
    order = flat.argsort(stable=True)
    ends = torch.bincount(flat, minlength=rows).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    terms = order.div(index.shape[1], rounding_mode="floor")
    return F.embedding_bag(terms, gradient, starts, mode="sum", per_sample_weights=weight.reshape(-1)[order])
