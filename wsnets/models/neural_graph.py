"""NG-GNN: principal neighbourhood aggregation on neural graphs, as reader and as editor.

Legend: N fields, V nodes, M edges of all fields, C channels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.features import NormaliserMode, WeightFeatures
from wsnets.heads import dropout, linear
from wsnets.models.neural_graph_features import GraphInput, composed, mlp, permutation_only
from wsnets.models.neural_graph_messages import Layout, aggregate, update

_NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class GNNConfig:
    """width C of nodes and edges; num_layers: rounds of messages; num_frequencies, frequency_std: of the embedding of
    weights and biases (0 frequencies: linear); num_probes: learned coordinates (0: weights alone are read); p_dropout:
    of node features after each round but the last, in [0, 1); output_scale: initial factor of an editor's changes."""

    paper: ClassVar[str] = 'Kofinas et al., "Graph neural networks for learning equivariant representations", ICLR 2024'
    published: ClassVar[str] = "MNIST 91.40, Fashion-MNIST 68.00, CIFAR-10 36.04 (random init, no probes)"
    normalise: ClassVar[NormaliserMode] = "per_layer"
    fields_at_once: ClassVar[int] = 32

    width: int = 32
    num_layers: int = 4
    num_frequencies: int = 128
    frequency_std: float = 3.0
    num_probes: int = 0
    p_dropout: float = 0.2
    output_scale: float = 0.01

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("num_layers", 1), ("num_frequencies", 0), ("num_probes", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from {least}")
        if not 0.0 <= self.p_dropout < 1.0:
            raise ValueError(f"p_dropout={self.p_dropout}: expected a number in [0, 1)")

    @classmethod
    def small(cls) -> "GNNConfig":
        """Settings that train in minutes on two cores: three rounds, fewer frequencies, 32 probes."""
        return cls(num_layers=3, num_frequencies=16, frequency_std=0.5, num_probes=32, p_dropout=0.1)

    @classmethod
    def editing(cls) -> "GNNConfig":
        """The published settings for editing."""
        return cls(width=128, num_frequencies=0)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """Permutation. Raises ValueError unless all parameters of the spec are dense layers."""
        return permutation_only(spec)

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> "GNNReader":
        """Make the reader of fields of `spec`."""
        return GNNReader(spec, num_outputs, self, generator)

    def build_editor(self, spec: FieldSpec, generator: Generator) -> "GNNEditor":
        """Make the editor of fields of `spec`."""
        return GNNEditor(spec, self, generator)


class Round(nn.Module):
    """One round of messages: x_t <- A [x_t, g, alpha_t g] + b, where g aggregates (mean, min, max, standard deviation)
    the messages scale(e_ts) * (P x_t + Q x_s) + shift(e_ts) and alpha_t = log(degree_t + 1) / its average.

    Shapes: edges (M, C) or what `then` maps to them, nodes (N, V, C) -> (N, V, C). scale and shift are linear.
    Corso et al., "Principal neighbourhood aggregation for graph nets", NeurIPS 2020; modulation as in Perez et al.,
    "FiLM", AAAI 2018.
    """

    def __init__(self, width: int, generator: Generator) -> None:
        super().__init__()
        self.modulate = linear(width, 2 * width, generator)
        self.message = linear(2 * width, width, generator)
        self.gather = linear(9 * width, width, generator)
        self.mix = linear(width, width, generator)

    def forward(self, edges: Tensor, then: "Pending", nodes: Tensor, layout: Layout, amplification: Tensor) -> Tensor:
        """Return the new nodes; where `edges` are those into output nodes alone, only the output nodes."""
        width = nodes.shape[2]
        of_target, of_source = self.message.weight.chunk(2, dim=1)
        ends = F.linear(nodes, torch.cat([of_target, of_source]), F.pad(self.message.bias, (0, width)))
        gathered = aggregate(then(edges, self.modulate), ends, layout)
        weight, bias = composed(self.mix, self.gather.weight, self.gather.bias)
        own, plain, amplified = weight.split((width, 4 * width, 4 * width), dim=1)
        if len(edges) == len(nodes) * layout.num_last:
            nodes, gathered, amplification = (x[..., -layout.dims[-1] :, :] for x in (nodes, gathered, amplification))
        return F.linear(nodes, own, bias) + F.linear(gathered, plain) + amplification * F.linear(gathered, amplified)


@dataclass(frozen=True)
class Pending:
    """A linear map that edges still have to go through: it is folded into whatever linear map reads them."""

    linear: nn.Linear | None = None

    def __call__(self, edges: Tensor, reader: nn.Linear) -> Tensor:
        """reader(linear(edges)), by one product."""
        if self.linear is None:
            return reader(edges)
        return F.linear(edges, *composed(reader, self.linear.weight, self.linear.bias))


class EdgeUpdate(nn.Module):
    """e_ts <- W silu(A e_ts + S x_s + T x_t + b), W left to be folded into what reads the edges."""

    def __init__(self, width: int, generator: Generator) -> None:
        super().__init__()
        self.edge = linear(width, width, generator)
        self.source = linear(width, width, generator)
        self.target = linear(width, width, generator)
        self.out = linear(width, width, generator)

    def forward(self, edges: Tensor, then: Pending, nodes: Tensor, layout: Layout) -> tuple[Tensor, Pending]:
        """Return the edges before W, and W."""
        weight = torch.cat([self.target.weight, self.source.weight])
        ends = F.linear(nodes, weight, torch.cat([self.target.bias, self.source.bias]))
        return update(then(edges, self.edge), ends, layout), Pending(self.out)


class FieldNorm(nn.Module):
    """y = w (x - mean) / (std + 1e-5) + b, mean and std over all nodes and channels of one field.

    The public code takes them over the whole batch, so that there what is said of one field depends on the others, in
    evaluation too; on a batch of one it computes this.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise nodes (N, V, C)."""
        x = x - x.mean((1, 2), keepdim=True)
        std = x.square().mean((1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        return torch.addcmul(self.bias, x / (std + _NORM_EPS), self.weight)


class GNN(nn.Module):
    """What reader and editor share: features of a graph, then rounds of messages and updates of edges.

    amplification: log(degree + 1) of every node, over an average that counts, as the public code does, only the edges
    that run with the flow.
    """

    amplification: Tensor

    def __init__(self, spec: FieldSpec, config: GNNConfig, generator: Generator) -> None:
        super().__init__()
        self.layout = Layout(spec.dims)
        self.config = config
        self.graph = GraphInput(
            spec,
            node_width=config.width,
            edge_width=config.width,
            num_frequencies=config.num_frequencies,
            frequency_std=config.frequency_std,
            num_probes=config.num_probes,
            reverse=True,
            generator=generator,
        )
        self.rounds = nn.ModuleList(Round(config.width, generator) for _ in range(config.num_layers))
        self.norms = nn.ModuleList(FieldNorm(config.width) for _ in range(config.num_layers - 1))
        self.updates = nn.ModuleList(EdgeUpdate(config.width, generator) for _ in range(config.num_layers - 1))
        degrees = [self.layout.degrees(k * self.layout.num_weights) for k in (2, 1)]
        both, with_flow = torch.tensor(degrees, dtype=torch.float64).log1p()
        self.register_buffer("amplification", (both / with_flow.mean()).unsqueeze(1), persistent=False)

    def forward(
        self, features: WeightFeatures, generator: Generator | None, whole: bool
    ) -> tuple[Tensor, Tensor, Pending]:
        """Return nodes, and edges with what they still have to go through: of all nodes and of the edges that are
        weights if `whole`, else of the output nodes and of the edges into them."""
        count, nodes, edges, then = len(features), self.graph.nodes(features), self._edges(features), Pending()
        last = count * (self.layout.num_weights if whole else self.layout.num_last)
        amplification = self.amplification.to(nodes.dtype)
        for layer, (norm, update_edges) in enumerate(zip(self.norms, self.updates, strict=True)):
            nodes = norm(self.rounds[layer](edges, then, nodes, self.layout, amplification))
            nodes = F.silu(nodes)
            if self.training:
                nodes = dropout(nodes, self.config.p_dropout, generator)
            if layer == len(self.norms) - 1 and not whole:
                edges = edges[:last]
            edges, then = update_edges(edges, then, nodes, self.layout)
        read = edges if whole else edges[:last]
        nodes = self.rounds[-1](read, then, nodes, self.layout, amplification)
        return nodes, edges[:last], then

    def _edges(self, features: WeightFeatures) -> Tensor:
        """(M, C): features of the edges of all blocks."""
        weights = [w[..., 0] for w in reversed(features.weights)]
        with_flow = torch.cat([w.reshape(-1) for w in weights])
        against = torch.cat([w.transpose(1, 2).reshape(-1) for w in weights])
        return torch.cat([self.graph.edges(with_flow), self.graph.edges(against, reverse=True)])


class GNNReader(nn.Module):
    """y = MLP(x of all output nodes in a row) after rounds of messages on the neural graph, x of C channels.

    Shapes: features of N fields -> (N, num_outputs). Symmetry: permutation. Only what the output nodes depend on is
    computed. Kofinas et al., "Graph neural networks for learning equivariant representations of neural networks",
    ICLR 2024.

    >>> import torch
    >>> from neuralfields import SIREN
    >>> model = GNNConfig().build(SIREN(2, 1), 10, torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    92010
    """

    def __init__(self, spec: FieldSpec, num_outputs: int, config: GNNConfig, generator: Generator) -> None:
        super().__init__()
        self.gnn = GNN(spec, config, generator)
        widths = (spec.dims[-1] * config.width, config.width, config.width, num_outputs)
        self.head = mlp(widths, generator)

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Return outputs (N, num_outputs); `generator` draws the dropout masks in training mode."""
        nodes, _, _ = self.gnn(features, generator, whole=False)
        return self.head(nodes.flatten(1))


class GNNEditor(nn.Module):
    """Change of weight w_l = c_l MLP(e of its edge), of bias b_l = d_l MLP(x of its node), c and d learned per layer.

    Shapes: features of N fields -> features of one channel. Symmetry: permutation. The public code reads the changes of
    biases from nodes counted from the first input node, and so is not equivariant; here from the neurons' own nodes, as
    the paper says.
    """

    def __init__(self, spec: FieldSpec, config: GNNConfig, generator: Generator) -> None:
        super().__init__()
        self.gnn = GNN(spec, config, generator)
        self.edge_head = mlp((config.width, config.width, 1), generator)
        self.node_head = mlp((config.width, config.width, 1), generator)
        self.weight_scales = nn.Parameter(torch.full((spec.num_layers,), config.output_scale))
        self.bias_scales = nn.Parameter(torch.full((spec.num_layers,), config.output_scale))

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> WeightFeatures:
        """Return the changes; `generator` draws the dropout masks in training mode."""
        nodes, edges, then = self.gnn(features, generator, whole=True)
        first, *rest = self.edge_head
        edges = nn.Sequential(*rest)(then(edges, first))
        blocks = reversed(self.gnn.layout.split_edges(edges, len(features)))
        layers = self.gnn.layout.split_nodes(self.node_head(nodes))[1:]
        weights = (block * self.weight_scales[k] for k, block in enumerate(blocks))
        return WeightFeatures(tuple(weights), tuple(x * self.bias_scales[k] for k, x in enumerate(layers)))
