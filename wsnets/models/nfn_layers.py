"""Layers of neural functional networks: every affine map of weights that commutes with permutations of neurons.

The neurons of stage j (0: inputs, L: outputs) sit between the weights that lead into them, W_{j-1}, and those that
leave them, W_j. All terms of the published layers but one are affine maps of three things of a neuron together: the
mean of its row of W_{j-1}, its bias, the mean of its column of W_j. So a layer is one product per stage over such node
vectors, one over their means, and one per block of weights, which is where nearly all arithmetic is.
NP: all stages permute. HNP: hidden stages permute; W_0 and W_{L-1} are then channels of the nodes that they touch, one
set for each input or output. Legend: N fields, O out, I in, C channels, D new channels, L layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from wsnets.heads import dropout
from wsnets.kernels import blocks
from wsnets.kernels.native import takes

# Bytes of a block that elementwise passes work on at a time, so that they find in cache what the product left there.
_PIECE_BYTES = 2**22


@dataclass(frozen=True)
class Layout:
    """What permutes in fields of widths `dims`, and how many sets of C channels every node vector and mean has.

    ends: whether inputs and outputs have identities (HNP) instead of permuting (NP).
    """

    dims: tuple[int, ...]
    ends: bool

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.dims) - 1

    @property
    def blocks(self) -> range:
        """Layers whose weights are blocks (N, O, I, C) of their own, both of whose ends permute."""
        return range(1, self.num_layers - 1) if self.ends else range(self.num_layers)

    @property
    def stages(self) -> range:
        """Stages whose neurons permute."""
        return range(1, self.num_layers) if self.ends else range(self.num_layers + 1)

    def node(self, stage: int) -> tuple[int, int, int]:
        """Sets of channels of a node of `stage`: (weights into it, bias, weights out of it)."""
        last = self.num_layers
        into = 0 if stage == 0 else self.dims[0] if self.ends and stage == 1 else 1
        out = 0 if stage == last else self.dims[-1] if self.ends and stage == last - 1 else 1
        return into, int(stage > 0), out

    def mean(self, layer: int) -> tuple[int, int]:
        """Sets of channels of the mean over `layer`: (weights, biases)."""
        if self.ends and layer == self.num_layers - 1:
            return self.dims[-1], self.dims[-1]
        return (self.dims[0] if self.ends and layer == 0 else 1), 1

    @property
    def num_means(self) -> int:
        """Sets of channels of all means of a field."""
        return sum(sum(self.mean(layer)) for layer in range(self.num_layers))


@dataclass(frozen=True)
class Signals:
    """Features of N fields between two layers.

    blocks[l]: (N, O, I, C) for layers of `layout.blocks`; nodes[j]: (N, n_j, sets C), in the order of `layout.node`,
    means of blocks included; last: (N, O C), the output biases where outputs have identities.
    """

    blocks: dict[int, Tensor]
    nodes: dict[int, Tensor]
    last: Tensor | None


def signals_of(weights: tuple[Tensor, ...], biases: tuple[Tensor, ...], layout: Layout) -> Signals:
    """Arrange weights (N, O, I, C) and biases (N, O, C) of every layer."""
    blocks = {layer: weights[layer] for layer in layout.blocks}
    into = {layer + 1: block.mean(2) for layer, block in blocks.items()}
    out = {layer: block.mean(1) for layer, block in blocks.items()}
    if layout.ends:
        into[1] = weights[0].flatten(2)
        out[layout.num_layers - 1] = weights[-1].transpose(1, 2).flatten(2)
    own = {stage: biases[stage - 1] for stage in layout.stages if stage > 0}
    return Signals(blocks, _gather(into, own, out, layout), biases[-1].flatten(1) if layout.ends else None)


def _gather(into: dict, own: dict, out: dict, layout: Layout) -> dict[int, Tensor]:
    return {
        stage: torch.cat([parts[stage] for parts in (into, own, out) if stage in parts], dim=2)
        for stage in layout.stages
    }


def means(signals: Signals, layout: Layout) -> Tensor:
    """Mean over everything that permutes, (N, num_means C): weights and biases of layer 0, then of layer 1, ..."""
    parts = []
    for stage in layout.stages:
        into, own, out = layout.node(stage)
        mean = signals.nodes[stage].mean(1)
        channels = mean.shape[1] // (into + own + out)
        final = layout.ends and stage == layout.num_layers - 1
        parts.append(mean if final else mean[:, : (into + own) * channels])
    if signals.last is not None:
        parts.append(signals.last)
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Terms:
    """What a layer adds to weights into a stage, its biases, weights out of it: each a dict of (N, n_j, sets D).

    last: (N, O D), the output biases where outputs have identities.
    """

    into: dict[int, Tensor]
    own: dict[int, Tensor]
    out: dict[int, Tensor]
    last: Tensor | None = None

    def plus(self, other: "Terms | None") -> "Terms":
        """Sum with terms of one field for all, which may lack some."""
        if other is None:
            return self
        pairs = ((self.into, other.into), (self.own, other.own), (self.out, other.out))
        into, own, out = ({k: v + more[k] if k in more else v for k, v in mine.items()} for mine, more in pairs)
        return Terms(into, own, out, self.last)


class EquivariantLinear(nn.Module):
    """All terms of an NP or HNP layer: block W_l[o, i] becomes A_l W_l[o, i] + (its node o) + (its node i) + (means).

    Shapes: `Signals` of C channels -> with ReLU `Signals` of D channels, or by `linear` (weights (N, O, I, D), biases
    (N, O, D)). fan_in: number of channels that the scale of initial weights counts on, 0 for C. Each term is in the
    layer once: the published HNP layer has some twice (the mean of W_0 over inputs beside all of W_0) and lacks the
    last hidden biases in W_{L-1}. Zhou et al., "Permutation equivariant neural functionals", NeurIPS 2023.
    """

    def __init__(
        self, layout: Layout, num_in: int, num_out: int, generator: Generator, *, fan_in: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        self.layout, self.num_out = layout, num_out
        weights, biases = _bounds(layout, fan_in or num_in)
        sets = {j: _of_node(layout, j, weights, biases) for j in layout.stages}
        every = [part for k in range(layout.num_layers) for part in _of_mean(layout, k, weights, biases)]
        num_means = sum(map(len, every)) * num_in

        def draw(bounds: list[float], num_columns: int) -> nn.Parameter:
            rows = torch.tensor(bounds).repeat_interleave(num_out).unsqueeze(1)
            return nn.Parameter(torch.empty(len(rows), num_columns).uniform_(-1.0, 1.0, generator=generator).mul_(rows))

        self.block = nn.ParameterDict({str(k): draw([weights[k]], num_in) for k in layout.blocks})
        self.node = nn.ParameterDict({str(j): draw(bounds, len(bounds) * num_in) for j, bounds in sets.items()})
        # A matrix for each tensor: one for all would be by far the largest, and its gradient's copy decide the peak.
        self.mean = nn.ParameterList(draw(bounds, num_means) for bounds in every)
        self.bias = nn.Parameter(draw([bound for part in every for bound in part], 1).detach()[:, 0]) if bias else None

    def forward(
        self,
        x: Signals,
        position: Terms | None = None,
        *,
        p_dropout: float = 0.0,
        generator: Generator | None = None,
        keep: bool = True,
    ) -> Signals:
        """ReLU of the layer plus `position`; keep=False drops blocks, whose means alone remain.

        p_dropout: probability that a channel of all weights of a layer, or one channel of one bias, is set to 0.
        """
        layout, terms = self.layout, self.terms(x).plus(position)
        gains = [self._gain(terms, p_dropout, generator) for _ in range(layout.num_layers)]
        kept, into, out = {}, {}, {}
        scale = 1.0 / (1.0 - p_dropout)
        for k in layout.blocks:
            rows, columns = terms.into[k + 1], terms.out[k]
            weight = self.block[str(k)]
            given = (x.blocks[k], weight, rows, columns)  # under autocast some are bfloat16
            kind = blocks.MapBlock if all(map(takes, given)) else MapBlock
            z, into[k + 1], out[k] = kind.apply(*given, gains[k], scale, keep)
            if keep:
                kept[k] = z
        if layout.ends:
            final = layout.num_layers - 1
            into[1] = _repeated(terms.into[1].relu(), gains[0])
            out[final] = _repeated(terms.out[final].relu(), gains[-1])
        own = {j: dropout(value.relu(), p_dropout, generator) for j, value in terms.own.items()}
        last = None if terms.last is None else dropout(terms.last.relu(), p_dropout, generator)
        return Signals(kept, _gather(into, own, out, layout), last)

    def linear(self, x: Signals, position: Terms | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """The layer itself: weights (N, O, I, D) and biases (N, O, D) of every layer."""
        layout, terms = self.layout, self.terms(x).plus(position)
        weights = {}
        for k in layout.blocks:
            rows, columns = terms.into[k + 1].unsqueeze(2), terms.out[k].unsqueeze(1)
            weights[k] = F.linear(x.blocks[k], self.block[str(k)]) + rows + columns
        biases = {j - 1: value for j, value in terms.own.items()}
        final = layout.num_layers - 1
        if layout.ends and terms.last is not None:
            weights[0] = terms.into[1].unflatten(2, (layout.dims[0], -1))
            weights[final] = terms.out[final].unflatten(2, (layout.dims[-1], -1)).transpose(1, 2)
            biases[final] = terms.last.unflatten(1, (layout.dims[-1], -1))
        return [weights[k] for k in range(final + 1)], [biases[k] for k in range(final + 1)]

    def terms(self, x: Signals) -> Terms:
        """Everything that the layer adds to A_l W_l."""
        layout = self.layout
        pooled = means(x, layout)
        biases = [None] * len(self.mean) if self.bias is None else self.bias.split([len(part) for part in self.mean])
        shifts = [F.linear(pooled, weight, bias) for weight, bias in zip(self.mean, biases, strict=True)]
        terms = Terms({}, {}, {}, shifts[-1] if layout.ends else None)
        for j in layout.stages:
            nodes = layout.node(j)
            y = F.linear(x.nodes[j], self.node[str(j)])
            into, own, out = y.split([size * (y.shape[2] // sum(nodes)) for size in nodes], dim=2)
            if j > 0:
                terms.into[j] = into + shifts[2 * j - 2].unsqueeze(1)
                terms.own[j] = own + shifts[2 * j - 1].unsqueeze(1)
            if j < layout.num_layers:
                terms.out[j] = out + shifts[2 * j].unsqueeze(1) if layout.ends and j == layout.num_layers - 1 else out
        return terms

    def _gain(self, terms: Terms, p: float, generator: Generator | None) -> Tensor | None:
        return None if p == 0.0 else dropout(self.mean[0].new_ones(len(terms.own[1]), 1, self.num_out), p, generator)


def _bounds(layout: Layout, num_in: int) -> tuple[list[float], list[float]]:
    """Largest initial weights of whatever adds to W_l, and to b_l: 1 / sqrt(all channels that do)."""
    nodes = {j: sum(layout.node(j)) for j in layout.stages}
    weights, biases = [], []
    for k in range(layout.num_layers):
        touching = [nodes[j] for j in (k, k + 1) if j in nodes]
        weights.append((layout.num_means + sum(touching) + int(k in layout.blocks)) * num_in)
        biases.append((layout.num_means + nodes.get(k + 1, 0)) * num_in)
    return [x**-0.5 for x in weights], [x**-0.5 for x in biases]


def _of_node(layout: Layout, j: int, weights: list[float], biases: list[float]) -> list[float]:
    into, own, out = layout.node(j)
    return [*weights[j - 1 : j] * into, *biases[j - 1 : j] * own, *weights[j : j + 1] * out]


def _of_mean(layout: Layout, k: int, weights: list[float], biases: list[float]) -> list[list[float]]:
    weight, bias = layout.mean(k)
    return [[weights[k]] * weight, [biases[k]] * bias]


def _repeated(x: Tensor, gain: Tensor | None) -> Tensor:
    """Scale every set of channels of x (N, n, sets D) by gain (N, 1, D)."""
    return x if gain is None else (x.unflatten(2, (-1, gain.shape[2])) * gain.unsqueeze(1)).flatten(2)


class MapBlock(torch.autograd.Function):
    """z = gain relu(A x + row + column) with its means over I and O, in pieces that stay in cache.

    x (N, O, I, C), A (D, C), row (N, O, D), column (N, I, D), gain (N, 1, D): 0 or `scale`, or None ->
    z (N, O, I, D) or None, mean over I (N, O, D), mean over O (N, I, D).
    Written out because autograd would go over memory of the size of z some ten times more, and keep z for the last
    layer, of which backward needs only the signs.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, row: Tensor, column: Tensor, gain: Tensor | None, scale: float, keep: bool
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        (count, rows, columns, _), width = x.shape, len(weight)
        by_row, by_column = x.new_empty(count, rows, width), x.new_empty(count, columns, width)
        z = x.new_empty(count if keep else 0, rows, columns, width)
        positive = torch.empty(0 if keep else count, rows, columns, width, dtype=torch.bool, device=x.device)
        for part in _pieces(x, width):
            piece = z[part] if keep else x.new_empty(x[part].shape[0], rows, columns, width)
            torch.add(row[part].unsqueeze(2), column[part].unsqueeze(1), out=piece)
            piece.view(-1, width).addmm_(x[part].reshape(-1, x.shape[3]), weight.T)
            piece.relu_()
            if gain is not None:
                piece.mul_(gain[part].unsqueeze(1))
            if not keep:
                torch.gt(piece, 0, out=positive[part])
            torch.mean(piece, 2, out=by_row[part])
            torch.mean(piece, 1, out=by_column[part])
        ctx.save_for_backward(x, weight, z if keep else positive)
        ctx.keep, ctx.scale = keep, scale
        return z if keep else None, by_row, by_column

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None, by_row: Tensor, by_column: Tensor) -> tuple[Any, ...]:
        x, weight, z = ctx.saved_tensors
        (count, rows, columns, channels), width = x.shape, len(weight)
        by_row, by_column = by_row * (ctx.scale / columns), by_column * (ctx.scale / rows)
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight)
        d_row, d_column = x.new_empty(count, rows, width), x.new_empty(count, columns, width)
        for part in _pieces(x, width):
            d = by_row[part].unsqueeze(2) + by_column[part].unsqueeze(1)
            if dz is not None:
                d.add_(dz[part], alpha=ctx.scale)
            if ctx.keep:
                torch.ops.aten.threshold_backward.grad_input(d, z[part], 0, grad_input=d)
            else:
                d.mul_(z[part])
            torch.sum(d, 2, out=d_row[part])
            torch.sum(d, 1, out=d_column[part])
            d = d.view(-1, width)
            d_weight.addmm_(d.T, x[part].reshape(-1, channels))
            if dx is not None:
                torch.mm(d, weight, out=dx[part].view(-1, channels))
        return dx, d_weight, d_row, d_column, None, None, None


def _pieces(x: Tensor, width: int) -> Iterator[slice]:
    per_field = x.shape[1] * x.shape[2] * width * x.element_size()
    step = max(1, _PIECE_BYTES // per_field)
    return (slice(start, start + step) for start in range(0, x.shape[0], step))
