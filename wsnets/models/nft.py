"""NFT, the neural functional transformer: attention over weights that commutes with permutations of a field's neurons.

Legend: N fields, P parameters of one field, C channels, E channels of what the reader gathers.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.features import NormaliserMode, WeightFeatures
from wsnets.heads import linear
from wsnets.models.gaussian_features import GaussianFeatures
from wsnets.models.nft_layers import Block, Pool, Tokens

# Initial size of position vectors: below that of encoded weights (0.7), which alone differ between fields.
_POSITION_STD = 0.3


@dataclass(frozen=True, kw_only=True)
class NFTConfig:
    """num_frequencies, scale: of the encoding of weights, which gives C = 2 num_frequencies channels; num_blocks,
    num_heads, factor (hidden over outer channels of MLPs), p_dropout: of blocks; num_latents, latent_width E,
    latent_heads, num_mixes: of the reader's pooling; change: initial scale of an editor's changes. p_dropout in [0, 1).
    """

    paper: ClassVar[str] = 'Zhou et al., "Neural functional transformers", NeurIPS 2023'
    published: ClassVar[str] = (
        "dilate MNIST: MSE 0.0510 in [-1, 1] units; through INR2Array, embeddings of 10 to 20 augmented fits: "
        "MNIST 98.5, Fashion-MNIST 79.3, CIFAR-10 63.4"
    )
    normalise: ClassVar[NormaliserMode] = "per_layer"
    fields_at_once: ClassVar[int] = 16

    num_frequencies: int = 128
    scale: float = 0.3
    num_blocks: int = 4
    num_heads: int = 8
    factor: int = 2
    p_dropout: float = 0.1
    num_latents: int = 32
    latent_width: int = 128
    latent_heads: int = 4
    num_mixes: int = 2
    change: float = 0.01

    def __post_init__(self) -> None:
        least = {"num_mixes": 0}
        counts = ("num_frequencies", "num_blocks", "num_heads", "factor", "num_latents", "latent_width", "latent_heads")
        for name in (*counts, *least):
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from {least.get(name, 1)}")
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads}: expected a divisor of the {self.width} channels")
        if self.latent_width % self.latent_heads:
            raise ValueError(
                f"latent_heads={self.latent_heads}: expected a divisor of latent_width={self.latent_width}"
            )
        if not 0.0 <= self.p_dropout < 1.0:
            raise ValueError(f"p_dropout={self.p_dropout}: expected a number in [0, 1)")

    @property
    def width(self) -> int:
        """C."""
        return 2 * self.num_frequencies

    @classmethod
    def small(cls) -> "NFTConfig":
        """Settings of a size that trains on two cores."""
        return cls(num_frequencies=16, num_blocks=2, num_heads=4, num_latents=16, latent_width=64, num_mixes=1)

    @classmethod
    def editing(cls) -> "NFTConfig":
        """Settings of an editor: no dropout. The published code has no settings of its own for editing."""
        return cls(p_dropout=0.0)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """Permutation of hidden neurons. Raises ValueError unless all parameters of the spec are dense layers."""
        spec.check_dense("neural functional transformer")
        return ("permutation",)

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> "NFTReader":
        """Make the reader for fields of `spec`."""
        self.symmetry(spec)
        return NFTReader(spec, num_outputs, self, generator)

    def build_editor(self, spec: FieldSpec, generator: Generator) -> "NFTEditor":
        """Make the editor for fields of `spec`."""
        self.symmetry(spec)
        return NFTEditor(spec, self, generator)


class Positions(nn.Module):
    """Learned vectors (P, C) that tell tensors apart, and the weights of each input and each output."""

    def __init__(self, dims: tuple[int, ...], width: int, generator: Generator, std: float = _POSITION_STD) -> None:
        super().__init__()
        self.tokens = Tokens(dims)
        counts = (len(self.tokens.sizes), dims[0], dims[-1])
        drawn = (torch.empty(count, width).normal_(std=std, generator=generator) for count in counts)
        self.tensors, self.inputs, self.outputs = map(nn.Parameter, drawn)

    def forward(self) -> Tensor:
        """Return the vectors."""
        weights, biases = self.tokens.split(self.tensors.repeat_interleave(self.counts, 0).unsqueeze(0))
        weights[0] = weights[0] + self.inputs
        weights[-1] = weights[-1] + self.outputs.unsqueeze(1)
        biases[-1] = biases[-1] + self.outputs
        return self.tokens.join(weights, biases).squeeze(0)

    @property
    def counts(self) -> Tensor:
        """Tokens of each tensor."""
        return torch.tensor(self.tokens.sizes, device=self.tensors.device)


class Trunk(nn.Module):
    """Encoding, positions that start at size `position_std`, blocks."""

    def __init__(
        self, spec: FieldSpec, config: NFTConfig, generator: Generator, position_std: float = _POSITION_STD
    ) -> None:
        super().__init__()
        self.encoding = GaussianFeatures(config.num_frequencies, config.scale, generator)
        self.positions = Positions(spec.dims, config.width, generator, position_std)
        self.blocks = nn.ModuleList(
            Block(spec.dims, config.width, config.num_heads, config.factor, config.p_dropout, generator)
            for _ in range(config.num_blocks)
        )

    def forward(self, features: WeightFeatures, generator: Generator | None) -> Tensor:
        """Return tokens (N, P, C)."""
        numbers = self.positions.tokens.join(list(features.weights), list(features.biases))
        x = self.encoding(numbers) + self.positions()
        for block in self.blocks:
            x = block(x, generator)
        return x


class NFTReader(nn.Module):
    """y = W pool(blocks(encoding(weights) + positions)) + b.

    Shapes: features of N fields with one channel -> (N, num_outputs). Symmetry: permutation of hidden neurons. Zhou et
    al., "Neural functional transformers", NeurIPS 2023. Departures from the published code: dropout is of channels of
    whole fields, attention weights are not dropped, weights are normalised per layer and encoded at scale 0.3 (there:
    raw, at scale 3), positions start at size 0.3 (there: 1), MLPs of the pooling have no gates,
    gains of LayerNorms are those of all tensors (there: of each).

    >>> import torch
    >>> from neuralfields import SIREN
    >>> model = NFTConfig().build(SIREN(2, 1), 10, torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    2423306
    """

    def __init__(self, spec: FieldSpec, num_outputs: int, config: NFTConfig, generator: Generator) -> None:
        super().__init__()
        self.trunk = Trunk(spec, config, generator)
        latents = (config.num_latents, config.latent_width, config.latent_heads, config.num_mixes)
        self.pool = Pool(config.width, *latents, generator)
        self.head = linear(config.latent_width, num_outputs, generator)

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Return outputs (N, num_outputs); `generator` draws the dropout masks in training mode."""
        return self.head(self.pool(self.trunk(features, generator)))


class NFTEditor(nn.Module):
    """Change of every weight and bias: a linear map of its token's LayerNorm, times a learned number per tensor.

    Shapes: features of N fields with one channel -> the same. Symmetry: permutation of hidden neurons. Zhou et al.,
    "Neural functional transformers", NeurIPS 2023.
    """

    def __init__(self, spec: FieldSpec, config: NFTConfig, generator: Generator) -> None:
        super().__init__()
        self.trunk = Trunk(spec, config, generator)
        self.norm = nn.LayerNorm(config.width)
        self.last = linear(config.width, 1, generator)
        self.scales = nn.Parameter(torch.full((len(spec.dims) - 1, 2), config.change))

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> WeightFeatures:
        """Return the change; `generator` draws the dropout masks in training mode."""
        change = self.last(self.norm(self.trunk(features, generator)))
        weights, biases = self.trunk.positions.tokens.split(change)
        scaled = [(w * s[0], b * s[1]) for w, b, s in zip(weights, biases, self.scales, strict=True)]
        return WeightFeatures(tuple(w for w, _ in scaled), tuple(b for _, b in scaled))
