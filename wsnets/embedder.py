"""Embedder: a trained network that maps a field to a point on a sphere, near the points of fields like it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from wsnets import checkpoint, models
from wsnets.network import Network, fresh


@dataclass(frozen=True, kw_only=True)
class Embedder(Network):
    """Weights -> unit vectors of `dim` numbers."""

    task = "contrast"
    kinds: ClassVar = {"dim": checkpoint.COUNT}

    dim: int

    def about(self) -> dict:
        """The number of dimensions."""
        return {"dim": self.dim}

    @classmethod
    def rebuild(cls, about: dict, spec: FieldSpec, settings: models.ModelConfig) -> tuple[nn.Module, dict[str, Any]]:
        """From `about`: an untrained model, and the number of dimensions."""
        return models.build_reader(settings, spec, about["dim"], fresh()), {"dim": about["dim"]}

    def embed(self, fields: FieldBatch) -> Tensor:
        """Embeddings (N, dim) float32 of norm 1. Raises ValueError for fields of another spec or with NaN."""
        return nn.functional.normalize(self.vectors(fields), dim=-1)
