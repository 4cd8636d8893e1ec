"""Neural graphs: a field as a graph whose nodes are its neurons and whose edges are its weights, and their features.

Node features come from biases, from the place of a node in the network, and, where asked for, from what the field
computes at learned probe coordinates; edge features from weights. Kofinas et al., "Graph neural networks for learning
equivariant representations of neural networks", ICLR 2024. Legend: N fields, V nodes, C channels, P probes, M edges.
"""

import math
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import activate, denormalise, encode
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.features import WeightFeatures, raw_fields
from wsnets.heads import linear
from wsnets.models.sinusoid_table import sinusoids

# Which of the three numbers (weight, weight of the reverse pair, their sum) an edge carries, by its direction.
FORWARD, REVERSE = (1.0, 0.0, 1.0), (0.0, 1.0, 1.0)


def permutation_only(spec: FieldSpec) -> tuple[Kind, ...]:
    """The symmetry of a neural graph, for any activation. Raises ValueError unless all parameters are dense layers."""
    spec.check_dense("neural graph")
    return ("permutation",)


class ScalarEmbedding(nn.Module):
    """Embed numbers: y = A [cos(2 pi x (F d)), sin(2 pi x (F d))] + b, or A x d + b without frequencies.

    Shapes: x (...) -> (..., C). d, `direction` in `forward`: which of the num_in inputs carry x, the others being 0;
    F (K, num_in): fixed frequencies, normal of standard deviation `std`. Tancik et al., "Fourier features let networks
    learn high frequency functions in low dimensional domains", NeurIPS 2020.
    """

    frequencies: Tensor

    def __init__(
        self, num_in: int, num_out: int, num_frequencies: int, std: float, generator: Generator, dtype: torch.dtype
    ) -> None:
        super().__init__()
        frequencies = torch.randn((num_frequencies, num_in), generator=generator, dtype=dtype)
        self.register_buffer("frequencies", std * frequencies)
        self.linear = linear(2 * num_frequencies or num_in, num_out, generator)

    def forward(self, x: Tensor, direction: tuple[float, ...], then: nn.Linear | None = None) -> Tensor:
        """Return embeddings, mapped on by `then`, at no cost: two linear maps in a row are one."""
        weight, bias = composed(then, self.linear.weight, self.linear.bias)
        d = self.frequencies.new_tensor(direction)
        if len(self.frequencies) == 0:
            return x.unsqueeze(-1) * (weight @ d) + bias
        # Not a matrix product, which autocast would round: sines of large phases need all their digits.
        frequencies = 2.0 * math.pi * (self.frequencies * d).sum(dim=1)
        cosines, sines = weight.chunk(2, dim=1)
        return sinusoids(x.reshape(-1), frequencies, cosines, sines, bias).view(*x.shape, -1)


def composed(outer: nn.Linear | None, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of outer(weight x + bias); those given where there is no outer map."""
    if outer is None:
        return weight, bias
    return outer.weight @ weight, F.linear(bias, outer.weight, outer.bias)


class ProbeFeatures(nn.Module):
    """What every neuron answers to P learned coordinates: h_l = LayerNorm(A_l [value at x_1, ..., value at x_P]).

    Shapes: N fields -> (N, V, C), input nodes answering with the (encoded) coordinates themselves and output nodes with
    values. Coordinates start uniform in [-1, 1]. A sign flip of a neuron changes its answers, an order does not.
    """

    def __init__(self, spec: FieldSpec, num_probes: int, width: int, generator: Generator) -> None:
        super().__init__()
        self.spec = spec
        self.coords = nn.Parameter(torch.rand((num_probes, spec.in_dim), generator=generator) * 2.0 - 1.0)
        self.linears = nn.ModuleList(linear(num_probes, width, generator) for _ in spec.dims)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in spec.dims)

    def forward(self, fields: FieldBatch) -> Tensor:
        """Return features of all nodes, in the precision of the parameters whatever autocast says."""
        with torch.autocast(self.coords.device.type, enabled=False):  # sines of large phases need all their digits
            return self._forward(fields)

    def _forward(self, fields: FieldBatch) -> Tensor:
        weights = [w.to(self.coords) for w in fields.weights]
        biases = [b.to(self.coords) for b in fields.biases]
        h = encode(self.spec, self.coords).t().expand(len(fields), -1, -1)
        answers = [h]
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = torch.baddbmm(bias.unsqueeze(2), weight, h)
            if layer < len(weights) - 1:
                h = activate(h, self.spec, layer)
            answers.append(h)
        answers[-1] = denormalise(self.spec, h.transpose(1, 2)).transpose(1, 2)
        rows = zip(answers, self.linears, self.norms, strict=True)
        return torch.cat([norm(project(answer)) for answer, project, norm in rows], dim=1)


class GraphInput(nn.Module):
    """Features of the nodes and edges of N neural graphs, before any message.

    Node: A (embed(bias) + probe features) + p, p learned for every input node, every hidden layer and every output
    node. Edge: B embed(weight, reversed weight, their sum), or of the weight alone with reverse=False, then the pair
    (output, input) of a weight has the features of a weight 0, as have all pairs that no weight joins.
    """

    order: Tensor

    def __init__(
        self,
        spec: FieldSpec,
        *,
        node_width: int,
        edge_width: int,
        num_frequencies: int,
        frequency_std: float,
        num_probes: int,
        reverse: bool,
        generator: Generator,
    ) -> None:
        super().__init__()
        dims, dtype = spec.dims, torch.get_default_dtype()
        self.reverse = reverse
        sizes = [1] * dims[0] + list(dims[1:-1]) + [1] * dims[-1]
        self.places = nn.Parameter(torch.randn((len(sizes), node_width), generator=generator))
        self.register_buffer("order", torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), persistent=False)
        self.edge = ScalarEmbedding(3 if reverse else 1, edge_width, num_frequencies, frequency_std, generator, dtype)
        self.node = ScalarEmbedding(1, node_width, num_frequencies, frequency_std, generator, dtype)
        self.node_in = linear(node_width, node_width, generator)
        self.edge_in = linear(edge_width, edge_width, generator)
        self.probes = ProbeFeatures(spec, num_probes, node_width, generator) if num_probes > 0 else None

    def nodes(self, features: WeightFeatures) -> Tensor:
        """Features (N, V, C) of all nodes, layer after layer."""
        count, first = features.weights[0].shape[0], features.weights[0].shape[2]
        absent = features.biases[0].new_zeros((count, first))  # input nodes have no bias
        x = self.node(torch.cat([absent, *(b[..., 0] for b in features.biases)], dim=1), (1.0,))
        if self.probes is not None:
            x = x + self.probes(raw_fields(features, "a model with probes"))
        return self.node_in(x) + self.places[self.order]

    def edges(self, weights: Tensor, reverse: bool = False) -> Tensor:
        """Features (..., C) of the edges of weights (...), or with `reverse` of those that run against them."""
        if not self.reverse:
            return self.edge(torch.zeros_like(weights) if reverse else weights, (1.0,), self.edge_in)
        return self.edge(weights, REVERSE if reverse else FORWARD, self.edge_in)

    def no_edge(self) -> Tensor:
        """Features (C,) of a pair of nodes that no weight joins."""
        return self.edges(self.edge.linear.weight.new_zeros(()))


def mlp(widths: tuple[int, ...], generator: Generator) -> nn.Sequential:
    """Linear maps with ReLU between them."""
    layers: list[nn.Module] = []
    for num_in, num_out in pairwise(widths):
        layers += [linear(num_in, num_out, generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
