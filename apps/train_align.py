"""nf train align: a network that finds which units of two fields belong together."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from tyro.conf import OmitArgPrefixes, arg

from apps.edit import spread
from apps.options import SHOWN, OutPath, Shown, StorePath, Threads
from apps.output import Output
from apps.sides import sides
from apps.training import TrainingOptions, describe, is_lead, limit_threads, settings, watched

if TYPE_CHECKING:
    from neuralfields import FieldBatch
    from neuralfields.symmetry import Element
    from wsnets.data import Population
    from wsnets.deep_aligner import DeepAligner
    from wsnets.tasks.align_pairs import AlignConfig

JUDGED = 256  # fields, or pairs of fits of one item, of which figures are taken
ROUNDS = 100  # of weight matching that goes on from the network's answer


@dataclass(frozen=True, kw_only=True)
class TrainAlign:
    """Train a network that brings fields next to others in one pass, as weight matching does by search.

    At the end: the share of units of moved copies of held-out fields that come back, and for pairs of fields (fits of
    one item where STORE has several, else different fields) the squared distance that is left, over that which weight
    matching leaves, with the time that both take. An interrupted run goes on where it stopped when the same command is
    given again.
    """

    keeps_partial_work: ClassVar[bool] = True

    store: StorePath
    """Folder of a store, to train on."""
    out: OutPath
    """Folder of the aligner."""
    copy_noise: float = 1.0
    """Noise of the moved copies that are trained on, up to so many standard deviations of the weights."""
    supervised: float = 1.0
    """How much it counts that units of a moved copy come back."""
    weights: float = 10.0
    """How much the distance between pairs of different fields counts."""
    midpoint: float = 0.0
    """How much it counts what the mean of such a pair shows."""
    limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Train on the first so many fields."""
    test: Annotated[str | None, arg(metavar="STORE", help_behavior_hint="(default: the validation fields)")] = None
    """Store of held-out fields to judge on."""
    test_fraction: float = 0.0
    """Without --test: share of STORE kept aside to judge on; copies of one item stay on one side."""
    training: Annotated[TrainingOptions, OmitArgPrefixes] = field(default_factory=TrainingOptions)
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def train_align(options: TrainAlign, output: Output) -> None:
    """Run `nf train align`."""
    from wsnets.data import Subset
    from wsnets.loop import check
    from wsnets.tasks.align_pairs import AlignConfig, align_pairs

    limit_threads(options.threads)
    store, test = sides(options)
    if options.limit is not None:
        check("limit", options.limit, options.limit >= 1, "a whole number from 1")
        store = Subset(store, np.arange(min(options.limit, len(store))))
    more = {name: getattr(options, name) for name in ("copy_noise", "supervised", "weights", "midpoint")}
    config = settings(AlignConfig, options.training, store.spec, "deep_align", **more)
    quiet = options.output.quiet or not is_lead()
    aligner, seconds, epochs = watched(lambda **watch: align_pairs(store, config, options.out, **watch), quiet)
    if not is_lead():
        return
    describe(aligner, seconds, epochs, options.out, output)
    judged = test if test is not None else validation(store, config)
    found = judge(aligner, judged, options.training.seed)
    output.facts([("copies", f"{100 * found['units_back']:.2f} % of the units of {found['copies']:,} come back")])
    if found["pairs"]:
        kind = "fits of one item" if found["of_one_item"] else "different fields"
        figures = (("ratio", "the network alone"), ("ratio_after", "and weight matching from there"))
        words = ", ".join(f"{found[name]:.3f} {said}" for name, said in figures)
        output.facts([("distance", f"{words}; 1 is weight matching alone, {found['ratio_unmoved']:.3f} unmoved")])
        output.facts([("", f"{found['pairs']:,} pairs of {kind}")])
        both = f"{found['ms_network']:.2f} ms the network, {found['ms_matching']:.2f} ms weight matching"
        output.facts([("a pair", both)])
    output.facts([("out", options.out)])
    output.record(out=options.out, **found)


def validation(store: "Population", config: "AlignConfig") -> "Population":
    """The fields that training held out, or all where it held out none."""
    from wsnets.tasks.field_task import Prepared

    held = Prepared.of(store, config).val
    return held if len(held) else store


def judge(aligner: "DeepAligner", population: "Population", seed: int) -> dict[str, float]:
    """Figures of the network on some fields of a population; none of pairs where there is one field only."""
    import torch

    from neuralfields import symmetry

    fields = population[spread(len(population), JUDGED)]
    g = symmetry.sample(fields.spec, len(fields), torch.Generator().manual_seed(seed))
    back = symmetry.compose(aligner.element(symmetry.act(g, fields), fields), g)
    found: dict[str, float] = {"copies": len(fields), "units_back": share_returned(back)}
    a, b, of_one_item = pairs(population)
    found.update(pairs=len(a), of_one_item=of_one_item)
    if len(a):
        found.update(compare(aligner, population[a], population[b]))
    return found


def share_returned(element: "Element") -> float:
    """Share of units that an element leaves as they are: place, sign and half periods, scales within 0.1 percent."""
    import torch

    right, units = 0, 0
    for p, sign, k, scale in element.layers():
        kept = (p == torch.arange(p.shape[1])) & (sign == 1) & (k == 0) & ((scale - 1).abs() < 1e-3)
        right += int(kept.sum())
        units += kept.numel()
    return right / units


def pairs(population: "Population") -> tuple[np.ndarray, np.ndarray, bool]:
    """Positions of pairs of fields, and whether these are fits of one item."""
    groups = np.asarray(population.groups)
    order = np.argsort(groups, kind="stable")
    same = groups[order[1:]] == groups[order[:-1]]
    if same.any():
        at = np.flatnonzero(same)[spread(int(same.sum()), JUDGED)]
        return order[at], order[at + 1], True
    chosen = spread(len(groups), JUDGED + 1)
    return chosen[:-1], chosen[1:], False


def compare(aligner: "DeepAligner", fields: "FieldBatch", reference: "FieldBatch") -> dict[str, float]:
    """Squared distance left by the network, alone and with weight matching after it, over what weight matching leaves.

    Times in milliseconds a pair, measured on the same fields one after the other.
    """
    from neuralfields import symmetry
    from wsnets.align import align, distance

    def left(element: "Element") -> float:
        return float(distance(symmetry.act(element, fields), reference).mean())

    aligner.element(fields[:2], reference[:2])  # what is loaded at first use is not the network's time
    started = time.perf_counter()
    own = aligner.element(fields, reference)
    between = time.perf_counter()
    matched = align(fields, reference)
    ended = time.perf_counter()
    least, each = max(left(matched), 1e-30), 1000 / len(fields)
    return {
        "ratio": left(own) / least,
        "ratio_after": left(aligner.element(fields, reference, ROUNDS)) / least,
        "ratio_unmoved": float(distance(fields, reference).mean()) / least,
        "distance_matching": least,
        "ms_network": (between - started) * each,
        "ms_matching": (ended - between) * each,
    }
