"""nf merge: average the fits of each item into one field, and see what is left of the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from tyro.conf import Positional, arg

from apps.identity import store_sha256
from apps.options import SHOWN, OutPath, Shown, Threads
from apps.output import Output, duration
from apps.progress import Progress
from apps.training import limit_threads

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields import FieldBatch, FieldStore

SHARD = 64
DRAWN = 8
JUDGED = 512  # merged items of which the PSNR is taken
POINTS = 1024  # at which fields that show no pictures are compared
LOOKS = ("parts", "merged", "mean", "aligned")
MOST_PARTS = 6  # that are drawn
COLUMNS = ("id", "label", "split", "name", "group")


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Average the fits of each item, from several stores or from the groups of one, into a store of merged fields.

    Items with one fit alone are left out. The reported PSNR is against the mean rendering of the parts of an item, as
    a store does not hold the pictures that its fields were fitted to. The picture lies beside the new store, as
    DIR-sheet.png: all parts of an item, their plain mean, the mean after alignment.
    """

    keeps_partial_work: ClassVar[bool] = True

    stores: Annotated[Positional[tuple[str, ...]], arg(metavar="STORE [STORE ...]", help_behavior_hint="")]
    """Folders of stores of one architecture; with --method transport their hidden widths may differ."""
    out: OutPath
    """Folder of the store to write: new, or holding the same merge, unfinished."""
    by: Literal["id", "name", "group"] = "id"
    """What fits of one item have in common."""
    method: Literal["mean", "aligned", "transport", "soup"] = "aligned"
    """Plain mean; mean after alignment; optimal transport onto the first fit; aligned fits that do no harm."""
    kinds: Literal["exact", "permutation"] = "exact"
    """Moves of units that fits are aligned by: all that the activation has, or permutations."""
    limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Merge the first so many items."""
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


@dataclass(frozen=True)
class Items:
    """Where the fits of every item are: rows[n] lists (number of the store, position in it), two at least."""

    stores: list["FieldStore"]
    rows: list[list[tuple[int, int]]]
    single: int

    def parts(self, items: Sequence[int]) -> list["FieldBatch"]:
        """The fits of some items that have equally many, from the same stores: part p of all of them together."""
        from wsnets.data import check_finite

        chosen, found = [self.rows[n] for n in items], []
        for p, (number, _) in enumerate(chosen[0]):
            store, positions = self.stores[number], np.array([places[p][1] for places in chosen])
            found.append(store[positions])
            check_finite(found[-1], store.ids[positions])
        return found

    def alike(self, items: Sequence[int]) -> list[list[int]]:
        """Items in lists that `parts` can read together, each list in order."""
        found: dict[tuple[int, ...], list[int]] = {}
        for n in items:
            found.setdefault(tuple(store for store, _ in self.rows[n]), []).append(n)
        return list(found.values())


def merge(options: Merge, output: Output) -> None:
    """Run `nf merge`."""
    from neuralfields.store import open_store

    limit_threads(options.threads)
    check_stores(options.stores)
    items = find_items([open_store(path) for path in options.stores], options)
    seconds = write_merged(items, options)
    merged = open_store(options.out)
    figures = judge(items, merged, options)
    picture = draw(items, options)
    took = "were there already" if seconds is None else f"in {duration(seconds)}"
    fits = sum(len(places) for places in items.rows)
    left_out = f"; {items.single:,} with one fit left out" if items.single else ""
    output.facts([("merged", f"{len(items.rows):,} items of {fits:,} fits {took}: {options.method}{left_out}")])
    output.say(f"  PSNR against the mean rendering of the parts, {figures['judged']:,} items")
    output.facts([(name, f"{figures[f'psnr_{name}']:.2f} dB") for name in LOOKS if f"psnr_{name}" in figures])
    output.facts([("picture", picture), ("out", options.out)])
    output.record(items=len(items.rows), fits=fits, single=items.single, seconds=seconds, method=options.method)
    output.record(**figures, picture=picture, out=options.out)
    command = "mesh" if merged.spec.in_dim == 3 else "render"
    suffix = "-meshes" if merged.spec.in_dim == 3 else ".png"
    output.next(["nf", command, options.out, "--out", options.out.rstrip("/") + suffix])


def check_stores(paths: Sequence[str]) -> None:
    """Raise ValueError for no store, and for one that is there twice: its fits would be merged with themselves."""
    if not paths:
        raise ValueError("stores=(): expected one STORE at least")
    seen = set()
    for path in paths:
        if (folder := Path(path).resolve()) in seen:
            raise ValueError(f"stores={path!r} is given twice: expected every store once")
        seen.add(folder)


def find_items(stores: list["FieldStore"], options: Merge) -> Items:
    """Fits of the same item, in the order in which items come.

    Raises ValueError when no item has two fits, and for stores whose fields cannot be averaged.
    """
    from neuralfields.symmetry import groups_of
    from wsnets.network import check_spec

    first, limit, found = stores[0], options.limit, {}
    groups_of(first.spec)
    for number, store in enumerate(stores):
        if options.method != "transport":
            check_spec(store.spec, first.spec)
        # A store without a column "group" groups by id, as everywhere.
        keys = store.groups if options.by == "group" else store.column(options.by)
        if {None, ""} & set(keys.tolist()):  # a name that is not known is stored as ""
            raise ValueError(f"by={options.by!r}: {options.stores[number]} has fields without one")
        for position, key in enumerate(keys.tolist()):
            found.setdefault(key, []).append((number, position))
    rows = [places for places in found.values() if len(places) > 1]
    if not rows:
        names = ", ".join(options.stores)
        raise ValueError(f"by={options.by!r}: expected fits of the same {options.by} in {names}, found none")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: expected a positive number")
    wrong = next((places for places in rows if stores[places[0][0]].spec != first.spec), None)
    if wrong is not None:
        name = first.column("id").dtype.type(stores[wrong[0][0]].ids[wrong[0][1]])
        raise ValueError(
            f"id {name} is not in {options.stores[0]}, onto whose fields others of another width are brought"
        )
    return Items(stores, rows[:limit], len(found) - len(rows))


def kinds_of(options: Merge) -> tuple[str, ...] | None:
    """Kinds of symmetry that are asked for; None for all."""
    return ("permutation",) if options.kinds == "permutation" else None


def merged_fields(parts: list["FieldBatch"], options: Merge, method: str, meta: dict) -> "FieldBatch":
    """Merge fits of some items; a soup is judged against the mean rendering of its parts."""
    from wsnets.merge import merge as average

    shown = [values(part, meta) for part in parts] if method == "soup" else []

    def loss(fields: "FieldBatch") -> "Tensor":
        return (values(fields, meta) - sum(shown[1:], shown[0]) / len(shown)).square().mean(dim=(1, 2))

    return average(parts, method, kinds_of(options), loss)  # type: ignore[arg-type]


def write_merged(items: Items, options: Merge) -> float | None:
    """Write merged fields shard by shard, with the index of every item's first fit; None where all were there."""
    import time

    import torch

    from neuralfields.batch import FieldBatch
    from neuralfields.store_writer import StoreWriter

    first, count = items.stores[0], len(items.rows)
    sources = [store_sha256(store.path) for store in items.stores]
    about = {"method": options.method, "by": options.by, "symmetries": options.kinds, "sources": sources}
    meta = {**first.meta, "merged": about}
    kept = [name for name in COLUMNS if all(name in store.index.column_names for store in items.stores)]
    columns = [{name: store.index.column(name).to_pylist() for name in kept} for store in items.stores]
    started, done = time.perf_counter(), 0
    with StoreWriter(options.out, first.spec, meta, count, SHARD) as writer:
        missing = writer.missing()
        with Progress("merge", "items", options.output.quiet) as bar:
            for shard, part in missing:
                flat = torch.zeros(part.stop - part.start, first.spec.num_params)
                for numbers in items.alike(range(part.start, part.stop)):
                    fields = merged_fields(items.parts(numbers), options, options.method, first.meta)
                    flat[[n - part.start for n in numbers]] = fields.flat()
                places = [items.rows[n][0] for n in range(part.start, part.stop)]
                rows = {name: [columns[store][name][row] for store, row in places] for name in kept}
                writer.write(shard, FieldBatch.from_flat(first.spec, flat), rows)
                done += len(flat)
                bar.update(done, count, f"{done:,} of {count:,}")
        if not writer.complete:
            writer.finish({})
    return time.perf_counter() - started if missing else None


def values(fields: "FieldBatch", meta: dict) -> "Tensor":
    """What fields show: at the pixels of their pictures, else at fixed random points: (N, B, O)."""
    import torch

    from neuralfields.evaluate import evaluate
    from neuralfields.render import image

    if fields.spec.in_dim == 2:
        return image(fields, picture_shape(meta)).flatten(1, 2)
    draws = torch.Generator().manual_seed(0)
    coords = 2 * torch.rand(POINTS, fields.spec.in_dim, generator=draws) - 1
    with torch.no_grad():
        return evaluate(fields, coords)


def picture_shape(meta: dict) -> tuple[int, int]:
    """Height and width of the pictures that fields were fitted to; 28 x 28 where that is not stored."""
    height, width = (meta.get("signal") or {}).get("shape") or (28, 28)
    return int(height), int(width)


def judge(items: Items, merged: "FieldStore", options: Merge) -> dict[str, float]:
    """Mean PSNR against the mean rendering of the parts: of the parts, what was written, and other averages."""
    from apps.edit import spread

    meta, chosen = merged.meta, spread(len(merged), JUDGED).tolist()
    found: dict[str, list[np.ndarray]] = {}
    for numbers in items.alike(chosen):
        parts = items.parts(numbers)
        shown = [values(part, meta) for part in parts]
        wanted = sum(shown[1:], shown[0]) / len(shown)
        sides = {"parts": shown, "merged": [values(merged[numbers], meta)]}
        for name, fields in averages(parts, options, meta).items():
            sides[name] = [values(fields, meta)]
        for name, pictures in sides.items():
            mse = [(picture - wanted).square().mean(dim=(1, 2)).clamp_min(1e-15) for picture in pictures]
            found.setdefault(name, []).extend(-10.0 * np.log10(each.numpy()) for each in mse)
    return {"judged": len(chosen), **{f"psnr_{name}": float(np.concatenate(x).mean()) for name, x in found.items()}}


def averages(parts: list["FieldBatch"], options: Merge, meta: dict) -> dict[str, "FieldBatch"]:
    """The plain and the aligned mean of the parts, as far as their widths let them."""
    if any(part.spec != parts[0].spec for part in parts):
        return {}
    return {method: merged_fields(parts, options, method, meta) for method in ("mean", "aligned")}


def draw(items: Items, options: Merge) -> str | None:
    """Draw the parts of some items, their plain mean and their aligned mean; None for fields that show no pictures."""
    from apps.edit import spread
    from neuralfields.render import image, save_png, sheet

    numbers = max(items.alike(range(len(items.rows))), key=len)
    parts = items.parts([numbers[n] for n in spread(len(numbers), DRAWN)])
    if parts[0].spec.in_dim != 2:
        return None
    meta = items.stores[0].meta
    shape = picture_shape(meta)
    sides = {f"part {p + 1}": fields for p, fields in enumerate(parts[:MOST_PARTS])}
    sides.update(
        {f"{name} mean".replace("mean mean", "plain mean"): x for name, x in averages(parts, options, meta).items()}
    )
    if options.method in ("transport", "soup"):
        sides[options.method] = merged_fields(parts, options, options.method, meta)
    path = f"{options.out.rstrip('/')}-sheet.png"
    pictures = [image(fields, shape) for fields in sides.values()]
    save_png(path, sheet(pictures, columns=1, headers=list(sides), title=f"{len(parts)} fits of each item, merged"))
    return path
