"""ProbeGen: a field is what it answers at learned coordinates, which a deep linear generator makes.

Legend: N fields, O out, I in, P probes, Z latent.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from neuralfields.evaluate import evaluate
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind, groups_of
from wsnets.features import NormaliserMode, WeightFeatures, raw_fields
from wsnets.heads import linear


@dataclass(frozen=True, kw_only=True)
class ProbeGenConfig:
    """probes P; latent Z: numbers behind each probe; generator_layers: linear layers from Z to the coordinates, 0 for
    probes that are learned themselves ("vanilla probing"); width, num_layers: of the reading network, linear layers
    counted. Trained with Adam at 3e-4, batches of 32, 30 epochs.
    """

    paper: ClassVar[str] = 'Kahana et al., "Deep linear probe generators for weight space learning", ICLR 2025'
    published: ClassVar[str] = "figures not at hand"
    normalise: ClassVar[NormaliserMode] = "none"
    fields_at_once: ClassVar[int] = 64

    probes: int = 128
    latent: int = 32
    generator_layers: int = 2
    width: int = 256
    num_layers: int = 6

    def __post_init__(self) -> None:
        for name, least in (("probes", 1), ("latent", 1), ("generator_layers", 0), ("width", 1), ("num_layers", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from {least}")

    @classmethod
    def small(cls) -> "ProbeGenConfig":
        """Half the probes and half the reading network."""
        return cls(probes=64, num_layers=3)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """All that the activation has. Raises ValueError for fields with other parameters than dense layers."""
        return groups_of(spec)

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> "ProbeGen":
        """Make the model for fields of `spec`."""
        return ProbeGen(spec, num_outputs, self, generator)


class ProbeGen(nn.Module):
    """answer = mlp(f(x_1), ..., f(x_P)),   x_p = A_k ... A_1 z_p + ...: linear layers with nothing in between.

    Shapes: features of N fields -> (N, num_outputs); codes z (P, Z), learned, normal at first; coordinates x (P, I),
    which nothing keeps in [-1, 1]; mlp with ReLU. Reads no weights: any two fields that are the same function get the
    same answer, so the group is all that the activation has. Needs features that still hold their fields. Kahana et
    al., "Deep linear probe generators for weight space learning", ICLR 2025.

    >>> import torch
    >>> from neuralfields import SIREN
    >>> model = ProbeGenConfig().build(SIREN(2, 1), 10, torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    303980
    """

    def __init__(self, spec: FieldSpec, num_outputs: int, config: ProbeGenConfig, generator: Generator) -> None:
        super().__init__()
        spec.check_dense("probe_gen")
        latent = config.latent if config.generator_layers else spec.in_dim
        self.codes = nn.Parameter(torch.randn(config.probes, latent, generator=generator, device=generator.device))
        ends = [latent] * config.generator_layers + [spec.in_dim]
        self.maker = nn.Sequential(*(linear(a, b, generator) for a, b in pairwise(ends)))
        widths = [config.probes * spec.out_dim, *[config.width] * (config.num_layers - 1), num_outputs]
        self.layers = nn.ModuleList(linear(a, b, generator) for a, b in pairwise(widths))

    def coordinates(self) -> Tensor:
        """The probes: (P, I)."""
        return self.maker(self.codes)

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Return outputs (N, num_outputs); nothing is drawn from `generator`."""
        fields = raw_fields(features, "probe_gen")
        with torch.autocast(fields.biases[0].device.type, enabled=False):  # sines of large phases need all their digits
            x = evaluate(fields, self.coordinates()).flatten(1)
        *layers, last = self.layers
        for layer in layers:
            x = functional.relu(layer(x))
        return last(x)
