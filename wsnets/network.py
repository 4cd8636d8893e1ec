"""Network: a trained model with everything that it needs to be used again, as a folder.

network.json (task, spec, model, normaliser mode, what the task adds) and model.safetensors (weights, normaliser
statistics, reference of the alignment); training.json (figures of the training) is there for people and not needed.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets import checkpoint, models
from wsnets.align import Aligner
from wsnets.data import Population, batches, check_finite
from wsnets.features import Normaliser, NormaliserMode, WeightFeatures, weight_features
from wsnets.loop import check, first_difference

FORMAT = "neuralfields-network"
VERSION = 1
FILE = "network.json"
KINDS = {
    "task": checkpoint.TEXT,
    "spec": checkpoint.OBJECT,
    "model": checkpoint.OBJECT,
    "normalise": checkpoint.TEXT,
    "align": checkpoint.TEXTS_OR_NULL,
}
_READ_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Network(ABC):
    """A trained network on fields of one spec.

    settings: of the model; normaliser, aligner: applied to fields before the model, as in training; training: figures
    of its training (epochs, best_epoch, seconds, history, config, ...), {} where unknown.
    """

    task: ClassVar[str]
    kinds: ClassVar[dict[str, str]] = {}  # of what `about` gives, see checkpoint.check_kinds

    spec: FieldSpec
    settings: models.ModelConfig
    model: nn.Module
    normaliser: Normaliser
    aligner: Aligner | None = None
    training: dict = field(default_factory=dict)

    @property
    def num_params(self) -> int:
        """Number of trained parameters of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @abstractmethod
    def about(self) -> dict:
        """What the task adds to network.json, plain JSON values."""

    @classmethod
    @abstractmethod
    def rebuild(cls, about: dict, spec: FieldSpec, settings: models.ModelConfig) -> tuple[nn.Module, dict[str, Any]]:
        """From `about`: an untrained model, and the fields that the task adds to this class."""

    def digest(self) -> str:
        """What tells one network from another, in hexadecimal: a digest of its weights."""
        return digest(self.model)

    def prepare(self, fields: FieldBatch) -> FieldBatch:
        """Fields as the model is to see them: checked, in single precision, aligned where that was asked for.

        Raises ValueError for fields of another spec or with NaN, and for none at all.
        """
        check_spec(fields.spec, self.spec)
        if len(fields) == 0:
            raise ValueError("fields is empty: expected at least one field")
        check_finite(fields, np.arange(len(fields)))
        fields = fields.to(torch.float32)
        return fields if self.aligner is None else self.aligner(fields)

    @torch.no_grad()
    def outputs(self, fields: FieldBatch) -> Any:
        """What the model gives for prepared fields, in evaluation mode."""
        was_training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        outputs = self.model(self.normaliser(weight_features(fields.to(device))))
        self.model.train(was_training)
        return outputs

    @property
    def at_once(self) -> int:
        """Fields that are read together: as many as need about the memory of one piece of training."""
        return 4 * self.settings.fields_at_once or _READ_AT_ONCE

    def vectors(self, fields: FieldBatch) -> Tensor:
        """Outputs (N, K) float32 on the CPU, piece by piece. Raises ValueError as `prepare`."""
        fields = self.prepare(fields)
        parts = [self.outputs(fields[start : start + self.at_once]) for start in range(0, len(fields), self.at_once)]
        return torch.cat([part.float().cpu() for part in parts])

    def read(self, population: Population) -> Iterator[Tensor]:
        """Outputs of a whole population, some thousand fields at a time."""
        check_spec(population.spec, self.spec)
        return (self.vectors(fields) for fields in batches(population))

    def save(self, folder: str | Path) -> None:
        """Write to a folder; each file is replaced whole, model.safetensors first."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            **checkpoint.under("model", self.model.state_dict()),
            **checkpoint.under("normaliser", self.normaliser.state()),
            **checkpoint.under("aligner", {} if self.aligner is None else self.aligner.state()),
        }
        about = {
            "format": FORMAT,
            "version": VERSION,
            "task": self.task,
            "spec": self.spec.to_json(),
            "model": models.to_json(self.settings),
            "normalise": self.normaliser.mode,
            "align": None if self.aligner is None else list(self.aligner.kinds),
            **self.about(),
        }
        checkpoint.write(folder / "model.safetensors", tensors, {})
        checkpoint.write_text(folder / FILE, json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder. Raises FileNotFoundError or ValueError in one line when it holds no such network."""
        folder = Path(folder)
        about = read_about(folder)
        if about["task"] != cls.task:
            raise ValueError(f"{folder} was trained to {about['task']}: expected one trained to {cls.task}")
        checkpoint.check_kinds(folder / FILE, about, cls.kinds)
        tensors, _ = checkpoint.read(folder / "model.safetensors")
        with checkpoint.reading(folder / FILE):
            spec, settings = FieldSpec.from_json(about["spec"]), models.from_json(about["model"])
            model, added = cls.rebuild(about, spec, settings)
            modes, moves = get_args(NormaliserMode), get_args(Kind)
            check("normalise", about["normalise"], about["normalise"] in modes, f"one of {', '.join(modes)}")
            check("align", about["align"], set(about["align"] or ()) <= set(moves), f"some of {', '.join(moves)}")
        try:
            model.load_state_dict(checkpoint.pick(tensors, "model"))
        except RuntimeError as error:
            raise ValueError(f"{folder}: model.safetensors does not fit the model of {FILE}") from error
        aligner = None
        with checkpoint.reading(folder / "model.safetensors"):
            normaliser = Normaliser.from_state(about["normalise"], checkpoint.pick(tensors, "normaliser"))
            if about["align"] is not None:
                aligner = Aligner.from_state(spec, tuple(about["align"]), checkpoint.pick(tensors, "aligner"))
        return cls(
            spec=spec,
            settings=settings,
            model=model.eval(),
            normaliser=normaliser,
            aligner=aligner,
            training=checkpoint.read_figures(folder / "training.json"),
            **added,
        )


def check_spec(given: FieldSpec, expected: FieldSpec) -> None:
    """Raise ValueError naming both specs, and the first difference, unless they are equal."""
    if given != expected:
        difference = first_difference(expected.to_json(), given.to_json())
        raise ValueError(f"fields are {given.describe()}: expected {expected.describe()}; {difference}")


def read_about(folder: Path) -> dict:
    """Read network.json of a folder. Raises FileNotFoundError or ValueError in one line when it is none."""
    about = checkpoint.read_about(folder / FILE, FORMAT, VERSION, KINDS)
    checkpoint.check_kinds(folder / FILE, about, KINDS)
    return about


def digest(*parts: nn.Module) -> str:
    """A digest of the weights of models, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        for name, value in part.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def fresh() -> Generator:
    """A generator for a model whose weights are about to be replaced."""
    return Generator().manual_seed(0)


def to_fields(features: WeightFeatures, spec: FieldSpec) -> FieldBatch:
    """Features of one channel as fields. Raises ValueError for more channels."""
    if features.weights[0].shape[-1] != 1:
        raise ValueError(f"features have {features.weights[0].shape[-1]} channels: expected 1")
    return FieldBatch.from_layers(spec, (w[..., 0] for w in features.weights), (b[..., 0] for b in features.biases))
