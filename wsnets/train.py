"""Train networks on a population: classify, regress, edit, contrast; each returns the network, stored as a folder."""

import csv
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from wsnets import checkpoint, data, models
from wsnets.config import FieldConfig
from wsnets.data import Population, class_names
from wsnets.editor import Editor
from wsnets.embedder import Embedder
from wsnets.loop import STREAM_MODEL, RunState, generator, run
from wsnets.network import Network
from wsnets.processes import join
from wsnets.reader import Reader
from wsnets.regressor import Regressor
from wsnets.tasks.align_pairs import AlignConfig as AlignConfig
from wsnets.tasks.align_pairs import align_pairs as align_pairs
from wsnets.tasks.classify import ClassifyConfig as ClassifyConfig
from wsnets.tasks.classify import ClassifyTask
from wsnets.tasks.contrast import ContrastConfig as ContrastConfig
from wsnets.tasks.contrast import ContrastTask
from wsnets.tasks.edit import EditConfig as EditConfig
from wsnets.tasks.edit import EditTask, Images
from wsnets.tasks.embed import EmbedConfig as EmbedConfig
from wsnets.tasks.embed import embed as embed
from wsnets.tasks.field_task import FieldTask, Prepared, fingerprint
from wsnets.tasks.generate import GenerateConfig as GenerateConfig
from wsnets.tasks.generate import generate as generate
from wsnets.tasks.regress import RegressConfig as RegressConfig
from wsnets.tasks.regress import RegressTask

Trained = TypeVar("Trained", bound=Network)
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainProgress:
    """State after an epoch (counted from 1): mean training loss, figures on the held-out items ({} where none are held
    out), seconds of training so far."""

    epoch: int
    epochs: int
    loss: float
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def val_accuracy(self) -> float:
        """Accuracy in [0, 1] on the held-out items, NaN where there is none."""
        return self.figures.get("val_accuracy", float("nan"))


@dataclass(frozen=True)
class Watch:
    """Whom training tells how far it is: `epoch` after every epoch; `step` after every step, with the share of the
    training that is done, in [0, 1], and the mean loss of the epoch so far."""

    epoch: Callable[[TrainProgress], None] | None = None
    step: Callable[[float, float], None] | None = None


def classify(
    population: Population,
    config: ClassifyConfig | None = None,
    out: str | Path = "runs/reader",
    progress: Callable[[TrainProgress], None] | None = None,
    step: Callable[[float, float], None] | None = None,
) -> Reader:
    """Train a network that reads the label of a field from its weights; return it, also stored in the folder `out`.

    Held-out items choose the epoch that is kept. A checkpoint is written after every epoch: the same call on the same
    folder goes on from it and ends with the very weights of an uninterrupted run (same machine and thread count).
    `out` also gets training.json and curves.csv. Raises ValueError when labels are missing or of one class only, when
    weights are not finite (named by id), when too few fields are left to train on, or when `out` holds another run.
    """
    config = config or ClassifyConfig.tuned("mlp")
    classes = class_names(population)
    prepared = Prepared.of(population, config)
    model = _build(population, config, len(classes))
    task = ClassifyTask(prepared, config)
    said = {"classes": list(classes)}
    return train_network(Reader, model, task, population, said, {"classes": classes}, Path(out), Watch(progress, step))


def regress(
    population: Population,
    config: RegressConfig | None = None,
    out: str | Path = "runs/regressor",
    progress: Callable[[TrainProgress], None] | None = None,
    step: Callable[[float, float], None] | None = None,
) -> Regressor:
    """Train a network that reads a number of a field from its weights, such as its PSNR; as `classify`.

    Raises ValueError for a target that is no column of numbers, or is the same for all.
    """
    config = config or RegressConfig.tuned("mlp")
    data.column(population, config.target)  # a wrong name is refused before all fields are read
    prepared = Prepared.of(population, config)
    targets = column(population, config.target, np.concatenate([prepared.train.positions, prepared.val.positions]))
    task = RegressTask(prepared, config, targets)
    added = {"target": config.target, "mean": task.mean, "std": task.std}
    model = _build(population, config, 1)
    said = {"target": config.target, "target_sha256": hashlib.sha256(targets.tobytes()).hexdigest()}
    return train_network(Regressor, model, task, population, said, added, Path(out), Watch(progress, step))


def edit(
    population: Population,
    config: EditConfig | None = None,
    out: str | Path = "runs/editor",
    progress: Callable[[TrainProgress], None] | None = None,
    step: Callable[[float, float], None] | None = None,
    images: Images | None = None,
) -> Editor:
    """Train a network that changes fields so that they show something else, such as a dilated picture; as `classify`.

    images: that the fields were fitted to, in their order, (N, H, W, C) in [0, 1]: the target is made of these instead
    of what the fields show. Raises ValueError for a model that only reads, and for a target that these fields cannot
    show.
    """
    config = config or EditConfig.tuned("nfn_np")
    config.target.check(population.spec.in_dim, (population.meta.get("signal") or {}).get("kind"))
    if images is not None and not config.target.on_pictures:
        raise ValueError(f"images with target={config.target.name!r}: expected a change of pictures")
    prepared = Prepared.of(population, config)
    model = models.build_editor(config.settings, population.spec, generator(config.seed, STREAM_MODEL, 0))
    said: dict = {"target": config.target.to_json()}
    if images is not None:
        said["images"] = picture_digest(images, len(population))
    added, task = {"operation": config.target}, EditTask(prepared, config, images)
    return train_network(Editor, model, task, population, said, added, Path(out), Watch(progress, step))


def contrast(
    population: Population,
    config: ContrastConfig | None = None,
    out: str | Path = "runs/embedder",
    progress: Callable[[TrainProgress], None] | None = None,
    step: Callable[[float, float], None] | None = None,
) -> Embedder:
    """Train a network that embeds fields without labels, changed copies of a field near each other; as `classify`."""
    config = config or ContrastConfig.tuned("mlp")
    prepared = Prepared.of(population, config)
    model = _build(population, config, config.dim)
    task, added = ContrastTask(prepared, config), {"dim": config.dim}
    return train_network(
        Embedder, model, task, population, {}, added, Path(out), Watch(progress, step), whole_batch=True
    )


def picture_digest(images: Images, count: int) -> str:
    """SHA-256 of images, what tells them from others."""
    digest = hashlib.sha256()
    for start in range(0, count, 4096):
        part = images[np.arange(start, min(start + 4096, count))]
        digest.update(np.ascontiguousarray(part.numpy(), np.float32).tobytes())
    return digest.hexdigest()


def column(population: Population, name: str, used: np.ndarray | None = None) -> np.ndarray:
    """A column of a population's index as numbers, (N,) float64. Raises ValueError unless those at the positions
    `used` (None: all) are finite."""
    values = data.column(population, name)
    numbers = values.astype(np.float64) if values.dtype.kind in "fiu" else np.full(len(values), np.nan)
    if not np.isfinite(numbers if used is None else numbers[used]).all():
        raise ValueError(f"target={name!r}: expected a column of finite numbers")
    return numbers


def _build(population: Population, config: FieldConfig, num_outputs: int) -> nn.Module:
    return models.build_reader(config.settings, population.spec, num_outputs, generator(config.seed, STREAM_MODEL, 0))


def train_network(
    kind: type[Trained],
    model: nn.Module,
    task: FieldTask,
    population: Population,
    said: dict,
    added: dict[str, Any],
    out: Path,
    watch: Watch,
    whole_batch: bool = False,
) -> Trained:
    """Run the loop on a task in the folder `out` and return what it trained, stored there with its curves.

    said: what else tells this run from others, JSON values; added: what the task adds to the class `kind`; whole_batch:
    the task needs its batches whole. Raises ValueError when `out` holds another run.
    """
    config, prepared, processes = task.config, task.prepared, join(task.config.device)
    identity = {
        "config": config.to_json(),
        "spec": population.spec.to_json(),
        **said,
        "population": fingerprint(population),
    }
    out.mkdir(parents=True, exist_ok=True)

    def report(state: RunState) -> None:
        if watch.epoch is not None:
            last = state.history[-1]
            figures = {name: value for name, value in last.items() if name not in ("epoch", "loss")}
            watch.epoch(TrainProgress(state.epoch, config.epochs, last["loss"], figures, state.seconds))

    at_once = 0 if whole_batch else config.settings.fields_at_once
    state = run(model, task, config, out / CHECKPOINT, identity, report, watch.step, at_once, processes)
    model.load_state_dict(state.best)
    training = _summary(state, config, task)
    network = kind(
        spec=population.spec,
        settings=config.settings,
        model=model.eval(),
        normaliser=prepared.normaliser,
        aligner=prepared.aligner,
        training=training,
        **added,
    )
    if processes.lead:
        checkpoint.write_text(out / "training.json", json.dumps(training, indent=2) + "\n")
        checkpoint.write_text(out / "curves.csv", curves(state.history))
        network.save(out)
    return network


def plot_history(training: dict, path: str | Path) -> None:
    """Draw the loss and the held-out figure of a `training` over its epochs to a picture file (needs matplotlib)."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    history, figure = training["history"], Figure(figsize=(8.4, 3.2), dpi=130, layout="constrained")
    epochs = [row["epoch"] for row in history]
    name, factor, label = next((known for known in _FIGURES if known[0] in history[0]), ("", 1.0, ""))
    panels = figure.subplots(1, 2 if name else 1, squeeze=False)[0]
    panels[0].plot(epochs, [row["loss"] for row in history], color=_INK, marker=_mark(epochs), label="training")
    if "val_loss" in history[0]:
        values = [row["val_loss"] for row in history]
        panels[0].plot(epochs, values, color=_HELD, marker=_mark(epochs), label="held out")
    panels[0].set_ylabel("loss")
    panels[0].legend(frameon=False)
    if name:
        values, best = [factor * row[name] for row in history], training["best_epoch"]
        panels[1].plot(epochs, values, color=_HELD, marker=_mark(epochs))
        kept = values[epochs.index(best)]
        panels[1].plot(best, kept, "o", color=_INK, label=f"kept: epoch {best}, {kept:.4g}")
        if "val_mse_unedited" in history[0]:
            panels[1].axhline(history[-1]["val_mse_unedited"], color=_FAINT, linestyle="--", label="unedited")
        panels[1].set_ylabel(label)
        panels[1].legend(frameon=False)
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    figure.savefig(path)


def _mark(epochs: list) -> str:
    return "." if len(epochs) < 4 else ""  # a line of one point would not be seen


_INK, _HELD, _FAINT = "#26262a", "#2f6db3", "#8a8a90"
_FIGURES = (
    ("val_accuracy", 100.0, "held-out accuracy (%)"),
    ("val_r2", 1.0, "held-out R²"),
    ("val_psnr", 1.0, "held-out PSNR (dB)"),
    ("val_mse", 1.0, "held-out mean squared error"),
)


def _summary(state: RunState, config: FieldConfig, task: FieldTask) -> dict:
    best = state.history[state.best_epoch - 1]
    return {
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        **{name: value for name, value in best.items() if name.startswith("val_")},
        "train_fields": task.num_items,
        "val_fields": task.num_held_out,
        "skipped_fields": task.prepared.skipped,
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "seconds": state.seconds,
        "waited": state.waited,
        "samples": state.samples,
        "times": state.times,
        "config": config.to_json(),
        "history": state.history,
    }


def curves(history: list[dict[str, float]]) -> str:
    """The figures of all epochs as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
