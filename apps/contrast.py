"""nf train contrast: embed fields without labels."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from tyro.conf import OmitArgPrefixes, arg

from apps.options import SHOWN, OutPath, Shown, StorePath, Threads
from apps.output import Output
from apps.sides import sides, usable
from apps.training import TrainingOptions, describe, is_lead, limit_threads, settings, watched

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields import FieldBatch
    from wsnets.data import Population

STRENGTHS = (1.0, 0.1, 0.01, 0.001)  # C of the linear probe's penalty, 1 / C


@dataclass(frozen=True, kw_only=True)
class TrainContrast:
    """Train a network that embeds fields without labels: changed copies of a field near each other, others apart.

    Without --augment, pictures are turned, scaled and shifted a little, and other fields get some noise. Where STORE
    has labels, they tell how good the embedding is: by the nearest neighbour, and by a linear probe. An interrupted run
    goes on where it stopped when the same command is given again.
    """

    keeps_partial_work: ClassVar[bool] = True

    store: StorePath
    """Folder of a store, to train on."""
    out: OutPath
    """Folder of the embedder."""
    dim: int = 128
    """Numbers of an embedding."""
    temperature: float = 0.1
    """Temperature of the loss."""
    test: Annotated[str | None, arg(metavar="STORE", help_behavior_hint="(default: none)")] = None
    """Store of held-out fields to probe on."""
    test_fraction: float = 0.0
    """Without --test: share of STORE kept aside to probe on; copies of one item stay on one side."""
    training: Annotated[TrainingOptions, OmitArgPrefixes] = field(default_factory=TrainingOptions)
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def train_contrast(options: TrainContrast, output: Output) -> None:
    """Run `nf train contrast`."""
    from wsnets.train import ContrastConfig, contrast

    limit_threads(options.threads)
    store, test = sides(options)
    more = {"dim": options.dim, "temperature": options.temperature}
    # Pictures are moved through their first layer, which an encoding hides.
    usual = ("images",) if store.spec.in_dim == 2 and store.spec.encoding is None else ("noise=0.05",)
    training = replace(options.training, augment=options.training.augment or usual)
    config = settings(ContrastConfig, training, store.spec, "orbit", **more)
    quiet = options.output.quiet or not is_lead()
    embedder, seconds, epochs = watched(lambda **watch: contrast(store, config, options.out, **watch), quiet)
    if not is_lead():
        return
    describe(embedder, seconds, epochs, options.out, output)
    if test is not None and unlabelled(store, test) is None:
        trained = usable(store, True) if options.training.skip_bad else store
        probed = [(vectors(embedder.embed, side), np.asarray(side.labels)) for side in (trained, test)]
        found = probe(probed[0], probed[1])
        output.facts([("test", f"{probe_words(found)} of {len(test):,} held-out fields")])
        output.record(**{f"test_{name}": value for name, value in found.items()})
    output.facts([("out", options.out)])
    output.record(out=str(Path(options.out)), dim=options.dim)


def unlabelled(*sides: "Population") -> str | None:
    """Why there is nothing to probe: fields without a label, or of one class only; None if there is."""
    labels = [np.asarray(side.labels) for side in sides]
    missing = sum(int((side < 0).sum()) for side in labels)
    if missing:
        return f"{missing:,} fields have no label"
    return "all training fields are of one class" if len(np.unique(labels[0])) < 2 else None


def vectors(embed: Callable[["FieldBatch"], "Tensor"], population: "Population") -> np.ndarray:
    """What `embed` makes of a population, some thousand fields at a time: (N, D) float32."""
    from wsnets.data import batches

    return np.concatenate([embed(fields).numpy() for fields in batches(population)])


def probe(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], scale: bool = False
) -> dict[str, float]:
    """Accuracy in [0, 1] on test fields of the nearest training field, and of logistic regression.

    Both sides: vectors (N, D) and labels (N,). scale: the regression sees every number with mean 0 and variance 1, and
    the strength of its penalty is the one of 1 / C = 1, 10, 100, 1000 that does best on a tenth of every class of the
    training fields; vectors on a sphere do without, C = 10.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    (x, y), (u, v) = train, test
    nearest = KNeighborsClassifier(1).fit(x, y).score(u, v)
    strength = 10.0
    if scale:
        scaler = StandardScaler().fit(x)
        x, u, aside = scaler.transform(x), scaler.transform(u), tenth(y)
        tried = {c: LogisticRegression(max_iter=2000, C=c).fit(x[~aside], y[~aside]) for c in STRENGTHS}
        strength = max(STRENGTHS, key=lambda c: tried[c].score(x[aside], y[aside]) if aside.any() else 0.0)
    linear = LogisticRegression(max_iter=2000, C=strength).fit(x, y).score(u, v)
    return {"nearest": float(nearest), "linear": float(linear)}


def tenth(labels: np.ndarray) -> np.ndarray:
    """Every tenth field of each class, (N,) bool: populations may be sorted by class."""
    aside = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        aside[np.flatnonzero(labels == label)[9::10]] = True
    return aside


def probe_words(found: dict[str, float]) -> str:
    """The figures of `probe` as text."""
    return f"nearest neighbour {100 * found['nearest']:.2f} %, linear probe {100 * found['linear']:.2f} %"
