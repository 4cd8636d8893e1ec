"""NG-T: a relational transformer on neural graphs, as reader and as editor.

Every node attends to every node, and what joins them, an edge feature for each of the V x V pairs, takes part in
queries, keys and values and is updated itself. Two thirds of that are needed: before the first update only pairs that a
weight joins differ from each other, and of the last layer only what the outputs read. Legend: N fields, V nodes, H
heads, D channels of a head, C channels of a node, E channels of an edge.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.features import NormaliserMode, WeightFeatures
from wsnets.heads import Unset
from wsnets.models.neural_graph_attention import attend, pair_sum, scatter
from wsnets.models.neural_graph_features import GraphInput, mlp, permutation_only


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """node_width C, edge_width E, attention_width H D, num_heads H; num_layers; num_frequencies, frequency_std: of the
    embedding of weights and biases (0 frequencies: linear); num_probes: learned coordinates (0: weights alone are
    read); p_dropout: of all changes of nodes and edges, in [0, 1); reverse: whether the pair (output, input) knows the
    weight of (input, output) from the start; output_scale: initial factor of the changes of an editor."""

    paper: ClassVar[str] = 'Kofinas et al., "Graph neural networks for learning equivariant representations", ICLR 2024'
    published: ClassVar[str] = "style editing, dilate MNIST, 64 probes: MSE 0.0175 (random init)"
    normalise: ClassVar[NormaliserMode] = "per_layer"
    fields_at_once: ClassVar[int] = 8

    node_width: int = 64
    edge_width: int = 32
    attention_width: int = 128
    num_heads: int = 8
    num_layers: int = 4
    num_frequencies: int = 128
    frequency_std: float = 1.0
    num_probes: int = 64
    p_dropout: float = 0.2
    reverse: bool = False
    output_scale: float = 0.01

    def __post_init__(self) -> None:
        least = {"num_frequencies": 0, "num_probes": 0}
        for name in ("node_width", "edge_width", "attention_width", "num_heads", "num_layers", *least):
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from {least.get(name, 1)}")
        if self.attention_width % self.num_heads:
            raise ValueError(f"attention_width={self.attention_width}: expected a multiple of {self.num_heads} heads")
        if not 0.0 <= self.p_dropout < 1.0:
            raise ValueError(f"p_dropout={self.p_dropout}: expected a number in [0, 1)")

    @classmethod
    def small(cls) -> "TransformerConfig":
        """Settings that train on two cores: two layers of half the width, 32 probes."""
        return cls(
            node_width=32,
            edge_width=8,
            attention_width=32,
            num_heads=4,
            num_layers=2,
            num_frequencies=16,
            frequency_std=0.5,
            num_probes=32,
            p_dropout=0.1,
        )

    @classmethod
    def editing(cls) -> "TransformerConfig":
        """The published settings for editing."""
        return cls(num_heads=4, frequency_std=3.0, p_dropout=0.3, reverse=True)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """Permutation. Raises ValueError unless all parameters of the spec are dense layers."""
        return permutation_only(spec)

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> "TransformerReader":
        """Make the reader of fields of `spec`."""
        return TransformerReader(spec, num_outputs, self, generator)

    def build_editor(self, spec: FieldSpec, generator: Generator) -> "TransformerEditor":
        """Make the editor of fields of `spec`."""
        return TransformerEditor(spec, self, generator)


def xavier(num_in: int, num_out: int, generator: Generator, bias: bool = True) -> nn.Linear:
    """A linear layer, weights uniform in +-sqrt(6 / (num_in + num_out)), biases 0 (Glorot and Bengio, AISTATS 2010)."""
    layer = Unset(num_in, num_out, bias=bias)
    bound = math.sqrt(6.0 / (num_in + num_out))
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        if bias:
            layer.bias.zero_()
    return layer


class Residual(nn.Module):
    """y = LayerNorm(x + dropout(change)), a mask of one byte's draw per entry: p is rounded to a multiple of 1/256."""

    def __init__(self, width: int, p_dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropped = min(round(256 * p_dropout), 255)

    def forward(self, x: Tensor, change: Tensor, generator: Generator | None) -> Tensor:
        """Return y, of the shape of x and change; `generator` draws the mask in training mode."""
        if not self.training or self.dropped == 0:
            return self.norm(x + change)
        if generator is None:
            raise ValueError("generator=None: dropout in training mode needs a torch.Generator")
        words = torch.empty((change.numel() + 7) // 8, dtype=torch.int64, device=generator.device)
        draws = words.random_(-(2**63), None, generator=generator).view(torch.uint8)[: change.numel()]
        keep = torch.ge(draws, self.dropped, out=torch.empty(change.shape, dtype=x.dtype, device=draws.device).view(-1))
        keep = keep.mul_(256.0 / (256.0 - self.dropped)).view(change.shape).to(x.device)
        return self.norm(torch.addcmul(x, change, keep))


class Attention(nn.Module):
    """What nodes hear from all nodes: A [sum_j a_hij (v_hj * M_h e_ij + W_h e_ij)]_h + b, a as in `attend`."""

    def __init__(self, config: TransformerConfig, generator: Generator) -> None:
        super().__init__()
        self.heads, self.channels = config.num_heads, config.attention_width // config.num_heads
        self.node = xavier(config.node_width, 3 * config.attention_width, generator, bias=False)
        self.edge = xavier(config.edge_width, 4 * config.attention_width, generator, bias=False)
        self.out = xavier(config.attention_width, config.node_width, generator)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Return (N, I, C) for nodes (N, V, C) and edges (N, I, V, E), the I last nodes attending."""
        query, key, value, factor = self.edge.weight.view(self.heads, 4, self.channels, -1).unbind(1)
        weight = torch.stack([query, key, factor])
        queries, keys, values = self._project(nodes)
        scale = (self.heads * self.channels) ** -0.5
        heard, gathered = attend(edges, weight, (queries[..., -edges.shape[1] :], keys, values), scale)
        heard = heard + torch.einsum("nihe,hde->hdni", gathered, value)
        return self.out(heard.flatten(0, 1).permute(1, 2, 0))

    def _project(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of nodes, each (H, D, N, V)."""
        flat = self.node.weight @ nodes.reshape(-1, nodes.shape[2]).t()
        queries, keys, values = flat.view(self.heads, 3, self.channels, *nodes.shape[:2]).unbind(1)
        return queries, keys, values


class NodeUpdate(nn.Module):
    """x <- LayerNorm(x + B Attention(x, e)); x <- LayerNorm(x + MLP(x))."""

    def __init__(self, config: TransformerConfig, generator: Generator) -> None:
        super().__init__()
        self.attention = Attention(config, generator)
        self.mix = xavier(config.node_width, config.node_width, generator)
        self.residuals = nn.ModuleList(Residual(config.node_width, config.p_dropout) for _ in range(2))
        self.wide = xavier(config.node_width, 2 * config.node_width, generator, bias=False)
        self.narrow = xavier(2 * config.node_width, config.node_width, generator)

    def forward(self, nodes: Tensor, edges: Tensor, generator: Generator | None) -> Tensor:
        """Return the new features (N, I, C) of the I last nodes, for nodes (N, V, C) and edges (N, I, V, E)."""
        change = self.mix(self.attention(nodes, edges))
        x = self.residuals[0](nodes[:, -edges.shape[1] :], change, generator)
        return self.residuals[1](x, self.narrow(F.gelu(self.wide(x))), generator)


class EdgeUpdate(nn.Module):
    """e_ij <- LayerNorm(e_ij + B gelu(A [e_ij, e_ji] + S x_i + T x_j + b)); e_ij <- LayerNorm(e_ij + MLP(e_ij))."""

    def __init__(self, config: TransformerConfig, generator: Generator) -> None:
        super().__init__()
        width, hidden = config.edge_width, 2 * config.edge_width
        self.edge = xavier(2 * width, hidden, generator)
        self.source = xavier(config.node_width, hidden, generator)
        self.target = xavier(config.node_width, hidden, generator)
        self.out = xavier(hidden, width, generator)
        self.residuals = nn.ModuleList(Residual(width, config.p_dropout) for _ in range(2))
        self.wide = xavier(width, hidden, generator, bias=False)
        self.narrow = xavier(hidden, width, generator)

    def forward(self, edges: Tensor, nodes: Tensor, generator: Generator | None) -> Tensor:
        """Return the new features of all pairs: edges (N, V, V, E), nodes (N, V, C)."""
        there, back = self.edge.weight.chunk(2, dim=1)
        sources = F.linear(nodes, self.source.weight, self.source.bias + self.edge.bias)
        hidden = pair_sum(F.linear(edges, torch.cat([there, back])), sources, self.target(nodes))
        return self._finish(edges, hidden, generator)

    def some(
        self, edges: Tensor, back: Tensor, sources: Tensor, targets: Tensor, generator: Generator | None
    ) -> Tensor:
        """The same of some pairs: edges (N, I, J, E), those back (N, J, I, E), nodes (N, I, C) and (N, J, C)."""
        forward, reverse = self.edge.weight.chunk(2, dim=1)
        sums = F.linear(edges, forward, self.edge.bias) + F.linear(back, reverse).transpose(1, 2)
        sums = sums + self.source(sources).unsqueeze(2) + self.target(targets).unsqueeze(1)
        return self._finish(edges, F.gelu(sums), generator)

    def _finish(self, edges: Tensor, hidden: Tensor, generator: Generator | None) -> Tensor:
        edges = self.residuals[0](edges, self.out(hidden), generator)
        return self.residuals[1](edges, self.narrow(F.gelu(self.wide(edges))), generator)


class Transformer(nn.Module):
    """What reader and editor share: features of a graph, then layers that update nodes and edges.

    No edge update follows the last node update unless `last_edges`.
    """

    def __init__(
        self, spec: FieldSpec, config: TransformerConfig, generator: Generator, last_edges: bool = False
    ) -> None:
        super().__init__()
        self.dims = spec.dims
        self.graph = GraphInput(
            spec,
            node_width=config.node_width,
            edge_width=config.edge_width,
            num_frequencies=config.num_frequencies,
            frequency_std=config.frequency_std,
            num_probes=config.num_probes,
            reverse=config.reverse,
            generator=generator,
        )
        self.nodes = nn.ModuleList(NodeUpdate(config, generator) for _ in range(config.num_layers))
        updates = config.num_layers if last_edges else config.num_layers - 1
        self.edges = nn.ModuleList(EdgeUpdate(config, generator) for _ in range(updates))

    @property
    def layers(self) -> list[slice]:
        """Where the nodes of each layer are."""
        stops = [sum(self.dims[: k + 1]) for k in range(len(self.dims))]
        return [slice(stop - width, stop) for stop, width in zip(stops, self.dims, strict=True)]

    @property
    def last_edge_update(self) -> EdgeUpdate:
        """The last update of edges."""
        return cast(EdgeUpdate, self.edges[-1])

    def start(self, features: WeightFeatures) -> tuple[Tensor, Tensor]:
        """Nodes (N, V, C) and edges (N, V, V, E) before any update; the pair (i, j) has the weight from i to j."""
        layers, blocks, places = self.layers, [], []
        for k, weight in enumerate(features.weights):
            w = weight[..., 0].transpose(1, 2)
            blocks.append(self.graph.edges(w))
            places.append((layers[k], layers[k + 1]))
            if self.graph.reverse:
                blocks.append(self.graph.edges(w.transpose(1, 2), reverse=True))
                places.append((layers[k + 1], layers[k]))
        return self.graph.nodes(features), scatter(self.graph.no_edge(), blocks, places, sum(self.dims))


class TransformerReader(nn.Module):
    """y = MLP(x of all output nodes in a row) after layers of relational attention on the neural graph.

    Shapes: features of N fields -> (N, num_outputs). Symmetry: permutation. Kofinas et al., "Graph neural networks for
    learning equivariant representations of neural networks", ICLR 2024; Diao and Loynd, "Relational attention:
    generalizing transformers for graph-structured tasks", ICLR 2023.

    >>> import torch
    >>> from neuralfields import SIREN
    >>> model = TransformerConfig().build(SIREN(2, 1), 10, torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    393866
    """

    def __init__(self, spec: FieldSpec, num_outputs: int, config: TransformerConfig, generator: Generator) -> None:
        super().__init__()
        self.transformer = Transformer(spec, config, generator)
        self.head = mlp((spec.dims[-1] * config.node_width, 2 * config.node_width, num_outputs), generator)

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Return outputs (N, num_outputs); `generator` draws the dropout masks in training mode."""
        body = self.transformer
        nodes, edges = body.start(features)
        outputs = body.layers[-1]
        for k, update_nodes in enumerate(body.nodes[:-1]):
            nodes = update_nodes(nodes, edges, generator)
            if k < len(body.edges) - 1:
                edges = body.edges[k](edges, nodes, generator)
        if len(body.edges) > 0:  # of the last edges only those that output nodes attend along
            parts = (edges[:, outputs], edges[:, :, outputs], nodes[:, outputs], nodes)
            edges = body.last_edge_update.some(*parts, generator)
        else:
            edges = edges[:, outputs]
        return self.head(body.nodes[-1](nodes, edges, generator).flatten(1))


class TransformerEditor(nn.Module):
    """Change of weight w_l = c_l MLP(e of its pair), of bias b_l = d_l MLP(x of its node), c and d learned per layer.

    Shapes: features of N fields -> features of one channel. Symmetry: permutation.
    """

    def __init__(self, spec: FieldSpec, config: TransformerConfig, generator: Generator) -> None:
        super().__init__()
        self.transformer = Transformer(spec, config, generator, last_edges=True)
        self.edge_head = mlp((config.edge_width, config.edge_width, 1), generator)
        self.node_head = mlp((config.node_width, config.node_width, 1), generator)
        self.weight_scales = nn.Parameter(torch.full((spec.num_layers,), config.output_scale))
        self.bias_scales = nn.Parameter(torch.full((spec.num_layers,), config.output_scale))

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> WeightFeatures:
        """Return the changes; `generator` draws the dropout masks in training mode."""
        body = self.transformer
        nodes, edges = body.start(features)
        for update_nodes, update_edges in zip(body.nodes[:-1], body.edges[:-1], strict=True):
            nodes = update_nodes(nodes, edges, generator)
            edges = update_edges(edges, nodes, generator)
        nodes = body.nodes[-1](nodes, edges, generator)
        biases, weights = self.node_head(nodes), []
        for sources, targets in pairwise(body.layers):
            parts = (edges[:, sources, targets], edges[:, targets, sources], nodes[:, sources], nodes[:, targets])
            weights.append(self.edge_head(body.last_edge_update.some(*parts, generator)).transpose(1, 2))
        return WeightFeatures(
            tuple(w * self.weight_scales[k] for k, w in enumerate(weights)),
            tuple(biases[:, layer] * self.bias_scales[k] for k, layer in enumerate(body.layers[1:])),
        )
