"""Carriers: a field's own layers, run on learned coordinates with their channels mixed in between.

Legend: N fields, O out, E inputs of the first layer, H units of a layer, A coordinates, C channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import activate, encode
from neuralfields.spec import FieldSpec

# Half of what keeps the size of pre-activations (channels are alike): sines start where they are nearly linear.
_MIX_GAIN = 0.5


@dataclass(frozen=True)
class Carried:
    """units: v_0 ... v_{L-1}, (E, A) and then (N, H, channels); slopes: f_l' of the hidden layers, empty unless asked
    for; outputs: y (N, O, channels)."""

    units: list[Tensor]
    slopes: list[Tensor]
    outputs: Tensor


class Carriers(nn.Module):
    """v_0 = X,   v_l = f_l(W_l v_{l-1} M_l + b_l),   y = W_L v_{L-1} + b_L,   M_1 = 1.

    X (E, A): learned coordinates, encoded where the field has an encoding; M_l (A, C), later (C, C): learned; f_l: the
    field's own activation with its w0. v_l (N, H, A) for l = 1 and (N, H, C) later, y (N, O, C) (A if there is one
    hidden layer). M mixes channels and b is added to all of them alike, while a symmetry of f acts on units: v_l of a
    moved field is v_l of the field with its units moved, and y stays. Raises ValueError for fields with other
    parameters than dense layers.
    """

    def __init__(self, spec: FieldSpec, coordinates: int, width: int, generator: Generator) -> None:
        super().__init__()
        spec.check_dense("orbit")
        self.spec = spec
        self.widths = [coordinates] + [width] * (len(spec.hidden) - 1)
        self.coordinates = nn.Parameter(encode(spec, start_coordinates(spec, coordinates, generator)).T.contiguous())
        self.mixes = nn.ParameterList(
            _normal((rows, width), _MIX_GAIN / math.sqrt(rows), generator) for rows in self.widths[:-1]
        )

    def forward(self, fields: FieldBatch, slopes: bool = False) -> Carried:
        """Carry the coordinates through N fields, in their precision whatever autocast says."""
        with torch.autocast(fields.biases[0].device.type, enabled=False):
            return self._forward(fields, slopes)

    def _forward(self, fields: FieldBatch, slopes: bool) -> Carried:
        *layers, (last, offset) = zip(fields.weights, fields.biases, strict=True)
        units, found = [self.coordinates], []
        for layer, (weight, bias) in enumerate(layers):
            z = torch.matmul(weight, units[-1])
            if layer:
                z = torch.matmul(z, self.mixes[layer - 1])
            v, slope = _activate(z + bias.unsqueeze(2), self.spec, layer, slopes)
            units.append(v)
            found += [slope] if slopes else []
        return Carried(units, found, torch.baddbmm(offset.unsqueeze(2), last, units[-1]))


def start_coordinates(spec: FieldSpec, count: int, generator: Generator) -> Tensor:
    """Coordinates drawn uniformly from [-1, 1]^I: (count, I)."""
    return torch.rand(count, spec.in_dim, generator=generator, device=generator.device) * 2 - 1


def _normal(shape: tuple[int, int], std: float, generator: Generator) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=generator, device=generator.device) * std)


def _activate(z: Tensor, spec: FieldSpec, layer: int, slopes: bool) -> tuple[Tensor, Tensor]:
    """f(z), and f'(z) if asked for (else f(z) again)."""
    if not slopes:
        v = activate(z, spec, layer)
        return v, v
    if spec.activation == "sine":
        phase = spec.w0(layer) * z
        return phase.sin(), spec.w0(layer) * phase.cos()
    return torch.func.jvp(lambda at: activate(at, spec, layer), (z,), (torch.ones_like(z),))
