"""nf train contrast: embed fields without labels."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from tyro.conf import OmitArgPrefixes, arg

from apps.classify import split
from apps.options import SHOWN, OutPath, Shown, StorePath, Threads
from apps.output import Output
from apps.training import TrainingOptions, describe, is_lead, limit_threads, settings, watched

if TYPE_CHECKING:
    from wsnets import Embedder
    from wsnets.data import Population


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
    from neuralfields.store import open_store
    from wsnets.train import ContrastConfig, contrast

    limit_threads(options.threads)
    store, test = split(open_store(options.store), options.test, options.test_fraction, options.training.seed)
    more = {"dim": options.dim, "temperature": options.temperature}
    usual = ("images",) if store.spec.in_dim == 2 else ("noise=0.05",)
    training = replace(options.training, augment=options.training.augment or usual)
    config = settings(ContrastConfig, training, "orbit", **more)
    quiet = options.output.quiet or not is_lead()
    embedder, seconds, epochs = watched(lambda **watch: contrast(store, config, options.out, **watch), quiet)
    if not is_lead():
        return
    describe(embedder, seconds, epochs, options.out, output)
    if test is not None and (store.labels >= 0).all() and (np.asarray(test.labels) >= 0).all():
        found = probe(embedder, store, test)
        words = f"nearest neighbour {100 * found['nearest']:.2f} %, linear probe {100 * found['linear']:.2f} %"
        output.facts([("test", f"{words} of {len(test):,} held-out fields")])
        output.record(**{f"test_{name}": value for name, value in found.items()})
    output.facts([("out", options.out)])
    output.record(out=str(Path(options.out)), dim=options.dim)


def probe(embedder: "Embedder", train: "Population", test: "Population") -> dict[str, float]:
    """Accuracy in [0, 1] on test fields of the nearest training field, and of logistic regression, on embeddings."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    from wsnets.data import batches

    (x, y), (u, v) = (
        (np.concatenate([embedder.embed(fields).numpy() for fields in batches(side)]), np.asarray(side.labels))
        for side in (train, test)
    )
    nearest = KNeighborsClassifier(1).fit(x, y).score(u, v)
    linear = LogisticRegression(max_iter=2000, C=10.0).fit(x, y).score(u, v)
    return {"nearest": float(nearest), "linear": float(linear)}
