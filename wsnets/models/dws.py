"""DWSNets: equivariant layers over all pairs of weight and bias tensors, as reader and as editor.

Legend: N fields, C channels, L layers of a field.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, cast, get_args

import torch
from torch import Generator, Tensor, nn

from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.features import NormaliserMode, WeightFeatures
from wsnets.heads import linear
from wsnets.models.dws_layers import DWSLayer, SetLayer, Style
from wsnets.models.dws_sites import Norm, Pool, Site, SiteActivation, Unspread, see, sites


@dataclass(frozen=True, kw_only=True)
class DWSConfig:
    """width C; num_hidden: DWS layers after the first; pool: "max", "mean" or "sum"; set_layer: "sab" (set attention,
    `heads` heads, one in the last layer as published) or "ds" (deep sets); depth: linear maps of each pairwise MLP (sab
    has none); head_depth: of the invariant head; near: only pairs of tensors that share an axis ("diagonal" in the
    public code); norm: "batch" or "none"; p_dropout in [0, 1); change: factor s of what the editor changes.

    normalise is "per_layer": the published statistics of every single weight differ between the neurons of a layer, so
    that with them a permutation changes the answer (measured: logits by 4.5 percent).
    """

    paper: ClassVar[str] = 'Navon et al., "Equivariant architectures for learning in deep weight spaces", ICML 2023'
    published: ClassVar[str] = "MNIST 85.71, Fashion-MNIST 67.06, CIFAR-10 34.45 (random init)"
    normalise: ClassVar[NormaliserMode] = "per_layer"
    fields_at_once: ClassVar[int] = 0

    width: int = 32
    num_hidden: int = 4
    pool: Pool = "max"
    set_layer: SetLayer = "sab"
    heads: int = 8
    depth: int = 1
    head_depth: int = 1
    near: bool = False
    norm: Norm = "batch"
    p_dropout: float = 0.0
    change: float = 1e-4

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("num_hidden", 0), ("heads", 1), ("depth", 1), ("head_depth", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from {least}")
        for name, known in (("pool", Pool), ("set_layer", SetLayer), ("norm", Norm)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(get_args(known))}")
        if self.set_layer == "sab" and self.width % self.heads:
            raise ValueError(f"heads={self.heads}: expected a divisor of width={self.width}")
        if not 0.0 <= self.p_dropout < 1.0:
            raise ValueError(f"p_dropout={self.p_dropout}: expected a number in [0, 1)")

    @classmethod
    def small(cls) -> "DWSConfig":
        """Settings that train on two cores."""
        return cls(width=16, num_hidden=3)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """Permutation. Raises ValueError for a spec with other parameters than dense layers."""
        spec.check_dense("dws")
        return ("permutation",)

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> "DWSReader":
        """Make the reader for fields of `spec`."""
        return DWSReader(spec, num_outputs, self, generator)

    def build_editor(self, spec: FieldSpec, generator: Generator) -> "DWSEditor":
        """Make the editor for fields of `spec`."""
        return DWSEditor(spec, self, generator)


class DWSStack(nn.Module):
    """num_hidden + 1 DWS layers with normalisation, relu and dropout between them: values of all sites, equivariant."""

    def __init__(self, spec: FieldSpec, num_out: int, config: DWSConfig, generator: Generator) -> None:
        super().__init__()
        spec.check_dense("dws")
        self.places = sites(spec)
        widths = (1, *(config.width for _ in range(config.num_hidden)), num_out)
        self.layers, self.activations = nn.ModuleList(), nn.ModuleList()
        for layer in range(config.num_hidden + 1):
            last = layer == config.num_hidden and layer > 0
            style = Style(config.pool, config.set_layer, 1 if last else config.heads, config.depth, config.near)
            self.layers.append(DWSLayer(self.places, widths[layer], widths[layer + 1], style, generator))
            if layer < config.num_hidden:
                self.activations.append(activations(self.places, config.width, config.norm, config.p_dropout))

    def forward(self, features: WeightFeatures, generator: Generator | None) -> list[Tensor | Unspread]:
        """Return values of all sites, sets (F C, N, T) and matrices in parts; needs autocast to be off."""
        values: list[Tensor | Unspread] = [
            to_site(place, x) for place, x in zip(self.places, features.tensors, strict=True)
        ]
        for index, layer in enumerate(self.layers):
            values = layer(values, self.activations[index - 1] if index else None, generator)
        return values


def activations(places: tuple[Site, ...], width: int, norm: Norm, p_dropout: float) -> nn.ModuleList:
    """One activation for each site."""
    return nn.ModuleList(SiteActivation(place, width, norm, p_dropout) for place in places)


def to_site(place: Site, x: Tensor) -> Tensor:
    """Features (N, O, I, C) or (N, O, C) as a set (F C, N, T), or as they are for a matrix."""
    if len(place.free) == 2:
        return x.contiguous()
    if x.ndim == 3:
        x = x.unsqueeze(1) if place.free else x.unsqueeze(2)  # (N, F = 1, T, C) or (N, F, T = 1, C)
    elif place.fixed[0] == 0:
        x = x.transpose(1, 2)
    return x.permute(1, 3, 0, 2).reshape(-1, len(x), x.shape[2])


def from_site(place: Site, value: Tensor | Unspread, like: Tensor) -> Tensor:
    """Inverse of `to_site`, for C channels in the layout of `like`."""
    y = value.spread() if isinstance(value, Unspread) else value
    if len(place.free) == 2:
        return y
    y = y.view(place.groups, -1, *y.shape[1:]).permute(2, 0, 3, 1)
    if like.ndim == 4 and place.fixed[0] == 0:
        y = y.transpose(1, 2)
    return y.reshape(*like.shape[:-1], y.shape[3])


class DWSReader(nn.Module):
    """y = MLP(all sites, activated, pooled over their free axes, in a row) after DWS layers.

    Shapes: features of N fields -> (N, num_outputs). Symmetry: permutation. With one input of 63 encoded coordinates a
    set layer of the first weights has 63 C channels in and out: choose a small width there. Navon et al., "Equivariant
    architectures for learning in deep weight spaces", ICML 2023. Departures from the published code, which is equal on
    fields of one output: maps to the last weights tell outputs apart, as in the paper, where some of its maps do not;
    dropout, which there acts in evaluation too, stops; depth holds for all MLPs, where its maps between weights and
    biases without common neurons keep one layer.

    >>> import torch
    >>> from neuralfields import SIREN
    >>> model = DWSConfig().build(SIREN(2, 1), 10, torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    552650
    """

    def __init__(self, spec: FieldSpec, num_outputs: int, config: DWSConfig, generator: Generator) -> None:
        super().__init__()
        self.stack = DWSStack(spec, config.width, config, generator)
        self.activations = activations(self.stack.places, config.width, "none", config.p_dropout)
        self.pool: Pool = config.pool
        num_in = config.width * sum(place.groups for place in self.stack.places)
        widths = (num_in, *(num_outputs for _ in range(config.head_depth)))
        self.head = nn.ModuleList(linear(a, b, generator) for a, b in pairwise(widths))

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Return outputs (N, num_outputs); `generator` draws the dropout masks in training mode."""
        with torch.autocast(features.weights[0].device.type, enabled=False):
            values = self.stack(features, generator)
            relus = cast(Sequence[SiteActivation], self.activations)
            seen = see(self.stack.places, values, relus, self.pool, generator)
        y = self.head[0](torch.cat([s.pooled for s in seen]).T)
        for layer in self.head[1:]:
            y = layer(y.relu())
        return y


class DWSEditor(nn.Module):
    """Change of every tensor = s c times the last DWS layer's only channel, c learned for each tensor, 1 at first.

    Shapes: features of N fields -> features of one channel. Symmetry: permutation.
    """

    def __init__(self, spec: FieldSpec, config: DWSConfig, generator: Generator) -> None:
        super().__init__()
        self.stack = DWSStack(spec, 1, config, generator)
        # Learned as a multiple: a step of Adam moves whatever it learns by the learning rate, ten times such an s.
        self.change, self.factors = config.change, nn.Parameter(torch.ones(len(self.stack.places)))

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> WeightFeatures:
        """Return the changes; `generator` draws the dropout masks in training mode."""
        with torch.autocast(features.weights[0].device.type, enabled=False):
            values = self.stack(features, generator)
        places = zip(self.stack.places, values, features.tensors, strict=True)
        scales = self.change * self.factors
        tensors = [from_site(place, y, like) * scales[i] for i, (place, y, like) in enumerate(places)]
        return WeightFeatures(tuple(tensors[0::2]), tuple(tensors[1::2]))
