"""nf train edit and nf edit: networks that change fields, so that they show something else."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from apps.comparison import compare, measures
from apps.options import SHOWN, OutPath, Shown, StorePath, Threads
from apps.output import Output, duration
from apps.progress import Progress
from apps.training import TrainingOptions, describe, is_lead, limit_threads, settings, watched

if TYPE_CHECKING:
    from neuralfields import FieldStore
    from wsnets import Editor
    from wsnets.data import Population

SHARD = 1024
DRAWN = 12


@dataclass(frozen=True, kw_only=True)
class TrainEdit:
    """Train a network that edits fields: weights in, weights out, judged by what the edited field shows.

    An interrupted run goes on where it stopped when the same command is given again.
    """

    keeps_partial_work: ClassVar[bool] = True

    store: StorePath
    """Folder of a store, to train on."""
    out: OutPath
    """Folder of the editor."""
    target: Literal["dilate", "erode", "contrast", "inflate", "smooth"] = "dilate"
    """What an edited field is to show: a picture dilated, eroded, of more contrast; a shape inflated, smoothed."""
    strength: Annotated[float, arg(metavar="FLOAT", help_behavior_hint="(default: 3 pixels, 1.5, 0.05)")] = 0.0
    """How much: pixels, factor of the contrast, or units of the box [-1, 1]."""
    test: Annotated[str | None, arg(metavar="STORE", help_behavior_hint="(default: none)")] = None
    """Store of held-out fields to evaluate on."""
    test_fraction: float = 0.0
    """Without --test: share of STORE kept aside to evaluate on; copies of one item stay on one side."""
    compare: Annotated[str | None, arg(metavar="NAME,NAME,...", help_behavior_hint="(default: one --model)")] = None
    """Train several models, each in a folder of its name inside --out, and print one table."""
    training: Annotated[TrainingOptions, OmitArgPrefixes] = field(default_factory=TrainingOptions)
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Edit the fields of STORE: write a new store of the edited ones."""

    keeps_partial_work: ClassVar[bool] = True

    editor: Annotated[Positional[str], arg(metavar="EDITOR")]
    """Folder that `nf train edit` wrote."""
    store: StorePath
    """Folder of a store."""
    out: OutPath
    """Folder of the store to write: new, or holding the same edit, unfinished."""
    limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Edit the first so many fields."""
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def train_edit(options: TrainEdit, output: Output) -> None:
    """Run `nf train edit`."""
    from apps.classify import split
    from neuralfields.store import open_store
    from wsnets.train import EditConfig, edit

    limit_threads(options.threads)
    store, test = split(open_store(options.store), options.test, options.test_fraction, options.training.seed or 0)
    operation = operation_for(options, store)
    quiet = options.output.quiet or not is_lead()

    def train(name: str | None, out: str) -> tuple["Editor", float, int]:
        chosen = options.training if name is None else replace(options.training, model=name)
        config = settings(EditConfig, chosen, "nfn_np", target=operation)
        return watched(lambda **watch: edit(store, config, out, **watch), quiet, name or "train")

    def one(name: str, out: str) -> dict[str, Any]:
        editor, _, _ = train(name, out)
        found = judge(editor, test) if test is not None and is_lead() else {}
        if test is not None and is_lead():
            draw(editor, test, Path(out))
        figures = {"MSE": found.get("mse"), "unedited": found.get("mse_unedited")}
        return {**figures, "val MSE": editor.training.get("val_mse"), **measures(editor)}

    if options.compare is not None:
        compare(options.compare, options.out, one, output)
        return
    editor, seconds, epochs = train(None, options.out)
    if not is_lead():
        return
    describe(editor, seconds, epochs, options.out, output)
    if test is not None:
        found = judge(editor, test)
        words = f"MSE {found['mse']:.5f} ({found['mse_unedited']:.5f} unedited)"
        output.facts([("test", f"{words} on {len(test):,} held-out fields")])
        output.record(test_fields=len(test), **{f"test_{name}": value for name, value in found.items()})
    picture = draw(editor, store if test is None else test, Path(options.out))
    output.facts([("picture", picture), ("out", options.out)])
    output.record(out=options.out, target=operation.to_json(), picture=picture)
    output.next(["nf", "edit", options.out, options.test or options.store, "--out", "runs/edited"])


def operation_for(options: TrainEdit, store: "Population") -> Any:
    """The operation asked for, on pictures of the size that the store's signal has."""
    from wsnets.operations import Operation

    shape = (store.meta.get("signal") or {}).get("shape") or (28, 28)
    return Operation(name=options.target, shape=tuple(shape[:2]), strength=options.strength)


def judge(editor: "Editor", population: "Population") -> dict[str, float]:
    """Mean squared error of edited fields against the target on a population, and that of leaving them as they are."""
    import torch

    from neuralfields.evaluate import evaluate
    from wsnets.data import batches

    generator, total, unedited = torch.Generator().manual_seed(0), 0.0, 0.0
    for fields in batches(population):
        coords, wanted = editor.operation(fields, generator)
        total += float((evaluate(editor.apply(fields), coords) - wanted).square().mean(dim=(1, 2)).sum())
        unedited += float((evaluate(fields, coords) - wanted).square().mean(dim=(1, 2)).sum())
    return {"mse": total / len(population), "mse_unedited": unedited / len(population)}


def draw(editor: "Editor", population: "Population", out: Path) -> str | None:
    """Contact sheet of pictures: field, edited field, target; None for fields that show no pictures."""
    from neuralfields.render import image
    from neuralfields.render.sheet import save_png, sheet

    operation = editor.operation
    if editor.spec.in_dim != 2:
        return None
    fields = population[np.linspace(0, len(population) - 1, min(DRAWN, len(population))).round().astype(np.int64)]
    before, after = image(fields, operation.shape), image(editor.apply(fields), operation.shape)
    wanted = operation.edit(before.flatten(1, 2)).view_as(before)
    path = out / "edited.png"
    headers = ["field", "edited field", f"true {operation.name}"]
    save_png(path, sheet([before, after, wanted], headers=headers, title=f"{operation.name}: weights in, weights out"))
    return str(path)


def edit_store(options: Edit, output: Output) -> None:
    """Run `nf edit`."""
    from neuralfields.store import open_store
    from wsnets import Editor

    limit_threads(options.threads)
    editor, store = Editor.load(options.editor), open_store(options.store)
    if len(store) == 0:
        raise ValueError(f"{options.store} holds no fields yet")
    count = len(store) if options.limit is None else min(options.limit, len(store))
    seconds = write_edited(editor, store, options.out, count, options.output.quiet)
    edited = open_store(options.out)
    picture = draw_pairs(store, edited, Path(options.out), editor)
    rate = "" if seconds is None else f" in {duration(seconds)}"
    output.facts([("edited", f"{count:,} fields{rate}: {editor.operation.name}"), ("picture", picture)])
    output.facts([("out", options.out)])
    output.record(fields=count, seconds=seconds, out=options.out, operation=editor.operation.to_json())
    output.next(["nf", "render", options.out, "--out", "edited.png"])


def write_edited(editor: "Editor", store: "FieldStore", out: str, count: int, quiet: bool) -> float | None:
    """Write edited fields shard by shard, with the index of the originals; None where all were there already."""
    import time

    from neuralfields.store_writer import StoreWriter

    meta = {**store.meta, "edited": {"operation": editor.operation.to_json(), "editor": editor.about()}}
    kept = [name for name in store.index.column_names if name in ("id", "label", "split", "name", "group")]
    started, done = time.perf_counter(), 0
    with StoreWriter(out, store.spec, meta, count, SHARD) as writer, Progress("edit", "fields", quiet) as bar:
        missing = writer.missing()
        for shard, part in missing:
            fields = store[part]
            rows = {name: store.index.column(name).to_pylist()[part] for name in kept}
            writer.write(shard, editor.apply(fields), rows)
            done += len(fields)
            bar.update(done, count, f"{done:,} of {count:,}")
        if not writer.complete:
            writer.finish({})
    return time.perf_counter() - started if missing else None


def draw_pairs(store: "FieldStore", edited: "FieldStore", out: Path, editor: "Editor") -> str | None:
    """Contact sheet of some fields before and after."""
    from neuralfields.render import image
    from neuralfields.render.sheet import save_png, sheet

    if editor.spec.in_dim != 2:
        return None
    rows = np.linspace(0, len(edited) - 1, min(DRAWN, len(edited))).round().astype(np.int64)
    shape = editor.operation.shape
    columns = [image(store[rows], shape), image(edited[rows], shape)]
    path = out.with_name(out.name + ".png")
    save_png(path, sheet(columns, headers=["field", "edited field"], title=editor.operation.name))
    return str(path)
