"""nf train meta: fields that are fitted in a few learned steps, and a reader of them, trained together on images."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from apps import pictures
from apps.options import SHOWN, ImageOptions, Images, OutPath, Shown, Threads, given, not_both
from apps.output import Output, duration, psnr_figures, psnr_line
from apps.pairs import with_pairs
from apps.training import is_lead, limit_threads, pace, speed, watched

if TYPE_CHECKING:
    from fitting.signals.image import ImageSignals
    from neuralfields import FieldStore
    from wsnets.tasks.meta_classify import MetaConfig, MetaReader

SHARD = 1024


@dataclass(frozen=True, kw_only=True)
class MetaOptions:
    """How start, step sizes and reader are trained."""

    size: Literal["small", "published", "large"] = "small"
    """Settings of the architecture: small ones, which suit two cores, or those of the paper, MWT and MWT-L."""
    option: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...", help_behavior_hint="(default: none)")] = ()
    """Single settings of the architecture, such as hidden=64 steps=6."""
    epochs: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 10)")] = None
    """Passes over the images."""
    minutes: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: --epochs count)")] = None
    """Time budget instead of epochs, validation included."""
    epoch_items: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Images between two validations."""
    batch: int = 16
    """Images per step."""
    lr: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: 0.003 small, 0.0001 published)")] = (
        None
    )
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    shift: int = 0
    """Move training images by up to so many pixels at random."""
    flip: bool = False
    """Mirror half of the training images."""
    val_fraction: float = 0.1
    """Share of the images held out to choose the epoch."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes the reader under autocast."""
    device: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: a GPU if there is one)")] = None
    """Where it is computed: cpu, cuda, cuda:1."""
    seed: int = 0
    """Source of all randomness."""


@dataclass(frozen=True, kw_only=True)
class TrainMeta:
    """Learn a start and step sizes from which a few gradient steps fit a field to an image, and a reader of the fields.

    A part of the images is kept for validation and chooses the epoch. An interrupted run goes on where it stopped when
    the same command is given again.
    """

    keeps_partial_work: ClassVar[bool] = True

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Labelled images: an .npz, a folder of pictures, an idx file or digits."""
    out: OutPath
    """Folder of the result."""
    images: Images = field(default_factory=ImageOptions)
    test: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: none)")] = None
    """Split of SOURCE to evaluate on, such as test."""
    test_limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Evaluate on the first so many images of it."""
    fields: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="(default: none)")] = None
    """Store to write, with the fields of the --test images, or without --test of all images."""
    training: Annotated[MetaOptions, OmitArgPrefixes] = field(default_factory=MetaOptions)
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def train_meta(options: TrainMeta, output: Output) -> None:
    """Run `nf train meta`."""
    import torch

    from fitting import images
    from wsnets.tasks.meta_classify import meta_classify
    from wsnets.train import plot_history

    limit_threads(options.threads)
    if options.test_limit is not None and options.test is None:
        raise ValueError(f"test_limit={options.test_limit}: expected --test beside it")
    config = settings(options.training)
    signals = images.load(options.source, **vars(options.images))
    test = None
    if options.test is not None:
        part = replace(options.images, split=options.test, limit=options.test_limit)
        test = images.load(options.source, **vars(part))
        test.given_labels()  # refused before the training, not after
    if options.fields is not None and not (Path(options.out) / "training.json").is_file():
        check_free(options.fields)
    pixels, labels, classes = torch.from_numpy(signals.pixels), signals.given_labels(), signals.classes
    train: Any = lambda **watch: meta_classify(pixels, labels, config, options.out, classes, **watch)  # noqa: E731
    reader, seconds, epochs = watched(train, options.output.quiet or not is_lead())
    if not is_lead():
        return
    describe(reader, seconds, epochs, output)
    plot_history(reader.training, Path(options.out) / "curves.png")
    if test is not None:
        evaluate(reader, test, Path(options.out), output)
    output.facts([("out", options.out)])
    output.record(out=options.out, images=len(signals))
    if options.fields is not None:
        store = write_fields(reader, test or signals, options.fields)
        figures = psnr_figures(store.column("psnr"))
        output.facts([("fields", f"{len(store):,} in {options.fields}"), ("PSNR", psnr_line(figures))])
        output.record(fields=options.fields, **figures)
        output.next(["nf", "render", options.fields, "--out", f"{options.fields.rstrip('/')}.png"])


def settings(options: MetaOptions) -> "MetaConfig":
    """Training settings from options. Raises ValueError for what does not fit."""
    from wsnets.models.mwt import MWTConfig
    from wsnets.tasks.meta_classify import MetaConfig

    not_both(epochs=options.epochs, minutes=options.minutes)
    values: dict[str, Any] = given(options)
    size, words = values.pop("size"), values.pop("option")
    if size == "small":
        config = MetaConfig.small(**values)
    else:
        config = MetaConfig(model=MWTConfig() if size == "published" else MWTConfig.large(), **values)
    return replace(config, model=MWTConfig.from_json(with_pairs("option", words, config.model.to_json())))


def check_free(fields: str) -> None:
    """Raise ValueError where the folder for the fields holds a store, which the fields of a new training do not fit."""
    if (Path(fields) / "store.json").is_file():
        raise ValueError(f"fields={fields!r} holds a store already: expected a folder of its own")


def describe(reader: "MetaReader", seconds: float, epochs: int, output: Output) -> None:
    """Print and record how the training went."""
    training = reader.training
    took = f"{epochs} epochs in {duration(seconds)}, {pace(training, 'images')}" if epochs else "nothing left to train"
    held = None
    if "val_accuracy" in training:
        right = f"{100 * training['val_accuracy']:.2f} % of {training['val_images']:,} images"
        held = f"{right}, PSNR {training['val_psnr']:.2f} dB, epoch {training['best_epoch']} was kept"
    output.facts([("model", f"mwt, {reader.num_params:,} parameters"), ("fields", reader.model.spec.describe())])
    output.facts([("trained on", f"{training['train_images']:,} images"), ("training", took), ("validation", held)])
    names = ("train_images", "epochs", "best_epoch", "parameters", "waited")
    held_out = {name: value for name, value in training.items() if name.startswith("val_")}
    output.record(
        seconds=seconds, epochs_run=epochs, images_per_s=speed(training), **{n: training[n] for n in names}, **held_out
    )


def evaluate(reader: "MetaReader", test: "ImageSignals", out: Path, output: Output) -> None:
    """Print and record how many held-out images are read right, and draw the confusion matrix."""
    import torch

    found = reader.evaluate(torch.from_numpy(test.pixels), test.given_labels())
    title = f"{100 * found.accuracy:.2f} % of {len(test):,} held-out images"
    output.facts([("test", f"{title}, loss {found.loss:.3f}")])
    output.record(test_accuracy=found.accuracy, test_loss=found.loss, test_images=len(test))
    output.record(per_class=found.per_class, confusion=found.confusion)
    pictures.confusion(out / "confusion.png", np.asarray(found.confusion), reader.classes, title)


def write_fields(reader: "MetaReader", signals: "ImageSignals", out: str) -> "FieldStore":
    """Fit a field to every image with the learned start and steps, and keep them in the store `out`."""
    import torch

    from fitting.fit import statistics
    from neuralfields.store import StoreWriter, open_store

    model, digest = reader.model, reader.digest()
    config = {"init": "meta", "optimizer": "meta-sgd", "steps": model.config.steps, "learned_sha256": digest}
    meta = {"recipe": None, "config": config, "signal": signals.describe(), "created_by": "nf train meta"}
    with StoreWriter(out, model.spec, meta, len(signals), SHARD) as writer:
        for shard, positions in writer.missing():
            part = signals.select(positions)
            fields = reader.fields(torch.from_numpy(part.pixels))
            rows = {
                "id": part.ids.tolist(),
                "label": [-1] * len(part) if part.labels is None else part.labels.tolist(),
                "split": [part.split or ""] * len(part),
                "name": list(part.names),
                "init_id": [f"meta/{digest[:16]}"] * len(part),
                "steps": [model.config.steps] * len(part),
                **{name: values.tolist() for name, values in part.quality(fields).items()},
            }
            writer.write(shard, fields, rows)
        if not writer.complete:
            store = open_store(out)
            writer.finish(statistics(store.batches(SHARD), {"psnr": store.column("psnr")}, store.column("steps")))
    return open_store(out)
