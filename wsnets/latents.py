"""Embedding: a trained autoencoder of fields, weights -> latents -> fields."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate
from neuralfields.spec import FieldSpec
from wsnets import models
from wsnets.autoencoder import Autoencoder
from wsnets.features import weight_features
from wsnets.network import Network, fresh

# Values that differ by less count as equal: 100 dB.
_LEAST_ERROR = 1e-10


class EmbedderConfig(models.ModelConfig, Protocol):
    """Settings of a model that is an autoencoder of fields."""

    def build_autoencoder(self, spec: FieldSpec, generator: Generator) -> Autoencoder:
        """Make the autoencoder of fields of `spec`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Embedding(Network):
    """Weights of fields of one spec <-> latents (T, D), T tokens of D numbers each."""

    task = "embed"

    def __post_init__(self) -> None:
        self.autoencoder.normaliser = self.normaliser

    @property
    def autoencoder(self) -> Autoencoder:
        """The model. Raises TypeError for another one."""
        if not isinstance(self.model, Autoencoder):
            raise TypeError(f"model is a {type(self.model).__name__}: expected an Autoencoder")
        return self.model

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(T, D): tokens, and numbers of each."""
        return self.autoencoder.latent_shape

    @property
    def decoded_spec(self) -> FieldSpec:
        """The spec of decoded fields: that of the encoded ones, or that of an implicit decoder."""
        return self.autoencoder.decoded_spec

    def about(self) -> dict:
        """Nothing: the model's settings say all."""
        return {}

    @classmethod
    def rebuild(cls, about: dict, spec: FieldSpec, settings: models.ModelConfig) -> tuple[nn.Module, dict[str, Any]]:
        """An untrained model."""
        return build_autoencoder(settings, spec, fresh()), {}

    @torch.no_grad()
    def outputs(self, fields: FieldBatch) -> Tensor:
        """Latents (N, T, D) of prepared fields, in evaluation mode."""
        was_training, model = self.model.training, self.autoencoder.eval()
        latents = model.encode(self.normaliser(weight_features(fields.to(self._device))))
        model.train(was_training)
        return latents

    def encode(self, fields: FieldBatch) -> Tensor:
        """Latents (N, T, D) float32 on the CPU, piece by piece. Raises ValueError for fields of another spec or NaN."""
        return super().vectors(fields)

    def vectors(self, fields: FieldBatch) -> Tensor:
        """The same, flattened: (N, T * D)."""
        return self.encode(fields).flatten(1)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> FieldBatch:
        """Fields of `decoded_spec` on the CPU from latents (N, T, D), piece by piece. Raises ValueError for others."""
        if latents.ndim != 3 or latents.shape[1:] != self.latent_shape:
            tokens, numbers = self.latent_shape
            raise ValueError(f"latents has shape {tuple(latents.shape)}: expected (N, {tokens}, {numbers})")
        was_training = self.model.training
        model, latents = self.autoencoder.eval(), latents.to(torch.float32)
        parts = [_kept(model.decode(piece.to(self._device))) for piece in latents.split(self.at_once)]
        model.train(was_training)
        return parts[0] if len(parts) == 1 else FieldBatch.cat(parts)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _kept(fields: FieldBatch) -> FieldBatch:
    """Fields on the CPU, apart from the model: views of its weights would still ask for gradients."""
    return FieldBatch(fields.spec, {name: value.detach().cpu() for name, value in fields.parameters.items()})


def build_autoencoder(settings: models.ModelConfig, spec: FieldSpec, generator: Generator) -> Autoencoder:
    """Make the autoencoder of a model. Raises ValueError for a model that is none."""
    name = models.name_of(settings)
    if name not in models.embedders():
        known = ", ".join(models.embedders())
        raise ValueError(f"model={name!r} gives no latents that fields can be decoded from: expected one of {known}")
    return settings.build_autoencoder(spec, generator)  # type: ignore[attr-defined]


def reconstruction(decoded: FieldBatch, fields: FieldBatch, coords: Tensor, clip: bool) -> tuple[Tensor, Tensor]:
    """PSNR (N,) in dB and mean squared error (N,) of the values of decoded fields at coords (B, I), against fields.

    PSNR = -10 log10 mean (f - g)^2: data range 1, values clipped to [0, 1] when `clip`; at most 100 dB. The mean
    squared error is that of the values as they are.
    """
    found, wanted = evaluate(decoded, coords), evaluate(fields, coords)
    mse = (found - wanted).square().mean(dim=(1, 2))
    shown = (found.clamp(0, 1) - wanted.clamp(0, 1)).square().mean(dim=(1, 2)) if clip else mse
    return -10 * shown.clamp_min(_LEAST_ERROR).log10(), mse
