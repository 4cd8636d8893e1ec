"""Reader: a trained classifier of fields."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from wsnets import checkpoint, models
from wsnets.data import Population, check_labelled
from wsnets.evaluation import Evaluation, assess
from wsnets.network import Network, fresh


@dataclass(frozen=True, kw_only=True)
class Reader(Network):
    """A classifier of fields of one spec: weights -> probabilities of K classes; classes: K names."""

    task = "classify"
    kinds: ClassVar = {"classes": checkpoint.TEXTS}

    classes: tuple[str, ...]

    def about(self) -> dict:
        """The classes."""
        return {"classes": list(self.classes)}

    @classmethod
    def rebuild(cls, about: dict, spec: FieldSpec, settings: models.ModelConfig) -> tuple[nn.Module, dict[str, Any]]:
        """From `about`: an untrained model, and the classes."""
        classes = tuple(about["classes"])
        return models.build_reader(settings, spec, len(classes), fresh()), {"classes": classes}

    def predict(self, fields: FieldBatch) -> Tensor:
        """Probabilities (N, K) float32, rows summing to 1. Raises ValueError for fields of another spec or with NaN."""
        return self.vectors(fields).softmax(dim=-1)

    def evaluate(self, population: Population) -> Evaluation:
        """Compare with the labels of a population, batch by batch.

        Raises ValueError as `predict`, for a field without a label, and for other classes than the reader's.
        """
        check_labelled(population, self.classes)
        parts = [logits.softmax(dim=-1).numpy() for logits in self.read(population)]
        probabilities = np.concatenate(parts or [np.zeros((0, len(self.classes)))])
        return assess(probabilities, np.asarray(population.labels), self.classes)
