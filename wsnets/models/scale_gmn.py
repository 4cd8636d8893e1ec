"""ScaleGMN: graph metanetworks that respect permutations and signs, or positive scales, of hidden units.

Legend: N fields, O out, I in, H units of a stage, d channels; stage 0 holds a field's inputs, the last its outputs.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.features import NormaliserMode, WeightFeatures
from wsnets.heads import dropout, linear
from wsnets.models.scale_gmn_layers import Ends, Graph, Group, Invariant, Layer, Live, Mlp, Product, Style, matrix

Readout = Literal["last_layer", "full_graph"]
# Activations f whose units may change sign or size: f(-x) = -f(x), f(s x) = s f(x) for s > 0.
_GROUPS: dict[str, Group] = {"sine": "sign", "tanh": "sign", "finer": "sign", "relu": "scale"}


@dataclass(frozen=True, kw_only=True)
class ScaleGMNConfig:
    """width d; num_layers: of message passing; group: "sign" (sine, tanh, finer), "scale" (relu), "permutation" (any),
    "auto": the most that the fields' activation has; p_dropout: between layers, in [0, 1); readout: from the
    "last_layer" (inputs too where messages go both ways) or the "full_graph"; skip: adds a linear map of a unit's old
    features; embed_edges: edges have type embeddings (units always have); constants: gates see the type embeddings;
    symmetrised: signs are removed by rho(x) + rho(-x), else by |x|; ends: inputs and outputs are "gated" as hidden
    units are, or have a small network, "shared" or "separate" ones; output_scale: start of the factor of every layer's
    change, for editors.

    normalise is "per_layer_scale", which keeps signs and scales; the published networks take weights as they are, and
    learn nothing for long where those of hidden layers are small, as a SIREN's are.
    """

    paper: ClassVar[str] = 'Kalogeropoulos et al., "Scale equivariant graph metanetworks", NeurIPS 2024'
    published: ClassVar[str] = "MNIST 96.57, Fashion-MNIST 80.46, CIFAR-10 36.43 (random init)"
    normalise: ClassVar[NormaliserMode] = "per_layer_scale"
    fields_at_once: ClassVar[int] = 16
    both_ways: ClassVar[bool] = False

    width: int = 128
    num_layers: int = 4
    group: Group | Literal["auto"] = "auto"
    p_dropout: float = 0.2
    readout: Readout = "last_layer"
    skip: bool = True
    embed_edges: bool = True
    constants: bool = False
    symmetrised: bool = True
    ends: Ends = "gated"
    output_scale: float = 0.01

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("num_layers", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from {least}")
        if not 0.0 <= self.p_dropout < 1.0:
            raise ValueError(f"p_dropout={self.p_dropout}: expected a number in [0, 1)")
        for name, allowed in (
            ("group", (*get_args(Group), "auto")),
            ("readout", get_args(Readout)),
            ("ends", get_args(Ends)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}")

    @classmethod
    def small(cls) -> "ScaleGMNConfig":
        """Settings of a size that trains on two cores."""
        return cls(width=32, num_layers=3, p_dropout=0.0)

    @classmethod
    def editing(cls) -> "ScaleGMNConfig":
        """Published settings of the editor of MNIST fields."""
        return cls(num_layers=10, p_dropout=0.1, embed_edges=False, symmetrised=False, ends="separate")

    def group_on(self, spec: FieldSpec) -> Group:
        """The group on fields of `spec`. Raises ValueError when its activation lacks the group asked for."""
        most = _GROUPS.get(spec.activation, "permutation")
        if self.group == "auto":
            return most
        if self.group not in (most, "permutation"):
            known = " or ".join(dict.fromkeys((most, "permutation")))
            raise ValueError(f"group={self.group!r}: expected {known} for {spec.activation} fields")
        return self.group

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """Permutations, and signs or scales. Raises ValueError for a group that the spec's activation lacks."""
        group = self.group_on(spec)
        return ("permutation",) if group == "permutation" else ("permutation", group)

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> "ScaleGMN":
        """Make the reader for fields of `spec`."""
        return ScaleGMN(spec, num_outputs, self, generator)

    def build_editor(self, spec: FieldSpec, generator: Generator) -> "ScaleGMNEditor":
        """Make the editor for fields of `spec`."""
        return ScaleGMNEditor(spec, self, generator)


@dataclass(frozen=True, kw_only=True)
class BidirectionalConfig(ScaleGMNConfig):
    """As ScaleGMNConfig, with messages both ways; other published defaults."""

    published: ClassVar[str] = "MNIST 96.59, Fashion-MNIST 80.78, CIFAR-10 38.82 (random init)"
    fields_at_once: ClassVar[int] = 8
    both_ways: ClassVar[bool] = True

    skip: bool = False
    embed_edges: bool = False
    constants: bool = True

    @classmethod
    def small(cls) -> "BidirectionalConfig":
        """Settings of a size that trains on two cores."""
        return cls(width=32, num_layers=3, p_dropout=0.0)

    @classmethod
    def editing(cls) -> "BidirectionalConfig":
        """Published settings of the editor of MNIST fields."""
        return cls(num_layers=10, p_dropout=0.1, skip=True, constants=False, symmetrised=False, ends="shared")


class Embedding(nn.Module):
    """First features of units and edges, and the embeddings of their types.

    A hidden unit starts as b v * t, an output as b v + t, an input as v + t, an edge as w u (* t'), t the embedding of
    the unit's type, t' of the edge's: inputs and outputs and their edges are each a type, a hidden layer or block one.
    The published code numbers the edges of several outputs in another order than it lists them, so that its hidden
    units no longer commute; here every edge has the type of its own output.
    """

    def __init__(self, spec: FieldSpec, style: Style, embed_edges: bool, generator: Generator) -> None:
        super().__init__()
        self.dims, self.plain = spec.dims, style.group == "permutation"
        num_ends, depth = spec.dims[0] + spec.dims[-1], len(spec.hidden)
        self.node = matrix(1, style.width, generator)
        self.edge = matrix(1, style.width, generator)
        self.node_types = nn.Parameter(torch.randn(num_ends + depth, style.width, generator=generator))
        self.edge_types = None
        if embed_edges:
            self.edge_types = nn.Parameter(torch.randn(num_ends + depth - 1, style.width, generator=generator))

    def stages(self) -> list[Tensor]:
        """Embeddings of every stage: (d,) for a hidden one, (H, d) for inputs and outputs."""
        first, last = self.dims[0], self.dims[-1]
        return [self.node_types[:first], *self.node_types[first:-last], self.node_types[-last:]]

    def _blocks(self) -> list[Tensor]:
        types, first, last = self.edge_types, self.dims[0], self.dims[-1]
        if types is None:
            return [torch.ones_like(self.edge.weight[:, 0])] * (len(self.dims) - 1)
        return [types[:first], *types[first:-last], types[-last:].unsqueeze(1)]

    def forward(self, features: WeightFeatures, both_ways: bool, reciprocal: bool) -> Graph:
        """Return the graph that the first layer sees."""
        node, edge, stages = self.node.weight[:, 0], self.edge.weight[:, 0], self.stages()
        nodes = [(node + stages[0]).expand(len(features), -1, -1)]
        for bias, kind in zip(features.biases[:-1], stages[1:-1], strict=True):
            nodes.append(bias * node + kind if self.plain else bias * (node * kind))
        nodes.append(features.biases[-1] * node + stages[-1])
        edges = [self._edge(w, edge, kind) for w, kind in zip(features.weights, self._blocks(), strict=True)]
        back = edges
        if reciprocal:
            kinds = zip(features.weights, self._blocks(), strict=True)
            back = [self._edge(_reciprocal(w), edge, kind) for w, kind in kinds]
        return Graph(nodes, edges, back if both_ways else [])

    def _edge(self, weight: Tensor, edge: Tensor, kind: Tensor) -> Product:
        if self.plain and self.edge_types is not None:
            return Product(weight * edge + kind)
        return Product(edge * kind, weight)


def _reciprocal(x: Tensor) -> Tensor:
    """1 / x, and 0 for 0, which is what scales of units turn 0 into as well."""
    zero = x == 0
    return torch.where(zero, 0.0, 1.0 / torch.where(zero, 1.0, x))


def _live(depth: int, both_ways: bool, updates_back: bool, num_layers: int, last: Live) -> list[Live]:
    """What each layer must compute so that `last` is right after the last one; depth: blocks of edges."""
    plan = [last]
    for _ in range(num_layers - 1):
        after = plan[0]
        below = {stage - 1 for stage in after.nodes if stage > 0}
        above = {stage for stage in after.nodes if both_ways and stage < depth}
        ends = {stage for block in after.edges | after.back for stage in (block, block + 1)}
        nodes = after.nodes | below | {block + 1 for block in above} | ends
        back = after.back | above if updates_back else frozenset()
        plan.insert(0, Live(frozenset(nodes), after.edges | below, frozenset(back)))
    return plan


class Trunk(nn.Module):
    """Embedding and layers; only what `last` depends on is computed."""

    def __init__(self, spec: FieldSpec, config: ScaleGMNConfig, editor: bool, last: Live, generator: Generator) -> None:
        super().__init__()
        group = config.group_on(spec)
        width = config.width
        seen = config.constants and group != "permutation"
        style = Style(width, group, config.symmetrised, config.ends, width if seen else 0)
        self.config, self.style, self.reciprocal = config, style, group == "scale" and config.both_ways
        self.embedding = Embedding(spec, style, config.embed_edges, generator)
        layers = []
        for number in range(config.num_layers):
            final = number == config.num_layers - 1
            layers.append(
                Layer(
                    style,
                    generator,
                    both_ways=config.both_ways,
                    skip=config.skip and not (editor and final),
                    updates_edges=editor or not final,
                    updates_back=self.reciprocal and not final,
                    num_out=1 if editor and final else width,
                )
            )
        self.layers = nn.ModuleList(layers)
        self.live = _live(spec.num_layers, config.both_ways, self.reciprocal, config.num_layers, last)

    def forward(self, features: WeightFeatures, generator: Generator | None) -> Graph:
        """Features of N fields -> graph after the last layer."""
        graph = self.embedding(features, self.config.both_ways, self.reciprocal)
        constants = self.embedding.stages() if self.style.constants else None
        for layer, live in zip(self.layers, self.live, strict=True):
            graph = layer(graph, live, constants)
            if self.training and graph.nodes[-1].shape[-1] == self.config.width:
                nodes = list(graph.nodes)
                for stage in live.nodes:
                    nodes[stage] = dropout(nodes[stage], self.config.p_dropout, generator)
                graph = Graph(nodes, graph.edges, graph.back)
        return graph


class LastLayer(nn.Module):
    """mlp of the outputs' features in a row; with both_ways mlp of [A outputs, B inputs]."""

    def __init__(self, spec: FieldSpec, width: int, num_outputs: int, both_ways: bool, generator: Generator) -> None:
        super().__init__()
        self.outputs = linear(spec.dims[-1] * width, width, generator) if both_ways else None
        self.inputs = linear(spec.dims[0] * width, width, generator) if both_ways else None
        self.mlp = Mlp(2 * width if both_ways else spec.dims[-1] * width, width, num_outputs, generator)

    def forward(self, graph: Graph) -> Tensor:
        """Return (N, num_outputs)."""
        read = graph.nodes[-1].flatten(1)
        if self.outputs is not None and self.inputs is not None:
            read = torch.cat([self.outputs(read), self.inputs(graph.nodes[0].flatten(1))], dim=1)
        return self.mlp(read)


class FullGraph(nn.Module):
    """mlp of [sum over hidden units of phi(r(x)), inputs' and outputs' features in a row]."""

    def __init__(self, spec: FieldSpec, style: Style, num_outputs: int, generator: Generator) -> None:
        super().__init__()
        width, ends = style.width, spec.dims[0] + spec.dims[-1]
        self.plain = style.group == "permutation"
        self.invariant = None if self.plain else Invariant(width, style, generator)
        self.phi = Mlp(width, width, width, generator)
        self.mlp = Mlp(width if self.plain else width * (1 + ends), width, num_outputs, generator)

    def forward(self, graph: Graph) -> Tensor:
        """Return (N, num_outputs)."""
        first, last = graph.nodes[0], graph.nodes[-1]
        if self.invariant is None:
            return self.mlp(self.phi(torch.cat(graph.nodes, dim=1)).sum(1))
        hidden = Product(torch.cat(graph.nodes[1:-1], dim=1))
        active = self.phi.activate(self.invariant(hidden, self.phi.first.weight, self.phi.first.bias)).sum(1)
        units = sum(nodes.shape[1] for nodes in graph.nodes[1:-1])
        total = functional.linear(active, self.phi.last.weight, units * self.phi.last.bias)
        return self.mlp(torch.cat([total, first.flatten(1), last.flatten(1)], dim=1))


class ScaleGMN(nn.Module):
    """y = readout(layers(embedding(weights, biases))): a reader that signs or scales of units leave as it is.

    Shapes: features of N fields, one channel -> (N, num_outputs). Kalogeropoulos et al., "Scale equivariant graph
    metanetworks", NeurIPS 2024.

    >>> import torch
    >>> from neuralfields import SIREN
    >>> generator = torch.Generator().manual_seed(0)
    >>> [sum(p.numel() for p in kind().build(SIREN(2, 1), 10, generator).parameters())
    ...  for kind in (ScaleGMNConfig, BidirectionalConfig)]
    [1772042, 3089162]
    """

    def __init__(self, spec: FieldSpec, num_outputs: int, config: ScaleGMNConfig, generator: Generator) -> None:
        super().__init__()
        every = frozenset(range(spec.num_layers + 1))
        ends = {0, spec.num_layers} if config.both_ways else {spec.num_layers}
        last = Live(every if config.readout == "full_graph" else frozenset(ends), frozenset(), frozenset())
        self.trunk = Trunk(spec, config, False, last, generator)
        if config.readout == "full_graph":
            self.readout = FullGraph(spec, self.trunk.style, num_outputs, generator)
        else:
            self.readout = LastLayer(spec, config.width, num_outputs, config.both_ways, generator)

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Return outputs (N, num_outputs); `generator` draws the dropout masks in training mode."""
        return self.readout(self.trunk(features, generator))


class ScaleGMNEditor(nn.Module):
    """Change of every weight and bias: s_l times the last layer's features of edges and units, one channel.

    Shapes: features of N fields, one channel -> WeightFeatures of one channel; s_l starts at output_scale, one for the
    weights and one for the biases of every layer. Equivariant under the model's group. Kalogeropoulos et al., 2024.
    """

    def __init__(self, spec: FieldSpec, config: ScaleGMNConfig, generator: Generator) -> None:
        super().__init__()
        depth = spec.num_layers
        last = Live(frozenset(range(1, depth + 1)), frozenset(range(depth)), frozenset())
        self.trunk = Trunk(spec, config, True, last, generator)
        self.weight_scale = nn.Parameter(torch.full((depth,), config.output_scale))
        self.bias_scale = nn.Parameter(torch.full((depth,), config.output_scale))

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> WeightFeatures:
        """Return the change of every parameter; `generator` draws the dropout masks in training mode."""
        graph = self.trunk(features, generator)
        weights = tuple(edge.value * scale for edge, scale in zip(graph.edges, self.weight_scale, strict=True))
        biases = tuple(node * scale for node, scale in zip(graph.nodes[1:], self.bias_scale, strict=True))
        return WeightFeatures(weights, biases)
