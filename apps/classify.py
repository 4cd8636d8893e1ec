"""nf train classify and nf predict: read the class of a field from its weights."""

import csv
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from apps import pictures
from apps.options import SHOWN, OutPath, Shown, StorePath, Threads, given
from apps.output import Output, duration
from apps.progress import Progress

if TYPE_CHECKING:
    from neuralfields import FieldStore
    from wsnets import Reader
    from wsnets.data import Population
    from wsnets.train import ClassifyConfig, TrainProgress

READ_AT_ONCE = 4096
OURS = "(default: well tried)"


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How the network is trained."""

    model: Annotated[str | None, arg(metavar="{mlp}", help_behavior_hint="(default: mlp)")] = None
    """Architecture of the network."""
    epochs: Annotated[int | None, arg(metavar="INT", help_behavior_hint=OURS)] = None
    """Passes over the fields."""
    batch: Annotated[int | None, arg(metavar="INT", help_behavior_hint=OURS)] = None
    """Fields per step."""
    lr: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=OURS)] = None
    """Peak learning rate."""
    weight_decay: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=OURS)] = None
    """Weight decay of AdamW."""
    seed: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 0)")] = None
    """Source of all randomness."""


@dataclass(frozen=True, kw_only=True)
class TrainClassify:
    """Train a network that reads the class of a field from its weights alone.

    A part of STORE is kept for validation and chooses the epoch. An interrupted run goes on where it stopped when the
    same command is given again.
    """

    keeps_partial_work: ClassVar[bool] = True

    store: StorePath
    """Folder of a store with labels, to train on."""
    out: OutPath
    """Folder of the reader."""
    test: Annotated[str | None, arg(metavar="STORE", help_behavior_hint="(default: none)")] = None
    """Store of held-out fields to evaluate on."""
    test_fraction: float = 0.0
    """Without --test: share of STORE kept aside to evaluate on; copies of one item stay on one side."""
    training: Annotated[TrainingOptions, OmitArgPrefixes] = field(default_factory=TrainingOptions)
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Classify the fields of STORE by their weights; with labels in the store, say how many are right."""

    reader: Annotated[Positional[str], arg(metavar="READER")]
    """Folder that `nf train classify` wrote."""
    store: StorePath
    """Folder of a store."""
    out: Annotated[str | None, arg(metavar="FILE.csv", help_behavior_hint="(default: none)")] = None
    """Table to write: id, name, label, predicted class and its probability."""
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def train_classify(options: TrainClassify, output: Output) -> None:
    """Run `nf train classify`."""
    from neuralfields.store import open_store
    from wsnets.train import ClassifyConfig, plot_history

    limit_threads(options.threads)
    store = open_store(options.store)
    settings: dict[str, Any] = given(options.training)
    store, test = split(store, options.test, options.test_fraction, settings.get("seed", 0))
    reader, seconds, epochs = train_reader(store, ClassifyConfig(**settings), options.out, options.output.quiet)
    found = summary(reader)
    took = f"{epochs} epochs in {duration(seconds)}" if epochs else "nothing left to train"
    output.facts([("trained on", f"{found['train_fields']:,} fields, {store.spec.describe()}"), ("training", took)])
    output.facts([("validation", validation_line(found))])
    output.record(fields=len(store), seconds=seconds, epochs_run=epochs, **found)
    plot_history(reader.training["history"], Path(options.out) / "curves.png")
    if test is not None:
        evaluate(reader, test, Path(options.out), output)
    output.facts([("out", options.out)])
    output.record(out=options.out)
    output.next(["nf", "predict", options.out, options.test or options.store, "--out", "predictions.csv"])


def split(
    store: "FieldStore", test: str | None, fraction: float, seed: int
) -> tuple["Population", "Population | None"]:
    """The fields to train on and those to evaluate on: another store, a part of this one, or none."""
    from neuralfields.store import open_store
    from wsnets.data import split_test

    if test is not None and fraction:
        raise ValueError(f"test={test!r} and test_fraction={fraction} are both given: expected one of them")
    if fraction:
        return split_test(store, fraction, seed)
    return store, None if test is None else open_store(test)


def train_reader(
    store: "Population", config: "ClassifyConfig", out: str | Path, quiet: bool
) -> tuple["Reader", float, int]:
    """Train with a progress bar; return the reader, the seconds it took and the number of epochs run now."""
    from wsnets.train import classify

    started, epochs = time.perf_counter(), set()
    with Progress("train", "epochs", quiet) as bar:

        def update(now: "TrainProgress") -> None:
            epochs.add(now.epoch)
            note = f"loss {now.loss:.3f}, {100 * now.val_accuracy:.2f} % on validation"
            bar.update(now.epoch, now.epochs, f"{now.epoch} of {now.epochs}", note)

        reader = classify(store, config, out=out, progress=update)
    return reader, time.perf_counter() - started, len(epochs)


def summary(reader: "Reader") -> dict[str, Any]:
    """Figures of a reader's training: fields, epochs, the epoch kept and how it did on the fields held out for it."""
    names = ("train_fields", "val_fields", "epochs", "best_epoch", "val_accuracy", "val_loss", "parameters")
    return {name: reader.training[name] for name in names}


def validation_line(found: dict[str, Any]) -> str:
    """The same as text: '98.1 % of 130 fields, epoch 40 of 60'."""
    if found["val_accuracy"] is None:
        return "none: no field was held out"
    right = f"{100 * found['val_accuracy']:.2f} % of {found['val_fields']:,} fields"
    return f"{right}, epoch {found['best_epoch']} of {found['epochs']} was kept"


def evaluate(reader: "Reader", test: "Population", out: Path, output: Output) -> None:
    """Print and record how well a reader does on held-out fields, and draw its confusion matrix."""
    found = reader.evaluate(test)
    rows = [
        (r["label"], *(f"{100 * r[name]:.1f}" for name in ("precision", "recall", "f1")), r["count"])
        for r in found.per_class
    ]
    output.facts([("test", f"{100 * found.accuracy:.2f} % of {len(test):,} held-out fields, loss {found.loss:.3f}")])
    output.table(("class", "precision", "recall", "F1", "fields"), rows)
    output.record(test_accuracy=found.accuracy, test_loss=found.loss, test_fields=len(test))
    output.record(per_class=found.per_class, confusion=found.confusion)
    title = f"{100 * found.accuracy:.2f} % of {len(test):,} held-out fields"
    pictures.confusion(out / "confusion.png", np.asarray(found.confusion), reader.classes, title)


def predict(options: Predict, output: Output) -> None:
    """Run `nf predict`."""
    from neuralfields.store import open_store
    from wsnets import Reader

    limit_threads(options.threads)
    reader, store = Reader.load(options.reader), open_store(options.store)
    started = time.perf_counter()
    with Progress("read", "fields", options.output.quiet) as bar:
        parts, done = [], 0
        for fields in store.batches(READ_AT_ONCE):
            parts.append(np.asarray(reader.predict(fields)))
            done += len(fields)
            bar.update(done, len(store), f"{done:,} of {len(store):,}")
    if not parts:
        raise ValueError(f"{options.store} holds no fields yet")
    probabilities = np.concatenate(parts)
    seconds, chosen = time.perf_counter() - started, probabilities.argmax(axis=1)
    known = store.labels >= 0
    accuracy = float((chosen[known] == store.labels[known]).mean()) if known.any() else None
    counts = {str(name): int((chosen == k).sum()) for k, name in enumerate(reader.classes)}
    right = None if accuracy is None else f"{100 * accuracy:.2f} % of {int(known.sum()):,} fields with a label"
    output.facts([("read", f"{len(store):,} fields in {duration(seconds)}"), ("right", right)])
    output.facts([("predicted", ", ".join(f"{name}: {count:,}" for name, count in counts.items()))])
    if options.out is not None:
        write_predictions(Path(options.out), store, probabilities, reader.classes)
        output.facts([("out", options.out)])
    output.record(fields=len(store), seconds=seconds, accuracy=accuracy, predicted=counts, out=options.out)


def write_predictions(path: Path, store: "FieldStore", probabilities: np.ndarray, classes: Any) -> None:
    """Write one line per field: id, name, label (empty: none), predicted class, its probability."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = store.index.column("name").to_pylist() if "name" in store.index.column_names else [""] * len(store)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "name", "label", "predicted", "probability"])
        for number, name, label, row in zip(store.ids, names, store.labels, probabilities, strict=True):
            known = "" if label < 0 else classes[label] if label < len(classes) else label
            table.writerow([number, name, known, classes[int(row.argmax())], f"{row.max():.6f}"])


def limit_threads(threads: int | None) -> None:
    """Let torch use so many threads; None or 0 leaves it all cores. Raises ValueError for fewer than none."""
    import torch

    if threads is not None and threads < 0:
        raise ValueError(f"threads={threads}: expected zero or more")
    if threads:
        torch.set_num_threads(threads)
