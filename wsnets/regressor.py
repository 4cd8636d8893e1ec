"""Regressor: a trained network that reads a number, such as the PSNR of a fit, from the weights of a field.

Legend: N fields.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from wsnets import checkpoint, models
from wsnets.data import Population
from wsnets.network import Network, fresh


@dataclass(frozen=True, kw_only=True)
class Regressor(Network):
    """A reader of one number: y = mean + std * model(weights); target: the column of the index that is read."""

    task = "regress"
    kinds: ClassVar = {"target": checkpoint.TEXT, "mean": checkpoint.NUMBER, "std": checkpoint.NUMBER}

    target: str
    mean: float
    std: float

    def about(self) -> dict:
        """The target and its statistics over the training fields."""
        return {"target": self.target, "mean": self.mean, "std": self.std}

    @classmethod
    def rebuild(cls, about: dict, spec: FieldSpec, settings: models.ModelConfig) -> tuple[nn.Module, dict[str, Any]]:
        """From `about`: an untrained model, the target and its statistics."""
        return models.build_reader(settings, spec, 1, fresh()), {
            name: about[name] for name in ("target", "mean", "std")
        }

    def predict(self, fields: FieldBatch) -> Tensor:
        """Values (N,) float32. Raises ValueError for fields of another spec or with NaN."""
        return self.vectors(fields)[:, 0] * self.std + self.mean

    def evaluate(self, population: Population, targets: np.ndarray) -> dict[str, float]:
        """Figures of `fit_figures` against targets (N,), batch by batch. Raises ValueError as `predict`."""
        parts = [vectors[:, 0].numpy() * self.std + self.mean for vectors in self.read(population)]
        return fit_figures(np.concatenate(parts or [np.zeros(0)]), np.asarray(targets, np.float64))


def fit_figures(predicted: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """r2 = 1 - SSE / SST, mae, rmse and Kendall's rank correlation tau-b of predictions (N,) with targets (N,).

    Raises ValueError without any field.
    """
    from scipy.stats import kendalltau

    if len(targets) == 0:
        raise ValueError("targets is empty: expected at least one field to evaluate on")
    error = predicted.astype(np.float64) - targets
    spread = float(np.square(targets - targets.mean()).sum())
    tau = float(np.asarray(kendalltau(predicted, targets)[0]))
    return {
        "r2": 1.0 - float(np.square(error).sum()) / spread if spread > 0 else 0.0,
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(np.square(error).mean())),
        "tau": tau if np.isfinite(tau) else 0.0,  # undefined where either side is constant
    }
