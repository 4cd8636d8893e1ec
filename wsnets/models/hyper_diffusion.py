"""HyperDiffusion: a transformer that takes the noise out of a field's weights, told how noisy they are and which class.

Legend: N fields, T tokens of D numbers, G = ceil(T / group) groups of tokens, C channels.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.features import NormaliserMode
from wsnets.heads import linear
from wsnets.models.token_transformer import SelfAttention

_FREQUENCIES = 64  # of the encoding of time
_LONGEST, _SHORTEST = 1.0, 1000.0  # their range, in radians per unit of time


@dataclass(frozen=True, kw_only=True)
class HyperDiffusionConfig:
    """width C; num_layers, num_heads, factor (hidden over outer channels of MLPs); group: tokens of a field that are
    one token of the transformer. Published: AdamW at 2e-4, batches of 32, 6,000 epochs, 500 steps of noise. Raises
    ValueError for values outside these.
    """

    paper: ClassVar[str] = 'Erkoc et al., "HyperDiffusion: generating implicit neural fields ...", ICCV 2023'
    published: ClassVar[str] = "FD 0.241 on FFHQ, re-run by others; own figures not found"
    normalise: ClassVar[NormaliserMode] = "per_weight"
    fields_at_once: ClassVar[int] = 0

    width: int = 2880
    num_layers: int = 12
    num_heads: int = 16
    factor: int = 4
    group: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "num_layers", "num_heads", "factor", "group"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from 1")
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: expected a divisor of width={self.width}")

    @classmethod
    def small(cls) -> "HyperDiffusionConfig":
        """A size that trains on two cores."""
        return cls(width=256, num_layers=6, num_heads=4, group=4)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """None. Raises ValueError unless all parameters of the spec are dense layers."""
        spec.check_dense("hyper_diffusion")
        return ()

    def build_denoiser(self, shape: tuple[int, int], num_classes: int, generator: Generator) -> "HyperDiffusion":
        """Make the denoiser of T x D tokens; num_classes: 0 for a population without classes."""
        return HyperDiffusion(shape, num_classes, self, generator)


class HyperDiffusion(nn.Module):
    """y = out_g(norm(blocks(in_g(x_g) + p_g))), every block and the last norm modulated by c = mlp(time) + class.

    block: x <- x + gate(c) attention(norm(x) (1 + scale(c)) + shift(c)), the same with an MLP; gates start at zero, as
    does out. Every group of tokens has linear maps in and out of its own, since weight number p means the same in every
    field. Shapes: tokens (N, T, D), time (N,) in [0, 1], classes (N,) int64, -1 for none -> (N, T, D). Symmetry: none.
    Erkoc et al., "HyperDiffusion: generating implicit neural fields with weight-space diffusion", ICCV 2023, without
    classes and with time as a token of its own; the modulation is that of Peebles and Xie, "Scalable diffusion models
    with transformers", ICCV 2023.

    >>> import torch
    >>> model = HyperDiffusionConfig.small().build_denoiser((65, 33), 10, torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    8489668
    """

    def __init__(
        self, shape: tuple[int, int], num_classes: int, config: HyperDiffusionConfig, generator: Generator
    ) -> None:
        super().__init__()
        self.shape, self.num_classes, self.group = shape, num_classes, config.group
        self.num_groups = -(-shape[0] // config.group)
        size, width = config.group * shape[1], config.width
        self.inputs = _grouped(self.num_groups, size, width, generator)
        self.positions = nn.Parameter(0.02 * torch.randn(self.num_groups, width, generator=generator))
        self.classes = nn.Parameter(0.02 * torch.randn(num_classes + 1, width, generator=generator))  # last: none
        self.time = nn.Sequential(
            linear(2 * _FREQUENCIES, width, generator), nn.SiLU(), linear(width, width, generator)
        )
        self.blocks = nn.ModuleList(Block(config, generator) for _ in range(config.num_layers))
        self.last = Modulation(width, 2, generator)
        self.outputs = nn.Parameter(torch.zeros(self.num_groups, width, size))
        self.bias = nn.Parameter(torch.zeros(self.num_groups, size))

    def forward(self, tokens: Tensor, time: Tensor, classes: Tensor) -> Tensor:
        """Return what is predicted, (N, T, D). Raises ValueError for classes outside -1 .. num_classes - 1."""
        if len(classes) and not -1 <= int(classes.min()) <= int(classes.max()) < self.num_classes:
            raise ValueError(
                f"classes run from {classes.min()} to {classes.max()}: expected -1 to {self.num_classes - 1}"
            )
        count, spare = len(tokens), self.num_groups * self.group - self.shape[0]
        groups = functional.pad(tokens, (0, 0, 0, spare)).view(count, self.num_groups, -1).transpose(0, 1)
        x = torch.bmm(groups, self.inputs).transpose(0, 1) + self.positions
        told = functional.silu(self.time(time_features(time, tokens.dtype)) + self.classes[classes])
        for block in self.blocks:
            x = block(x, told)
        shift, scale = self.last(told)
        x = modulated(x, shift, scale).transpose(0, 1)
        out = torch.baddbmm(self.bias.unsqueeze(1), x, self.outputs).transpose(0, 1)
        return out.reshape(count, self.shape[0] + spare, self.shape[1])[:, : self.shape[0]]


class Block(nn.Module):
    """Attention and an MLP, each added to its input through a gate."""

    def __init__(self, config: HyperDiffusionConfig, generator: Generator) -> None:
        super().__init__()
        width, hidden = config.width, config.factor * config.width
        self.modulation = Modulation(width, 6, generator)
        self.attention = SelfAttention(width, config.num_heads, generator)
        self.widen, self.narrow = linear(width, hidden, generator), linear(hidden, width, generator)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """(N, G, C), (N, C) -> (N, G, C)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(told)
        x = x + gate_a * self.attention(modulated(x, shift_a, scale_a))
        hidden = functional.gelu(self.widen(modulated(x, shift_m, scale_m)), approximate="tanh")
        return x + gate_m * self.narrow(hidden)


class Modulation(nn.Module):
    """num_parts vectors (N, 1, C) from what the network is told (N, C); all zero at first."""

    def __init__(self, width: int, num_parts: int, generator: Generator) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.map = linear(width, num_parts * width, generator)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, told: Tensor) -> tuple[Tensor, ...]:
        """Return the parts."""
        return self.map(told).unsqueeze(1).chunk(self.num_parts, dim=-1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) (1 + scale) + shift, the norm over channels and without weights of its own."""
    return functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def time_features(time: Tensor, dtype: torch.dtype) -> Tensor:
    """cos and sin of time (N,) in [0, 1] times frequencies from 1 to 1,000 in equal ratios: (N, 2 * 64)."""
    steps = torch.linspace(0, 1, _FREQUENCIES, dtype=torch.float64, device=time.device)
    frequencies = _LONGEST * (_SHORTEST / _LONGEST) ** steps
    angles = time.double().unsqueeze(1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype)


def _grouped(count: int, num_in: int, num_out: int, generator: Generator) -> nn.Parameter:
    bound = 1.0 / math.sqrt(num_in)
    return nn.Parameter(torch.empty(count, num_in, num_out).uniform_(-bound, bound, generator=generator))
