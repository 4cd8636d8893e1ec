"""nf demo: the whole way on 1,797 small digits: fit fields, read their weights, look, report."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import numpy as np
from tyro.conf import arg

from apps import pictures, report
from apps.classify import train_reader
from apps.fit import fit_store
from apps.options import SHOWN, Shown, Threads
from apps.output import Output, duration, psnr_figures, psnr_line
from apps.render import captions, enlarge
from apps.training import limit_threads, summary, validation_line

if TYPE_CHECKING:
    from fitting.signals.image import ImageSignals
    from neuralfields import FieldStore

RECIPE = "siren-digits"
TEST_FRACTION = 0.25
EPOCHS = 20  # of nine steps each; validation is best well before
DRAWN, DRAWN_SIZE = 24, (96, 96)
PARTS = ("fields/store.json", "train/store.json", "test/store.json", "reader/network.json", "grid.png", "confusion.png")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Fit one field to each of the 1,797 digits in scikit-learn, train a network that reads them, make a report.

    The network sees weights only, never a pixel; a quarter of the digits is held out. Takes less than a minute; a
    second run finds everything done, an interrupted one goes on.
    """

    keeps_partial_work: ClassVar[bool] = True

    out: Annotated[str, arg(metavar="DIR")] = "runs/demo"
    """Folder for stores, reader, pictures and report."""
    seed: Annotated[int, arg(metavar="INT")] = 0
    """Source of all randomness: start of the fields, split, training."""
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def demo(options: Demo, output: Output) -> None:
    """Run `nf demo`."""
    out = Path(options.out)
    figures = report.read(out / report.JSON_NAME)
    if figures is not None and figures["seed"] == options.seed and all((out / part).is_file() for part in PARTS):
        output.say(f"{out} holds the finished demo for seed {options.seed}; remove it to run the demo again")
        _show(figures, output, skipped=True)
        return
    limit_threads(options.threads)
    _show(run(options, out, output), output, skipped=False)


def run(options: Demo, out: Path, output: Output) -> dict[str, Any]:
    """Make everything that is not there yet; return the figures of the report."""
    from dataclasses import replace

    from fitting import images, recipes
    from wsnets.train import ClassifyConfig

    started = time.perf_counter()
    times: dict[str, float] = {}
    quiet, recipe, signals = options.output.quiet, recipes.get(RECIPE), images.load("digits")
    config = replace(recipe.config, seed=options.seed, threads=options.threads or 0)
    spec = recipe.spec_for(signals)
    output.say(f"1. fit {len(signals):,} digits, one field each: {spec.describe()}")
    store, times["fit"], found = fit_store(signals, spec, config, str(out / "fields"), RECIPE, quiet)
    psnr = psnr_figures(store.column("psnr"))
    resumed = f"{found:,} were there already" if found else f"{store.meta['config']['backend']} backend"
    output.facts([("fields", f"{len(store):,} in {duration(times['fit'])} ({resumed})"), ("PSNR", psnr_line(psnr))])

    test_rows = held_out(store.labels, TEST_FRACTION, options.seed)
    train_rows = np.setdiff1d(np.arange(len(store)), test_rows)
    output.say(f"2. train a network on the weights of {len(train_rows):,} fields")
    train, test = (subset(store, rows, out / name) for rows, name in ((train_rows, "train"), (test_rows, "test")))
    limit_threads(options.threads or 1)  # so small a network gains nothing from more, and loses much on a busy machine
    training = ClassifyConfig.tuned("mlp", seed=options.seed, epochs=EPOCHS)
    reader, times["train"], epochs = train_reader(train, training, out / "reader", quiet)
    trained = summary(reader)
    took = f"{epochs} epochs in {duration(times['train'])}" if epochs else "it was finished already"
    output.facts([("training", took), ("validation", validation_line(trained))])

    output.say(f"3. read {len(test):,} held-out fields, draw, write the report")
    evaluation, times["evaluate"] = _timed(lambda: reader.evaluate(test))
    _, times["draw"] = _timed(lambda: draw(out, signals, store, test, evaluation, reader))
    figures = {
        "seed": options.seed,
        "recipe": RECIPE,
        "spec": spec.to_json(),
        "fields": len(store),
        "train_fields": len(train),
        "test_fields": len(test),
        **psnr,
        **{name: value for name, value in trained.items() if name != "train_fields"},
        "epochs_run": epochs,
        "test_accuracy": evaluation.accuracy,
        "test_loss": evaluation.loss,
        "per_class": evaluation.per_class,
        "confusion": evaluation.confusion,
        "resumed_fields": found,
        "backend": store.meta["config"]["backend"],
        "times": times,
        "seconds": time.perf_counter() - started,
        "out": str(out),
    }
    return report.write(out, figures)


def held_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Positions of the test items: `fraction` of every class, drawn by the seed; sorted, int64."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = torch.randperm(len(members), generator=generator).numpy()
        chosen.append(members[order[: round(fraction * len(members))]])
    return np.sort(np.concatenate(chosen))


def subset(store: "FieldStore", rows: np.ndarray, path: Path) -> "FieldStore":
    """Keep some fields as a store of their own, whose split is the folder's name; one that is there is taken."""
    from neuralfields.store import open_store, save

    if (path / "store.json").is_file():
        kept = open_store(path)
        if kept.complete and np.array_equal(kept.ids, store.ids[rows]) and kept.spec == store.spec:
            return kept
    columns = {name: store.index.column(name).take(rows).to_pylist() for name in store.index.column_names}
    columns["split"] = [path.name] * len(rows)
    return save(path, store[rows], columns, store.meta)


def draw(
    out: Path, signals: "ImageSignals", store: "FieldStore", test: "FieldStore", evaluation: Any, reader: Any
) -> None:
    """Write grid.png, confusion.png, curves.png, and misread.png where held-out digits were misread."""
    from neuralfields.render import image
    from neuralfields.render.sheet import save_png, sheet
    from wsnets.train import plot_history

    rows = np.linspace(0, len(store) - 1, DRAWN).round().astype(np.int64)
    fields = store[rows]
    columns = [enlarge(signals.values(rows), DRAWN_SIZE), enlarge(image(fields, signals.shape), DRAWN_SIZE)]
    columns.append(image(fields, DRAWN_SIZE))
    headers = ["digit, 8x8", "field, 8x8", f"field, {DRAWN_SIZE[0]}x{DRAWN_SIZE[1]}"]
    title = "Digits, their fields, and the same fields drawn twelve times as large"
    save_png(out / "grid.png", sheet(columns, captions=captions(store, rows), headers=headers, title=title))
    name = f"{100 * evaluation.accuracy:.2f} % of {len(test):,} held-out digits read right"
    pictures.confusion(out / "confusion.png", np.asarray(evaluation.confusion), reader.classes, name)
    plot_history(reader.training, out / "curves.png")
    wrong = np.flatnonzero(np.asarray(evaluation.predictions) != np.asarray(evaluation.labels))[:DRAWN]
    (out / "misread.png").unlink(missing_ok=True)
    if len(wrong):
        pairs = zip(np.asarray(evaluation.labels)[wrong], np.asarray(evaluation.predictions)[wrong], strict=True)
        texts = [f"{reader.classes[true]} read as {reader.classes[read]}" for true, read in pairs]
        page = sheet(image(test[wrong], DRAWN_SIZE), captions=texts, title="Misread")
        save_png(out / "misread.png", page)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _show(figures: dict[str, Any], output: Output, skipped: bool) -> None:
    out = figures["out"]
    accuracy = f"{100 * figures['test_accuracy']:.2f} % of {figures['test_fields']:,} held-out digits"
    output.facts(
        [
            ("PSNR", psnr_line(figures)),
            ("test accuracy", f"{accuracy}, read from the weights alone"),
            ("took", duration(figures["seconds"])),
            ("look at", ", ".join(f"{out}/{name}" for name in ("report.md", "grid.png", "confusion.png"))),
        ]
    )
    output.record(skipped=skipped, **figures)
    output.next(
        ["nf", "render", f"{out}/test", "--fields", 0, "--scale", 32, "--out", "digit.png"],
        ["nf", "predict", f"{out}/reader", f"{out}/test", "--out", "predictions.csv"],
    )
