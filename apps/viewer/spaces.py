"""Spaces: where fields are points: their weights, their weights aligned, or what a network makes of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.paths import ALIGNED, WEIGHTS, embeddings

if TYPE_CHECKING:
    from apps.viewer.networks import Entry, Networks
    from neuralfields import FieldBatch, FieldSpec

Points = Callable[["FieldBatch"], np.ndarray]  # finite fields -> float32 (n, D)
WORDS = {"classify": "scores", "contrast": "features"}  # what the networks of a task give


@dataclass(frozen=True, eq=False)
class Space:
    """name: unique in a viewer; doing: what is done to get there; prepare: from some of the fields, finite ones spread
    over the population, to what makes points of all; is_kept: whether points are kept, or made again when needed."""

    name: str
    doing: str
    prepare: Callable[["FieldBatch"], Points]
    is_kept: bool = True


def spaces(networks: "Networks", spec: "FieldSpec") -> tuple[list[Space], list[str]]:
    """The spaces of fields of a spec, and one line about each that there is not."""
    found, notices = [Space(WEIGHTS, "Reading the weights", lambda _: _flat, is_kept=False)], []
    if reason := unaligned(spec):
        notices.append(f"No {ALIGNED}: {reason}.")
    else:
        found.append(Space(ALIGNED, "Aligning the weights to their mean", _aligning))
    named = [(name, one) for name, one in embeddings(networks, spec).items()]
    named += [(f"{word} of {one.name}", one) for task, word in WORDS.items() for one in networks.of(task)]
    for name, one in named:
        if one.spec == spec:
            found.append(Space(name, f"Reading the fields with {one.name}", partial(_through, networks, one)))
    for one in networks.of("embed", *WORDS):
        if one.spec != spec:
            notices.append(f"{one.name} is left out: it reads {one.spec.describe()}.")
    return found, notices


def unaligned(spec: "FieldSpec") -> str:
    """Why fields of a spec cannot be aligned; "" where they can."""
    from neuralfields.symmetry import groups_of

    try:
        groups_of(spec)
    except ValueError:  # trained encodings and view heads
        return "no symmetry is known of trained encodings and view heads"
    return ""


def _flat(fields: "FieldBatch") -> np.ndarray:
    return fields.flat().float().numpy()


def _aligning(some: "FieldBatch") -> Points:
    """By all moves that the activation allows, next to the mean of some of the fields: as nf align."""
    from wsnets.align import Aligner, aligned

    reference = Aligner.fit([some]).reference
    return lambda fields: _flat(aligned(fields, reference))


def _through(networks: "Networks", one: "Entry", _: "FieldBatch") -> Points:
    def points(fields: "FieldBatch") -> np.ndarray:
        with networks.using(one) as network:
            found = network.embed(fields) if one.task == "contrast" else network.vectors(fields)
        return found.float().numpy()

    return points
