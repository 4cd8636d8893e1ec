"""Messages between neighbouring layers over dense blocks of edges, with their gradients: no scatter, no concatenation.

An edge joins each pair of neurons of neighbouring layers, in both directions. All edges that run between the same two
layers in the same direction make a block (N, T, S, C): N fields, T targets, S sources, C channels. The messages into a
node are then a row of one or two blocks, and their aggregation is a reduction of blocks over S. All blocks lie one
after another in one tensor (M, C), M edges, so that a linear map of all edges is one product. Legend also: V nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from wsnets.kernels import messages
from wsnets.kernels.native import takes

_MIN_VARIANCE = 1e-5  # of messages: up to it their standard deviation counts as 0 and has no gradient


@dataclass(frozen=True)
class Block:
    """Edges `start` to `stop` of a field: from all S nodes of layer `source` to all T nodes of layer `target`."""

    target: int
    source: int
    num_targets: int
    num_sources: int
    start: int

    @property
    def stop(self) -> int:
        """Number of the first edge that comes after the block."""
        return self.start + self.num_targets * self.num_sources


@dataclass(frozen=True)
class Layout:
    """Where nodes and edges of fields with layer widths `dims` are: nodes (N, V, C) layer after layer, edges (M, C)
    block after block. Blocks that run with the flow come first, the last layer's first of all, so that the edges that
    the outputs need are a slice, and so are those that are weights."""

    dims: tuple[int, ...]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, in the order of storage."""
        with_flow = [(k + 1, k) for k in reversed(range(len(self.dims) - 1))]
        blocks: list[Block] = []
        for target, source in [*with_flow, *((source, target) for target, source in with_flow)]:
            start = blocks[-1].stop if blocks else 0
            blocks.append(Block(target, source, self.dims[target], self.dims[source], start))
        return tuple(blocks)

    @cached_property
    def num_weights(self) -> int:
        """Edges of one field in one direction."""
        return self.blocks[-1].stop // 2

    @cached_property
    def num_last(self) -> int:
        """Edges of one field into its output nodes."""
        return self.blocks[0].stop

    def split_nodes(self, nodes: Tensor) -> Sequence[Tensor]:
        """Views (N, n, ...) of each layer's nodes."""
        return nodes.split_with_sizes(self.dims, 1)

    def split_edges(self, edges: Tensor, count: int) -> list[Tensor]:
        """Views (N, T, S, C) of the blocks that `edges` of N = `count` fields hold, be it all or the first ones."""
        num_edges, width = edges.shape
        return [
            edges.narrow(0, count * b.start, count * (b.stop - b.start)).view(
                count, b.num_targets, b.num_sources, width
            )
            for b in self.blocks
            if count * b.stop <= num_edges
        ]

    def first_nodes(self, block: Block) -> tuple[int, int]:
        """First node of a block's targets, and of its sources."""
        return sum(self.dims[: block.target]), sum(self.dims[: block.source])

    def degrees(self, num_edges: int) -> list[int]:
        """Number of messages into every node (V), where only the first `num_edges` of a field's edges carry one."""
        degrees = [0] * len(self.dims)
        for b in self.blocks:
            degrees[b.target] += b.num_sources if b.stop <= num_edges else 0
        return [degree for degree, width in zip(degrees, self.dims, strict=True) for _ in range(width)]


def aggregate(modulation: Tensor, nodes: Tensor, layout: Layout) -> Tensor:
    """Aggregate messages m_ts = scale_ts * (a_t + b_s) + shift_ts from all sources s of a node t.

    modulation (M, 2 C): scale, shift; nodes (N, V, 2 C): a, b -> (N, V, 4 C): mean, min, max, standard deviation over
    s. Zero where no message arrives. Corso et al., "Principal neighbourhood aggregation for graph nets", NeurIPS 2020.
    """
    return _Aggregate.apply(modulation, nodes, layout)  # type: ignore[return-value]


def update(edges: Tensor, nodes: Tensor, layout: Layout) -> Tensor:
    """silu(e_ts + a_t + b_s) for edges (M, C) and nodes (N, V, 2 C): a, b -> (M, C)."""
    return _Update.apply(edges, nodes, layout)  # type: ignore[return-value]


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, modulation: Tensor, nodes: Tensor, layout: Layout) -> Tensor:
        count, native = len(nodes), takes(modulation) and takes(nodes)
        modulation, nodes = modulation.contiguous(), nodes.contiguous()
        statistics = nodes.new_zeros((count, nodes.shape[1], 4, nodes.shape[2] // 2))
        reached: set[int] = set()
        for block, change in zip(layout.blocks, layout.split_edges(modulation, count), strict=False):
            is_first = block.target not in reached
            if native:
                messages.gather(change, nodes, statistics, layout.first_nodes(block), is_first)
            else:
                _gather(change, nodes, statistics, layout, block, is_first)
            reached.add(block.target)
        degrees = nodes.new_tensor(layout.degrees(len(modulation) // count)).clamp_min_(1.0).unsqueeze(1)
        mean, _, _, spread = statistics.unbind(2)
        mean /= degrees
        spread.div_(degrees).addcmul_(mean, mean, value=-1.0)
        spread.masked_fill_(spread <= _MIN_VARIANCE, 0.0).sqrt_()
        ctx.save_for_backward(modulation, nodes, statistics, degrees)
        ctx.layout, ctx.native = layout, native
        return statistics.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        modulation, nodes, statistics, degrees = ctx.saved_tensors
        layout, count = ctx.layout, len(nodes)
        d_modulation, d_nodes = torch.empty_like(modulation), torch.zeros_like(nodes)
        mean, _, _, spread = statistics.unbind(2)
        d_mean, *d_extremes, d_spread = gradients[0].view(statistics.shape).unbind(2)
        slope = d_spread / (degrees * spread.clamp_min(_MIN_VARIANCE**0.5)) * (spread > 0)
        offset = torch.addcmul(d_mean / degrees, slope, mean, value=-1.0)
        heard = torch.stack([offset, *d_extremes, slope], 2)
        blocks = (layout.split_edges(x, count) for x in (modulation, d_modulation))
        for block, change, d_change in zip(layout.blocks, *blocks, strict=False):
            if ctx.native:
                given = (change, nodes, statistics, heard, d_change, d_nodes)
                messages.gather_back(*given, layout.first_nodes(block))
            else:
                _gather_back(change, nodes, statistics, heard, d_change, d_nodes, layout, block)
        return d_modulation, d_nodes, None


def _gather(change: Tensor, nodes: Tensor, statistics: Tensor, layout: Layout, block: Block, is_first: bool) -> None:
    """As kernels.messages.gather, of one block."""
    scale, shift = change.chunk(2, dim=3)
    m = torch.addcmul(shift, scale, _ends(nodes, layout, block))
    total, low, high, squares = layout.split_nodes(statistics)[block.target].unbind(2)
    if is_first:
        low.copy_(m.amin(2))
        high.copy_(m.amax(2))
    else:
        torch.minimum(low, m.amin(2), out=low)
        torch.maximum(high, m.amax(2), out=high)
    total += m.sum(2)
    squares += (m * m).sum(2)


def _gather_back(
    change: Tensor,
    nodes: Tensor,
    statistics: Tensor,
    heard: Tensor,
    d_change: Tensor,
    d_nodes: Tensor,
    layout: Layout,
    block: Block,
) -> None:
    """As kernels.messages.gather_back, of one block."""
    (scale, shift), (d_scale, d_shift) = change.chunk(2, dim=3), d_change.chunk(2, dim=3)
    ends = _ends(nodes, layout, block)
    m = torch.addcmul(shift, scale, ends)
    _, *extremes, _ = layout.split_nodes(statistics)[block.target].unsqueeze(2).unbind(3)
    offset, *d_extremes, slope = layout.split_nodes(heard)[block.target].unsqueeze(2).unbind(3)
    torch.addcmul(offset, slope, m, out=d_shift)  # a message's gradient is that of its shift
    for extreme, d_extreme in zip(extremes, d_extremes, strict=True):
        d_shift.addcmul_((m == extreme).to(m.dtype), d_extreme)
    torch.mul(d_shift, ends, out=d_scale)
    d_ends, (d_targets, d_sources) = d_shift * scale, d_nodes.chunk(2, dim=2)
    layout.split_nodes(d_targets)[block.target].add_(d_ends.sum(2))
    layout.split_nodes(d_sources)[block.source].add_(d_ends.sum(1))


def _ends(nodes: Tensor, layout: Layout, block: Block) -> Tensor:
    """a_t + b_s of a block's edges (N, T, S, C)."""
    targets, sources = (layout.split_nodes(part) for part in nodes.chunk(2, dim=2))
    return targets[block.target].unsqueeze(2) + sources[block.source].unsqueeze(1)


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Tensor, nodes: Tensor, layout: Layout) -> Tensor:
        count, width = len(nodes), edges.shape[1]
        sums = torch.empty_like(edges)
        targets, sources = (layout.split_nodes(part) for part in nodes.split_with_sizes((width, width), 2))
        for b, e, out in zip(layout.blocks, *(layout.split_edges(x, count) for x in (edges, sums)), strict=False):
            torch.add(e, targets[b.target].unsqueeze(2), out=out).add_(sources[b.source].unsqueeze(1))
        ctx.save_for_backward(sums)
        ctx.layout, ctx.shape = layout, nodes.shape
        return F.silu(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (sums,) = ctx.saved_tensors
        layout, width = ctx.layout, sums.shape[1]
        d_edges = torch.ops.aten.silu_backward(gradients[0].contiguous(), sums)
        d_nodes = sums.new_zeros(ctx.shape)
        d_targets, d_sources = (layout.split_nodes(part) for part in d_nodes.split_with_sizes((width, width), 2))
        for block, d in zip(layout.blocks, layout.split_edges(d_edges, ctx.shape[0]), strict=False):
            d_targets[block.target].add_(d.sum(2))
            d_sources[block.source].add_(d.sum(1))
        return d_edges, d_nodes, None
