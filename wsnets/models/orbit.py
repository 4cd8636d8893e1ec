"""Orbit: a reader that leaves no symmetry of its fields out, since it runs their own layers on mixed channels.

Legend: N fields, O out, E inputs of the first layer, H units of a layer, A coordinates, C channels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from neuralfields.evaluate import evaluate
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind, groups_of
from wsnets.features import NormaliserMode, WeightFeatures, raw_fields
from wsnets.heads import VectorHead
from wsnets.models.orbit_carriers import Carriers, NormAndSize, start_coordinates
from wsnets.models.orbit_editor import OrbitEditor


@dataclass(frozen=True, kw_only=True)
class OrbitConfig:
    """coordinates A: channels of the first layer's units; width C: channels of later units; hidden: widths of the
    head; p_dropout: in the head, in [0, 1); probes: coordinates at which the field itself is evaluated, its values
    given to the head beside the rest; 0: it is evaluated nowhere. Of editors: steps, with a memory of so many numbers
    passed between them, and output_scale, the start of their rates. Raises ValueError for values outside these.
    """

    paper: ClassVar[str] = "of this project; symmetries by structure, after the graph metanetworks of Lim et al., 2024"
    published: ClassVar[str] = "none"
    normalise: ClassVar[NormaliserMode] = "none"
    fields_at_once: ClassVar[int] = 64

    coordinates: int = 64
    width: int = 256
    hidden: tuple[int, ...] = (256, 256)
    p_dropout: float = 0.1
    probes: int = 0
    steps: int = 3
    memory: int = 512
    output_scale: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(int(width) for width in self.hidden))
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden={self.hidden}: expected positive widths")
        for name, least in (("coordinates", 1), ("width", 1), ("probes", 0), ("steps", 1), ("memory", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from {least}")
        if not 0.0 <= self.p_dropout < 1.0:
            raise ValueError(f"p_dropout={self.p_dropout}: expected a number in [0, 1)")

    @classmethod
    def small(cls) -> "OrbitConfig":
        """Half as wide."""
        return cls(width=128)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """All that the activation has. Raises ValueError for fields with other parameters than dense layers."""
        return groups_of(spec)

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> "Orbit":
        """Make the model for fields of `spec`."""
        return Orbit(spec, num_outputs, self, generator)

    def build_editor(self, spec: FieldSpec, generator: Generator) -> OrbitEditor:
        """Make the editor for fields of `spec`."""
        return OrbitEditor(
            spec,
            steps=self.steps,
            coordinates=self.coordinates,
            width=self.width,
            memory=self.memory,
            rate=self.output_scale,
            generator=generator,
        )


class Orbit(nn.Module):
    """answer = head(n(y)), y of `Carriers`, n of `NormAndSize`: the same for all fields of one orbit, up to rounding.

    Shapes: features of N fields -> (N, num_outputs). The group is all that the activation has: permutations and, for
    sine, sign and half periods; nothing is sorted or aligned. What is used: the raw weights and biases in a single pass
    from the first layer to the last. A first-layer unit is described by its values at A coordinates, which tell (w, b)
    up to the group; every later unit by f of learned mixtures of pre-activations. With M = 1 channel c is the field's
    value at coordinate c; M starts so and is free. With `probes` = P the field is evaluated as well, at P learned
    coordinates. Complete in this sense: fields with the same y at every X and M are the same function (M = 1), so of
    one orbit unless units are degenerate (without outgoing weights, or two alike); but one X and M give O C numbers,
    too few to tell all fields of more parameters apart. Needs features that still hold their fields, and reads those,
    whatever the normalisation.

    >>> import torch
    >>> from neuralfields import SIREN
    >>> model = OrbitConfig().build(SIREN(2, 1), 10, torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    151690
    """

    def __init__(self, spec: FieldSpec, num_outputs: int, config: OrbitConfig, generator: Generator) -> None:
        super().__init__()
        self.spec = spec
        self.carriers = Carriers(spec, config.coordinates, config.width, generator)
        self.probes = None
        if config.probes:
            self.probes = nn.Parameter(start_coordinates(spec, config.probes, generator))
        num_in = spec.dims[-1] * self.carriers.widths[-1] + spec.out_dim * config.probes
        self.norm = NormAndSize(num_in)
        self.head = VectorHead(
            num_in + 2, config.hidden, num_outputs, generator=generator, norm="none", p_dropout=config.p_dropout
        )

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Return outputs (N, num_outputs); `generator` draws the dropout masks in training mode."""
        fields = raw_fields(features, "orbit")
        read = self.carriers(fields).outputs.flatten(1)
        if self.probes is not None:
            with torch.autocast(read.device.type, enabled=False):  # sines of large phases need all their digits
                read = torch.cat([read, evaluate(fields, self.probes).flatten(1)], dim=1)
        return self.head(self.norm(read), generator)
