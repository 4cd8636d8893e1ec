"""One DWS layer: linear maps and set layers between all pairs of weight and bias tensors, equivariant by construction.

Every tensor of a field is a site: its free axes are the hidden layers whose neurons are its rows or columns (0, 1 or 2
of them), its F groups are its entries along input and output axes, which keep their order. Legend: N fields, T neurons,
C channels, F groups, J targets, L layers of a field. Sites of one free axis are sets (F C, N, T), of none (F C, N, 1);
middle weights, of two, are matrices (N, O, I, C).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from neuralfields.spec import FieldSpec
from wsnets.heads import dropout
from wsnets.kernels import matrices
from wsnets.kernels.activation import ActivateSet, BatchNorm
from wsnets.kernels.attention import Block, attend_sets
from wsnets.kernels.native import takes
from wsnets.models.dws_functions import Activate, MatrixMap, SetAttention, Spread, Statistics, moments, reduce

Pool = Literal["max", "mean", "sum"]
SetLayer = Literal["sab", "ds"]
Norm = Literal["batch", "none"]
_BIAS_BOUND = 1e-4
_MOMENTUM, _EPSILON = 0.1, 1e-5


@dataclass(frozen=True)
class Style:
    """pool; set_layer: "sab" (attention) or "ds" (deep sets); heads of attention; depth: linear maps in each MLP; near:
    only pairs of tensors that share an axis."""

    pool: Pool
    set_layer: SetLayer
    heads: int
    depth: int
    near: bool


@dataclass(frozen=True)
class Site:
    """A weight or bias tensor: its free and its fixed axes (0 input, then hidden layers, L output), rows first; F."""

    free: tuple[int, ...]
    fixed: tuple[int, ...]
    groups: int


def sites(spec: FieldSpec) -> tuple[Site, ...]:
    """All sites in storage order: weights 0, biases 0, weights 1, ..."""
    found = []
    for layer in range(spec.num_layers):
        for axes in ((layer + 1, layer), (layer + 1,)):
            fixed = tuple(a for a in axes if a in (0, spec.num_layers))
            groups = torch.Size([spec.dims[a] for a in fixed]).numel()
            found.append(Site(tuple(a for a in axes if a not in fixed), fixed, groups))
    return tuple(found)


def initial(shape: tuple[int, ...], generator: Generator) -> nn.Parameter:
    """Normal weights (..., out, in) of variance 4 in / (out (out + in)): Glorot's with gain sqrt(2 in / out).

    As published. Glorot and Bengio, "Understanding the difficulty of training deep feedforward networks", AISTATS 2010.
    """
    num_out, num_in = shape[-2:]
    std = 2.0 * (num_in / (num_out * (num_in + num_out))) ** 0.5
    return nn.Parameter(torch.randn(shape, generator=generator) * std)


def initial_bias(shape: tuple[int, ...], generator: Generator) -> nn.Parameter:
    """Biases uniform in +-1e-4, as published."""
    return nn.Parameter(torch.empty(shape).uniform_(-_BIAS_BOUND, _BIAS_BOUND, generator=generator))


class Deeper(nn.Module):
    """What follows the first linear maps of J MLPs: x <- W relu(x) + b, depth - 1 times. (J, C, M) -> (J, C, M)."""

    def __init__(self, count: int, width: int, depth: int, generator: Generator, bias: bool = True) -> None:
        super().__init__()
        self.weights = nn.ParameterList(initial((count, width, width), generator) for _ in range(depth - 1))
        num_biases = depth - 1 if bias else 0
        self.biases = nn.ParameterList(initial_bias((count, width, 1), generator) for _ in range(num_biases))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the maps."""
        for index, weight in enumerate(self.weights):
            x = torch.bmm(weight, x.relu())
            x = x + self.biases[index] if len(self.biases) else x
        return x


class Attentions(nn.Module):
    """Set attention blocks (functions.SetAttention) from one source to J targets with the same number of outputs."""

    def __init__(self, num_in: int, num_out: int, count: int, heads: int, generator: Generator) -> None:
        super().__init__()
        self.heads = heads
        weights = [initial((num_out, num_in), generator).detach() for _ in range(3 * count)]
        self.weight = nn.Parameter(self.ordered(torch.stack(weights), heads))
        self.bias = initial_bias((3 * count * num_out,), generator)
        self.out_weight = initial((count, num_out, num_out), generator)
        self.out_bias = initial_bias((count, num_out), generator)

    @staticmethod
    def ordered(maps: Tensor, heads: int) -> Tensor:
        """Rows of q, k, v of every target (3 J, out, in) in the order that attention wants, (3 D J heads, in)."""
        count, num_out, num_in = maps.shape
        by_head = maps.view(3, count // 3, heads, num_out // heads, num_in).permute(0, 3, 1, 2, 4)
        return by_head.reshape(count * num_out, num_in)

    def forward(self, x: Tensor) -> Tensor:
        """Map a set (in, N, T) to (J, out, N, T)."""
        return SetAttention.apply(x, self.weight, self.bias, self.out_weight, self.out_bias, self.heads)

    def block(self, source: int, targets: Sequence[int]) -> Block:
        """What the native kernel takes, for a source and targets by their places in its lists."""
        return Block(source, tuple(targets), self.heads, (self.weight, self.bias, self.out_weight, self.out_bias))


class DeepSets(nn.Module):
    """A x + b - B pool(x) from one source to J targets with the same number of outputs, A and B MLPs of some depth.

    Zaheer et al., "Deep sets", NeurIPS 2017.
    """

    def __init__(self, num_in: int, num_out: int, count: int, depth: int, pool: Pool, generator: Generator) -> None:
        super().__init__()
        self.pool: Pool = pool
        self.each = initial((count, num_out, num_in), generator)
        self.each_bias = initial_bias((count, num_out, 1), generator)
        self.pooled = initial((count, num_out, num_in), generator)
        self.each_deeper = Deeper(count, num_out, depth, generator)
        self.pooled_deeper = Deeper(count, num_out, depth, generator, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map a set (in, N, T) to (J, out, N, T)."""
        each = self.each_deeper(self.each @ x.flatten(1) + self.each_bias)
        pooled = self.pooled_deeper(self.pooled @ reduce(x, 2, self.pool))
        return each.unflatten(2, x.shape[1:]) - pooled.unsqueeze(3)


class FromPooled(nn.Module):
    """sum_s MLP_s(p_s) over sources that share no free axis with the target, p_s (in_s, N) their pooled channels."""

    def __init__(self, num_ins: Sequence[int], num_out: int, depth: int, generator: Generator) -> None:
        super().__init__()
        self.num_ins = list(num_ins)
        self.weight = nn.Parameter(torch.cat([initial((num_out, n), generator).detach() for n in num_ins], dim=1))
        self.bias = initial_bias((len(self.num_ins), num_out, 1), generator)
        self.deeper = Deeper(len(self.num_ins), num_out, depth, generator)

    def forward(self, pooled: list[Tensor]) -> Tensor:
        """Map pooled sources to (out, N)."""
        if len(self.deeper.weights) == 0:
            return torch.addmm(self.bias.sum(0), self.weight, torch.cat(pooled))
        firsts = [w @ p for w, p in zip(self.weight.split(self.num_ins, dim=1), pooled, strict=True)]
        return self.deeper(torch.stack(firsts) + self.bias).sum(0)


class Kronecker(nn.Module):
    """A matrix to itself: (A x + B rows + C columns + D pool) / 4, four MLPs, rows and columns pools over the others.

    Hartford et al., "Deep models of interactions across sets", ICML 2018.
    """

    def __init__(self, num_in: int, num_out: int, depth: int, factor: float, generator: Generator) -> None:
        super().__init__()
        self.weight = initial((4, num_out, num_in), generator)
        self.bias = initial_bias((4, num_out, 1), generator)
        self.deeper = nn.ModuleList(Deeper(1, num_out, depth, generator) for _ in range(4))
        self.factor = factor / 4.0

    def entries(self) -> Tensor:
        """First linear map of the entries; `forward` expects what it makes of them."""
        return self.weight[0] if len(self.deeper[0].weights) else self.weight[0] * self.factor

    def forward(self, z: Tensor, rows: Tensor, columns: Tensor, pooled: Tensor) -> tuple[Tensor, ...]:
        """Map z (N, O, I, C'), rows (C, N, O), columns (C, N, I), pool (C, N): the terms in these layouts."""
        terms = []
        weights, biases = self.weight.unbind(0), self.bias.unbind(0)
        for k, x in enumerate((rows, columns, pooled), 1):
            first = torch.addmm(biases[k], weights[k], x.flatten(1))
            terms.append(self.deeper[k](first.unsqueeze(0)).view(-1, *x.shape[1:]) * self.factor)
        if len(self.deeper[0].weights):
            entries = z.flatten(0, 2).T.unsqueeze(0) + self.bias[0]
            return self.deeper[0](entries)[0].T.reshape(z.shape) * self.factor, *terms
        return z, *terms[:2], terms[2] + self.bias[0] * self.factor


class SiteActivation(nn.Module):
    """relu and dropout of one site's tensor, after batch normalisation over fields and entries or after nothing.

    Mean and variance of a channel are taken over all groups, as published; momentum 0.1, epsilon 1e-5. Ioffe and
    Szegedy, "Batch normalization", ICML 2015.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, place: Site, width: int, norm: Norm, p_dropout: float) -> None:
        super().__init__()
        self.groups, self.norm, self.p_dropout = place.groups, norm, p_dropout
        self.is_matrix = len(place.free) == 2
        self.summed, self.shape = ((0, 1, 2), (width,)) if self.is_matrix else ((0, 2, 3), (width, 1, 1))
        if norm == "batch":
            self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
            self.register_buffer("running_mean", torch.zeros(width))
            self.register_buffer("running_var", torch.ones(width))

    def drops(self) -> bool:
        """Whether values are dropped, which the kernels do not."""
        return self.training and self.p_dropout > 0.0

    def settings(self, y: Tensor, generator: Generator | None) -> tuple:
        """What functions.Activation needs for y (F, C, N, T) or (N, O, I, C)."""
        mask = dropout(torch.ones_like(y), self.p_dropout, generator) if self.drops() else None
        if self.norm == "none":
            return None, None, None, mask
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = moments(y.detach(), self.summed)
            self.follow(BatchNorm(mean, var, True, _EPSILON), y)
        statistics = Statistics(mean.view(self.shape), (var + _EPSILON).rsqrt().view(self.shape), self.training)
        return self.weight.view(self.shape), self.bias.view(self.shape), statistics, mask

    def forward(self, y: Tensor, pool: Pool, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Activate a set (F C, N, T) and pool it, (F C, N)."""
        if takes(y) and not self.drops():
            norm = self.batch_norm()
            x, pooled = ActivateSet.apply(y, *self.line(), norm, pool)
            self.follow(norm, y)
            return x, pooled
        grouped = y.view(self.groups, -1, *y.shape[1:])
        x = Activate.apply(grouped, *self.settings(grouped, generator)).view(y.shape)
        return x, reduce(x, 2, pool)

    def line(self) -> tuple[nn.Parameter, nn.Parameter] | tuple[None, None]:
        """Factor and shift after the normalisation."""
        return (self.weight, self.bias) if self.norm == "batch" else (None, None)

    def batch_norm(self) -> BatchNorm | None:
        """The normalisation that a kernel does; in training its statistics have yet to be written."""
        if self.norm == "none":
            return None
        running = (self.running_mean, self.running_var)
        return BatchNorm(*(map(torch.empty_like, running) if self.training else running), self.training, _EPSILON)

    def follow(self, norm: BatchNorm | None, y: Tensor) -> None:
        """Move the running statistics towards those of a batch y, if they were."""
        if norm is not None and norm.of_batch:
            count = y.numel() // len(norm.mean)
            self.running_mean.lerp_(norm.mean, _MOMENTUM)
            self.running_var.lerp_(norm.variance * (count / max(1, count - 1)), _MOMENTUM)


@dataclass(frozen=True)
class Seen:
    """What other sites see of one: its activated values pooled along each free axis, (F C, N, T), and over all, (F C,
    N); mapped: a linear map of a matrix's activated entries."""

    along: dict[int, Tensor]
    pooled: Tensor
    mapped: Tensor | None = None


class Unspread(NamedTuple):
    """Values of a matrix, (N, O, I, C), before the sums along its rows, (C, N, O), and columns, (C, N, I), are added."""

    entries: Tensor
    rows: Tensor
    columns: Tensor

    def spread(self) -> Tensor:
        """All in one, (N, O, I, C); the entries are lost."""
        if takes(self.entries):
            return matrices.SpreadMatrix.apply(*self)
        return Spread.apply(self.entries, self.rows.permute(1, 2, 0), self.columns.permute(1, 2, 0))


def see(
    place: Site,
    x: Tensor | Unspread,
    activation: nn.Module | None,
    pool: Pool,
    generator: Generator | None,
    entries: Tensor | None = None,
) -> Seen:
    """Activate and pool the values of a site, which are lost; entries (C', C): the linear map for a matrix."""
    if len(place.free) == 2:
        own = x.entries if isinstance(x, Unspread) else x
        entries = own.new_empty(0, own.shape[3]) if entries is None else entries
        native = takes(own) and (activation is None or not activation.drops())
        mapped, rows, columns, pooled = (_map_by_kernel if native else _map_matrix)(x, entries, pool, activation, generator)
        return Seen(dict(zip(place.free, (rows, columns), strict=True)), pooled, mapped)
    x, pooled = (x, reduce(x, 2, pool)) if activation is None else activation(x, pool, generator)
    return Seen({axis: x for axis in place.free}, pooled)


def _map_by_kernel(
    x: Tensor | Unspread, weight: Tensor, pool: Pool, activation: nn.Module | None, _: Generator | None
) -> tuple[Tensor, ...]:
    """A matrix's values, activated and mapped, and their pools, channels first: along rows, along columns, over both."""
    parts = x if isinstance(x, Unspread) else (x, None, None)
    if activation is None:
        return matrices.MapMatrix.apply(*parts, weight, None, None, None, pool, True)
    norm = activation.batch_norm()
    results = matrices.MapMatrix.apply(*parts, weight, *activation.line(), norm, pool, False)
    activation.follow(norm, parts[0])
    return results


def _map_matrix(
    x: Tensor | Unspread, weight: Tensor, pool: Pool, activation: nn.Module | None, generator: Generator | None
) -> tuple[Tensor, ...]:
    """The same by torch."""
    y = x.spread() if isinstance(x, Unspread) else x
    settings = (None,) * 4 if activation is None else activation.settings(y, generator)
    mapped, *sides = MatrixMap.apply(y, weight, pool, activation is None, *settings)
    rows, columns = (p.permute(2, 0, 1).contiguous() for p in sides)
    return mapped, rows, columns, reduce(rows, 2, pool)


class DWSLayer(nn.Module):
    """y_t = 1 / (2 L) sum_s f_st(x_s) over all pairs of the 2 L sites of a field.

    f_st by what s and t share: the same matrix, Kronecker; one free axis, a set layer along it, of x_s pooled over its
    other one, repeated along the other one of t; none, an MLP of x_s pooled over all. Shapes: sets (F C, N, T) and
    matrices (N, O, I, C), before their activations. Symmetry: permutation. Navon et al., "Equivariant architectures for
    learning in deep weight spaces", ICML 2023.
    """

    def __init__(self, places: Sequence[Site], num_in: int, num_out: int, style: Style, generator: Generator) -> None:
        super().__init__()
        self.places = tuple(places)
        self.pool: Pool = style.pool
        self.groups = [place.groups * num_out for place in places]
        along: dict[tuple[int, int, int], list[int]] = {}
        self.sources: dict[int, list[int]] = {}
        for s, source in enumerate(places):
            for t, target in enumerate(places):
                shared = [axis for axis in source.free if axis in target.free]
                if len(shared) == 1:
                    along.setdefault((s, shared[0], target.groups * num_out), []).append(t)
                elif not shared and (not style.near or set(source.fixed) & set(target.fixed)):
                    self.sources.setdefault(t, []).append(s)
        self.along = [(s, axis, targets) for (s, axis, _), targets in along.items()]
        self.sets, self.pooled, self.matrices = nn.ModuleList(), nn.ModuleDict(), nn.ModuleDict()
        for (s, _, width), targets in along.items():
            self.sets.append(_set_layer(places[s].groups * num_in, width, len(targets), style, generator))
        for t, sources in self.sources.items():
            num_ins = [places[s].groups * num_in for s in sources]
            self.pooled[str(t)] = FromPooled(num_ins, places[t].groups * num_out, style.depth, generator)
        for i, place in enumerate(places):
            if len(place.free) == 2:
                self.matrices[str(i)] = Kronecker(num_in, num_out, style.depth, 1.0 / len(places), generator)

    def forward(
        self, values: list[Tensor | Unspread], activations: nn.ModuleList | None, generator: Generator | None = None
    ) -> list[Tensor | Unspread]:
        """Return the new values; activations: one SiteActivation for each, or None for values as they are."""
        seen = []
        for i, (place, x) in enumerate(zip(self.places, values, strict=True)):
            entries = self.matrices[str(i)].entries() if str(i) in self.matrices else None
            activation = None if activations is None else activations[i]
            seen.append(see(place, x, activation, self.pool, generator, entries))
        starts = [self._start(t, seen) for t in range(len(values))]
        sums: list[dict[int, Tensor]] = [{} for _ in values]
        for axis in sorted({axis for _, axis, _ in self.along}):
            reached = [t for t, place in enumerate(self.places) if axis in place.free]
            heard = self._hear(axis, reached, seen, [starts[t].along[axis] for t in reached])
            for t, total in zip(reached, heard, strict=True):
                sums[t][axis] = total
        return [self._finish(t, starts[t], sums[t]) for t in range(len(values))]

    def _start(self, t: int, seen: list[Seen]) -> "Start":
        """What a target hears without set layers."""
        own, factor = seen[t], 1.0 / len(seen)
        if t in self.sources:
            level = self.pooled[str(t)]([seen[s].pooled for s in self.sources[t]]) * factor
        else:
            level = own.pooled.new_zeros(self.groups[t], own.pooled.shape[1])
        if own.mapped is None:
            return Start(level, dict.fromkeys(own.along, (None, level)))
        z, rows, columns, pooled = self.matrices[str(t)](own.mapped, *own.along.values(), own.pooled)
        terms = ((rows, level + pooled), (columns, torch.zeros_like(level)))
        return Start(z, dict(zip(self.places[t].free, terms, strict=True)))

    def _hear(
        self, axis: int, reached: list[int], seen: list[Seen], starts: list[tuple[Tensor | None, Tensor]]
    ) -> Sequence[Tensor]:
        """starts + 1 / (2 L) times what the set layers along one axis make of all sources, (F C, N, T) of every target."""
        layers = [(s, targets, layer) for (s, a, targets), layer in zip(self.along, self.sets, strict=True) if a == axis]
        factor, sources = 1.0 / len(seen), list(dict.fromkeys(s for s, _, _ in layers))
        xs = [seen[s].along[axis] for s in sources]
        if takes(xs[0]) and isinstance(layers[0][2], Attentions):
            where = {t: i for i, t in enumerate(reached)}
            blocks = [layer.block(sources.index(s), [where[t] for t in targets]) for s, targets, layer in layers]
            return attend_sets(blocks, xs, *zip(*starts, strict=True), factor)
        sums = {t: level.unsqueeze(2) if x is None else x + level.unsqueeze(2) for t, (x, level) in zip(reached, starts, strict=True)}
        for s, targets, layer in layers:
            for t, term in zip(targets, layer(seen[s].along[axis]).unbind(0), strict=True):
                sums[t] = torch.add(sums[t], term, alpha=factor)
        return [sums[t] for t in reached]

    def _finish(self, t: int, start: "Start", sums: dict[int, Tensor]) -> Tensor | Unspread:
        """The target's new values: its only sum, or a matrix with those of its rows and columns."""
        free = self.places[t].free
        if len(free) < 2:
            return sums[free[0]] if free else start.own.unsqueeze(2)
        return Unspread(start.own, *(sums[axis] for axis in free))


@dataclass(frozen=True)
class Start:
    """What a target hears without set layers: own, the entries of a matrix or the level of others; along each free axis
    what its sum starts with, (F C, N, T) or None, and a level for all neurons alike, (F C, N)."""

    own: Tensor
    along: dict[int, tuple[Tensor | None, Tensor]]


def _set_layer(num_in: int, num_out: int, count: int, style: Style, generator: Generator) -> Attentions | DeepSets:
    if style.set_layer == "ds":
        return DeepSets(num_in, num_out, count, style.depth, style.pool, generator)
    return Attentions(num_in, num_out, count, style.heads, generator)
