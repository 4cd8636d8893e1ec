"""`python -m apps.bench.gpu_readers`: readers of all of MNIST and MWT at its published size, trained on a GPU.

Fits MNIST by a recipe, trains each reader for so many minutes and reads the test fields; trains MWT on images. Needs
what gpu.py needs, and runs on a CPU too. The same command with the same --work goes on with what was interrupted.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from apps.bench.gpu import ROOT, find_data
from apps.bench.gpu_rows import card
from apps.bench.rows import append_records, now, versions
from fitting import recipes
from fitting.fit import fit
from fitting.signals import image
from neuralfields.store import FieldStore
from wsnets import models
from wsnets.augment import AugmentConfig
from wsnets.loop import choose_device
from wsnets.models.mwt import MWTConfig
from wsnets.tasks.classify import ClassifyConfig
from wsnets.tasks.meta_classify import MetaConfig, meta_classify
from wsnets.train import TrainProgress, classify

# What the tables of benchmarks/readers.md were trained with.
_AUGMENT = AugmentConfig(resize=(0.9, 1.1), rotation=8.0, shift=0.05)
_PACKAGES = ("torch", "triton", "numpy", "neuralfields")
_EPOCH_ITEMS = 20_000
IMAGES = {"mnist": "mnist.npz", "cifar10": "cifar10.npz"}


@dataclass(frozen=True, kw_only=True)
class ReadRow:
    """One training: what was read by what, for how long, and how well.

    data: a population of fields, or the images of MWT, which fits its own; items: trained on; seconds: of training;
    per_s: items a second of it; val, test: accuracy in [0, 1]; psnr: mean of the fields (MWT: of validation), in dB.
    """

    data: str
    model: str
    size: str
    parameters: int
    items: int
    seconds: float
    epochs: float
    per_s: float
    val: float
    test: float
    psnr: float
    published: str
    date: str
    device: str
    versions: str


def named(*words: str, **numbers: float | None) -> str:
    """Name of a folder, which tells one run from another: its words, and the numbers that are given."""
    return "-".join([*words, *(f"{name}{number:g}" for name, number in numbers.items() if number is not None)])


def fitted(options: argparse.Namespace, split: str) -> FieldStore:
    """Fields of one split of mnist.npz, in a store below --work; nothing is fitted twice."""
    signals = image.load(options.data / IMAGES["mnist"], split=split, limit=options.limit)
    recipe = recipes.get(options.recipe)
    out = options.work / named(options.recipe, split, limit=options.limit)
    store = fit(signals, recipe.spec_for(signals), recipe.config, out=out, recipe=options.recipe)
    print(f"{out.name}: {len(store):,} fields, {_psnr(store):.2f} dB", flush=True)
    return store


def read_fields(name: str, stores: tuple[FieldStore, FieldStore], folder: Path, options: argparse.Namespace) -> ReadRow:
    """Train a reader in a folder on the first store, whose last twelfth chooses the epoch, and read the second."""
    train, test = stores
    settings = models.sized(name, options.size)
    config = ClassifyConfig.tuned(
        settings,
        minutes=options.minutes,
        batch=options.batch,
        val_last=len(train) // 12,
        epoch_items=_EPOCH_ITEMS,
        augment=_AUGMENT,
        device=options.device,
    )
    reader = classify(train, config, folder, _say(name))
    accuracy = reader.evaluate(test).accuracy
    figures = {"psnr": _psnr(train), "items": reader.training["train_fields"], "published": settings.published}
    return _row(f"{options.recipe}-train", name, reader.num_params, reader.training, accuracy, options, **figures)


def read_images(name: str, folder: Path, options: argparse.Namespace) -> ReadRow:
    """Train MWT in a folder on images by name, those of CIFAR-10 mirrored and moved, and read the test images."""
    path = options.data / IMAGES[name]
    train, test = (image.load(path, split=split, limit=options.limit) for split in ("train", "test"))
    common = {"minutes": options.minutes, "epoch_items": _EPOCH_ITEMS // 4, "device": options.device}
    moved = {"flip": True, "shift": 2} if name == "cifar10" else {}
    config = MetaConfig.small(**common, **moved) if options.size == "small" else MetaConfig(**common, **moved)
    pixels, labels = torch.from_numpy(train.pixels), train.given_labels()
    reader = meta_classify(pixels, labels, config, folder, progress=_say(f"mwt {name}"))
    accuracy = reader.evaluate(torch.from_numpy(test.pixels), test.given_labels()).accuracy
    figures = {"psnr": reader.training["val_psnr"], "items": reader.training["train_images"]}
    said = f"mwt, {', '.join(moved)}" if moved else "mwt"
    return _row(
        name, said, reader.num_params, reader.training, accuracy, options, published=MWTConfig.published, **figures
    )


def _row(
    data: str, model: str, parameters: int, training: dict, test: float, options: argparse.Namespace, **figures
) -> ReadRow:
    device = choose_device(options.device)
    return ReadRow(
        data=data,
        model=model,
        size=options.size,
        parameters=parameters,
        seconds=training["seconds"],
        epochs=training["samples"] / figures["items"],
        per_s=training["samples"] / max(training["seconds"], 1e-9),
        val=training["val_accuracy"],
        test=test,
        date=now(),
        device=card().name if device.type == "cuda" else "cpu",
        versions=versions(*_PACKAGES),
        **figures,
    )


def _psnr(store: FieldStore) -> float:
    return float(np.mean(store.column("psnr")))


def _say(name: str) -> Callable[[TrainProgress], None]:
    def say(now: TrainProgress) -> None:
        print(f"{name}: {now.seconds:.0f} s, epoch {now.epoch}, {100 * now.val_accuracy:.2f} %", flush=True)

    return say


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; bad values end the program with a line and status 2."""
    parser = argparse.ArgumentParser(prog="python -m apps.bench.gpu_readers", description=__doc__)
    parser.add_argument("--readers", nargs="*", default=["orbit", "probe_gen"], help="of fields, by name")
    parser.add_argument("--images", nargs="*", default=list(IMAGES), choices=list(IMAGES), help="what MWT reads")
    parser.add_argument("--minutes", type=float, default=1.5, help="of training, for each")
    parser.add_argument("--size", choices=("small", "published"), default="published", help="settings of the networks")
    parser.add_argument("--recipe", default="dws-mnist", help="how fields are fitted")
    parser.add_argument("--batch", type=int, default=512, help="fields a step; MWT keeps its own")
    parser.add_argument("--limit", type=int, default=None, help="only so many images of each split")
    parser.add_argument("--device", default="auto", help="where networks are trained: auto, cpu, cuda or cuda:1")
    parser.add_argument("--data", type=Path, default=find_data(), help="folder with mnist.npz and cifar10.npz")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "gpu-readers", help="folder of stores and networks"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="folder of readers_gpu.csv")
    options = parser.parse_args(arguments)
    for name in ("minutes", "batch", "limit"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} {value}: expected a positive number")
    unknown = [name for name in options.readers if name not in models.names()]
    if unknown:
        parser.error(f"--readers {unknown[0]}: expected some of {', '.join(models.names())}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, read, and append a row for each to readers_gpu.csv as soon as it is known."""
    options = parse(arguments)
    try:
        stores = (fitted(options, "train"), fitted(options, "test")) if options.readers else None
        for name in options.readers:
            assert stores is not None
            numbers = {"b": options.batch, "min": options.minutes}
            folder = options.work / named(stores[0].path.name, name, options.size, **numbers)
            once(options.out, folder, lambda name=name, folder=folder: read_fields(name, stores, folder, options))
        for name in options.images:
            folder = options.work / named("mwt", name, options.size, limit=options.limit, min=options.minutes)
            once(options.out, folder, lambda name=name, folder=folder: read_images(name, folder, options))
    except (ValueError, FileNotFoundError) as error:
        print(f"gpu_readers: {error}", file=sys.stderr)
        return 2
    return 0


def once(out: Path, folder: Path, read: Callable[[], ReadRow]) -> None:
    """Keep the row of a training, unless its folder says that it was kept before."""
    kept = folder / "kept.txt"
    if kept.is_file():
        print(f"{folder.name}: {kept.read_text(encoding='utf-8')} was kept before", flush=True)
        return
    keep(out, read())
    kept.write_text("its row in readers_gpu.csv", encoding="utf-8")


def keep(out: Path, row: ReadRow) -> None:
    """Append a row to readers_gpu.csv and say it in a line."""
    append_records(out / "readers_gpu.csv", [field.name for field in fields(ReadRow)], [asdict(row)])
    said = f"{row.data}, {row.model}: {100 * row.test:.2f} % (validation {100 * row.val:.2f} %), {row.psnr:.2f} dB"
    print(f"{said}; {row.per_s:,.0f} items/s, {row.epochs:.1f} epochs in {row.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
