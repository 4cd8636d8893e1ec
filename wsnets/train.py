"""Train a classifier of fields on a labelled population."""

import csv
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from wsnets import checkpoint, models
from wsnets.data import Population, Rows, Subset, batches, class_names, held_out
from wsnets.features import Normaliser, NormaliserMode, WeightFeatures, weight_features
from wsnets.loop import STREAM_MODEL, LoopConfig, RunState, check, generator, run
from wsnets.reader import Reader

_VALIDATED_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(LoopConfig):
    """Settings of `classify`, beside those of LoopConfig.

    model: a name, or settings such as models.MLPConfig(hidden=(256,)); normalise: see features.Normaliser;
    label_smoothing in [0, 1) (Szegedy et al., CVPR 2016); mixup: a of the Beta(a, a) by which pairs of fields and their
    labels are mixed (0: off; sensible for aligned or shared-init populations only; Zhang et al., ICLR 2018); noise:
    standard deviation of Gaussian noise on normalised features; val_fraction: share of source items held out to choose
    the epoch, in [0, 1) (0: the last epoch is kept); memory_mb: fields are held in memory up to this size, else
    streamed. Raises ValueError for values outside these.
    """

    model: str | models.ModelConfig = "mlp"
    normalise: NormaliserMode = "per_weight"
    label_smoothing: float = 0.1
    mixup: float = 0.0
    noise: float = 1.0
    val_fraction: float = 0.1
    memory_mb: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.model, str):
            object.__setattr__(self, "model", models.config(self.model))
        Normaliser(self.normalise)
        for name in ("label_smoothing", "val_fraction"):
            check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        for name in ("mixup", "noise", "memory_mb"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "zero or more")

    @property
    def settings(self) -> models.ModelConfig:
        """Settings of the model."""
        return models.config(self.model) if isinstance(self.model, str) else self.model

    def to_json(self) -> dict:
        """Plain JSON values; `from_json` gives back equal settings."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}
        return {**values, "model": models.to_json(self.settings)}

    @classmethod
    def from_json(cls, data: dict) -> "ClassifyConfig":
        """Read `to_json` output. Raises ValueError for unknown keys."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"config: unknown keys {unknown}; expected {known}")
        return cls(**{**data, "model": models.from_json(data["model"])})


@dataclass(frozen=True)
class TrainProgress:
    """State after an epoch (counted from 1): mean training loss, loss and accuracy in [0, 1] on the held-out items
    (NaN where none are held out), seconds of training so far."""

    epoch: int
    epochs: int
    loss: float
    val_loss: float
    val_accuracy: float
    seconds: float


def classify(
    population: Population,
    config: ClassifyConfig | None = None,
    out: str | Path = "runs/reader",
    progress: Callable[[TrainProgress], None] | None = None,
) -> Reader:
    """Train a network that reads the label of a field from its weights; return it, also stored in the folder `out`.

    Held-out items choose the epoch that is kept. A checkpoint is written after every epoch: the same call on the same
    folder goes on from it and ends with the very weights of an uninterrupted run (same machine and thread count).
    `out` also gets training.json and curves.csv. Raises ValueError when labels are missing or of one class only, when
    weights are not finite (named by id), when too few fields are left to train on, or when `out` holds another run.
    """
    config, out = config or ClassifyConfig(), Path(out)
    classes = class_names(population)
    held = held_out(population.groups, config.val_fraction, config.seed)
    train, val = Subset(population, np.flatnonzero(~held)), Subset(population, np.flatnonzero(held))
    if len(train) < 2:
        raise ValueError(f"{len(train)} of {len(population)} fields are left to train on: expected at least 2")
    normaliser = Normaliser.fit(config.normalise, batches(train))
    task = ClassifyTask(train, val, normaliser, config)
    settings = config.settings
    model = settings.build(population.spec, len(classes), generator(config.seed, STREAM_MODEL, 0))
    identity = {
        "config": config.to_json(),
        "spec": population.spec.to_json(),
        "classes": list(classes),
        "population": _fingerprint(population),
    }
    out.mkdir(parents=True, exist_ok=True)

    def report(state: RunState) -> None:
        if progress is not None:
            last = state.history[-1]
            figures = (last["loss"], last.get("val_loss", float("nan")), last.get("val_accuracy", float("nan")))
            progress(TrainProgress(state.epoch, config.epochs, *figures, state.seconds))

    state = run(model, task, config, out / "checkpoint.safetensors", identity, report)
    model.load_state_dict(state.best)
    training = _summary(state, config, task)
    reader = Reader(population.spec, classes, settings, model.eval(), normaliser, training)
    checkpoint.write_text(out / "training.json", json.dumps(training, indent=2) + "\n")
    checkpoint.write_text(out / "curves.csv", _curves(state))
    reader.save(out)
    return reader


class ClassifyTask:
    """Cross-entropy with label smoothing on mixed, noisy features; validated by loss and accuracy on held-out items."""

    def __init__(self, train: Subset, val: Subset, normaliser: Normaliser, config: ClassifyConfig) -> None:
        self.num_items, self.num_held_out = len(train), len(val)
        self._train, self._val = Rows(train, config.memory_mb), Rows(val, config.memory_mb)
        self._labels = torch.from_numpy(train.labels.astype(np.int64))
        self._val_labels = torch.from_numpy(val.labels.astype(np.int64))
        self._normaliser, self._config = normaliser, config

    def loss(self, model: nn.Module, positions: Tensor, generator: Generator) -> Tensor:
        """Mean loss of the training items at positions (B,) int64."""
        config = self._config
        features = self._features(self._train, positions)
        labels = self._labels[positions]
        if config.noise > 0:
            features = features.map(lambda x: x + config.noise * torch.randn(x.shape, generator=generator))
        if config.mixup == 0:
            return self._cross_entropy(model(features, generator), labels)
        # torch has no Beta draw that takes a generator, numpy has.
        seed = int(torch.randint(2**31, (), generator=generator))
        share = float(np.random.default_rng(seed).beta(config.mixup, config.mixup))
        other = torch.randperm(len(positions), generator=generator)
        mixed = features.map(lambda x: torch.lerp(x[other], x, share))
        logits = model(mixed, generator)
        own, theirs = self._cross_entropy(logits, labels), self._cross_entropy(logits, labels[other])
        return share * own + (1.0 - share) * theirs

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss (nats, not smoothed) and accuracy on the held-out items; the score is the accuracy, then the loss."""
        if self.num_held_out == 0:
            return {}
        loss, right = 0.0, 0
        for positions in torch.arange(self.num_held_out).split(_VALIDATED_AT_ONCE):
            logits, labels = model(self._features(self._val, positions)), self._val_labels[positions]
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(dim=1) == labels).sum())
        mean = loss / self.num_held_out
        accuracy = right / self.num_held_out
        # The loss breaks ties only: with mixed and smoothed targets it is smallest long before the accuracy is best.
        return {"val_loss": mean, "val_accuracy": accuracy, "score": accuracy - 1e-6 * mean}

    def _features(self, rows: Rows, positions: Tensor) -> WeightFeatures:
        return self._normaliser(weight_features(rows[positions].to(torch.float32)))

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels, label_smoothing=self._config.label_smoothing)


def plot_history(history: list[dict[str, float]], path: str | Path) -> None:
    """Draw losses and validation accuracy over epochs to a picture file (needs matplotlib)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["loss"] for row in history], label="training (augmented)")
    if "val_loss" in history[0]:
        left.plot(epochs, [row["val_loss"] for row in history], label="held out")
        right.plot(epochs, [100 * row["val_accuracy"] for row in history])
    left.set(xlabel="epoch", ylabel="loss (nats)")
    left.legend(frameon=False)
    right.set(xlabel="epoch", ylabel="held-out accuracy (%)")
    figure.savefig(path, dpi=120)


def _fingerprint(population: Population) -> dict:
    digest = hashlib.sha256()
    for values, kind in ((population.ids, np.uint32), (population.labels, np.int64)):
        digest.update(np.ascontiguousarray(values, kind).tobytes())
    for part in batches(population):
        digest.update(part.flat().numpy().tobytes())
    return {"fields": len(population), "sha256": digest.hexdigest()}


def _summary(state: RunState, config: ClassifyConfig, task: ClassifyTask) -> dict:
    best = state.history[state.best_epoch - 1]
    return {
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "val_accuracy": best.get("val_accuracy"),
        "val_loss": best.get("val_loss"),
        "train_fields": task.num_items,
        "val_fields": task.num_held_out,
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "seconds": state.seconds,
        "config": config.to_json(),
        "history": state.history,
    }


def _curves(state: RunState) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(state.history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(state.history)
    return text.getvalue()
