"""Reader: a trained classifier of fields with everything that it needs to be used again, as a folder.

reader.json (spec, classes, model, normaliser mode) and model.safetensors (weights and normaliser statistics);
training.json (figures of the training) is there for people and is not needed.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from wsnets import checkpoint, models
from wsnets.data import Population, batches, check_finite
from wsnets.evaluation import Evaluation, assess
from wsnets.features import Normaliser, weight_features
from wsnets.loop import first_difference

FORMAT = "neuralfields-reader"
VERSION = 1


@dataclass(frozen=True)
class Reader:
    """A classifier of fields of one spec: weights -> probabilities of K classes.

    spec: of the fields that it reads; classes: K names; settings: of the model; training: figures of its training
    (epochs, best_epoch, val_accuracy, seconds, history, config, ...), {} where unknown.
    """

    spec: FieldSpec
    classes: tuple[str, ...]
    settings: models.ModelConfig
    model: nn.Module
    normaliser: Normaliser
    training: dict = field(default_factory=dict)

    @property
    def num_params(self) -> int:
        """Number of trained parameters of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def predict(self, fields: FieldBatch) -> Tensor:
        """Probabilities (N, K) float32, rows summing to 1. Raises ValueError for fields of another spec or with NaN."""
        check_spec(fields.spec, self.spec)
        check_finite(fields, np.arange(len(fields)))
        return self._probabilities(fields)

    def evaluate(self, population: Population) -> Evaluation:
        """Compare with the labels of a population, batch by batch. Raises ValueError as predict, or for no labels."""
        check_spec(population.spec, self.spec)
        labels = np.asarray(population.labels)
        if (labels < 0).any():
            missing = np.asarray(population.ids)[labels < 0]
            raise ValueError(f"{len(missing)} of {len(labels)} fields have no label, the first is id {missing[0]}")
        parts = [self._probabilities(fields).numpy() for fields in batches(population)]
        return assess(np.concatenate(parts or [np.zeros((0, len(self.classes)))]), labels, self.classes)

    def save(self, folder: str | Path) -> None:
        """Write the reader to a folder; each file is replaced whole, model.safetensors first."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            **checkpoint.under("model", self.model.state_dict()),
            **checkpoint.under("normaliser", self.normaliser.state()),
        }
        about = {
            "format": FORMAT,
            "version": VERSION,
            "spec": self.spec.to_json(),
            "classes": list(self.classes),
            "model": models.to_json(self.settings),
            "normalise": self.normaliser.mode,
        }
        checkpoint.write(folder / "model.safetensors", tensors, {})
        checkpoint.write_text(folder / "reader.json", json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Reader":
        """Read a folder. Raises FileNotFoundError or ValueError in one line when it holds no readable reader."""
        folder = Path(folder)
        about = _read_json(folder / "reader.json")
        tensors, _ = checkpoint.read(folder / "model.safetensors")
        spec, classes = FieldSpec.from_json(about["spec"]), tuple(about["classes"])
        settings = models.from_json(about["model"])
        model = settings.build(spec, len(classes), Generator())
        try:
            model.load_state_dict(checkpoint.pick(tensors, "model"))
        except RuntimeError as error:
            raise ValueError(f"{folder}: model.safetensors does not fit the model of reader.json") from error
        normaliser = Normaliser.from_state(about["normalise"], checkpoint.pick(tensors, "normaliser"))
        training = folder / "training.json"
        figures = json.loads(training.read_text(encoding="utf-8")) if training.is_file() else {}
        return cls(spec, classes, settings, model.eval(), normaliser, figures)

    def _probabilities(self, fields: FieldBatch) -> Tensor:
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            logits = self.model(self.normaliser(weight_features(fields.to(torch.float32))))
        self.model.train(was_training)
        return logits.softmax(dim=-1)


def check_spec(given: FieldSpec, expected: FieldSpec) -> None:
    """Raise ValueError naming both specs, and the first difference, unless they are equal."""
    if given != expected:
        difference = first_difference(expected.to_json(), given.to_json())
        raise ValueError(f"fields are {given.describe()}, the reader reads {expected.describe()}: {difference}")


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no finished reader: {path.name} is not there")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    keys: Iterable[str] = ("format", "version", "spec", "classes", "model", "normalise")
    missing = sorted(set(keys) - set(about)) if isinstance(about, dict) else keys
    if missing or about["format"] != FORMAT:
        raise ValueError(f"{path} is not a reader: keys missing {missing}, format expected {FORMAT!r}")
    if about["version"] > VERSION:
        raise ValueError(f"{path} is of format version {about['version']}, this program reads up to {VERSION}: upgrade")
    return about
