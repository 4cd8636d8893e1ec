"""Classify images by fields that are fitted for it: start, step sizes and reader are trained together, end to end.

Legend: N images, H rows, W columns, C channels, K classes.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate
from neuralfields.grids import image_coords
from wsnets import checkpoint
from wsnets.data import count_classes, held_out
from wsnets.evaluation import Evaluation, assess
from wsnets.loop import STREAM_MODEL, LoopConfig, RunState, check, generator, run
from wsnets.models.mwt import MWT, MWTConfig
from wsnets.processes import join
from wsnets.train import TrainProgress, curves

FORMAT = "neuralfields-meta"
VERSION = 1
FILE = "meta.json"
KINDS = {
    "spec": checkpoint.OBJECT,
    "shape": checkpoint.COUNTS,
    "classes": checkpoint.TEXTS,
    "model": checkpoint.OBJECT,
}
_READ_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class MetaConfig(LoopConfig):
    """Settings of `meta_classify`, beside those of LoopConfig; the defaults are the published ones.

    warmup and the cosine stand for the published one-cycle schedule. model: see MWTConfig; val_fraction: share of the
    images held out to choose the epoch, in [0, 1) (0: the last epoch is kept); shift: images are moved by up to so many
    pixels at random, edges repeated; flip: half of the images are mirrored. Raises ValueError for values outside these.
    """

    epochs: int = 10
    batch: int = 16
    lr: float = 1e-4
    warmup: float = 0.3
    ema: float = 0.0
    model: MWTConfig = field(default_factory=MWTConfig)
    val_fraction: float = 0.1
    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check("val_fraction", self.val_fraction, 0 <= self.val_fraction < 1, "a number in [0, 1)")
        check("shift", self.shift, self.shift >= 0, "zero or more")

    @classmethod
    def small(cls, **given) -> "MetaConfig":
        """Settings that suit MWTConfig.small() on two processor cores, `given` ones in their place."""
        well_tried = {"model": MWTConfig.small(), "batch": 16, "lr": 3e-3, "warmup": 0.1, "clip": 0.0, "ema": 0.99}
        return cls(**{**well_tried, **given})

    def to_json(self) -> dict:
        """Plain JSON values; `from_json` gives back equal settings."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "model": self.model.to_json()}

    @classmethod
    def from_json(cls, data: dict) -> "MetaConfig":
        """Read `to_json` output. Raises ValueError for unknown keys."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"config: unknown keys {unknown}; expected {known}")
        return cls(**{**data, "model": MWTConfig.from_json(data["model"])})


class MetaTask:
    """Mean squared error of the fitted fields plus cross-entropy of what the reader sees; validated by both.

    images (N, H, W, C), uint8 or floats in [0, 1]; labels (N,) int64; held (N,) bool: kept for validation.
    """

    def __init__(self, images: Tensor, labels: Tensor, held: np.ndarray, config: MetaConfig) -> None:
        self.images, self.labels, self.config = images, labels, config
        self._train, self._val = torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))
        self.num_items, self.num_held_out = len(self._train), len(self._val)

    def fetch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Training images (B, H, W, C) float32 in [0, 1] and their labels (B,)."""
        rows = self._train[positions]
        return as_floats(self.images[rows]), self.labels[rows]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], generator: Generator) -> Tensor:
        """Mean loss of fetched images: mean((f - image)^2) - log p(label)."""
        assert isinstance(model, MWT)
        images, labels = (part.to(generator.device) for part in batch)
        images = augmented(images, self.config.shift, self.config.flip, generator)
        fitted = model.fit(images, generator)
        told = nn.functional.cross_entropy(model.read(fitted).float(), labels)
        return told + model.error(fitted, images, generator).mean()

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss of the reader (nats), accuracy and PSNR (dB) on the held-out images; the score is the accuracy."""
        assert isinstance(model, MWT)
        if self.num_held_out == 0:
            return {}
        device, loss, right, psnr = next(model.parameters()).device, 0.0, 0, 0.0
        for rows in self._val.split(_READ_AT_ONCE):
            images, labels = as_floats(self.images[rows]).to(device), self.labels[rows].to(device)
            fitted = model.fields(images)
            logits = model.read(fitted).float()
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(dim=1) == labels).sum())
            psnr += _psnr(fitted, images).sum().item()
        count = self.num_held_out
        figures = {"val_loss": loss / count, "val_accuracy": right / count, "val_psnr": psnr / count}
        return {**figures, "score": right / count - 1e-6 * loss / count}


@dataclass(frozen=True, kw_only=True)
class MetaReader:
    """A trained MWT for images of one size: images -> fields -> probabilities of K classes.

    shape: (H, W, C); classes: K names; training: figures of its training, {} where unknown.
    """

    model: MWT
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    training: dict = field(default_factory=dict)

    @property
    def num_params(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def fields(self, images: Tensor) -> FieldBatch:
        """Fit a field to every image (N, H, W, C), on the CPU. Raises ValueError for images of another shape."""
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"images has shape {tuple(images.shape)}: expected (N, {', '.join(map(str, self.shape))})")
        device = next(self.model.parameters()).device
        parts = [self.model.fields(as_floats(part).to(device)).to("cpu") for part in images.split(_READ_AT_ONCE)]
        return FieldBatch.cat(parts)

    @torch.no_grad()
    def read(self, fitted: FieldBatch) -> Tensor:
        """Probabilities (N, K) float32 of fields that `fields` made."""
        device = next(self.model.parameters()).device
        starts = range(0, len(fitted), _READ_AT_ONCE)
        parts = [self.model.read(fitted[start : start + _READ_AT_ONCE].to(device)) for start in starts]
        return torch.cat(parts).float().softmax(dim=-1).cpu()

    def digest(self) -> str:
        """What tells fields of this reader from others: SHA-256 of the learned start and step sizes."""
        learned = [*self.model.start, *self.model.rates().values()]
        return hashlib.sha256(b"".join(part.detach().cpu().numpy().tobytes() for part in learned)).hexdigest()

    def predict(self, images: Tensor) -> Tensor:
        """Probabilities (N, K) float32, rows summing to 1; images as for `fields`."""
        parts = [self.read(self.fields(part)) for part in images.split(_READ_AT_ONCE)]
        return torch.cat(parts)

    def evaluate(self, images: Tensor, labels: np.ndarray) -> Evaluation:
        """Compare with labels (N,). Raises ValueError as `predict`, and without any image."""
        probabilities = self.predict(images).numpy() if len(images) else np.zeros((0, len(self.classes)))
        return assess(probabilities, np.asarray(labels), self.classes)

    def save(self, folder: str | Path) -> None:
        """Write meta.json and model.safetensors; each file is replaced whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model.config.to_json(),
            "spec": self.model.spec.to_json(),
            "shape": list(self.shape),
            "classes": list(self.classes),
        }
        checkpoint.write(folder / "model.safetensors", self.model.state_dict(), {})
        checkpoint.write_text(folder / FILE, json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "MetaReader":
        """Read a folder. Raises FileNotFoundError or ValueError in one line when it holds no such reader."""
        folder = Path(folder)
        about = read_about(folder)
        with checkpoint.reading(folder / FILE):
            rows, columns, channels = about["shape"]
            classes = tuple(about["classes"])
            model = MWTConfig.from_json(about["model"]).build(channels, len(classes), Generator().manual_seed(0))
        tensors, _ = checkpoint.read(folder / "model.safetensors")
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{folder}: model.safetensors does not fit the model of {FILE}") from error
        figures = checkpoint.read_figures(folder / "training.json")
        return cls(model=model.eval(), shape=(rows, columns, channels), classes=classes, training=figures)


def read_about(folder: Path) -> dict:
    """Read meta.json of a folder. Raises FileNotFoundError or ValueError in one line when it is none."""
    about = checkpoint.read_about(folder / FILE, FORMAT, VERSION, KINDS)
    checkpoint.check_kinds(folder / FILE, about, KINDS)
    return about


def meta_classify(
    images: Tensor,
    labels: np.ndarray,
    config: MetaConfig | None = None,
    out: str | Path = "runs/meta",
    classes: tuple[str, ...] | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
    step: Callable[[float, float], None] | None = None,
) -> MetaReader:
    """Train start, step sizes and reader on labelled images; return them, also stored in the folder `out`.

    images (N, H, W, C), uint8 or floats in [0, 1]; labels (N,) in [0, K); classes: K names (None: "0", "1", ...).
    Checkpoints, resuming, training.json and curves.csv as in train.classify. Raises ValueError for labels that do not
    fit, fewer than two images to train on, or when `out` holds another run.
    """
    config, out = config or MetaConfig(), Path(out)
    labels = np.ascontiguousarray(labels, np.int64)
    classes = _class_names(images, labels, classes)
    held = held_out(np.arange(len(images), dtype=np.uint32), config.val_fraction, config.seed)
    task = MetaTask(images, torch.from_numpy(labels), held, config)
    if task.num_items < 2:
        raise ValueError(f"{task.num_items} of {len(images)} images are left to train on: expected at least 2")
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    model = config.model.build(shape[2], len(classes), generator(config.seed, STREAM_MODEL, 0))
    identity = {"config": config.to_json(), "classes": list(classes), "images": _fingerprint(images, labels)}
    out.mkdir(parents=True, exist_ok=True)

    def report(state: RunState) -> None:
        if progress is not None:
            last = state.history[-1]
            figures = {name: value for name, value in last.items() if name not in ("epoch", "loss")}
            progress(TrainProgress(state.epoch, config.epochs, last["loss"], figures, state.seconds))

    at_once, processes = config.model.fields_at_once, join(config.device)
    state = run(model, task, config, out / "checkpoint.safetensors", identity, report, step, at_once, processes)
    model.load_state_dict(state.best)
    training = _summary(state, config, task)
    reader = MetaReader(model=model.eval(), shape=shape, classes=classes, training=training)
    if processes.lead:
        checkpoint.write_text(out / "training.json", json.dumps(training, indent=2) + "\n")
        checkpoint.write_text(out / "curves.csv", curves(state.history))
        reader.save(out)
    return reader


def as_floats(images: Tensor) -> Tensor:
    """Images in [0, 1] as float32, from uint8 or floats."""
    return images.float() / 255.0 if images.dtype == torch.uint8 else images.float()


def augmented(images: Tensor, shift: int, flip: bool, generator: Generator) -> Tensor:
    """Images (N, H, W, C), each moved by up to `shift` pixels, edges repeated, and mirrored or not."""
    count, rows, columns, _ = images.shape
    device = images.device
    if shift:
        move = torch.randint(-shift, shift + 1, (2, count, 1), generator=generator, device=device)
        row = (torch.arange(rows, device=device) + move[0]).clamp(0, rows - 1)
        column = (torch.arange(columns, device=device) + move[1]).clamp(0, columns - 1)
        each = torch.arange(count, device=device)[:, None, None]
        images = images[each, row[:, :, None], column[:, None, :]]
    if flip:
        mirrored = torch.rand(count, generator=generator, device=device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
    return images


def _psnr(fitted: FieldBatch, images: Tensor) -> Tensor:
    """PSNR (N,) in dB, data range 1, values clipped to [0, 1]."""
    coords = image_coords(fitted.spec, (images.shape[1], images.shape[2])).to(images)
    error = (evaluate(fitted, coords).clamp(0.0, 1.0) - images.flatten(1, 2)).square().mean(dim=(1, 2))
    return -10.0 * error.clamp_min(1e-12).log10()


def _class_names(images: Tensor, labels: np.ndarray, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    if images.ndim != 4 or len(labels) != len(images):
        raise ValueError(f"images has shape {tuple(images.shape)}, labels {labels.shape}: expected (N, H, W, C), (N,)")
    if len(np.unique(labels)) < 2 or labels.min() < 0:
        raise ValueError(f"labels are {sorted(set(labels.tolist()))[:3]}...: expected at least two classes from 0")
    names = classes or tuple(map(str, range(count_classes(labels))))
    if labels.max() >= len(names):
        raise ValueError(f"label {labels.max()} has no name: expected labels below {len(names)}, the number of classes")
    return tuple(names)


def _fingerprint(images: Tensor, labels: np.ndarray) -> dict:
    digest = hashlib.sha256(np.ascontiguousarray(images.numpy()).data)
    digest.update(labels.data)
    return {"shape": list(images.shape), "sha256": digest.hexdigest()}


def _summary(state: RunState, config: MetaConfig, task: MetaTask) -> dict:
    best = state.history[state.best_epoch - 1]
    return {
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        **{name: value for name, value in best.items() if name.startswith("val_")},
        "train_images": task.num_items,
        "val_images": task.num_held_out,
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "seconds": state.seconds,
        "waited": state.waited,
        "samples": state.samples,
        "config": config.to_json(),
        "history": state.history,
    }
