"""SANE: weights as a sequence that is read window by window, so that one network encodes fields of any size.

Legend: N fields, T tokens, K numbers of a token, C channels, D latent numbers of a token, W tokens of a window.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.autoencoder import Autoencoder, value_loss
from wsnets.features import NormaliserMode, WeightFeatures, flatten
from wsnets.heads import VectorHead, linear
from wsnets.models.hyper_representation import check_settings, contrast_loss, erased, noisy, restored, view
from wsnets.models.token_transformer import TokenTransformer, positions
from wsnets.tokens import TokenLayout


@dataclass(frozen=True, kw_only=True)
class SANEConfig:
    """latent: numbers D of every token's latent; token: numbers K of a token (0: the longest row of the spec); window:
    tokens W that are read together; width C, num_layers, num_heads: of encoder and decoder each; most: largest number
    of tokens, of layers, and of tokens of a layer that have a position of their own; contrast, temperature, permute,
    erase, noise, values, points: see HyperRepresentationConfig. Raises ValueError for values outside these.
    """

    paper: ClassVar[str] = 'Schuerholt et al., "Towards scalable and versatile weight space learning", ICML 2024'
    published: ClassVar[str] = "none on fields"
    normalise: ClassVar[NormaliserMode] = "per_weight"
    fields_at_once: ClassVar[int] = 0

    latent: int = 128
    token: int = 0
    window: int = 256
    width: int = 1024
    num_layers: int = 4
    num_heads: int = 8
    most: tuple[int, int, int] = (4096, 32, 2048)
    contrast: float = 0.05
    temperature: float = 0.1
    permute: float = 1.0
    erase: float = 0.1
    noise: float = 0.0
    values: float = 0.0
    points: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "most", tuple(int(count) for count in self.most))
        check_settings(self, ("latent", "window", "width", "num_layers", "num_heads", "points"))
        if len(self.most) != 3 or min(self.most) < 1 or self.token < 0:
            raise ValueError(f"most={self.most}, token={self.token}: expected three positive numbers, and zero or more")

    @classmethod
    def small(cls) -> "SANEConfig":
        """A size that trains on two cores, for fields of one init: see HyperRepresentationConfig.small.

        A window holds all 65 tokens of a 2-32-32-1 field, so that one pass serves both weights and values.
        """
        sizes = {"latent": 16, "window": 80, "width": 64, "num_layers": 1, "num_heads": 4, "most": (512, 16, 256)}
        return cls(**sizes, contrast=0.0, permute=0.0, erase=0.0, values=100.0)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """None: permuted fields are only trained to be near each other."""
        return ()

    def build_autoencoder(self, spec: FieldSpec, generator: Generator) -> "SANE":
        """Make the autoencoder of fields of `spec`. Raises ValueError for a spec of more tokens than `most`."""
        return SANE(spec, self, generator)


class SANE(Autoencoder):
    """z_t = W_z transformer(W x_t + p_t), y_t = W' transformer'(B z_t + p'_t), window by window: x_t -> y_t.

    Shapes: features of N fields -> latents (N, T, D) -> fields of the same spec. p_t is the sum of three learned
    vectors: of the token's place in the sequence, of its layer, of its place in the layer. Training takes one random
    window of W tokens of every field; a sequence is read in windows one after the other, the last one reaching back
    where it would be short. The loss is (1 - contrast) |y - x|^2, over the parameters of the window, + contrast NT-Xent
    of the mean latents of two views + values (difference of what whole fields show; not in the paper, which compares
    weights alone). Symmetry: none. Schuerholt et al., "Towards scalable and versatile weight space learning", ICML
    2024.

    >>> import torch
    >>> from neuralfields import SIREN
    >>> model = SANEConfig.small().build_autoencoder(SIREN(2, 1), torch.Generator().manual_seed(0))
    >>> model.latent_shape, sum(p.numel() for p in model.parameters())
    ((65, 16), 158977)
    """

    def __init__(self, spec: FieldSpec, config: SANEConfig, generator: Generator) -> None:
        super().__init__()
        self.layout, self.config, self.decoded_spec = TokenLayout.of(spec, config.token or None), config, spec
        (count, size), width = self.layout.shape, config.width
        self.latent_shape = (count, config.latent)
        trunk = (width, config.num_layers, config.num_heads)
        self.inputs, self.outputs = linear(size, width, generator), linear(width, size, generator)
        self.encoder, self.decoder = TokenTransformer(*trunk, generator), TokenTransformer(*trunk, generator)
        self.compress, self.expand = linear(width, config.latent, generator), linear(config.latent, width, generator)
        self.place, self.layer, self.row = (positions(most, width, generator) for most in config.most)
        self.head = VectorHead(config.latent, (width,), config.latent, generator=generator, norm="none")
        self.positions(self.layout)

    def encode(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Latents (N, T, D) of normalised features; generator: of noise and erased tokens while training."""
        return self.encode_tokens(self.layout.tokens(flatten(features)), self.layout, generator)

    def decode(self, latents: Tensor) -> FieldBatch:
        """Fields of the spec that the network was made for, from latents (N, T, D)."""
        return restored(self, self.layout, self.decode_tokens(latents, self.layout))

    def encode_tokens(self, tokens: Tensor, layout: TokenLayout, generator: Generator | None = None) -> Tensor:
        """Latents (N, T, D) of normalised tokens of any layout with tokens of the same size K."""
        where = self.positions(layout)
        return self._windows(tokens, lambda x, at: self._encode(x, where[at], generator))

    def decode_tokens(self, latents: Tensor, layout: TokenLayout) -> Tensor:
        """Normalised tokens (N, T, K) of any layout, from latents (N, T, D)."""
        where = self.positions(layout)
        return self._windows(latents, lambda z, at: self._decode(z, where[at]))

    def positions(self, layout: TokenLayout) -> Tensor:
        """p_t (T, C). Raises ValueError for another size of tokens, or more of them than there are positions."""
        size, needed = self.inputs.in_features, (len(layout.layers), layout.spec.num_layers, int(layout.rows.max()) + 1)
        if layout.shape[1] != size:
            raise ValueError(f"tokens hold {layout.shape[1]} numbers: expected {size}, as in training")
        if any(count > most for count, most in zip(needed, self.config.most, strict=True)):
            raise ValueError(f"most={self.config.most}: expected at least {needed} for {layout.spec.describe()}")
        device = self.place.device
        return self.place[: needed[0]] + self.layer[layout.layers.to(device)] + self.row[layout.rows.to(device)]

    def loss(self, fields: FieldBatch, features: WeightFeatures, generator: Generator) -> Tensor:
        """Mean training loss of N fields, given with their normalised features: one random window of each."""
        config, (count, size) = self.config, self.layout.shape
        length = min(config.window, count)
        first = torch.randint(0, count - length + 1, (len(fields), 1), generator=generator, device=generator.device)
        at = first + torch.arange(length, device=first.device)
        where, mask = self.positions(self.layout)[at], self.layout.mask.to(first.device)[at]
        total, latents, found = torch.zeros((), device=first.device), [], []
        views = [
            view(fields, features, self.normaliser, config.permute, generator)
            for _ in range(2 if config.contrast else 1)
        ]
        sequences = [self.layout.tokens(flatten(moved)) for _, moved in views]
        for tokens in sequences:
            window = tokens.gather(1, at.unsqueeze(2).expand(*at.shape, size))
            latents.append(self._encode(window, where, generator))
            found.append(self._decode(latents[-1], where))
            total = total + ((found[-1] - window).square() * mask).sum() / mask.sum()
        total = (1 - config.contrast) * total / len(views)
        if config.contrast:
            means = [latent.mean(dim=1) for latent in latents]
            total = total + config.contrast * contrast_loss(self.head, means, config.temperature)
        if config.values:
            whole = found[0] if length == count else self._again(sequences[0], generator)
            total = total + config.values * value_loss(
                restored(self, self.layout, whole), views[0][0], config.points, generator
            )
        return total

    def _again(self, tokens: Tensor, generator: Generator) -> Tensor:
        return self.decode_tokens(self.encode_tokens(tokens, self.layout, generator), self.layout)

    def _encode(self, tokens: Tensor, where: Tensor, generator: Generator | None) -> Tensor:
        if self.training:
            tokens = noisy(tokens, self.config.noise, generator)
        x = erased(self.inputs(tokens), self.config.erase if self.training else 0.0, generator) + where
        return self.compress(self.encoder(x))

    def _decode(self, latents: Tensor, where: Tensor) -> Tensor:
        return self.outputs(self.decoder(self.expand(latents) + where))

    def _windows(self, x: Tensor, read) -> Tensor:
        """read(window, its places) over the whole sequence x (N, T, ...), windows in order."""
        count, length = x.shape[1], min(self.config.window, x.shape[1])
        parts = []
        for start in range(0, count, length):
            first = min(start, count - length)
            part = read(x[:, first : first + length], slice(first, first + length))
            parts.append(part[:, start - first :])
        return torch.cat(parts, dim=1)
