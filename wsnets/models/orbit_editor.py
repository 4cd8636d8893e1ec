"""The editor of `orbit`: a few learned steps of gradient descent on fields, unrolled.

Legend: N fields, O out, I in, H units of a layer, A coordinates, C channels, D memory.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from wsnets.features import WeightFeatures, raw_fields
from wsnets.heads import linear
from wsnets.models.orbit_carriers import Carriers, NormAndSize


class Step(nn.Module):
    """One learned step: carry coordinates forward, turn y into an error q_L, and carry that backward.

    m' = gelu(A n(y) + B m),   q_L = m' R,   q_l = (W_{l+1}^T q_{l+1} N_{l+1}) f_l'(t_l),   N_L = 1
    dW_l = rate q_l N_l v_{l-1}^T / (channels w0_l^2),   db_l = rate q_l s_l / (channels w0_l^2)

    with v, y of Carriers, n of NormAndSize and t_l the argument of f_l; N_l starts as M_l^T and s_l as ones, where this
    is the gradient of a loss with dloss/dy = q_L, and is free afterwards; q_l has the channels of v_l, m (N, D) is
    passed from step to step. A gradient moves with the units as the weights do, but for positive scales: there q_l is
    multiplied by the mean square of t_l and v_l divided by it, and units that are 0 everywhere do not change. (The
    mean square of v_l is next to nothing for a unit that is rarely above 0: its changes would have no bound.)
    """

    def __init__(
        self, spec: FieldSpec, coordinates: int, width: int, memory: int, rate: float, generator: Generator
    ) -> None:
        super().__init__()
        self.spec = spec
        self.carriers = Carriers(spec, coordinates, width, generator)
        widths = self.carriers.widths
        self.norm = NormAndSize(spec.dims[-1] * widths[-1])
        self.read = linear(spec.dims[-1] * widths[-1] + 2, memory, generator)
        self.keep = linear(memory, memory, generator)
        self.error = linear(memory, spec.dims[-1] * widths[-1], generator)
        self.backs = nn.ParameterList(nn.Parameter(mix.detach().T.clone()) for mix in self.carriers.mixes)
        self.sums = nn.ParameterList(nn.Parameter(torch.ones(width)) for width in [*widths, widths[-1]])
        self.rates = nn.Parameter(torch.full((2, spec.num_layers), rate))

    def forward(self, fields: FieldBatch, memory: Tensor | None) -> tuple[FieldBatch, Tensor]:
        """Return the fields after the step, and the memory (N, D)."""
        carried = self.carriers(fields, slopes=True)
        seen = self.read(self.norm(carried.outputs.flatten(1)))
        memory = functional.gelu(seen if memory is None else seen + self.keep(memory))
        q = self.error(memory).unflatten(1, carried.outputs.shape[1:])
        weights, biases = fields.weights, fields.biases
        for layer in reversed(range(self.spec.num_layers)):
            size = q.shape[2] * (self.spec.w0(layer) ** 2 if layer < len(self.spec.hidden) else 1.0)
            v, rates = carried.units[layer], self.rates[:, layer] / size
            change = q
            if self.carriers.scales and layer < len(self.spec.hidden):
                change = q * carried.squares[layer]
            biases[layer] = biases[layer] + rates[1] * torch.matmul(change, self.sums[layer])
            if 0 < layer < len(self.spec.hidden):
                q, change = torch.matmul(q, self.backs[layer - 1]), torch.matmul(change, self.backs[layer - 1])
            incoming = _over(v, carried.squares[layer - 1]) if self.carriers.scales and layer else v
            moved = weights[layer] + rates[0] * torch.matmul(change, incoming.transpose(-1, -2))
            if layer:
                q = torch.matmul(weights[layer].transpose(1, 2), q) * carried.slopes[layer - 1]
            weights[layer] = moved
        return FieldBatch.from_layers(self.spec, weights, biases), memory


class OrbitEditor(nn.Module):
    """Change of every weight and bias: the sum of a few `Step`s, each with parameters of its own.

    Shapes: features of N fields -> WeightFeatures of one channel. Equivariant under all that the activation has; the
    later layers' w0 and the rates set the size of the change. Needs features that still hold their fields.
    """

    def __init__(
        self,
        spec: FieldSpec,
        *,
        steps: int,
        coordinates: int,
        width: int,
        memory: int,
        rate: float,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(Step(spec, coordinates, width, memory, rate, generator) for _ in range(steps))

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> WeightFeatures:
        """Return the change of every parameter; nothing is drawn from `generator`."""
        start = fields = raw_fields(features, "orbit")
        memory = None
        with torch.autocast(start.biases[0].device.type, enabled=False):
            for step in self.steps:
                fields, memory = step(fields, memory)
        weights = zip(fields.weights, start.weights, strict=True)
        biases = zip(fields.biases, start.biases, strict=True)
        changed = [tuple((new - old).unsqueeze(-1) for new, old in pairs) for pairs in (weights, biases)]
        return WeightFeatures(changed[0], changed[1])


def _over(v: Tensor, square: Tensor) -> Tensor:
    """v / square, 0 where the square is 0."""
    return torch.where(square > 0, v / torch.where(square > 0, square, 1.0), 0.0)
