"""One DWS layer: linear maps and set layers between all pairs of weight and bias tensors, equivariant by construction.

Legend: N fields, T neurons, C channels, F groups, J targets, L layers of a field; sites and their shapes as in
dws_sites.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, cast

import torch
from torch import Generator, Tensor, nn

from wsnets.kernels.attention import Block, attend_sets
from wsnets.kernels.native import takes
from wsnets.models.dws_functions import SetAttention, reduce
from wsnets.models.dws_maps import LinearMap, apply_maps
from wsnets.models.dws_sites import Pool, Seen, Site, SiteActivation, Unspread, see

SetLayer = Literal["sab", "ds"]
_BIAS_BOUND = 1e-4


@dataclass(frozen=True)
class Style:
    """pool; set_layer: "sab" (attention) or "ds" (deep sets); heads of attention; depth: linear maps in each MLP; near:
    only pairs of tensors that share an axis."""

    pool: Pool
    set_layer: SetLayer
    heads: int
    depth: int
    near: bool


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
    """Set attention blocks (functions.SetAttention) along one axis, each from one source to J targets of one width.

    All their matrices are one parameter, and their biases another: what each tensor costs an optimizer, autograd and
    the kernel is more than what its numbers do. shapes: of each block inputs, outputs and J.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], heads: int, generator: Generator) -> None:
        super().__init__()
        self.shapes, self.heads = list(shapes), heads
        packed = self.packed([self._drawn(*shape, generator) for shape in self.shapes])
        self.matrices, self.biases = (nn.Parameter(x) for x in packed)

    def _drawn(self, num_in: int, num_out: int, count: int, generator: Generator) -> tuple[Tensor, ...]:
        weights = torch.stack([initial((num_out, num_in), generator).detach() for _ in range(3 * count)])
        bias = initial_bias((3 * count * num_out,), generator)
        out_weight = initial((count, num_out, num_out), generator)
        return self.ordered(weights, self.heads), bias, out_weight, initial_bias((count, num_out), generator)

    @staticmethod
    def packed(blocks: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
        """Maps of SetAttention of all blocks as (M, 1), matrices and output biases, and (B,), biases of q, k and v."""
        matrices = [x.detach().flatten() for weight, _, *out in blocks for x in (weight, *out)]
        return torch.cat(matrices).unsqueeze(1), torch.cat([block[1].detach() for block in blocks])

    def maps(self) -> list[tuple[Tensor, ...]]:
        """Maps of SetAttention of each block: views."""
        found, matrices, biases = [], self.matrices.squeeze(1), self.biases
        for num_in, num_out, count in self.shapes:
            rows = 3 * count * num_out
            sizes = [rows * num_in, count * num_out**2, count * num_out]
            weight, out_weight, out_bias, matrices = matrices.split([*sizes, len(matrices) - sum(sizes)])
            bias, biases = biases.split([rows, len(biases) - rows])
            out = (out_weight.view(count, num_out, num_out), out_bias.view(count, num_out))
            found.append((weight.view(rows, num_in), bias, *out))
        return found

    @staticmethod
    def ordered(maps: Tensor, heads: int) -> Tensor:
        """Rows of q, k, v of every target (3 J, out, in) in the order that attention wants, (3 D J heads, in)."""
        count, num_out, num_in = maps.shape
        by_head = maps.view(3, count // 3, heads, num_out // heads, num_in).permute(0, 3, 1, 2, 4)
        return by_head.reshape(count * num_out, num_in)

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Map a set (in, N, T) for each block to (J, out, N, T), by torch."""
        return [SetAttention.apply(x, *maps, self.heads) for x, maps in zip(xs, self.maps(), strict=True)]


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

    def maps(self, pooled: Sequence[Tensor], factor: float) -> list[LinearMap]:
        """The first maps of pooled sources, to (out, N): of all in one, or of each where others follow."""
        if len(self.deeper.weights) == 0:
            return [LinearMap(self.weight, self.bias, tuple(pooled), factor)]
        ways = zip(self.weight.split(self.num_ins, dim=1), self.bias, pooled, strict=True)
        return [LinearMap(weight, bias, (p,), 1.0) for weight, bias, p in ways]

    def follow(self, firsts: Sequence[Tensor], factor: float) -> Tensor:
        """The sum (out, N), times a factor, given the first maps."""
        return firsts[0] if len(self.deeper.weights) == 0 else self.deeper(torch.stack(list(firsts))).sum(0) * factor


class Kronecker(nn.Module):
    """A matrix to itself: (A x + B rows + C columns + D pool) / 4, four MLPs, rows and columns pools over the others.

    Hartford et al., "Deep models of interactions across sets", ICML 2018.
    """

    def __init__(self, num_in: int, num_out: int, depth: int, factor: float, generator: Generator) -> None:
        super().__init__()
        self.weight = initial((4, num_out, num_in), generator)
        self.bias = initial_bias((4, num_out, 1), generator)
        self.deeper = nn.ModuleList(Deeper(1, num_out, depth, generator) for _ in range(4))
        self.factor, self.plain = factor / 4.0, depth < 2

    def entries(self) -> Tensor:
        """First linear map of the entries; `forward` expects what it makes of them."""
        return self.weight[0] * self.factor if self.plain else self.weight[0]

    def maps(self, rows: Tensor, columns: Tensor, pooled: Tensor) -> list[LinearMap]:
        """The first maps of rows (C, N, O), columns (C, N, I) and pool (C, N), to the same layouts."""
        weights, biases = self.weight.unbind(0), list(self.bias.unbind(0))
        if self.plain:  # that of the entries is the same everywhere
            biases[3] = biases[3] + biases[0]
        ways = zip(weights[1:], biases[1:], (rows, columns, pooled), strict=True)
        return [LinearMap(weight, bias, (x,), self.factor if self.plain else 1.0) for weight, bias, x in ways]

    def follow(self, z: Tensor, firsts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The terms, given the first maps of entries, z (N, O, I, C'), of rows, of columns and of their pool."""
        if self.plain:
            return z, *firsts
        ways = zip(self.deeper[1:], firsts, strict=True)
        terms = [deeper(y.flatten(1).unsqueeze(0)).view(y.shape) * self.factor for deeper, y in ways]
        entries = z.flatten(0, 2).T.unsqueeze(0) + self.bias[0]
        return self.deeper[0](entries)[0].T.reshape(z.shape) * self.factor, *terms


class DWSLayer(nn.Module):
    """y_t = 1 / (2 L) sum_s f_st(x_s) over all pairs of the 2 L sites of a field.

    f_st by what s and t share: the same matrix, Kronecker; one free axis, a set layer along it, of x_s pooled over its
    other one, repeated along the other one of t; none, an MLP of x_s pooled over all. Shapes: sets (F C, N, T) and
    matrices (N, O, I, C), before their activations; new matrices are Unspread, and an Unspread one that is given is
    lost. Symmetry: permutation. Navon et al., "Equivariant architectures for learning in deep weight spaces", ICML
    2023.
    """

    def __init__(self, places: Sequence[Site], num_in: int, num_out: int, style: Style, generator: Generator) -> None:
        super().__init__()
        self.places = tuple(places)
        self.pool: Pool = style.pool
        self.groups = [place.groups * num_out for place in places]
        along: dict[int, dict[tuple[int, int], list[int]]] = {}
        self.sources: dict[int, list[int]] = {}
        for s, source in enumerate(places):
            for t, target in enumerate(places):
                shared = [axis for axis in source.free if axis in target.free]
                if len(shared) == 1:
                    along.setdefault(shared[0], {}).setdefault((s, target.groups * num_out), []).append(t)
                elif not shared and (not style.near or set(source.fixed) & set(target.fixed)):
                    self.sources.setdefault(t, []).append(s)
        self.along = {axis: [(s, targets) for (s, _), targets in ways.items()] for axis, ways in along.items()}
        self.sets, self.pooled, self.matrices = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for axis, ways in along.items():
            shapes = [(places[s].groups * num_in, width, len(targets)) for (s, width), targets in ways.items()]
            self.sets[str(axis)] = _set_layers(shapes, style, generator)
        for t, sources in self.sources.items():
            num_ins = [places[s].groups * num_in for s in sources]
            self.pooled[str(t)] = FromPooled(num_ins, places[t].groups * num_out, style.depth, generator)
        for i, place in enumerate(places):
            if len(place.free) == 2:
                self.matrices[str(i)] = Kronecker(num_in, num_out, style.depth, 1.0 / len(places), generator)

    def forward(
        self,
        values: list[Tensor | Unspread],
        activations: Sequence[SiteActivation] | None,
        generator: Generator | None = None,
    ) -> list[Tensor | Unspread]:
        """Return the new values; activations: one SiteActivation for each, or None for values as they are."""
        maps = {t: self._matrix(t).entries() for t, place in enumerate(self.places) if len(place.free) == 2}
        seen = see(self.places, values, activations, self.pool, generator, maps)
        starts = self._starts(seen)
        sums: list[dict[int, Tensor]] = [{} for _ in values]
        for axis in sorted(self.along):
            reached = [t for t, place in enumerate(self.places) if axis in place.free]
            heard = self._hear(axis, reached, seen, [starts[t].along[axis] for t in reached])
            for t, total in zip(reached, heard, strict=True):
                sums[t][axis] = total
        return [self._finish(t, starts[t], sums[t]) for t in range(len(values))]

    def _matrix(self, t: int) -> Kronecker:
        return cast(Kronecker, self.matrices[str(t)])

    def _from_pooled(self, t: int) -> FromPooled:
        return cast(FromPooled, self.pooled[str(t)])

    def _starts(self, seen: list[Seen]) -> list["Start"]:
        """What every target hears without set layers."""
        factor = 1.0 / len(seen)
        asked: list[list[LinearMap]] = []
        for t, own in enumerate(seen):
            heard = [seen[s].pooled for s in self.sources.get(t, [])]
            asked.append(self._from_pooled(t).maps(heard, factor) if heard else [])
            sides = [*own.along.values(), own.pooled]
            asked.append([] if own.mapped is None else self._matrix(t).maps(*sides))
        firsts = iter(apply_maps([m for maps in asked for m in maps]))
        mapped = [list(islice(firsts, len(maps))) for maps in asked]
        return [self._start(t, seen[t], *mapped[2 * t : 2 * t + 2]) for t in range(len(seen))]

    def _start(self, t: int, own: Seen, levels: list[Tensor], sides: list[Tensor]) -> "Start":
        """What a target hears without set layers, given the first maps of pooled sources and of its own sides."""
        if levels:
            level = self._from_pooled(t).follow(levels, 1.0 / len(self.places))
        else:
            level = own.pooled.new_zeros(self.groups[t], own.pooled.shape[1])
        if own.mapped is None:
            return Start(level, dict.fromkeys(own.along, (None, level)))
        z, rows, columns, pooled = self._matrix(t).follow(own.mapped, sides)
        terms = ((rows, level + pooled), (columns, torch.zeros_like(level)))
        return Start(z, dict(zip(self.places[t].free, terms, strict=True)))

    def _hear(
        self, axis: int, reached: list[int], seen: list[Seen], starts: list[tuple[Tensor | None, Tensor]]
    ) -> Sequence[Tensor]:
        """starts + 1 / (2 L) times what set layers along an axis make of all sources, (F C, N, T) of every target."""
        ways, layers, factor = self.along[axis], self.sets[str(axis)], 1.0 / len(seen)
        if isinstance(layers, Attentions) and takes(seen[ways[0][0]].along[axis]):
            sources = list(dict.fromkeys(s for s, _ in ways))
            xs = [seen[s].along[axis] for s in sources]
            blocks = [
                Block(sources.index(s), tuple(map(reached.index, targets)), layers.heads, width)
                for (s, targets), (_, width, _) in zip(ways, layers.shapes, strict=True)
            ]
            maps = (layers.matrices, layers.biases)
            return attend_sets(blocks, maps, xs, [x for x, _ in starts], [level for _, level in starts], factor)
        sums = {
            t: level.unsqueeze(2) if x is None else x + level.unsqueeze(2)
            for t, (x, level) in zip(reached, starts, strict=True)
        }
        heard = layers([seen[s].along[axis] for s, _ in ways])
        for (_, targets), terms in zip(ways, heard, strict=True):
            for t, term in zip(targets, terms.unbind(0), strict=True):
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


class ManyDeepSets(nn.ModuleList):
    """Deep sets along one axis, each from one source to J targets of one width."""

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Map a set (in, N, T) for each to (J, out, N, T)."""
        return [layer(x) for layer, x in zip(self, xs, strict=True)]


def _set_layers(
    shapes: Sequence[tuple[int, int, int]], style: Style, generator: Generator
) -> Attentions | ManyDeepSets:
    if style.set_layer == "ds":
        return ManyDeepSets(DeepSets(*shape, style.depth, style.pool, generator) for shape in shapes)
    return Attentions(shapes, style.heads, generator)
