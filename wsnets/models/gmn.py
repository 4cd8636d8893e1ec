"""GMN: message passing on the parameter graph of a field, in which every weight and every bias is an edge.

Block l joins stage l + 1 to stage l and to the bias node of that layer, its last unit: one dense (O, I + 1) block of
edges. Legend: N fields, O units of the upper stage, I units of the lower stage, H units of any stage, d channels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.features import NormaliserMode, WeightFeatures
from wsnets.heads import linear
from wsnets.models.scale_gmn_layers import Mlp


@dataclass(frozen=True, kw_only=True)
class GMNConfig:
    """width d; num_layers: of message passing; output_scale: start of the factor of the change, for editors.

    The paper reports no reader of neural fields; the defaults have about as many parameters, 750,000, as its others.
    """

    paper: ClassVar[str] = 'Lim et al., "Graph metanetworks for processing diverse neural architectures", ICLR 2024'
    published: ClassVar[str] = "dilation of MNIST digits 0.0603 in [-1, 1]^2 units; no reader of neural fields"
    normalise: ClassVar[NormaliserMode] = "per_layer"
    fields_at_once: ClassVar[int] = 16

    width: int = 108
    num_layers: int = 4
    output_scale: float = 0.01

    def __post_init__(self) -> None:
        for name in ("width", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from 1")

    @classmethod
    def small(cls) -> "GMNConfig":
        """Settings of a size that trains on two cores."""
        return cls(width=32, num_layers=3)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """Permutations."""
        return ("permutation",)

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> "GMN":
        """Make the reader for fields of `spec`."""
        return GMN(spec, num_outputs, self, generator)

    def build_editor(self, spec: FieldSpec, generator: Generator) -> "GMNEditor":
        """Make the editor for fields of `spec`."""
        return GMNEditor(spec, self, generator)


@dataclass(frozen=True)
class FirstEdges:
    """Features p v + t of parameters p (N, O, I + 1, 1), v (d,), t the embedding of an edge's type.

    A linear map of them takes no product with a matrix for any edge.
    """

    parameters: Tensor
    vector: Tensor
    types: Tensor

    @property
    def value(self) -> Tensor:
        """The features (N, O, I + 1, d)."""
        return torch.addcmul(self.types, self.parameters, self.vector)

    def linear(self, weight: Tensor) -> Tensor:
        """Apply y = W x."""
        types = functional.linear(self.types, weight)
        return torch.addcmul(types, self.parameters, functional.linear(self.vector, weight))


@dataclass(frozen=True)
class UpdatedEdges:
    """Features e + last(active), in which the last linear map of an update was not applied yet."""

    old: Tensor
    active: Tensor
    last: nn.Linear

    @property
    def value(self) -> Tensor:
        """The features (N, O, I + 1, d)."""
        return self.old + self.last(self.active)

    def total(self) -> Tensor:
        """Sum over all edges of a field (N, d): the map is applied once, to a sum."""
        count = self.active.shape[1] * self.active.shape[2]
        return self.old.sum((1, 2)) + functional.linear(
            self.active.sum((1, 2)), self.last.weight, count * self.last.bias
        )

    def linear(self, weight: Tensor) -> Tensor:
        """Apply y = W x, W with few rows."""
        mapped = functional.linear(self.active, weight @ self.last.weight, weight @ self.last.bias)
        return functional.linear(self.old, weight) + mapped


class OnEdges(nn.Module):
    """h = silu(layer_norm(A e_oi + B x_o + C x_i + b)), the hidden values of a small network on [edge, both ends]."""

    def __init__(self, width: int, generator: Generator) -> None:
        super().__init__()
        self.mlp = Mlp(3 * width, width, width, generator)

    def forward(self, edges: FirstEdges | Tensor, upper: Tensor, lower: Tensor) -> Tensor:
        """Edges (N, O, I + 1, d), units (N, O, d) and (N, I + 1, d) -> (N, O, I + 1, d)."""
        of_edge, of_upper, of_lower = self.mlp.first.weight.chunk(3, dim=1)
        hidden = edges.linear(of_edge) if isinstance(edges, FirstEdges) else functional.linear(edges, of_edge)
        above = functional.linear(upper, of_upper, self.mlp.first.bias).unsqueeze(2)
        return self.mlp.activate(hidden + (above + functional.linear(lower, of_lower).unsqueeze(1)))

    def total(self, edges: FirstEdges | Tensor, upper: Tensor, lower: Tensor, dim: int) -> Tensor:
        """Sum of the network's outputs over the units along one axis; the last map is applied to the sum."""
        active = self(edges, upper, lower)
        return functional.linear(active.sum(dim), self.mlp.last.weight, active.shape[dim] * self.mlp.last.bias)


class Layer(nn.Module):
    """x_i <- x_i + mlp([x_i, sum from below, sum from above]), then e_oi <- e_oi + mlp([e_oi, x_o, x_i])."""

    def __init__(self, width: int, generator: Generator) -> None:
        super().__init__()
        self.up, self.down, self.edge = (OnEdges(width, generator) for _ in range(3))
        self.node = Mlp(3 * width, width, width, generator)

    def forward(
        self, stages: list[Tensor], biases: list[Tensor], edges: list[FirstEdges] | list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[UpdatedEdges]]:
        """Units (N, H, d) of every stage, bias nodes (N, 1, d) and edges of every block -> the same, updated."""
        below, above = [torch.zeros_like(stages[0])], []
        for block, upper, lower in zip(edges, stages[1:], _lower(stages, biases), strict=True):
            below.append(self.up.total(block, upper, lower, 2))
            above.append(self.down.total(block, upper, lower, 1))
        of_stages = [sums[:, :-1] for sums in above] + [torch.zeros_like(stages[-1])]
        stages = [self._unit(*row) for row in zip(stages, below, of_stages, strict=True)]
        rows = zip(biases, above, strict=True)
        biases = [self._unit(bias, torch.zeros_like(bias), sums[:, -1:]) for bias, sums in rows]
        new = []
        for block, upper, lower in zip(edges, stages[1:], _lower(stages, biases), strict=True):
            old = block.value if isinstance(block, FirstEdges) else block
            new.append(UpdatedEdges(old, self.edge(block, upper, lower), self.edge.mlp.last))
        return stages, biases, new

    def _unit(self, x: Tensor, below: Tensor, above: Tensor) -> Tensor:
        return x + self.node(torch.cat([x, below, above], dim=-1))


def _lower(stages: list[Tensor], biases: list[Tensor]) -> list[Tensor]:
    """Units at the lower end of every block: those of the stage, and the bias node."""
    return [torch.cat([stage, bias], dim=1) for stage, bias in zip(stages[:-1], biases, strict=True)]


class Trunk(nn.Module):
    """Embeddings of the types of nodes and edges, and layers of message passing.

    Inputs, outputs and their edges are each a type, a hidden layer is one, a hidden block is one, the biases of a
    hidden layer are one, those of the outputs one each, and so is every bias node.
    """

    def __init__(self, spec: FieldSpec, config: GMNConfig, generator: Generator) -> None:
        super().__init__()
        width, dims, depth = config.width, spec.dims, len(spec.hidden)
        self.dims = dims

        def types(count: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(count, width, generator=generator))

        self.parameter = types(1)
        self.node_types = types(dims[0] + depth + dims[-1])
        self.bias_types = types(depth + 1)
        self.weight_edge_types = types(dims[0] + depth - 1 + dims[-1])
        self.bias_edge_types = types(depth + dims[-1])
        self.layers = nn.ModuleList(Layer(width, generator) for _ in range(config.num_layers))

    def forward(self, features: WeightFeatures) -> list[UpdatedEdges]:
        """Features of N fields, one channel -> edges of every block after the last layer."""
        count, first, last = len(features), self.dims[0], self.dims[-1]
        kinds = [self.node_types[:first], *self.node_types[first:-last].split(1), self.node_types[-last:]]
        stages = [kind.expand(count, width, -1) for kind, width in zip(kinds, self.dims, strict=True)]
        biases = [kind.expand(count, 1, -1) for kind in self.bias_types]
        edges = []
        for weight, bias, types in zip(features.weights, features.biases, self._edge_types(), strict=True):
            parameters = torch.cat([weight, bias.unsqueeze(2)], dim=2)
            edges.append(FirstEdges(parameters, self.parameter[0], types))
        for number, layer in enumerate(self.layers):
            if number > 0:
                edges = [block.value for block in edges]
            stages, biases, edges = layer(stages, biases, edges)
        return edges

    def _edge_types(self) -> list[Tensor]:
        """Embeddings of a block's edges, (1 or O, I + 1, d), the bias last."""
        first, last, blocks = self.dims[0], self.dims[-1], len(self.dims) - 1
        result = []
        for block, width in enumerate(self.dims[:-1]):
            final = block == blocks - 1
            rows = last if final else 1
            weights = (
                self.weight_edge_types[:first] if block == 0 else self.weight_edge_types[first + block - 1].unsqueeze(0)
            )
            weights = self.weight_edge_types[-last:].unsqueeze(1) if final else weights.unsqueeze(0)
            bias = self.bias_edge_types[-last:] if final else self.bias_edge_types[block : block + 1]
            result.append(torch.cat([weights.expand(rows, width, -1), bias.unsqueeze(1)], dim=1))
        return result


class GMN(nn.Module):
    """y = mlp(mean over all parameters of their edges' features).

    Shapes: features of N fields, one channel -> (N, num_outputs). Messages are two-layer networks of [edge, receiver,
    sender], summed, one network for each direction; there is no global node, as in the paper's experiments. The layer
    norms, silu and residual sums are ours, the paper leaves the networks open. Equivariant under permutations. Lim et
    al., "Graph metanetworks for processing diverse neural architectures", ICLR 2024.

    >>> import torch
    >>> from neuralfields import SIREN
    >>> model = GMNConfig().build(SIREN(2, 1), 10, torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    768214
    """

    def __init__(self, spec: FieldSpec, num_outputs: int, config: GMNConfig, generator: Generator) -> None:
        super().__init__()
        self.trunk = Trunk(spec, config, generator)
        self.num_params = spec.num_params
        self.readout = Mlp(config.width, config.width, num_outputs, generator)

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Return outputs (N, num_outputs); `generator` is not used, nothing is random."""
        edges = self.trunk(features)
        return self.readout(sum(block.total() for block in edges) / self.num_params)


class GMNEditor(nn.Module):
    """Change of every weight and bias: gamma times a linear map of its edge's features, gamma learned.

    Shapes: features of N fields, one channel -> WeightFeatures of one channel; gamma starts at output_scale.
    Equivariant under permutations. Lim et al., ICLR 2024.
    """

    def __init__(self, spec: FieldSpec, config: GMNConfig, generator: Generator) -> None:
        super().__init__()
        self.trunk = Trunk(spec, config, generator)
        self.readout = linear(config.width, 1, generator)
        self.gamma = nn.Parameter(torch.tensor(config.output_scale))

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> WeightFeatures:
        """Return the change of every parameter; `generator` is not used, nothing is random."""
        changes = []
        for block in self.trunk(features):
            changes.append(self.gamma * (block.linear(self.readout.weight) + self.readout.bias))
        weights = tuple(change[:, :, :-1] for change in changes)
        return WeightFeatures(weights, tuple(change[:, :, -1] for change in changes))
