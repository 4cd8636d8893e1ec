"""nf train edit and nf edit: networks that change fields, so that they show something else."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from apps.comparison import compare, measures
from apps.edited import Originals, contact_sheet, error_words, errors, judge, named
from apps.identity import store_sha256
from apps.options import SHOWN, OutPath, Shown, StorePath, Threads, not_both
from apps.output import Output, duration
from apps.progress import Progress
from apps.sides import sides, without_bad
from apps.training import TrainingOptions, describe, is_lead, limit_threads, settings, watched

if TYPE_CHECKING:
    from neuralfields import FieldStore
    from wsnets import Editor, Operation
    from wsnets.data import Population, Subset

SHARD = 1024
DRAWN = 12
Beside: TypeAlias = Annotated[str | None, arg(metavar="SOURCE", help_behavior_hint="(default: none)")]
JUDGED = 1024  # fields of a new store that are compared with the target


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
    beside: Beside = None
    """Where the images are that the fields were fitted to: also judge by these, edited."""
    truth: Literal["fields", "images"] = "fields"
    """What the target is made of in training: what a field shows, or its image of --beside."""
    compare: Annotated[str | None, arg(metavar="NAME,NAME,...", help_behavior_hint="(default: one --model)")] = None
    """Train several models, each in a folder of its name inside --out, and print one table."""
    training: Annotated[TrainingOptions, OmitArgPrefixes] = field(default_factory=TrainingOptions)
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Edit the fields of STORE: write a new store of the edited ones, and a picture of some: original, edited, target.

    The picture lies beside the new store, as DIR-sheet.png.
    """

    keeps_partial_work: ClassVar[bool] = True

    editor: Annotated[Positional[str], arg(metavar="EDITOR")]
    """Folder that `nf train edit` wrote."""
    store: StorePath
    """Folder of a store."""
    out: OutPath
    """Folder of the store to write: new, or holding the same edit, unfinished."""
    beside: Beside = None
    """Where the images are that the fields were fitted to: also judge by these, edited."""
    limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Edit the first so many fields."""
    skip_bad: bool = False
    """Leave out fields with NaN or infinite weights instead of refusing the store."""
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def train_edit(options: TrainEdit, output: Output) -> None:
    """Run `nf train edit`."""
    from wsnets.train import EditConfig, edit

    limit_threads(options.threads)
    not_both(compare=options.compare, model=options.training.model)
    store, test = sides(options)
    operation = operation_for(options, store)
    drawn = store if test is None else test
    originals = Originals.of(drawn, options.beside, operation)
    images = truth_of(options, store, operation)
    quiet = options.output.quiet or not is_lead()

    def prepare(name: str | None) -> EditConfig:
        chosen = options.training if name is None else replace(options.training, model=name)
        return settings(EditConfig, chosen, store.spec, "nfn_np", target=operation)

    def train(config: EditConfig, out: str, what: str = "train") -> tuple["Editor", float, int]:
        return watched(lambda **watch: edit(store, config, out, **watch, images=images), quiet, what)

    def one(name: str, config: EditConfig, out: str) -> dict[str, Any]:
        editor, _, _ = train(config, out, name)
        row: dict[str, Any] = {"validation MSE": editor.training.get("val_mse")}
        if is_lead():
            draw(editor, drawn, Path(out), originals)
        if test is not None and is_lead():
            found = judge(editor, test, originals)
            row.update({"test MSE": found["mse"], "unedited": found["mse_unedited"]})
            if originals is not None:
                row.update({"to images": found["mse_image"], "unedited to images": found["mse_image_unedited"]})
        return {**row, **measures(editor, out)}

    if options.compare is not None:
        compare(options.compare, options.out, prepare, one, output)
        return
    editor, seconds, epochs = train(prepare(None), options.out)
    if not is_lead():
        return
    describe(editor, seconds, epochs, options.out, output)
    if test is not None:
        found = judge(editor, test, originals)
        output.facts([("test", f"{error_words(found, '')} on {len(test):,} held-out fields")])
        output.facts([("images", None if originals is None else error_words(found, "_image"))])
        output.record(test_fields=len(test), **{f"test_{name}": value for name, value in found.items()})
    picture = draw(editor, drawn, Path(options.out), originals)
    output.facts([("picture", picture), ("out", options.out)])
    output.record(out=options.out, target=operation.to_json(), picture=picture)
    output.next(
        ["nf", "edit", options.out, options.test or options.store, "--out", f"{options.out.rstrip('/')}-edited"]
    )


def truth_of(options: TrainEdit, store: "Population", operation: "Operation") -> Originals | None:
    """The images that targets are made of in training; None for what the fields show. Raises ValueError without any."""
    if options.truth == "fields":
        return None
    if options.beside is None:
        raise ValueError("truth='images' without beside: expected --beside, where these images are")
    return Originals.of(store, options.beside, operation)


def operation_for(options: TrainEdit, store: "Population") -> "Operation":
    """The operation asked for, on pictures of the size that the store's signal has. Raises ValueError without one."""
    from wsnets.operations import Operation

    shape = (store.meta.get("signal") or {}).get("shape") or (1, 1)
    if store.spec.in_dim == 2 and tuple(shape) == (1, 1):
        raise ValueError(f"{options.store} does not say how large its pictures were: expected a store that does")
    return Operation(name=options.target, shape=(int(shape[0]), int(shape[1])), strength=options.strength)


def draw(editor: "Editor", population: "Population", out: Path, originals: Originals | None) -> str | None:
    """Draw some fields of a population, edited, to `out`/edited.png; None for fields that show no pictures."""
    rows = spread(len(population), DRAWN)
    fields, images = population[rows], None if originals is None else originals[rows]
    return contact_sheet(out / "edited.png", editor.operation, fields, editor.apply(fields), images)


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` positions below `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


def edit_store(options: Edit, output: Output) -> None:
    """Run `nf edit`."""
    import torch

    from neuralfields.store import open_store
    from wsnets import Editor

    limit_threads(options.threads)
    editor, store = Editor.load(options.editor), without_bad(open_store(options.store), options.skip_bad)
    count = len(store) if options.limit is None else min(options.limit, len(store))
    if count < 1:
        raise ValueError(
            f"limit={options.limit} of the {len(store):,} fields in {options.store}: expected one at least"
        )
    originals = Originals.of(store, options.beside, editor.operation)
    seconds = write_edited(editor, store, options.out, count, options.output.quiet)
    edited = open_store(options.out)
    judged, operation, draws = spread(len(edited), JUDGED), editor.operation, torch.Generator().manual_seed(0)
    rows = spread(len(edited), DRAWN)
    to_judge, to_draw = (None if originals is None else originals[which] for which in (judged, rows))
    sums = errors(operation, store[judged], edited[judged], draws, to_judge)
    found = named(sums / len(judged))
    sheet_path = Path(f"{options.out.rstrip('/')}-sheet.png")
    picture = contact_sheet(sheet_path, operation, store[rows], edited[rows], to_draw)
    took = "were there already" if seconds is None else f"in {duration(seconds)}"
    output.facts([("edited", f"{count:,} fields {took}: {operation.name}")])
    output.facts([("error", f"{error_words(found, '')} of {len(judged):,} fields")])
    output.facts([("images", None if originals is None else error_words(found, "_image"))])
    output.facts([("picture", picture), ("out", options.out)])
    output.record(fields=count, seconds=seconds, out=options.out, operation=operation.to_json(), picture=picture)
    output.record(**found)
    command = "mesh" if store.spec.in_dim == 3 else "render"
    suffix = "-meshes" if store.spec.in_dim == 3 else ".png"
    output.next(["nf", command, options.out, "--out", options.out.rstrip("/") + suffix])


def write_edited(editor: "Editor", store: "FieldStore | Subset", out: str, count: int, quiet: bool) -> float | None:
    """Write edited fields shard by shard, with the index of the originals; None where all were there already."""
    import time

    from neuralfields.store_writer import StoreWriter
    from wsnets.data import check_finite

    about = {"operation": editor.operation.to_json(), "editor": editor.digest()}
    meta = {**store.meta, "edited": {**about, "source": store_sha256(store.path)}}
    kept = [name for name in store.index.column_names if name in ("id", "label", "split", "name", "group")]
    started, done = time.perf_counter(), 0
    with StoreWriter(out, store.spec, meta, count, SHARD) as writer, Progress("edit", "fields", quiet) as bar:
        missing = writer.missing()
        for shard, part in missing:
            fields = store[part]
            check_finite(fields, store.ids[part], skippable=True)
            rows = {name: store.index.column(name).to_pylist()[part] for name in kept}
            writer.write(shard, editor.apply(fields), rows)
            done += len(fields)
            bar.update(done, count, f"{done:,} of {count:,}")
        if not writer.complete:
            writer.finish({})
    return time.perf_counter() - started if missing else None
