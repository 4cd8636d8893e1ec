"""Autoencoder: what every network that turns fields into latents, and latents back into fields, has in common."""

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate
from neuralfields.spec import FieldSpec
from wsnets.features import Normaliser, WeightFeatures
from wsnets.network import to_fields

_CANDIDATES = 8  # uniform points for every one that is compared, of shapes


class Autoencoder(nn.Module, ABC):
    """Features of N fields -> latents (N, T, D) -> fields.

    latent_shape: (T, D), T tokens of D numbers each; decoded_spec: what `decode` gives fields of; normaliser: how the
    features that the network sees were normalised, set by whoever owns it, so that decoders of weights may work on
    normalised weights.
    """

    latent_shape: tuple[int, int]
    decoded_spec: FieldSpec
    normaliser: Normaliser = Normaliser("none")

    @abstractmethod
    def encode(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Latents (N, T, D) of normalised features; generator: for dropout while training."""

    @abstractmethod
    def decode(self, latents: Tensor) -> FieldBatch:
        """Fields of `decoded_spec` from latents (N, T, D)."""

    @abstractmethod
    def loss(self, fields: FieldBatch, features: WeightFeatures, generator: Generator) -> Tensor:
        """Mean training loss of N fields, given with their normalised features."""

    def restore(self, features: WeightFeatures) -> FieldBatch:
        """Fields of `decoded_spec` from normalised features of one channel: undoes what the encoder is given."""
        return to_fields(self.normaliser.inverse(features), self.decoded_spec)


def value_loss(decoded: FieldBatch, fields: FieldBatch, num_points: int, generator: Generator) -> Tensor:
    """Mean squared difference of the values of two batches of fields at B = num_points random coordinates.

    mean over n, b, o of (f_n(x_b) - g_n(x_b))^2, x_b uniform in [-1, 1]^I, the same for all N fields.

    All are on the generator's device. Computed in the precision of `fields`, under autocast too: sines of large phases
    need all their digits.
    """
    kept = fields.weights[0].dtype
    coords = random_coords(fields, num_points, generator)
    with torch.autocast(coords.device.type, enabled=False):
        with torch.no_grad():
            wanted = evaluate(fields, coords)
        return (evaluate(decoded.to(kept), coords) - wanted).square().mean()


def random_coords(fields: FieldBatch, num_points: int, generator: Generator) -> Tensor:
    """Coordinates (B, I), uniform in [-1, 1]^I; half of those of shapes, I = 3, lie where some field shows something.

    The value of a shape is the same almost everywhere, and its surface is in the rest: that half is drawn from 8 B
    uniform points, each with a probability like max_n |f_n(x) - median f_n|. All are on the generator's device and in
    the precision of fields.
    """
    spec = fields.spec
    shape = num_points * (_CANDIDATES if spec.in_dim == 3 else 1), spec.in_dim
    drawn = torch.rand(shape, generator=generator, device=generator.device, dtype=fields.weights[0].dtype)
    coords = 2 * drawn - 1
    if spec.in_dim != 3:
        return coords
    with torch.no_grad():
        values = evaluate(fields, coords)
        unusual = (values - values.median(dim=1, keepdim=True).values).abs().amax(dim=(0, 2))
    near = torch.multinomial(unusual.clamp_min(1e-12), num_points // 2, generator=generator)
    return torch.cat([coords[: num_points - num_points // 2], coords[near]])
