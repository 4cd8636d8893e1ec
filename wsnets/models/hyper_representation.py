"""Hyper-representations: a transformer autoencoder of the whole sequence of a field's weights, with one latent vector.

Legend: N fields, T tokens, K numbers of a token, C channels, D latent numbers.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from neuralfields import symmetry
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.autoencoder import Autoencoder, value_loss
from wsnets.contrast import nt_xent
from wsnets.features import Normaliser, NormaliserMode, WeightFeatures, flatten, weight_features
from wsnets.heads import VectorHead, linear
from wsnets.models.token_transformer import TokenTransformer, positions
from wsnets.tokens import TokenLayout


@dataclass(frozen=True, kw_only=True)
class HyperRepresentationConfig:
    """latent: numbers D of the latent; width C, num_layers, num_heads: of encoder and decoder each; contrast: share of
    the contrastive loss, in [0, 1); temperature of it; permute: share of fields that are permuted at random before they
    are encoded and compared, in [0, 1]; erase: share of tokens that the encoder does not see while training, in [0, 1);
    noise: standard deviation of what is added to the normalised weights that the encoder sees while training; values:
    weight of the mean squared error of what decoded fields show, at `points` coordinates (the paper compares
    weights alone). Raises ValueError for values outside these.
    """

    paper: ClassVar[str] = 'Schuerholt et al., "Hyper-representations as generative models", NeurIPS 2022'
    published: ClassVar[str] = "none on fields"
    normalise: ClassVar[NormaliserMode] = "per_weight"
    fields_at_once: ClassVar[int] = 0

    latent: int = 700
    width: int = 512
    num_layers: int = 4
    num_heads: int = 8
    contrast: float = 0.05
    temperature: float = 0.1
    permute: float = 1.0
    erase: float = 0.1
    noise: float = 0.0
    values: float = 0.0
    points: int = 128

    def __post_init__(self) -> None:
        check_settings(self, ("latent", "width", "num_layers", "num_heads", "points"))

    @classmethod
    def small(cls) -> "HyperRepresentationConfig":
        """A size that trains on two cores, for fields of one init: not permuted, compared by what they show too.

        Without contrast: two noisy views of every field cost 0.9 dB in equal time, and the linear probe did not gain.
        """
        sizes = {"latent": 256, "width": 64, "num_layers": 1, "num_heads": 4}
        return cls(**sizes, contrast=0.0, permute=0.0, erase=0.0, values=100.0)

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """None: permuted fields are only trained to be near each other."""
        return ()

    def build_autoencoder(self, spec: FieldSpec, generator: Generator) -> "HyperRepresentation":
        """Make the autoencoder of fields of `spec`. Raises ValueError for a spec with other than dense layers."""
        return HyperRepresentation(spec, self, generator)


def check_settings(config: object, counts: tuple[str, ...]) -> None:
    """Check the settings that autoencoders of tokens share. Raises ValueError naming the first that does not fit."""
    values = vars(config)
    for name in counts:
        if values[name] < 1:
            raise ValueError(f"{name}={values[name]}: expected a whole number from 1")
    if values["width"] % values["num_heads"]:
        raise ValueError(f"num_heads={values['num_heads']}: expected a divisor of width={values['width']}")
    for name in ("contrast", "erase"):
        if not 0 <= values[name] < 1:
            raise ValueError(f"{name}={values[name]}: expected a number in [0, 1)")
    if not 0 <= values["permute"] <= 1:
        raise ValueError(f"permute={values['permute']}: expected a number in [0, 1]")
    for name in ("noise", "values"):
        if not values[name] >= 0:
            raise ValueError(f"{name}={values[name]}: expected zero or more")
    if values["contrast"] and not (values["permute"] or values["erase"] or values["noise"]):
        raise ValueError(
            f"contrast={values['contrast']}: expected permute, erase or noise above 0, so that views differ"
        )
    if not values["temperature"] > 0:
        raise ValueError(f"temperature={values['temperature']}: expected a positive number")


class HyperRepresentation(Autoencoder):
    """z = norm(A [transformer(W x_t + p_t)]_t),  y_t = W' transformer'(B_t z + p'_t): x_t -> y_t.

    Shapes: features of N fields -> latents (N, 1, D) -> fields of the same spec. The loss is
    (1 - contrast) mean_l |y_l - x_l|^2 / var(x_l) + contrast NT-Xent of two views + values (difference of values),
    every layer l counting alike, whatever its size. A view is the field permuted; the encoder sees it with noise and
    with tokens erased, the decoder is to give it without. The difference of values is not in the papers. Symmetry:
    none. Schuerholt et al., "Self-supervised representation learning on neural network weights for model characteristic
    prediction", NeurIPS 2021, and "Hyper-representations as generative models", NeurIPS 2022 (the loss by layers).

    >>> import torch
    >>> from neuralfields import SIREN
    >>> config = HyperRepresentationConfig.small()
    >>> model = config.build_autoencoder(SIREN(2, 1), torch.Generator().manual_seed(0))
    >>> model.latent_shape, sum(p.numel() for p in model.parameters())
    ((1, 256), 2378785)
    """

    def __init__(self, spec: FieldSpec, config: HyperRepresentationConfig, generator: Generator) -> None:
        super().__init__()
        self.layout, self.config, self.decoded_spec = TokenLayout.of(spec), config, spec
        self.latent_shape = (1, config.latent)
        (count, size), width = self.layout.shape, config.width
        trunk = (width, config.num_layers, config.num_heads)
        self.inputs, self.outputs = linear(size, width, generator), linear(width, size, generator)
        self.encoder, self.decoder = TokenTransformer(*trunk, generator), TokenTransformer(*trunk, generator)
        self.seen, self.written = positions(count, width, generator), positions(count, width, generator)
        self.compress = linear(count * width, config.latent, generator)
        self.norm = nn.LayerNorm(config.latent, elementwise_affine=False)
        self.expand = linear(config.latent, count * width, generator)
        self.head = VectorHead(config.latent, (config.latent,), config.latent, generator=generator, norm="none")

    def encode(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Latents (N, 1, D) of normalised features; generator: of noise and erased tokens while training."""
        return self._encode(self.layout.tokens(flatten(features)), generator).unsqueeze(1)

    def decode(self, latents: Tensor) -> FieldBatch:
        """Fields of the encoded spec from latents (N, 1, D)."""
        return restored(self, self.layout, self._decode(latents[:, 0]))

    def loss(self, fields: FieldBatch, features: WeightFeatures, generator: Generator) -> Tensor:
        """Mean training loss of N fields, given with their normalised features."""
        config = self.config
        views = [
            view(fields, features, self.normaliser, config.permute, generator)
            for _ in range(2 if config.contrast else 1)
        ]
        tokens = [self.layout.tokens(flatten(moved)) for _, moved in views]
        latents = [self._encode(each, generator) for each in tokens]
        found = [self._decode(latent) for latent in latents]
        pairs = zip(found, tokens, strict=True)
        total = (1 - config.contrast) * torch.stack([weight_loss(y, x, self.layout) for y, x in pairs]).mean()
        if config.contrast:
            total = total + config.contrast * contrast_loss(self.head, latents, config.temperature)
        if config.values:
            wanted = views[0][0]
            total = total + config.values * value_loss(
                restored(self, self.layout, found[0]), wanted, config.points, generator
            )
        return total

    def _encode(self, tokens: Tensor, generator: Generator | None) -> Tensor:
        if self.training:
            tokens = noisy(tokens, self.config.noise, generator)
        x = erased(self.inputs(tokens), self.config.erase if self.training else 0.0, generator) + self.seen
        return self.norm(self.compress(self.encoder(x).flatten(1)))

    def _decode(self, latents: Tensor) -> Tensor:
        x = self.expand(latents).unflatten(1, self.written.shape) + self.written
        return self.outputs(self.decoder(x))


def view(
    fields: FieldBatch, features: WeightFeatures, normaliser: Normaliser, share: float, generator: Generator
) -> tuple[FieldBatch, WeightFeatures]:
    """Fields and their normalised features, a `share` of them with their hidden units in another order."""
    if share == 0:
        return fields, features
    moved = permuted(fields, share, generator)
    return moved, normaliser(weight_features(moved))


def permuted(fields: FieldBatch, share: float, generator: Generator) -> FieldBatch:
    """Fields, a `share` of them with their hidden units in another order; each shows what it showed."""
    moved = symmetry.act(symmetry.sample(fields.spec, len(fields), generator, ("permutation",)), fields)
    chosen = torch.rand(len(fields), 1, generator=generator, device=generator.device) < share
    return FieldBatch.from_flat(fields.spec, torch.where(chosen, moved.flat(), fields.flat()))


def noisy(x: Tensor, std: float, generator: Generator | None) -> Tensor:
    """x plus Gaussian noise. Raises ValueError without a generator where one is needed."""
    if std == 0:
        return x
    if generator is None:
        raise ValueError("generator=None: noise in training mode needs a torch.Generator")
    return x + std * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def erased(x: Tensor, share: float, generator: Generator | None) -> Tensor:
    """Tokens (N, T, C), a `share` of them zero. Raises ValueError without a generator where one is needed."""
    if share == 0:
        return x
    if generator is None:
        raise ValueError("generator=None: erasing tokens in training mode needs a torch.Generator")
    return x * (torch.rand(x.shape[:2], generator=generator, device=x.device) >= share).unsqueeze(-1)


def restored(model: Autoencoder, layout: TokenLayout, tokens: Tensor) -> FieldBatch:
    """Fields from normalised tokens (N, T, K)."""
    normalised = FieldBatch.from_flat(layout.spec, layout.flat(tokens))
    return model.restore(weight_features(normalised))


def weight_loss(found: Tensor, wanted: Tensor, layout: TokenLayout) -> Tensor:
    """mean over layers l of |y_l - x_l|^2 / |x_l - mean x_l|^2, over the parameters of tokens (N, T, K)."""
    losses, mask = [], layout.mask.to(wanted.device)
    for layer in range(layout.spec.num_layers):
        at = (layout.layers.to(wanted.device) == layer).unsqueeze(1) & mask
        x = wanted[:, at]
        variance = x.var(unbiased=False).clamp_min(1e-12)
        losses.append((found[:, at] - x).square().mean() / variance)
    return torch.stack(losses).mean()


def contrast_loss(head: nn.Module, latents: list[Tensor], temperature: float) -> Tensor:
    """NT-Xent of the projected latents (N, D) of two views."""
    count = len(latents[0])
    points = functional.normalize(head(torch.cat(latents)), dim=-1)
    return nt_xent(points, temperature, torch.arange(count, device=points.device).repeat(2))
