"""Embed: latents of fields that fields can be decoded from, trained on what the decoded ones show."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.grids import image_coords
from wsnets import models
from wsnets.autoencoder import Autoencoder
from wsnets.config import FieldConfig
from wsnets.data import Population
from wsnets.latents import Embedding, build_autoencoder, reconstruction
from wsnets.loop import STREAM_MODEL, generator
from wsnets.tasks.field_task import FieldTask, Prepared

if TYPE_CHECKING:
    from wsnets.train import TrainProgress

POINTS = 1024  # at which fields over other than two coordinates are judged


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(FieldConfig):
    """Settings of training an autoencoder of fields: those of FieldConfig; model: one of models.embedders()."""

    model: str | models.ModelConfig = "inr2vec"


class EmbedTask(FieldTask):
    """The autoencoder's own loss, validated by how well decoded held-out fields show what the fields show."""

    config: EmbedConfig

    def __init__(self, prepared: Prepared, config: EmbedConfig) -> None:
        super().__init__(prepared, config)
        self.coords = judged_at(prepared.train, generator(config.seed, STREAM_MODEL, 3))

    def loss(self, model: nn.Module, batch: tuple[FieldBatch, Tensor], generator: Generator) -> Tensor:
        """Mean loss of fetched training items."""
        assert isinstance(model, Autoencoder)
        fields = self.augmented(batch[0], generator)
        return model.loss(fields, self.features(fields, generator), generator)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Mean PSNR (dB) and mean squared error of decoded held-out fields; the score is minus the latter."""
        assert isinstance(model, Autoencoder)
        if self.num_held_out == 0:
            return {}
        device = next(model.parameters()).device
        coords, clip, totals = self.coords.to(device), self.prepared.train.spec.in_dim == 2, torch.zeros(2).double()
        for _, fields in self.held_out(device, self.at_once):
            decoded = model.decode(model.encode(self.features(fields)))
            figures = reconstruction(decoded, fields, coords, clip)
            totals += torch.stack([figure.double().sum().cpu() for figure in figures])
        psnr, mse = (totals / self.num_held_out).tolist()
        return {"val_psnr": psnr, "val_mse": mse, "score": -mse}


def judged_at(population: Population, generator: Generator) -> Tensor:
    """Coordinates (B, I) at which decoded fields are judged: the pixels of pictures (28 x 28 where the store does not
    say), uniform in [-1, 1]^I for fields over other than two coordinates."""
    spec = population.spec
    if spec.in_dim == 2:
        height, width = ((population.meta.get("signal") or {}).get("shape") or (28, 28))[:2]
        return image_coords(spec, (int(height), int(width)))
    return 2 * torch.rand((POINTS, spec.in_dim), generator=generator) - 1


def embed(
    population: Population,
    config: EmbedConfig | None = None,
    out: str | Path = "runs/embedding",
    progress: Callable[["TrainProgress"], None] | None = None,
    step: Callable[[float, float], None] | None = None,
) -> Embedding:
    """Train an autoencoder of fields; return it, also stored in the folder `out`; as `train.classify`.

    Raises ValueError for a model that is no autoencoder.
    """
    from wsnets.train import Watch, train_network  # which itself gives this function to the world

    config = config or EmbedConfig.tuned("inr2vec")
    model = build_autoencoder(config.settings, population.spec, generator(config.seed, STREAM_MODEL, 0))
    prepared = Prepared.of(population, config)
    model.normaliser = prepared.normaliser
    return train_network(
        Embedding, model, EmbedTask(prepared, config), population, {}, {}, Path(out), Watch(progress, step)
    )
