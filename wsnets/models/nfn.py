"""Neural functional networks, NP and HNP: stacks of layers that commute with permutations of a field's neurons."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.features import NormaliserMode, WeightFeatures
from wsnets.heads import dropout, linear
from wsnets.models.gaussian_features import GaussianFeatures
from wsnets.models.nfn_layers import EquivariantLinear, Layout, Signals, Terms, means, signals_of


@dataclass(frozen=True, kw_only=True)
class HNPConfig:
    """channels: of every layer; num_frequencies, scale: of the encoding of weights; p_feature_dropout: of channels
    after every layer, in readers; head: width of the reader's two hidden layers; p_dropout: after each; change: initial
    scale of an editor's changes. Probabilities in [0, 1)."""

    paper: ClassVar[str] = 'Zhou et al., "Permutation equivariant neural functionals", NeurIPS 2023'
    published: ClassVar[str] = "MNIST 79.11, Fashion-MNIST 68.94, CIFAR-10 28.64 (random init)"
    normalise: ClassVar[NormaliserMode] = "none"
    fields_at_once: ClassVar[int] = 10

    channels: tuple[int, ...] = (512, 512, 512)
    num_frequencies: int = 128
    scale: float = 3.0
    p_feature_dropout: float = 0.1
    head: int = 1000
    p_dropout: float = 0.1
    change: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(int(width) for width in self.channels))
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels={self.channels}: expected at least one width, all positive")
        for name in ("num_frequencies", "head"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from 1")
        for name in ("p_feature_dropout", "p_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number in [0, 1)")

    @classmethod
    def small(cls) -> "HNPConfig":
        """Settings of a size that trains on two cores."""
        return cls(channels=(96, 96, 96), num_frequencies=32, head=256)

    @classmethod
    def editing(cls) -> "HNPConfig":
        """Published settings of the editor of MNIST fields."""
        return cls(channels=(128, 128, 128), p_feature_dropout=0.0)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """Permutation of hidden neurons. Raises ValueError unless all parameters of the spec are dense layers."""
        spec.check_dense("neural functional network")
        return ("permutation",)

    def layout(self, spec: FieldSpec) -> Layout:
        """What permutes inside the network."""
        return Layout(spec.dims, ends=True)

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> "NFNReader":
        """Make the reader for fields of `spec`."""
        self.symmetry(spec)
        return NFNReader(spec, num_outputs, self, generator)

    def build_editor(self, spec: FieldSpec, generator: Generator) -> "NFNEditor":
        """Make the editor for fields of `spec`."""
        self.symmetry(spec)
        return NFNEditor(spec, self, generator)


@dataclass(frozen=True, kw_only=True)
class NPConfig(HNPConfig):
    """As HNPConfig, inputs and outputs permuting inside the layers; bands, max_frequency: of the sinusoidal encoding
    of their positions that tells them apart again (0 bands: none)."""

    published: ClassVar[str] = "MNIST 78.50, Fashion-MNIST 68.19, CIFAR-10 33.41 (random init)"

    bands: int = 3
    max_frequency: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bands < 0:
            raise ValueError(f"bands={self.bands}: expected a whole number from 0")

    def layout(self, spec: FieldSpec) -> Layout:
        """What permutes inside the network."""
        return Layout(spec.dims, ends=False)


def sinusoids(count: int, bands: int, max_frequency: float) -> Tensor:
    """Encode positions p of -1 .. 1: (count, 2 bands + 1), [sin(pi s p), cos(pi s p), p], s from 1 to half the max.

    In float64, so that a model in float64 knows them as well as one that computes them.
    """
    position = torch.linspace(-1.0, 1.0, count, dtype=torch.float64).unsqueeze(1)
    angles = torch.pi * position * torch.linspace(1.0, max_frequency / 2.0, bands, dtype=torch.float64)
    return torch.cat((angles.sin(), angles.cos(), position), dim=1)


class Positions(nn.Module):
    """What a first NP layer adds because inputs and outputs carry encodings of their positions as further channels.

    These channels are the same for all fields and hidden neurons, so the layer's share of them is worked out for one
    field of hidden widths 1 and no channel is ever appended. num_in: channels of the weights themselves.
    """

    first: Tensor
    final: Tensor

    def __init__(self, spec: FieldSpec, config: NPConfig, num_in: int, num_out: int, generator: Generator) -> None:
        super().__init__()
        dims = (spec.dims[0], *(1 for _ in spec.hidden), spec.dims[-1])
        dtype = torch.get_default_dtype()
        for name, count in (("first", dims[0]), ("final", dims[-1])):
            self.register_buffer(name, sinusoids(count, config.bands, config.max_frequency).to(dtype))
        num_bands = self.first.shape[1]
        layout, fan_in = Layout(dims, ends=False), num_in + num_bands
        self.layer = EquivariantLinear(layout, num_bands, num_out, generator, fan_in=fan_in, bias=False)

    def forward(self) -> Terms:
        """Return the terms, of one field for all."""
        zeros = self.first.new_zeros(1, 1, 1, self.first.shape[1])
        between = [zeros] * (self.layer.layout.num_layers - 2)
        weights = (self.first[None, None], *between, self.final[None, :, None])
        biases = (*(zeros[:, 0] for _ in weights[1:]), self.final[None])
        weights, biases = self.layer.linear(signals_of(weights, biases, self.layer.layout))
        into = {k + 1: w.squeeze(2) for k, w in enumerate(weights) if k > 0}
        return Terms(into, {k + 1: b for k, b in enumerate(biases)}, {0: weights[0].squeeze(1)})


class _Trunk(nn.Module):
    """Encoding and hidden layers."""

    def __init__(self, spec: FieldSpec, config: HNPConfig, generator: Generator) -> None:
        super().__init__()
        self.layout, self.p_dropout = config.layout(spec), config.p_feature_dropout
        self.encoding = GaussianFeatures(config.num_frequencies, config.scale, generator)
        widths = (self.encoding.num_out, *config.channels)
        self.positions = None
        fan_in = widths[0]
        if isinstance(config, NPConfig) and config.bands > 0:
            self.positions = Positions(spec, config, widths[0], widths[1], generator)
            fan_in += self.positions.first.shape[1]
        self.layers = nn.ModuleList(
            EquivariantLinear(self.layout, a, b, generator, fan_in=fan_in if k == 0 else 0)
            for k, (a, b) in enumerate(pairwise(widths))
        )

    def forward(self, features: WeightFeatures, generator: Generator | None, keep: bool) -> Signals:
        weights, biases = (tuple(map(self.encoding, tensors)) for tensors in (features.weights, features.biases))
        x = signals_of(weights, biases, self.layout)
        position = None if self.positions is None else self.positions()
        p_dropout = self.p_dropout if self.training else 0.0
        for k, layer in enumerate(self.layers):
            stays = keep or k < len(self.layers) - 1
            x = layer(x, position if k == 0 else None, p_dropout=p_dropout, generator=generator, keep=stays)
        return x


def readout(x: Signals, layout: Layout) -> Tensor:
    """Mean over hidden neurons alone: (N, num_in + 2 (L - 2) + 1 + 2 num_out sets of C).

    Inputs and outputs are told apart here even where layers permute them, as in the published code.
    """
    if layout.ends:
        return means(x, layout)
    parts = [x.nodes[0].flatten(1)]
    for stage in range(1, layout.num_layers):
        into, own, _ = x.nodes[stage].mean(1).chunk(3, dim=1)
        parts.extend((own,) if stage == 1 else (into, own))
    return torch.cat((*parts, x.nodes[layout.num_layers].flatten(1)), dim=1)


class NFNReader(nn.Module):
    """y = MLP(pool(layers(encoding(weights)))), ReLU between all layers: NP or HNP, by its settings.

    Shapes: features of N fields with one channel -> (N, num_outputs). Symmetry: permutation of hidden neurons. Zhou et
    al., "Permutation equivariant neural functionals", NeurIPS 2023. Two departures from the published code, of which
    the functions stay the same: biases and terms that it has twice are there once (45,478,186 and 68,844,330 numbers in
    the examples below), and the channels of position encodings, equal for all fields, are never appended to the others
    (`Positions`).

    >>> import torch
    >>> from neuralfields import SIREN
    >>> from wsnets.models.nfn import HNPConfig, NPConfig
    >>> generator = torch.Generator().manual_seed(0)
    >>> models = [kind().build(SIREN(2, 1), 10, generator) for kind in (NPConfig, HNPConfig)]
    >>> [sum(p.numel() for p in model.parameters()) for model in models]
    [45459754, 53758762]
    """

    def __init__(self, spec: FieldSpec, num_outputs: int, config: HNPConfig, generator: Generator) -> None:
        super().__init__()
        self.trunk = _Trunk(spec, config, generator)
        sets = Layout(spec.dims, ends=True).num_means
        widths = (sets * config.channels[-1], config.head, config.head, num_outputs)
        self.head = nn.ModuleList(linear(a, b, generator) for a, b in pairwise(widths))
        self.p_dropout = config.p_dropout

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Return outputs (N, num_outputs); `generator` draws the dropout masks in training mode."""
        y = readout(self.trunk(features, generator, keep=False), self.trunk.layout)
        for layer in self.head[:-1]:
            y = layer(y).relu()
            y = dropout(y, self.p_dropout, generator) if self.training else y
        return self.head[-1](y)


class NFNEditor(nn.Module):
    """Change of every weight and bias: one more layer, to one channel, times a learned number per tensor.

    Shapes: features of N fields with one channel -> the same. Symmetry: permutation of hidden neurons. Zhou et al.,
    "Permutation equivariant neural functionals", NeurIPS 2023.
    """

    def __init__(self, spec: FieldSpec, config: HNPConfig, generator: Generator) -> None:
        super().__init__()
        self.trunk = _Trunk(spec, config, generator)
        self.last = EquivariantLinear(self.trunk.layout, config.channels[-1], 1, generator)
        self.scales = nn.Parameter(torch.full((len(spec.dims) - 1, 2), config.change))

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> WeightFeatures:
        """Return the change; `generator` draws the dropout masks in training mode."""
        weights, biases = self.last.linear(self.trunk(features, generator, keep=True))
        scaled = [(w * s[0], b * s[1]) for w, b, s in zip(weights, biases, self.scales, strict=True)]
        return WeightFeatures(tuple(w for w, _ in scaled), tuple(b for _, b in scaled))
