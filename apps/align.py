"""nf align: fields brought next to a reference, and how much nearer the straight line between two fits then is."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from tyro.conf import arg

from apps.barriers import draw_curves, draw_midpoints, measure, show
from apps.identity import store_sha256
from apps.options import SHOWN, OutPath, Shown, StorePath, Threads
from apps.output import Output, duration
from apps.progress import Progress
from apps.training import limit_threads

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields import FieldBatch, FieldSpec, FieldStore
    from neuralfields.symmetry import Element
    from wsnets.data import Population

    Matcher = Callable[[FieldBatch, FieldBatch, tuple[str, ...]], Element]

SHARD = 1024
AT_ONCE = 64  # fields between two signs of progress
POINTS = 1024  # at which activations and losses of fields that are no pictures are compared
METHODS = ("weights", "activations", "paths")


@dataclass(frozen=True, kw_only=True)
class Align:
    """Write a store of the fields of STORE, moved next to a reference by symmetries: their functions stay as they are.

    With the reference in another store, fitted to the same signals, or in the groups of this one, it also measures what
    that is worth: the loss along the straight line between the two fields of a pair, before, after permutations only
    and after all moves that the activation allows. That loss is the mean squared error against the mean of what the two
    ends show, the barrier what exceeds the line between the losses of the ends.
    """

    keeps_partial_work: ClassVar[bool] = True

    store: StorePath
    """Folder of a store."""
    out: OutPath
    """Folder of the store to write: new, or holding the same alignment, unfinished."""
    to: Annotated[str, arg(metavar="mean|group|ID|STORE")] = "mean"
    """Reference: the mean of aligned fields (written beside the new store, as DIR-reference), the first field of every
    field's group, the field of an id, or a store: its only field, or for each field the one of the same signal."""
    kinds: Literal["exact", "permutation"] = "exact"
    """Moves of the written fields: all that the activation allows, or permutations only (not for a learned method)."""
    method: Annotated[str, arg(metavar="weights|activations|paths|FOLDER")] = "weights"
    """What is matched: weights, activations, the loss along the paths (slow, and the lowest), or what a folder of `nf
    train align` learned. The mean itself is always found by weights."""
    limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Align the first so many fields."""
    pairs: int = 200
    """Pairs that barriers are measured on, at most; 0 for none."""
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


@dataclass(frozen=True, eq=False)
class References:
    """Where the reference of every field is: one for all, or a field of a store for each, by position (N,).

    kind: a word for what they are.
    """

    kind: str
    one: "FieldBatch | None" = None
    store: "FieldStore | None" = None
    partner: np.ndarray | None = None

    def of(self, positions: np.ndarray) -> "FieldBatch":
        """References of the fields at these positions: as many, or one."""
        if self.one is not None:
            return self.one
        assert self.store is not None
        assert self.partner is not None
        return self.store[self.partner[positions]]

    def checksum(self) -> str:
        """What tells these references from others, whatever their folder is called."""
        import hashlib

        if self.one is not None:
            return hashlib.sha256(self.one.flat().contiguous().numpy().tobytes()).hexdigest()
        assert self.store is not None
        return store_sha256(self.store.path)


def align(options: Align, output: Output) -> None:
    """Run `nf align`."""
    from neuralfields.store import open_store
    from neuralfields.symmetry import groups_of

    limit_threads(options.threads)
    store = open_store(options.store)
    count = len(store) if options.limit is None else min(options.limit, len(store))
    if count < 1:
        raise ValueError(
            f"limit={options.limit} of the {len(store):,} fields in {options.store}: expected one at least"
        )
    if options.pairs < 0:
        raise ValueError(f"pairs={options.pairs}: expected zero or more")
    if options.method not in METHODS and options.kinds != "exact":
        raise ValueError(f"kinds={options.kinds!r} with method={options.method!r}: a learned one knows exact only")
    kinds = groups_of(store.spec) if options.kinds == "exact" else ("permutation",)
    shape = picture_shape(store)
    match = matcher(options.method, store.spec, shape)
    started = time.perf_counter()
    references = find(options, store, count, kinds)
    written = write_aligned(options, store, references, match, kinds, count)
    took = f"in {duration(time.perf_counter() - started)}" if written else "were there already"
    output.facts([("aligned", f"{count:,} fields to {options.to} by {options.method}, {took}: {', '.join(kinds)}")])
    output.record(fields=count, out=options.out, kinds=list(kinds), method=options.method, to=options.to)
    output.record(seconds=time.perf_counter() - started if written else None)
    if references.partner is not None and options.pairs:
        judge(options, store, references, match, count, output)
    output.facts([("out", options.out)])
    output.next(["nf", "info", options.out])


def matcher(method: str, spec: "FieldSpec", shape: tuple[int, int] | None) -> "Matcher":
    """How elements are found: (fields, reference, kinds) -> Element. Raises ValueError for an unknown method."""
    if method == "weights":
        from wsnets.align import align as by_weights

        return by_weights
    if method == "activations":
        from wsnets.activation_matching import match_activations

        coords = points(spec, shape)
        return lambda fields, reference, kinds: match_activations(fields, reference, coords, kinds)
    if method == "paths":
        return paths_matcher(points(spec, shape))
    if not Path(method).is_dir():
        raise ValueError(f"method={method!r}: expected {', '.join(METHODS)} or a folder that `nf train align` wrote")
    from wsnets.deep_aligner import DeepAligner

    learned = DeepAligner.load(method)
    return lambda fields, reference, kinds: learned.element(fields, reference)


def paths_matcher(coords: "Tensor") -> "Matcher":
    """Path matching at every so many of the coordinates, as fit into memory."""
    from wsnets.path_matching import match_paths, most_points

    def match(fields: "FieldBatch", reference: "FieldBatch", kinds: tuple[str, ...]) -> "Element":
        step = -(-len(coords) // most_points(fields, kinds))
        return match_paths(fields, reference, coords[::step], kinds)

    return match


def picture_shape(store: "FieldStore") -> tuple[int, int] | None:
    """Height and width of the pictures that the fields were fitted to, 28 x 28 where unknown; None for no pictures."""
    if store.spec.in_dim != 2:
        return None
    shape = (store.meta.get("signal") or {}).get("shape") or (28, 28)
    return int(shape[0]), int(shape[1])


def points(spec: "FieldSpec", shape: tuple[int, int] | None) -> "Tensor":
    """Coordinates at which fields are compared: the pixels of their pictures, else random points; float64 (B, I)."""
    import torch

    from neuralfields.grids import image_coords

    if shape is not None:
        return image_coords(spec, shape).double()
    draws = torch.Generator().manual_seed(0)
    return 2 * torch.rand(POINTS, spec.in_dim, generator=draws, dtype=torch.float64) - 1


def find(options: Align, store: "FieldStore", count: int, kinds: tuple[str, ...]) -> References:
    """The references that --to asks for. Raises ValueError where there are none."""
    from neuralfields.store import open_store
    from wsnets.data import Subset
    from wsnets.network import check_spec
    from wsnets.pairs import between, within

    own = Subset(store, np.arange(count))
    if options.to == "mean":
        return References("mean", mean(options, own, store_sha256(store.path), kinds))
    if options.to == "group":
        partner = np.arange(count)
        first, other = within(own)
        partner[other] = first
        return References("group", None, store, partner)
    if options.to.isdecimal():
        at = np.flatnonzero(store.ids == int(options.to))
        if len(at) == 0:
            raise ValueError(f"to={options.to}: expected the id of a field in {options.store}, such as {store.ids[0]}")
        return References("field", store[at[:1]])
    if not Path(options.to).is_dir():
        raise ValueError(f"to={options.to!r}: expected mean, group, the id of a field, or the folder of a store")
    other = open_store(options.to)
    check_spec(other.spec, store.spec)
    if len(other) == 1:
        return References("field", other[:])
    return References("store", None, other, between(own, other))


def mean(options: Align, population: "Population", source: str, kinds: tuple[str, ...]) -> "FieldBatch":
    """The mean of aligned fields, kept as a store of one field beside the new one; that one where it is there."""
    from neuralfields.store import open_store, save
    from wsnets.align import Aligner
    from wsnets.data import batches

    folder = Path(f"{options.out.rstrip('/')}-reference")
    about = {**population.meta, "mean": {"kinds": list(kinds), "fields": len(population), "source": source}}
    if (folder / "store.json").exists():
        kept = open_store(folder)
        if kept.complete and kept.meta == about:
            return kept[:]
        raise ValueError(f"{folder} holds another reference: expected none, or the one of this alignment")
    found = Aligner.fit(batches(population, AT_ONCE), kinds).reference
    return save(folder, found.to(population[[0]].weights[0].dtype), {}, about)[:]


def write_aligned(
    options: Align,
    store: "FieldStore",
    references: References,
    match: "Matcher",
    kinds: tuple[str, ...],
    count: int,
) -> bool:
    """Write aligned fields shard by shard, with the index of the originals; False where all were there already."""
    from neuralfields import FieldBatch, symmetry
    from neuralfields.store_writer import StoreWriter
    from wsnets.data import check_finite
    from wsnets.deep_aligner import DeepAligner

    about = {"to": references.kind, "kinds": list(kinds), "method": options.method}
    if options.method not in METHODS:
        about |= {"method": "learned", "aligner": DeepAligner.load(options.method).digest()}
    about |= {"source": store_sha256(store.path), "reference": references.checksum()}
    meta, done = {**store.meta, "aligned": about}, 0
    with (
        StoreWriter(options.out, store.spec, meta, count, SHARD) as writer,
        Progress("align", "fields", options.output.quiet) as bar,
    ):
        missing = writer.missing()
        for shard, part in missing:
            moved = []
            for start in range(part.start, part.stop, AT_ONCE):
                at = np.arange(start, min(start + AT_ONCE, part.stop))
                fields = store[at]
                check_finite(fields, store.ids[at])
                moved.append(symmetry.act(match(fields, references.of(at), kinds), fields))
                done += len(at)
                bar.update(done, count, f"{done:,} of {count:,}")
            rows = {name: store.index.column(name).to_pylist()[part] for name in store.index.column_names}
            writer.write(shard, FieldBatch.cat(moved), rows)
        if not writer.complete:
            writer.finish({})
    return bool(missing)


def judge(
    options: Align, store: "FieldStore", references: References, match: "Matcher", count: int, output: Output
) -> None:
    """Measure, print, record and draw the barriers of some pairs, by --method; a learned one beside the weights'."""
    from apps.edit import spread
    from neuralfields import FieldBatch, symmetry
    from neuralfields.store import open_store
    from neuralfields.symmetry import groups_of

    assert references.partner is not None
    own = np.arange(count)
    paired = own if references.kind == "store" else own[references.partner[own] != own]
    at = paired[spread(len(paired), options.pairs)]
    fields, reference = store[at], references.of(at)
    shape, written = picture_shape(store), open_store(options.out)[at]
    groups: dict[str, tuple[str, ...]] = {"permutation": ("permutation",), "exact": groups_of(store.spec)}
    learned = options.method not in METHODS
    both = matcher("weights", store.spec, shape) if learned else match
    moved = {"before": fields, **({"learned": written} if learned else {})}
    with Progress("match", "pairs", options.output.quiet) as bar:
        for name, kinds in groups.items():
            if name == options.kinds and not learned:
                moved[name] = written
                continue
            parts = []
            for start in range(0, len(at), AT_ONCE):
                some, near = (x[start : start + AT_ONCE] for x in (fields, reference))
                parts.append(symmetry.act(both(some, near, kinds), some))
                done = start + len(some)
                bar.update(done, len(at), f"{done:,} of {len(at):,}", name)
            moved[name] = FieldBatch.cat(parts)
    paths = measure(reference, moved, points(store.spec, shape))
    show(paths, output)
    curves, sheet = Path(options.out) / "barriers.png", Path(options.out) / "midpoints.png"
    draw_curves(curves, paths)
    if shape is not None and store.spec.out_dim in (1, 3):
        draw_midpoints(sheet, paths, shape)
        output.facts([("midpoints", sheet)])
        output.record(midpoints=sheet)
    output.facts([("curves", curves)])
    output.record(barrier_curves=curves)
