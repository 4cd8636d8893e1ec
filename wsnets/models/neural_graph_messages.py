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
        count, width = len(nodes), nodes.shape[2] // 2
        messages = modulation.new_empty((len(modulation), width))
        targets, sources = (layout.split_nodes(part) for part in nodes.split_with_sizes((width, width), 2))
        statistics = nodes.new_zeros((count, nodes.shape[1], 4, width))
        layers, reached = layout.split_nodes(statistics), set()
        rows = (layout.split_edges(x, count) for x in (modulation, messages))
        for block, change, m in zip(layout.blocks, *rows, strict=False):
            scale, shift = change.split_with_sizes((width, width), 3)
            torch.add(targets[block.target].unsqueeze(2), sources[block.source].unsqueeze(1), out=m)
            torch.addcmul(shift, scale, m, out=m)
            total, low, high, squares = layers[block.target].unbind(2)
            if block.target in reached:
                torch.minimum(low, m.amin(2), out=low)
                torch.maximum(high, m.amax(2), out=high)
            else:
                low.copy_(m.amin(2))
                high.copy_(m.amax(2))
            total += m.sum(2)
            squares += (m * m).sum(2)
            reached.add(block.target)
        degrees = nodes.new_tensor(layout.degrees(len(modulation) // count)).clamp_min_(1.0).unsqueeze(1)
        mean, _, _, spread = statistics.unbind(2)
        mean /= degrees
        spread.div_(degrees).addcmul_(mean, mean, value=-1.0)
        spread.masked_fill_(spread <= _MIN_VARIANCE, 0.0).sqrt_()
        ctx.save_for_backward(modulation, nodes, messages, statistics, degrees)
        ctx.layout = layout
        return statistics.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        modulation, nodes, messages, statistics, degrees = ctx.saved_tensors
        layout, count, width = ctx.layout, len(nodes), messages.shape[1]
        d_modulation, d_nodes = torch.empty_like(modulation), torch.zeros_like(nodes)
        targets, sources = (layout.split_nodes(part) for part in nodes.split_with_sizes((width, width), 2))
        d_targets, d_sources = (layout.split_nodes(part) for part in d_nodes.split_with_sizes((width, width), 2))
        rows = [layout.split_edges(x, count) for x in (messages, modulation, d_modulation)]
        # A message's gradient: offset + slope * message, plus all of an extreme's where it is the extreme, tie or not.
        mean, *extremes, spread = statistics.unsqueeze(2).unbind(3)
        d_mean, *d_extremes, d_spread = gradients[0].view(statistics.shape).unsqueeze(2).unbind(3)
        degrees = degrees.unsqueeze(1)
        slope = d_spread / (degrees * spread.clamp_min(_MIN_VARIANCE**0.5)) * (spread > 0)
        offsets = layout.split_nodes(torch.addcmul(d_mean / degrees, slope, mean, value=-1.0))
        slopes = layout.split_nodes(slope)
        pairs = [(layout.split_nodes(x), layout.split_nodes(d)) for x, d in zip(extremes, d_extremes, strict=True)]
        for block, m, change, d_change in zip(layout.blocks, *rows, strict=False):
            t, s = block.target, block.source
            d_scale, d_m = d_change.split_with_sizes((width, width), 3)  # a message's gradient is that of its shift
            torch.addcmul(offsets[t], slopes[t], m, out=d_m)
            scratch = torch.empty_like(m)
            for values, d_values in pairs:  # compared as floats: products with booleans are several times slower
                d_m.addcmul_(torch.eq(m, values[t], out=scratch), d_values[t])
            torch.add(targets[t].unsqueeze(2), sources[s].unsqueeze(1), out=scratch)
            torch.mul(d_m, scratch, out=d_scale)
            torch.mul(d_m, change.narrow(3, 0, width), out=scratch)
            d_targets[t].add_(scratch.sum(2))
            d_sources[s].add_(scratch.sum(1))
        return d_modulation, d_nodes, None


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
