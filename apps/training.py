"""What every command that trains a network shares: options, settings, progress, what is said at the end."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from tyro.conf import arg

from apps.options import given, not_both
from apps.output import Output, duration
from apps.pairs import with_pairs
from apps.progress import Progress

if TYPE_CHECKING:
    from neuralfields.spec import FieldSpec
    from wsnets.config import FieldConfig
    from wsnets.network import Network
    from wsnets.train import TrainProgress

# The names of wsnets.models, written once more so that help does not load torch; a test compares them.
MODELS = (
    *("mlp", "mlp_aligned", "dws", "nfn_np", "nfn_hnp", "nft", "ng_gnn", "ng_t"),
    *("gmn", "scale_gmn", "scale_gmn_b", "probe_gen", "orbit"),
)
# Models that look at fields and not at features, so that no normalisation reaches them.
READ_FIELDS = ("probe_gen", "orbit", "deep_align")

Trained = TypeVar("Trained", bound="Network")
Config = TypeVar("Config", bound="FieldConfig")


def suits(default: object) -> str:
    """The hint of an option whose default a model may change."""
    return f"(default: {default}, or what suits the model)"


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How the network is trained."""

    model: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: what the task is known for)")] = None
    """Architecture of the network; `nf models` lists them."""
    size: Literal["small", "published"] = "small"
    """Settings of the architecture: small ones, which suit two cores, or those of the paper, which want a GPU."""
    option: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...", help_behavior_hint="(default: none)")] = ()
    """Single settings of the architecture, such as width=64; `nf models NAME` shows all."""
    epochs: Annotated[int | None, arg(metavar="INT", help_behavior_hint=suits(50))] = None
    """Passes over the fields."""
    minutes: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: --epochs count)")] = None
    """Time budget instead of epochs, validation included."""
    epoch_items: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Fields between two validations."""
    batch: Annotated[int | None, arg(metavar="INT", help_behavior_hint=suits(128))] = None
    """Fields per step."""
    lr: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=suits(0.001))] = None
    """Peak learning rate."""
    weight_decay: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=suits(0.01))] = None
    """Weight decay of AdamW."""
    patience: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: never)")] = None
    """Stop after so many epochs without a better validation."""
    normalise: Annotated[
        Literal["auto", "per_weight", "per_layer", "per_layer_scale", "none"],
        arg(help_behavior_hint="(default: what the model needs)"),
    ] = "auto"
    """How weights are normalised."""
    align: Annotated[
        Literal["auto", "none", "permutation", "exact"], arg(help_behavior_hint="(default: what suits the model)")
    ] = "auto"
    """Move every field by its symmetries next to a reference first."""
    augment: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...", help_behavior_hint="(default: none)")] = ()
    """Random changes of the training fields: `images`, or single ones such as rotation=10 shift=0.1 noise=0.05."""
    val_fraction: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: 0.1)")] = None
    """Share of the fields held out to choose the epoch."""
    val_last: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: drawn by --val-fraction)")] = None
    """Hold out the last so many fields instead."""
    skip_bad: bool = False
    """Leave out fields with NaN or infinite weights instead of refusing the store."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes under autocast."""
    device: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: a GPU if there is one)")] = None
    """Where it is computed: cpu, cuda, cuda:1."""
    seed: int = 0
    """Source of all randomness."""


def settings(kind: type[Config], options: TrainingOptions, spec: "FieldSpec", default: str, **more: Any) -> Config:
    """Training settings from options, on top of those that suit the model.

    Raises ValueError for what does not fit, and for a model of symmetries that fields of `spec` lack.
    """
    from wsnets import models
    from wsnets.augment import AugmentConfig
    from wsnets.tasks.edit import EditConfig

    not_both(epochs=options.epochs, minutes=options.minutes)
    not_both(val_fraction=options.val_fraction, val_last=options.val_last)
    if options.patience and options.val_fraction == 0:
        raise ValueError(f"patience={options.patience}: expected 0 without fields to validate on")
    name, values = options.model or default, given(options)
    for own in ("model", "size", "option", "augment"):
        values.pop(own, None)
    for own in ("normalise", "align"):
        if values[own] == "auto":
            values.pop(own)
    model = models.sized(name, options.size, issubclass(kind, EditConfig))
    if options.option:
        model = models.from_json(with_pairs("option", options.option, models.to_json(model)))
    model.symmetry(spec)
    if name in READ_FIELDS and options.normalise not in ("auto", "none"):
        raise ValueError(f"normalise={options.normalise!r}: expected none, as {name} reads the fields themselves")
    if options.augment:
        base = AugmentConfig.for_images() if "images" in options.augment else AugmentConfig()
        changes = [change for change in options.augment if change != "images"]
        values["augment"] = AugmentConfig.from_json(with_pairs("augment", changes, base.to_json()))
    return kind.tuned(model, **values, **more)


def watched(train: Callable[..., Trained], quiet: bool, what: str = "train") -> tuple[Trained, float, int]:
    """Train with a progress bar; return the network, the seconds it took and the number of epochs run now."""
    started, epochs = time.perf_counter(), set()
    with Progress(what, "epochs done", quiet) as bar:
        last = [0, ""]

        def epoch(now: "TrainProgress") -> None:
            epochs.add(now.epoch)
            last[:] = now.epoch, validation_words(now.figures)

        def step(share: float, loss: float) -> None:
            note = f"loss {loss:.4g}" + (f", {last[1]} on validation" if last[1] else "")
            bar.update(share, 1.0, str(last[0]), note)

        network = train(progress=epoch, step=step)
    return network, time.perf_counter() - started, len(epochs)


def validation_words(figures: dict[str, Any]) -> str:
    """The leading figure of a validation: '98.10 %', 'R2 0.93', 'MSE 0.0191 (0.0812 unedited)'; '' without one."""
    if figures.get("val_accuracy") is not None:
        return f"{100 * figures['val_accuracy']:.2f} %"
    if "val_r2" in figures:
        return f"R2 {figures['val_r2']:.4f}, tau {figures['val_tau']:.4f}"
    if "val_psnr" in figures:
        return f"{figures['val_psnr']:.2f} dB"
    if "val_units" in figures:
        return f"{100 * figures['val_units']:.1f} % of units brought back"
    if "val_mse" in figures:
        return f"MSE {figures['val_mse']:.5f} ({figures['val_mse_unedited']:.5f} unedited)"
    return f"loss {figures['val_loss']:.4f}" if "val_loss" in figures else ""


def summary(network: "Network") -> dict[str, Any]:
    """Figures of a network's training: fields, epochs, the epoch kept and how it did on the fields held out for it."""
    names = ("train_fields", "val_fields", "skipped_fields", "epochs", "best_epoch", "parameters", "waited")
    found = {name: network.training[name] for name in names}
    return {**found, **{name: value for name, value in network.training.items() if name.startswith("val_")}}


def validation_line(found: dict[str, Any]) -> str:
    """The same as text: '98.1 % of 130 fields, epoch 40 of 60'."""
    words = validation_words(found)
    if not words:
        return "none: no field was held out"
    fields = (
        f"{words} of {found['val_fields']:,} fields" if words.endswith("%") else f"{words} on {found['val_fields']:,}"
    )
    return f"{fields}, epoch {found['best_epoch']} of {found['epochs']} was kept"


def speed(training: dict[str, Any]) -> float:
    """Fields per second of training, validation not counted among the fields."""
    return training["samples"] / max(training["seconds"], 1e-9)


def pace(training: dict[str, Any], unit: str = "fields") -> str:
    """How fast a training went: '3,066 fields/s, waited for data 0.2 % of the time'."""
    share = training["waited"] / max(training["seconds"], 1e-9)
    return f"{speed(training):,.0f} {unit}/s, waited for data {100 * share:.1f} % of the time"


def describe(network: "Network", seconds: float, epochs: int, out: str, output: Output) -> None:
    """Print and record how a training went, and draw its curves."""
    from wsnets.models import name_of
    from wsnets.train import plot_history

    found, training = summary(network), network.training
    took = f"{epochs} epochs in {duration(seconds)}, {pace(training)}" if epochs else "nothing left to train"
    skipped = (
        f"{found['skipped_fields']:,} fields with weights that are not finite" if found["skipped_fields"] else None
    )
    name = name_of(network.settings)
    output.facts([("model", f"{name}, {network.num_params:,} parameters"), ("skipped", skipped)])
    output.facts([("trained on", f"{found['train_fields']:,} fields, {network.spec.describe()}"), ("training", took)])
    output.facts([("validation", validation_line(found))])
    output.record(seconds=seconds, epochs_run=epochs, model=name, fields_per_s=speed(training), **found)
    plot_history(training, Path(out) / "curves.png")


def is_lead() -> bool:
    """Whether this process is the one that speaks: the only one, or the first of those that torchrun started."""
    import os

    return os.environ.get("RANK", "0") == "0"


def limit_threads(threads: int | None) -> None:
    """Let torch use so many threads; None or 0 leaves it all cores. Raises ValueError for fewer than none."""
    import torch

    if threads is not None and threads < 0:
        raise ValueError(f"threads={threads}: expected zero or more")
    if threads:
        torch.set_num_threads(threads)
