"""Carriers: a field's own layers, run on learned coordinates with their channels mixed in between.

Legend: N fields, O out, E inputs of the first layer, H units of a layer, A coordinates, C channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import activate, encode
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import groups_of

# Half of what keeps the size of pre-activations (channels are alike): sines start where they are nearly linear.
_MIX_GAIN = 0.5


@dataclass(frozen=True)
class Carried:
    """units: v_0 ... v_{L-1}, (E, A) and then (N, H, channels); outputs: y (N, O, channels); with t_l the argument of
    f_l, slopes: f_l'(t_l) of the hidden layers, empty unless asked for, and squares: mean of t_l^2 over channels
    (N, H, 1), empty but for activations with positive scales.
    """

    units: list[Tensor]
    slopes: list[Tensor]
    squares: list[Tensor]
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
        self.scales = "scale" in groups_of(spec)
        self.widths = [coordinates] + [width] * (len(spec.hidden) - 1)
        self.coordinates = nn.Parameter(encode(spec, start_coordinates(spec, coordinates, generator)).T.contiguous())
        self.mixes = nn.ParameterList(_start_mix(rows, width, generator) for rows in self.widths[:-1])

    def forward(self, fields: FieldBatch, slopes: bool = False) -> Carried:
        """Carry the coordinates through N fields, in their precision whatever autocast says."""
        with torch.autocast(fields.biases[0].device.type, enabled=False):
            return self._forward(fields, slopes)

    def _forward(self, fields: FieldBatch, slopes: bool) -> Carried:
        *layers, (last, offset) = zip(fields.weights, fields.biases, strict=True)
        units: list[Tensor] = [self.coordinates]
        found, squares = [], []
        for layer, (weight, bias) in enumerate(layers):
            z = torch.matmul(weight, units[-1])
            if layer:
                z = torch.matmul(z, self.mixes[layer - 1])
            t = z + bias.unsqueeze(2)
            v, slope = _activate(t, self.spec, layer, slopes)
            units.append(v)
            found += [slope] if slopes else []
            squares += [t.square().mean(2, keepdim=True)] if slopes and self.scales else []
        return Carried(units, found, squares, torch.baddbmm(offset.unsqueeze(2), last, units[-1]))


class NormAndSize(nn.Module):
    """[layer_norm(y), mean(y), std(y)]: (N, K) -> (N, K + 2); the norm alone would hide gain and offset of a field."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, y: Tensor) -> Tensor:
        """Return what is read of y."""
        std = (y.var(1, correction=0, keepdim=True) + self.norm.eps).sqrt()
        return torch.cat([self.norm(y), y.mean(1, keepdim=True), std], dim=1)


def start_coordinates(spec: FieldSpec, count: int, generator: Generator) -> Tensor:
    """Coordinates drawn uniformly from [-1, 1]^I: (count, I)."""
    return torch.rand(count, spec.in_dim, generator=generator, device=generator.device) * 2 - 1


def _start_mix(rows: int, width: int, generator: Generator) -> nn.Parameter:
    """A mixture (rows, width) that starts as the identity, and at random in the columns that are left."""
    mix = torch.randn(rows, width, generator=generator, device=generator.device) * (_MIX_GAIN / math.sqrt(rows))
    kept = min(rows, width)
    mix[:, :kept] = torch.eye(rows, kept, device=mix.device)
    return nn.Parameter(mix)


def _activate(t: Tensor, spec: FieldSpec, layer: int, slopes: bool) -> tuple[Tensor, Tensor]:
    """f(t), and f'(t) if asked for (else f(t) again); the slope of relu is 0 at its corner."""
    w0, s = spec.w0(layer), spec.width
    if spec.activation == "sine" and slopes:
        phase = w0 * t
        return phase.sin(), w0 * phase.cos()
    v = activate(t, spec, layer)
    formulas: dict[str, Callable[[], Tensor]] = {
        "relu": lambda: (t > 0).to(t),
        "tanh": lambda: 1.0 - v.square(),
        "gauss": lambda: -2.0 * s**2 * t * v,
        "gabor": lambda: -w0 * (w0 * t).sin() * (-((s * t) ** 2)).exp() - 2.0 * s**2 * t * v,
        "finer": lambda: w0 * (2.0 * t.abs() + 1.0) * (w0 * (t.abs() + 1.0) * t).cos(),
    }
    return v, formulas[spec.activation]() if slopes else v
