"""Regress: read a number from the weights of a field."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from wsnets.config import FieldConfig
from wsnets.loop import check
from wsnets.regressor import fit_figures
from wsnets.tasks.field_task import FieldTask, Prepared


@dataclass(frozen=True, kw_only=True)
class RegressConfig(FieldConfig):
    """Settings of regression, beside those of FieldConfig; target: the column of the index that is read."""

    target: str = "psnr"

    def __post_init__(self) -> None:
        super().__post_init__()
        check("target", self.target, bool(self.target), "the name of a column of the index")


class RegressTask(FieldTask):
    """Mean squared error of (y - mean) / std, statistics of the training fields; validated by R2."""

    def __init__(self, prepared: Prepared, config: RegressConfig, targets: np.ndarray) -> None:
        super().__init__(prepared, config)
        self._targets = targets[prepared.train.positions]
        self._val_targets = targets[prepared.val.positions]
        self.mean, self.std = float(self._targets.mean()), float(self._targets.std())
        if not self.std > 0:
            raise ValueError(f"target={config.target!r}: all training fields have {self.mean}, expected a spread")

    def loss(self, model: nn.Module, batch: tuple[FieldBatch, Tensor], generator: Generator) -> Tensor:
        """Mean loss of fetched training items."""
        fields, positions = batch
        wanted = torch.from_numpy((self._targets[positions.numpy()] - self.mean) / self.std).float()
        features = self.features(self.augmented(fields, generator), generator)
        return nn.functional.mse_loss(model(features, generator)[:, 0].float(), wanted.to(generator.device))

    def validate(self, model: nn.Module) -> dict[str, float]:
        """R2, mean absolute error and Kendall's tau on the held-out items; the score is R2."""
        if self.num_held_out == 0:
            return {}
        device = next(model.parameters()).device
        parts = [model(self.features(f))[:, 0].float().cpu() for _, f in self.held_out(device, self.at_once)]
        found = fit_figures(torch.cat(parts).numpy() * self.std + self.mean, self._val_targets)
        return {**{f"val_{name}": value for name, value in found.items()}, "score": found["r2"]}
