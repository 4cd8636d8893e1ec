"""nf train classify: read the class of a field from its weights."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes, arg

from apps import pictures
from apps.comparison import compare, measures
from apps.options import SHOWN, OutPath, Shown, StorePath, Threads, not_both
from apps.output import Output
from apps.sides import sides
from apps.training import TrainingOptions, describe, is_lead, limit_threads, settings, watched

if TYPE_CHECKING:
    from wsnets import Reader
    from wsnets.data import Population
    from wsnets.train import ClassifyConfig


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
    compare: Annotated[str | None, arg(metavar="NAME,NAME,...", help_behavior_hint="(default: one --model)")] = None
    """Train several models, each in a folder of its name inside --out, and print one table."""
    mixup: Annotated[float, arg(help_behavior_hint="(default: 0.0, off)")] = 0.0
    """Mix pairs of fields and their labels, shares drawn from Beta(mixup, mixup)."""
    mixup_matching: Literal["raw", "permuted", "aligned"] = "raw"
    """How the second field of a pair is moved by its symmetries first."""
    label_smoothing: float = 0.1
    """Share of the target that goes to all classes."""
    training: Annotated[TrainingOptions, OmitArgPrefixes] = field(default_factory=TrainingOptions)
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def train_classify(options: TrainClassify, output: Output) -> None:
    """Run `nf train classify`."""
    from wsnets.data import check_labelled, class_names
    from wsnets.train import ClassifyConfig

    limit_threads(options.threads)
    not_both(compare=options.compare, model=options.training.model)
    own = {name: getattr(options, name) for name in ("mixup", "mixup_matching", "label_smoothing")}
    if options.mixup_matching != "raw" and not options.mixup:
        raise ValueError(f"mixup_matching={options.mixup_matching!r} without mixup: expected mixup above 0 beside it")
    store, test = sides(options)
    if test is not None:
        check_labelled(test, class_names(store))
    if options.compare is not None:
        run_comparison(options, store, test, own, output)
        return
    config = settings(ClassifyConfig, options.training, store.spec, "mlp", **own)
    reader, seconds, epochs = train_reader(store, config, options.out, options.output.quiet)
    if not is_lead():
        return
    describe(reader, seconds, epochs, options.out, output)
    output.record(fields=len(store))
    if test is not None:
        evaluate(reader, test, Path(options.out), output)
    output.facts([("out", options.out)])
    output.record(out=options.out)
    output.next(["nf", "predict", options.out, options.test or options.store, "--out", "predictions.csv"])


def run_comparison(
    options: TrainClassify, store: "Population", test: "Population | None", own: dict[str, Any], output: Output
) -> None:
    """Train every model of --compare under the same settings and print one table."""
    from wsnets.train import ClassifyConfig

    def prepare(name: str) -> ClassifyConfig:
        return settings(ClassifyConfig, replace(options.training, model=name), store.spec, name, **own)

    def one(name: str, config: ClassifyConfig, out: str) -> dict[str, Any]:
        reader, _, _ = train_reader(store, config, out, options.output.quiet, name)
        row: dict[str, Any] = {"validation": reader.training.get("val_accuracy")}
        if test is not None and is_lead():
            row["test"] = reader.evaluate(test).accuracy
        return {**row, **measures(reader, out)}

    compare(options.compare or "", options.out, prepare, one, output)


def train_reader(
    store: "Population", config: "ClassifyConfig", out: str | Path, quiet: bool, what: str = "train"
) -> tuple["Reader", float, int]:
    """Train with a progress bar; return the reader, the seconds it took and the number of epochs run now."""
    from wsnets.train import classify

    return watched(lambda **watch: classify(store, config, out=out, **watch), quiet or not is_lead(), what)


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
