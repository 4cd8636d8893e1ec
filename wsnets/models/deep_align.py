"""Deep-Align: a network that gives every hidden unit a vector, so that units which belong together are found at once.

Legend: N fields, O out, H units of a layer, A coordinates, C channels, D numbers of a unit's vector.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind, groups_of
from wsnets.features import NormaliserMode, WeightFeatures, raw_fields
from wsnets.heads import linear
from wsnets.models.orbit_carriers import Carriers
from wsnets.models.scale_gmn_layers import matrix
from wsnets.unit_moves import ODD


@dataclass(frozen=True, kw_only=True)
class DeepAlignConfig:
    """coordinates A: channels of the first layer's units; width C: channels of later units; dim D: of a unit's vector;
    hidden: of the small network that makes it. Raises ValueError for values below 1."""

    paper: ClassVar[str] = 'Navon et al., "Equivariant deep weight space alignment", ICML 2024'
    published: ClassVar[str] = "figures not at hand"
    normalise: ClassVar[NormaliserMode] = "none"
    fields_at_once: ClassVar[int] = 64

    coordinates: int = 256
    width: int = 256
    dim: int = 128
    hidden: int = 256

    def __post_init__(self) -> None:
        for name in ("coordinates", "width", "dim", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from 1")

    @classmethod
    def small(cls) -> "DeepAlignConfig":
        """Settings of a size that trains on two cores."""
        return cls(coordinates=64, width=64, dim=64, hidden=128)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """All that the activation has. Raises ValueError for fields with other parameters than dense layers."""
        return groups_of(spec)

    def build_aligner(self, spec: FieldSpec, generator: Generator) -> "DeepAlign":
        """Make the network for fields of `spec`."""
        return DeepAlign(spec, self, generator)


class DeepAlign(nn.Module):
    """z_l = map_l([v_l / |v_l|, p_l / |p_l|]): vectors of all hidden units, of length 1, by the odd maps of `_Vector`.

    v_l: what a unit answers at learned coordinates, channels mixed on the way (orbit_carriers.py); p_l: what a change
    of that answer would do to the outputs there, carried backward,

    p_{L-1} = W_L^T E,   p_{l-1} = W_l^T (p_l f'(t_l)) N_l

    with E (O, C) and N_l learned. Shapes: features of N fields -> list of (N, H, D), one per hidden layer. A move of
    units permutes the vectors and multiplies those of odd activations by sign (-1)^half_periods, of others by 1; scales
    leave them: so scores <z_j, z_i> of two fields are those of their orbits, up to rows, columns and signs. Both fields
    are seen from the same coordinates, so that one pass for each suffices. Navon et al., "Equivariant deep weight space
    alignment", ICML 2024, give the vectors by DWS layers, which respect permutations only. Needs features that still
    hold their fields.
    """

    def __init__(self, spec: FieldSpec, config: DeepAlignConfig, generator: Generator) -> None:
        super().__init__()
        self.spec = spec
        self.carriers = Carriers(spec, config.coordinates, config.width, generator)
        widths = self.carriers.widths
        self.ends = nn.Parameter(torch.randn(spec.dims[-1], widths[-1], generator=generator))
        self.backs = nn.ParameterList(nn.Parameter(mix.detach().T.clone()) for mix in self.carriers.mixes)
        self.maps = nn.ModuleList(_Vector(2 * width, config, signed(spec), generator) for width in widths)

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> list[Tensor]:
        """Return the units' vectors; nothing is drawn from `generator`."""
        fields = raw_fields(features, "deep_align")
        with torch.autocast(fields.biases[0].device.type, enabled=False):
            carried = self.carriers(fields, slopes=True)
            effects = self._effects(fields, carried.slopes)
            pairs = zip(self.maps, carried.units[1:], effects, strict=True)
            return [each(torch.cat([_unit(v), _unit(p)], dim=2)) for each, v, p in pairs]

    def _effects(self, fields: FieldBatch, slopes: list[Tensor]) -> list[Tensor]:
        """p of every hidden layer: (N, H, channels)."""
        weights = fields.weights
        effects = [torch.matmul(weights[-1].transpose(1, 2), self.ends)]
        for layer in range(len(weights) - 2, 0, -1):
            q = torch.matmul(effects[0] * slopes[layer], self.backs[layer - 1])
            effects.insert(0, torch.matmul(weights[layer].transpose(1, 2), q))
        return effects


class _Vector(nn.Module):
    """z = B (h gelu(G |h| + g)) / |...|, h = A x: odd in x, for activations that are; else h itself in place of |h|.

    Shapes: (N, H, width) -> (N, H, D).
    """

    def __init__(self, width: int, config: DeepAlignConfig, odd: bool, generator: Generator) -> None:
        super().__init__()
        self.odd = odd
        self.first = matrix(width, config.hidden, generator)
        self.gate = linear(config.hidden, config.hidden, generator)
        self.last = matrix(config.hidden, config.dim, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the vectors."""
        h = self.first(x)
        return _unit(self.last(h * functional.gelu(self.gate(h.abs() if self.odd else h))))


def _unit(x: Tensor) -> Tensor:
    """x over its length along the last axis; 0 where that is 0."""
    return functional.normalize(x, dim=-1)


def scores(fields: list[Tensor], reference: list[Tensor]) -> list[Tensor]:
    """Scores <z_j, z_i> in [-1, 1] of all pairs, j of the reference, i of the field: (N, H, H) per hidden layer."""
    return [torch.matmul(big_z, z.transpose(1, 2)) for z, big_z in zip(fields, reference, strict=True)]


def signed(spec: FieldSpec) -> bool:
    """Whether a score's sign is that of the unit's move."""
    return spec.activation in ODD
