"""Attention over all pairs of nodes, with edge features in queries, keys and values; and other operations on pairs.

Channels come first inside, so that a sum over the channels of a head, and a sum over nodes, both run along memory.
Legend: N fields, I nodes that attend, V nodes attended to, H heads, D channels of a head, E channels of an edge.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from wsnets.kernels.native import takes
from wsnets.kernels.relations import Relate


def attend(edges: Tensor, weight: Tensor, nodes: tuple[Tensor, Tensor, Tensor], scale: float) -> tuple[Tensor, Tensor]:
    """Relational attention. With a_hij = softmax_j(scale (q_hi + A_h e_ij) . (k_hj + B_h e_ij)):

    values_hi = sum_j a_hij (v_hj * (M_h e_ij)) and gathered_hi = sum_j a_hij e_ij, of which a linear map of e_ij in the
    values is one too. edges e (N, I, V, E); weight: A, B, M (3, H, D, E); nodes: q (H, D, N, I), k, v (H, D, N, V) ->
    values (H, D, N, I), gathered (N, I, H, E), in the weight's precision whatever autocast says. Diao and Loynd,
    "Relational attention", ICLR 2023.
    """
    with torch.autocast(edges.device.type, enabled=False):
        same = (edges.to(weight.dtype), weight, *(x.to(weight.dtype) for x in nodes), scale)
        return (Relate if takes(weight) else _Attend).apply(*same)  # type: ignore[return-value]


def pair_sum(maps: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """gelu(u_ij + w_ji + s_i + t_j): maps (N, V, V, 2 C): u, w; sources, targets (N, V, C) -> (N, V, V, C)."""
    return _PairSum.apply(maps, sources, targets)  # type: ignore[return-value]


def scatter(default: Tensor, blocks: list[Tensor], places: list[tuple[slice, slice]], num_nodes: int) -> Tensor:
    """(N, V, V, C): blocks (N, ., ., C) at their places, which do not overlap, and default (C,) everywhere else."""
    return _Scatter.apply(default, places, num_nodes, *blocks)  # type: ignore[return-value]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Tensor, weight: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Any:
        count, rows, columns, width = edges.shape
        _, heads, channels, _ = weight.shape
        maps = torch.mm(weight.view(-1, width), edges.reshape(-1, width).t())
        maps = maps.view(3, heads, channels, count, rows, columns)
        queries, keys, factors = maps.unbind(0)
        queries += q.unsqueeze(-1)
        keys += k.unsqueeze(-2)
        scratch = queries * keys
        attention = (scratch.sum(1) * scale).softmax(-1)
        torch.mul(factors, v.unsqueeze(-2), out=scratch).mul_(attention.unsqueeze(1))
        ctx.save_for_backward(edges, weight, maps, attention, v)
        ctx.scale = scale
        by_row = attention.permute(1, 2, 0, 3).reshape(-1, heads, columns)
        gathered = torch.bmm(by_row, edges.reshape(-1, columns, width))
        return scratch.sum(-1), gathered.view(count, rows, heads, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        edges, weight, maps, attention, v = ctx.saved_tensors
        count, rows, columns, width = edges.shape
        heads = len(attention)
        d_values = gradients[0].unsqueeze(-1)
        d_gathered = gradients[1].reshape(-1, heads, width)
        queries, keys, factors = maps.unbind(0)
        d_maps = torch.empty_like(maps)
        d_queries, d_keys, d_factors = d_maps.unbind(0)
        flat = edges.reshape(-1, columns, width)
        d_attention = torch.bmm(d_gathered, flat.transpose(1, 2)).view(count, rows, heads, columns).permute(2, 0, 1, 3)
        torch.mul(d_values, v.unsqueeze(-2), out=d_factors)
        scratch = d_factors * factors
        d_attention = d_attention + scratch.sum(1)
        d_factors *= attention.unsqueeze(1)
        d_v = torch.mul(factors, attention.unsqueeze(1), out=scratch).mul_(d_values).sum(-2)
        d_attention *= attention
        d_logits = d_attention.addcmul_(attention, d_attention.sum(-1, keepdim=True), value=-1.0).mul_(ctx.scale)
        torch.mul(keys, d_logits.unsqueeze(1), out=d_queries)
        torch.mul(queries, d_logits.unsqueeze(1), out=d_keys)
        by_row = attention.permute(1, 2, 3, 0).reshape(-1, columns, heads)
        d_flat = d_maps.view(-1, count * rows * columns)
        d_edges = torch.mm(d_flat.t(), weight.view(-1, width)).view(-1, columns, width).baddbmm_(by_row, d_gathered)
        d_weight = torch.mm(d_flat, edges.reshape(-1, width))
        return d_edges.view(edges.shape), d_weight.view(weight.shape), d_queries.sum(-1), d_keys.sum(-2), d_v, None


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        there, back = maps.chunk(2, dim=-1)
        sums = (there + back.transpose(1, 2)).add_(sources.unsqueeze(2)).add_(targets.unsqueeze(1))
        ctx.save_for_backward(sums)
        return F.gelu(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (sums,) = ctx.saved_tensors
        d_sums = torch.ops.aten.gelu_backward(gradients[0].contiguous(), sums)
        d_maps = torch.cat([d_sums, d_sums.transpose(1, 2)], dim=-1)
        return d_maps, d_sums.sum(2), d_sums.sum(1)


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, default: Tensor, places: list[tuple[slice, slice]], num_nodes: int, *blocks: Tensor
    ) -> Tensor:
        ctx.places = places
        pairs = default.repeat(len(blocks[0]), num_nodes, num_nodes, 1)
        for (rows, columns), block in zip(places, blocks, strict=True):
            pairs[:, rows, columns] = block
        return pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        d_blocks = [gradients[0][:, rows, columns] for rows, columns in ctx.places]
        d_default = gradients[0].sum((0, 1, 2)) - sum(d.sum((0, 1, 2)) for d in d_blocks)
        return d_default, None, None, *d_blocks
