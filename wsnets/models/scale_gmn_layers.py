"""Message passing that respects signs or positive scales of hidden units, on dense blocks of edges.

Block l of a field's graph holds the edges between the units of stage l and those of stage l + 1 as one dense tensor
(N, O, I, d), so that sources and targets are axes, and what depends on one unit alone is computed once per unit.
Legend: N fields, O units of the upper stage, I units of the lower stage, H units of any stage, d channels.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from wsnets.heads import Unset, linear

Group = Literal["sign", "scale", "permutation"]
Place = Literal["first", "hidden", "last"]
Ends = Literal["gated", "shared", "separate"]


@dataclass(frozen=True)
class Style:
    """What all layers of one model share.

    width d; group; symmetrised: signs by rho(x) + rho(-x), else by |x|; ends: how inputs and outputs are mapped,
    "gated" as hidden units are, by one small network "shared" by both, or by "separate" ones; constants: channels of
    the embeddings that gates see, 0 or d.
    """

    width: int
    group: Group
    symmetrised: bool
    ends: Ends
    constants: int


@dataclass(frozen=True)
class Product:
    """Features scalar * (A vector + a), kept apart as long as only linear maps and products are applied to them.

    scalar: (..., 1), None for 1; vector: (..., d), broadcastable against scalar; pending: A and a, None for 1 and 0. A
    field's own weights are such features, w_oi u_i: a linear map of them costs one product with a matrix per unit i,
    not one per edge (o, i); and a map of what has a map pending costs no more than that one.
    """

    vector: Tensor
    scalar: Tensor | None = None
    pending: tuple[Tensor, Tensor] | None = None

    @property
    def value(self) -> Tensor:
        """The product itself (..., d)."""
        return self._mapped if self.scalar is None else self.scalar * self._mapped

    @property
    def _mapped(self) -> Tensor:
        return self.vector if self.pending is None else functional.linear(self.vector, *self.pending)

    def linear(self, weight: Tensor) -> "Product":
        """Apply y = W x."""
        if self.pending is not None:
            return Product(self.vector, self.scalar, (weight @ self.pending[0], weight @ self.pending[1]))
        return Product(functional.linear(self.vector, weight), self.scalar)

    def affine(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Apply y = W x + b; b: (d,) or broadcastable."""
        if self.scalar is not None:
            return torch.addcmul(bias, self.scalar, self.linear(weight)._mapped)
        if self.pending is None and bias.ndim == 1:
            return functional.linear(self.vector, weight, bias)
        return self.linear(weight)._mapped + bias

    def times(self, other: Tensor) -> "Product":
        """Multiply elementwise by a tensor broadcastable against the vector; what was pending is done."""
        if self.pending is None:
            return Product(self.vector * other, self.scalar)
        return Product(self.value * other)

    def absolute(self) -> "Product":
        """Absolute values."""
        return Product(self._mapped.abs(), None if self.scalar is None else self.scalar.abs())

    def norm(self) -> Tensor:
        """Length over channels (..., 1); never exactly zero, so that one may divide by it."""
        length = torch.linalg.vector_norm(self._mapped, dim=-1, keepdim=True)
        length = length if self.scalar is None else length * self.scalar.abs()
        return length.clamp_min(torch.finfo(length.dtype).tiny)


def matrix(num_in: int, num_out: int, generator: Generator) -> nn.Linear:
    """A linear map without bias, uniform in +-1/sqrt(num_in), drawn from `generator`."""
    layer = Unset(num_in, num_out, bias=False)
    with torch.no_grad():
        layer.weight.uniform_(-1.0 / math.sqrt(num_in), 1.0 / math.sqrt(num_in), generator=generator)
    return layer


class Mlp(nn.Module):
    """y = W2 silu(layer_norm(W1 x + b1)) + b2, the one kind of small network in here."""

    def __init__(self, num_in: int, width: int, num_out: int, generator: Generator) -> None:
        super().__init__()
        self.first = linear(num_in, width, generator)
        self.norm = nn.LayerNorm(width)
        self.last = linear(width, num_out, generator)

    def activate(self, hidden: Tensor) -> Tensor:
        """silu(layer_norm(hidden)), where hidden = W1 x + b1 was computed in parts."""
        return functional.silu(self.norm(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (..., num_in)."""
        return self.last(self.activate(self.first(x)))


class Invariant(nn.Module):
    """The part of a vector that a group of signs or positive scales does not change.

    sign: r(x) = rho(x) + rho(-x), or |x| where not symmetrised; scale: r(x) = x / |x|.
    """

    def __init__(self, num_in: int, style: Style, generator: Generator) -> None:
        super().__init__()
        self.group = style.group
        symmetrised = style.group == "sign" and style.symmetrised
        self.rho = Mlp(num_in, style.width, num_in, generator) if symmetrised else None

    def forward(self, x: Product, weight: Tensor, bias: Tensor) -> Tensor:
        """Return weight r(x) + bias."""
        if self.group == "scale":
            return torch.addcdiv(bias, x.linear(weight).value, x.norm())
        if self.rho is None:
            return x.absolute().affine(weight, bias)
        # rho ends in a linear map, of a sum of two activations: both that and `weight` are one product, applied once.
        rho, norm = self.rho, self.rho.norm
        plus = x.affine(rho.first.weight, rho.first.bias)
        minus = plus + (-2.0 * rho.first.bias)  # the hidden values of -x are -minus, and norm(-m) = -norm(m)
        even = functional.silu(functional.layer_norm(minus, norm.normalized_shape, -norm.weight, norm.bias, norm.eps))
        even = even + rho.activate(plus)
        return Product(even).affine(weight @ rho.last.weight, bias + 2.0 * (weight @ rho.last.bias))


class Gate(nn.Module):
    """An equivariant map of vectors: y = W x * phi([r(x), c]), r the invariant part, c optional constants.

    Vectors of input and output units do not change under the group; theirs is y = W x * phi_io([x, c]) (ends "gated")
    or y = mlp([x, c]), one mlp for both ("shared") or one for each ("separate"). Shapes: (..., num_in) -> (...,
    num_out). Kalogeropoulos et al., "Scale equivariant graph metanetworks", NeurIPS 2024.
    """

    def __init__(self, num_in: int, num_out: int, style: Style, ends: tuple[Place, ...], generator: Generator) -> None:
        super().__init__()
        self.num_in, self.gated = num_in, style.ends == "gated"
        self.linear = matrix(num_in, num_out, generator)
        self.invariant = Invariant(num_in, style, generator)
        seen = num_in + style.constants
        self.phi = Mlp(seen, style.width, num_out, generator)
        names = ends if style.ends == "separate" else ("shared",)
        self.ends = nn.ModuleDict({name: Mlp(seen, style.width, num_out, generator) for name in names})

    def forward(self, x: Product, place: Place, constants: Tensor | None) -> Tensor:
        """Map vectors of units at `place`; constants: broadcastable against x."""
        if place != "hidden" and not self.gated:
            mlp = self._mlp(place)
            return mlp.last(self._activate_end(mlp, x, constants))
        return x.linear(self.linear.weight).value * self._factor(x, place, constants)

    def total(self, x: Product, place: Place, constants: Tensor | None, dim: int) -> Tensor:
        """Sum of the mapped vectors over one axis of edges, which is not kept."""
        if place != "hidden" and not self.gated:  # the sum goes before the last linear map: one product per unit
            mlp = self._mlp(place)
            active = self._activate_end(mlp, x, constants)
            return functional.linear(active.sum(dim), mlp.last.weight, active.shape[dim] * mlp.last.bias)
        return self(x, place, constants).sum(dim)

    def _mlp(self, place: Place) -> Mlp:
        mlp = self.ends["shared" if "shared" in self.ends else place]
        assert isinstance(mlp, Mlp)
        return mlp

    def _factor(self, x: Product, place: Place, constants: Tensor | None) -> Tensor:
        if place != "hidden":
            mlp = self._mlp(place)
            return mlp.last(self._activate_end(mlp, x, constants))
        weight, bias = self._split(self.phi, constants)
        return self.phi.last(self.phi.activate(self.invariant(x, weight, bias)))

    def _activate_end(self, mlp: Mlp, x: Product, constants: Tensor | None) -> Tensor:
        return mlp.activate(x.affine(*self._split(mlp, constants)))

    def _split(self, mlp: Mlp, constants: Tensor | None) -> tuple[Tensor, Tensor]:
        """The part of the first map that sees x, and the rest of it as a bias."""
        weight, bias = mlp.first.weight, mlp.first.bias
        if constants is not None:
            bias = functional.linear(constants, weight[:, self.num_in :], bias)
        return weight[:, : self.num_in], bias


class Message(nn.Module):
    """Sum over neighbours j of gate(W_e e_ij * W_v x_j), equivariant as the unit i itself."""

    def __init__(self, style: Style, end: Place, generator: Generator) -> None:
        super().__init__()
        self.source = matrix(style.width, style.width, generator)
        self.edge = matrix(style.width, style.width, generator)
        self.gate = Gate(style.width, style.width, style, (end,), generator)

    def forward(self, edge: Product, source: Tensor, dim: int, place: Place, constants: Tensor | None) -> Tensor:
        """Edges (N, O, I, d) and features (N, H, d) of the units along axis dim -> (N, units of the other axis, d).

        place: of the units that receive; constants: of those that send, (d,) or (H, d).
        """
        x = edge.linear(self.edge.weight).times(self.source(source).unsqueeze(3 - dim))
        if constants is not None and constants.ndim == 2:
            constants = constants.unsqueeze(2 - dim)
        return self.gate.total(x, place, constants, dim)


class EdgeUpdate(nn.Module):
    """e_ij <- W e_ij * phi([r(x_j), r(x_i)]), equivariant as the weight from unit j to unit i."""

    def __init__(self, num_out: int, style: Style, generator: Generator) -> None:
        super().__init__()
        self.linear = matrix(style.width, num_out, generator)
        self.invariant = Invariant(style.width, style, generator)
        self.phi = Mlp(2 * style.width, style.width, num_out, generator)

    def forward(self, edge: Product, source: Tensor, target: Tensor, dim: int) -> Product:
        """Edges (N, O, I, d), features (N, H, d) of the units along axis dim, and of those along the other."""
        width, first = source.shape[-1], self.phi.first
        to = self.invariant(Product(target), first.weight[:, width:], first.bias)
        sent = self.invariant(Product(source), first.weight[:, :width], torch.zeros_like(first.bias))
        active, last = self.phi.activate(to.unsqueeze(dim) + sent.unsqueeze(3 - dim)), self.phi.last
        own = edge.linear(self.linear.weight)
        if own.pending is None and own.vector.ndim == 1:  # the same vector for all edges: a part of the last map
            return Product(active, own.scalar, (own.vector.unsqueeze(1) * last.weight, own.vector * last.bias))
        return Product(own.value * last(active))


class PlainMessage(nn.Module):
    """Sum over neighbours j of mlp([e_ij, x_j]): no more than permutations."""

    def __init__(self, style: Style, generator: Generator) -> None:
        super().__init__()
        self.mlp = Mlp(2 * style.width, style.width, style.width, generator)

    def forward(self, edge: Product, source: Tensor, dim: int, place: Place, constants: Tensor | None) -> Tensor:
        """As `Message`, without place and constants."""
        width, first, last = source.shape[-1], self.mlp.first, self.mlp.last
        sent = functional.linear(source, first.weight[:, width:], first.bias)
        active = self.mlp.activate(edge.linear(first.weight[:, :width]).value + sent.unsqueeze(3 - dim))
        return functional.linear(active.sum(dim), last.weight, active.shape[dim] * last.bias)


class PlainEdgeUpdate(nn.Module):
    """e_ij <- mlp([e_ij, x_j, x_i]): no more than permutations."""

    def __init__(self, num_out: int, style: Style, generator: Generator) -> None:
        super().__init__()
        self.phi = Mlp(3 * style.width, style.width, num_out, generator)

    def forward(self, edge: Product, source: Tensor, target: Tensor, dim: int) -> Product:
        """As `EdgeUpdate`."""
        of_edge, of_source, of_target = self.phi.first.weight.chunk(3, dim=1)
        to = functional.linear(target, of_target, self.phi.first.bias).unsqueeze(dim)
        sent = functional.linear(source, of_source).unsqueeze(3 - dim)
        hidden = edge.linear(of_edge).value + (to + sent)
        return Product(self.phi.last(self.phi.activate(hidden)))


class PlainGate(nn.Module):
    """y = mlp(x) for units of any place: no more than permutations."""

    def __init__(self, num_in: int, num_out: int, style: Style, generator: Generator) -> None:
        super().__init__()
        self.mlp = Mlp(num_in, style.width, num_out, generator)

    def forward(self, x: Product, place: Place, constants: Tensor | None) -> Tensor:
        """As `Gate`, without place and constants."""
        return self.mlp(x.value)


@dataclass(frozen=True)
class Live:
    """What a layer has to compute, because something after it reads it: stages of units, blocks of edges."""

    nodes: frozenset[int]
    edges: frozenset[int]
    back: frozenset[int]


@dataclass(frozen=True)
class Graph:
    """A population on its way through the layers: nodes[s] (N, H_s, d), edges[l] and back[l] (N, O_l, I_l, d).

    back: features of edges as they are met from the top, only for a model that passes messages both ways.
    """

    nodes: list[Tensor]
    edges: list[Product]
    back: list[Product]

    def place(self, stage: int) -> Place:
        """Where a stage stands."""
        return "first" if stage == 0 else "last" if stage == len(self.edges) else "hidden"


class Layer(nn.Module):
    """x_i <- gate([x_i, messages from below (, messages from above)]) (+ V x_i), and a new feature for every edge.

    Messages from above exist where both_ways. Features of their edges are the first ones in every layer for signs, as
    in the published code; for scales, where they must start as reciprocals, they have an update of their own.
    """

    def __init__(
        self,
        style: Style,
        generator: Generator,
        *,
        both_ways: bool,
        skip: bool,
        updates_edges: bool,
        updates_back: bool,
        num_out: int,
    ) -> None:
        super().__init__()
        plain, count = style.group == "permutation", 3 if both_ways else 2
        directions: tuple[Place, ...] = ("last", "first") if both_ways else ("last",)
        self.messages = nn.ModuleList(
            PlainMessage(style, generator) if plain else Message(style, end, generator) for end in directions
        )
        num_in = count * style.width
        ends: tuple[Place, ...] = ("first", "last")
        self.node = (
            PlainGate(num_in, num_out, style, generator) if plain else Gate(num_in, num_out, style, ends, generator)
        )
        make = PlainEdgeUpdate if plain else EdgeUpdate
        self.edge = make(num_out, style, generator) if updates_edges else None
        self.back = make(num_out, style, generator) if updates_back else None
        self.skip = matrix(style.width, style.width, generator) if skip else None

    def forward(self, graph: Graph, live: Live, constants: list[Tensor] | None) -> Graph:
        """One step; what is not live stays as it was. constants: of every stage, for gates that see them."""
        nodes, edges, back = list(graph.nodes), list(graph.edges), list(graph.back)
        for block in live.edges:
            assert self.edge is not None
            edges[block] = self.edge(graph.edges[block], graph.nodes[block], graph.nodes[block + 1], 2)
        for block in live.back:
            assert self.back is not None
            back[block] = self.back(graph.back[block], graph.nodes[block + 1], graph.nodes[block], 1)
        for stage in live.nodes:
            x = graph.nodes[stage]
            received = torch.cat([x, *self._received(graph, stage, constants)], dim=-1)
            new = self.node(Product(received), graph.place(stage), None if constants is None else constants[stage])
            nodes[stage] = new if self.skip is None else new + self.skip(x)
        return Graph(nodes, edges, back)

    def _received(self, graph: Graph, stage: int, constants: list[Tensor] | None) -> list[Tensor]:
        """Messages from below and, where there are such, from above; zeros where nothing is there to send any."""
        received = []
        for message, block, dim in zip(self.messages, (stage - 1, stage), (2, 1), strict=False):
            source = block if dim == 2 else block + 1
            if not 0 <= block < len(graph.edges):
                received.append(torch.zeros_like(graph.nodes[stage]))
                continue
            edge = graph.edges[block] if dim == 2 else graph.back[block]
            seen = None if constants is None else constants[source]
            received.append(message(edge, graph.nodes[source], dim, graph.place(stage), seen))
        return received
