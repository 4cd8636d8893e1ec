"""INR2Array: fields as arrays of latents that do not depend on the order of hidden neurons, and fields from them.

Legend: N fields, T latent tokens of D numbers, P parameters of one field, C channels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.autoencoder import Autoencoder, value_loss
from wsnets.features import NormaliserMode, WeightFeatures
from wsnets.models.inr2array_layers import ChangeDecoder, LatentRead
from wsnets.models.nft import NFTConfig, Trunk

# Fields whose weights are read together outside training, where the batch does not matter.
_AT_ONCE = 64
# Published: positions as large as what encodes a weight.
_POSITION_STD = 1.0


@dataclass(frozen=True, kw_only=True)
class Inr2ArrayConfig:
    """num_frequencies, scale: of the encoding of weights, which gives C = 2 num_frequencies channels; num_blocks,
    num_heads, factor (hidden over outer channels of MLPs): of the blocks; tokens T, token_width D: of the latents;
    reads: queries of each; latent_heads, num_mixes: of the self-attention among them; decoder: widths of its hidden
    layers; points: coordinates at which a field and its decoded copy are compared in one step. Published: 200,000
    steps of 64 fields, AdamW, 1e-4. Raises ValueError for values outside these.
    """

    paper: ClassVar[str] = 'Zhou et al., "Neural functional transformers", NeurIPS 2023 (INR2Array)'
    published: ClassVar[str] = (
        "latents of 10 to 20 augmented fits classify MNIST 98.5, Fashion-MNIST 79.3, CIFAR-10 63.4 (random inits)"
    )
    normalise: ClassVar[NormaliserMode] = "per_layer"
    fields_at_once: ClassVar[int] = 0

    num_frequencies: int = 128
    scale: float = 0.3
    num_blocks: int = 6
    num_heads: int = 4
    factor: int = 4
    tokens: int = 16
    token_width: int = 256
    reads: int = 1
    latent_heads: int = 8
    num_mixes: int = 2
    decoder: tuple[int, ...] = (256, 256)
    points: int = 784

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder", tuple(int(width) for width in self.decoder))
        if not self.decoder or min(self.decoder) < 1:
            raise ValueError(f"decoder={self.decoder}: expected one positive width at least")
        least = {"num_mixes": 0}
        for name in ("tokens", "token_width", "reads", "latent_heads", "num_mixes", "points"):
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from {least.get(name, 1)}")
        if self.token_width % self.latent_heads:
            raise ValueError(f"latent_heads={self.latent_heads}: expected a divisor of token_width={self.token_width}")
        _ = self.blocks

    @property
    def blocks(self) -> NFTConfig:
        """Settings of the blocks. Raises ValueError for values that NFT does not take."""
        return NFTConfig(
            num_frequencies=self.num_frequencies,
            scale=self.scale,
            num_blocks=self.num_blocks,
            num_heads=self.num_heads,
            factor=self.factor,
            p_dropout=0.0,
        )

    @classmethod
    def small(cls) -> "Inr2ArrayConfig":
        """Settings of a size that trains on two cores."""
        return cls(
            num_frequencies=8,
            num_blocks=2,
            factor=2,
            token_width=16,
            reads=8,
            latent_heads=4,
            num_mixes=0,
            decoder=(512,),
            points=256,
        )

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """Permutation of hidden neurons. Raises ValueError unless all parameters of the spec are dense layers."""
        spec.check_dense("inr2array")
        return ("permutation",)

    def build_autoencoder(self, spec: FieldSpec, generator: Generator) -> "Inr2Array":
        """Make the autoencoder of fields of `spec`."""
        self.symmetry(spec)
        return Inr2Array(spec, self, generator)


class Inr2Array(Autoencoder):
    """z = LatentRead(blocks(encoding(weights) + positions)),   theta = ChangeDecoder(z).

    Shapes: features of N fields -> latents (N, T, D) -> fields of the same spec. Symmetry: latents do not change when
    hidden neurons are permuted. Zhou et al., "Neural functional transformers", NeurIPS 2023. The loss is that of the
    values that decoded fields show. Departures from the published code: there each of the 16 latents is decoded alone,
    to a field that shows one of 4 x 4 parts of the picture, here all together to one field; what the queries read is
    batch-normalised (without it the latents of different fields hardly differ at first, and training stays at the
    mean picture for long), MLPs of the latents have no gates, and weights are normalised and encoded as in NFTReader.

    >>> import torch
    >>> from neuralfields import SIREN
    >>> model = Inr2ArrayConfig.small().build_autoencoder(SIREN(2, 1), torch.Generator().manual_seed(0))
    >>> model.latent_shape, model.decoded_spec.describe()
    ((16, 16), 'sine 2-32-32-1, 1,185 parameters')
    """

    def __init__(self, spec: FieldSpec, config: Inr2ArrayConfig, generator: Generator) -> None:
        super().__init__()
        self.latent_shape, self.decoded_spec, self.points = (config.tokens, config.token_width), spec, config.points
        self.trunk = Trunk(spec, config.blocks, generator, _POSITION_STD)
        self.reader = LatentRead(
            config.blocks.width, self.latent_shape, config.reads, config.latent_heads, config.num_mixes, generator
        )
        self.decoder = ChangeDecoder(spec, config.tokens * config.token_width, config.decoder, generator)

    def encode(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Latents (N, T, D) of normalised features; nothing is drawn from `generator`."""
        if self.training:
            return self.reader(self.reader.look(self.trunk(features, generator)))
        pieces = (features.map(lambda x, s=s: x[s : s + _AT_ONCE]) for s in range(0, len(features), _AT_ONCE))
        return torch.cat([self.reader(self.reader.look(self.trunk(piece, None))) for piece in pieces])

    def decode(self, latents: Tensor) -> FieldBatch:
        """Fields of `decoded_spec` from latents (N, T, D)."""
        return FieldBatch.from_flat(self.decoded_spec, self.decoder(latents.flatten(1)))

    def loss(self, fields: FieldBatch, features: WeightFeatures, generator: Generator) -> Tensor:
        """mean over n, b, o of (f_n(x_b) - g_n(x_b))^2, g decoded, x_b uniform in [-1, 1]^I, the same for all."""
        decoded = self.decode(self.encode(features, generator))
        with torch.autocast(generator.device.type, enabled=False):  # sines of large phases need all their digits
            return value_loss(decoded, fields, self.points, generator)
