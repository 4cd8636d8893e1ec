"""How good generated fields are, by what they show: one row for them, one for real fields, one for each baseline.

Legend: N fields of a row, as many reference fields, M training fields, D numbers of a feature.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor

from wsnets.data import Population, Subset
from wsnets.function_space import OnPart, Shown, Space, rms_differences, show
from wsnets.generation_baselines import Sample, amount_for, averages, noisy, spreads, take
from wsnets.loop import check, generator
from wsnets.picture_features import PictureNet
from wsnets.population_distance import (
    coverage,
    frechet_distance,
    minimum_matching_distance,
    nearest_neighbour_accuracy,
)

STREAM_MEASURE = 26
GENERATED, REAL, NOISE, AVERAGE = "generated", "held-out real", "training + noise", "average of two"
# Fields that the amount of noise is found on, and halvings of the interval it is in.
_TRIED = {"pictures": (200, 12), "surfaces": (16, 6)}


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What is compared.

    count: fields of each row and of the reference, at most; train_count: training fields that novelty is measured
    against, drawn at random (0: all); noise: novelty of the baseline with noise, as a share of that of held-out fields;
    memory_mb: what training fields show is kept in memory up to this size; seed: source of all draws. Raises
    ValueError for values outside their ranges.
    """

    count: int = 1000
    train_count: int = 0
    noise: float = 0.5
    memory_mb: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        check("count", self.count, self.count >= 2, "a whole number from 2")
        check("noise", self.noise, self.noise > 0, "a positive number")
        for name in ("train_count", "memory_mb"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "zero or more")
        check("seed", self.seed, 0 <= self.seed < 2**32, "a whole number in [0, 2^32)")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of N fields beside N held-out real ones, the reference; None where they do not apply.

    empty: fields that show nothing (no surface); recognised: share that a network trained on real pictures reads as
    the class asked for, of those with a label; nna, mmd, cov: see population_distance, by distance in function space;
    ..._features: the same by Euclidean distance of the network's features; frechet: of those features; novelty: mean
    distance to the nearest training field, of fields that show something, novelty_median: median; novelty_ratio: the
    mean over that of held-out real fields, NaN where that is 0 or none of them shows anything.
    """

    name: str
    count: int
    empty: int
    recognised: float | None
    nna: float
    mmd: float
    cov: float
    nna_features: float | None
    mmd_features: float | None
    cov_features: float | None
    frechet: float | None
    novelty: float
    novelty_median: float
    novelty_ratio: float


@dataclass(frozen=True, eq=False)
class Measures:
    """The table, and what a picture of it needs.

    rows: generated, held-out real, training + noise, average of two; noise: its amount in spreads of the weights, None
    where no amount has the novelty asked for, and its row is left out; reference_empty: reference fields that show
    nothing; train: the training fields that novelty was measured against; positions: of the judged fields in the
    generated population (N,); shown: what they show; nearest: positions in `train` of the training field nearest to
    each (N,); distances: to it (N,).
    """

    rows: tuple[Row, ...]
    noise: float | None
    reference_empty: int
    train: Population
    positions: np.ndarray
    shown: Tensor
    nearest: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True, eq=False)
class _Judged:
    """What N fields show, with features where there is a network: (N, D)."""

    shown: Tensor
    recognised: float | None = None
    features: Tensor | None = None


@dataclass
class _Bench:
    """Everything that rows are judged with."""

    space: Space
    train: Shown
    net: PictureNet | None
    progress: OnPart | None
    reference: _Judged = field(init=False)
    within: np.ndarray = field(init=False)

    def judge(self, sample: Sample, what: str) -> _Judged:
        shown = show(self.space, sample.fields, self.progress, what)
        if self.net is None:
            return _Judged(shown)
        features, classes = self.net.read(shown.movedim(-1, 1))
        known = sample.labels >= 0
        right = classes.numpy()[known] == sample.labels[known]
        return _Judged(shown, float(right.mean()) if known.any() else None, features)

    def set_reference(self, sample: Sample) -> None:
        self.reference = self.judge(sample, "reference")
        self.within = self.space.distances(self.reference.shown, self.reference.shown)

    def row(self, name: str, judged: _Judged, novelty: np.ndarray, held_out: float) -> Row:
        self._tell(name, 0)
        across = self.space.distances(judged.shown, self.reference.shown)
        within = self.space.distances(judged.shown, judged.shown)
        real = ~self.space.empty(self.reference.shown)
        figures = {
            "nna": nearest_neighbour_accuracy(within, across, self.within),
            "mmd": minimum_matching_distance(across[:, real]),
            "cov": coverage(across[:, real]),
            **self._by_features(judged),
        }
        mean, median = _centre(novelty)
        self._tell(name, 1)
        return Row(
            name=name,
            count=len(judged.shown),
            empty=int(self.space.empty(judged.shown).sum()),
            recognised=judged.recognised,
            novelty=mean,
            novelty_median=median,
            novelty_ratio=mean / held_out if 0.0 < held_out < float("inf") else float("nan"),
            **figures,
        )

    def _by_features(self, judged: _Judged) -> dict[str, float | None]:
        names = ("nna_features", "mmd_features", "cov_features", "frechet")
        own, real = judged.features, self.reference.features
        if own is None or real is None:
            return dict.fromkeys(names)
        scale = own.shape[1] ** 0.5  # Euclidean instead of root mean square
        across, within, others = (scale * rms_differences(*pair) for pair in ((own, real), (own, own), (real, real)))
        values = (
            nearest_neighbour_accuracy(within, across, others),
            minimum_matching_distance(across),
            coverage(across),
            frechet_distance(own.numpy(), real.numpy()),
        )
        return dict(zip(names, values, strict=True))

    def _tell(self, name: str, done: int) -> None:
        if self.progress is not None:
            self.progress(f"compare {name}", done, 1)


def measure(
    generated: Population,
    train: Population,
    test: Population,
    space: Space,
    config: MeasureConfig | None = None,
    net: PictureNet | None = None,
    progress: OnPart | None = None,
) -> Measures:
    """Judge generated fields beside held-out real ones and two baselines that need no training.

    Of `test`, half of the groups are the reference of all rows and the other half give the row of real fields: what a
    perfect generator would get. "training + noise": training fields with Gaussian noise on their weights, in
    proportion to the spread of each parameter tensor; the amount is found by bisection, so that the mean distance to
    the nearest training field is `config.noise` times that of held-out fields. "average of two": mean of the weights of
    two training fields of one class. net: classifier of real pictures of the space's size; None: figures that need it
    are None. Raises ValueError for fields that the space cannot show or that are not finite, fewer than two fields in
    any role, and a reference of which nothing can be seen.
    """
    config = config or MeasureConfig()
    draws = _draws(config)
    rows_of = _choose(generated, test, config, draws)
    used = train
    if 0 < config.train_count < len(train):
        used = Subset(train, np.sort(_some(len(train), config.train_count, draws("train"))))
    bench = _Bench(space, Shown(space, used, config.memory_mb), net, progress)
    bench.set_reference(take(test, rows_of["reference"]))
    empty = space.empty(bench.reference.shown)
    if empty.all():
        raise ValueError(f"test: none of {len(empty)} reference fields shows anything: expected {space.kind}")
    judged = {REAL: bench.judge(take(test, rows_of[REAL]), REAL)}
    count = len(rows_of[GENERATED])
    judged[GENERATED] = bench.judge(take(generated, rows_of[GENERATED]), GENERATED)
    judged[AVERAGE] = bench.judge(averages(train, count, draws("average")), AVERAGE)
    novelty = {REAL: bench.train.nearest(judged[REAL].shown, progress, f"novelty of {REAL}")}
    held_out = _centre(novelty[REAL][0])[0]
    amount, sample = _noise(bench, train, count, config.noise * held_out, draws)
    if sample is not None:
        judged[NOISE] = bench.judge(sample, NOISE)
    names = [name for name in (GENERATED, REAL, NOISE, AVERAGE) if name in judged]
    for name in (name for name in names if name != REAL):
        novelty[name] = bench.train.nearest(judged[name].shown, progress, f"novelty of {name}")
    table = tuple(bench.row(name, judged[name], novelty[name][0], held_out) for name in names)
    far, nearest = novelty[GENERATED]
    return Measures(table, amount, int(empty.sum()), used, rows_of[GENERATED], judged[GENERATED].shown, nearest, far)


def _noise(
    bench: _Bench, train: Population, count: int, target: float, draws: Callable[[str], Generator]
) -> tuple[float | None, Sample | None]:
    """The amount of noise that reaches the target, and that many training fields with it; None where none does."""
    base = take(train, _some(len(train), count, draws("noise base"), again=True))
    few, halvings = _TRIED[bench.space.kind]
    scales, tried = spreads(train), base.fields[:few]

    def novelty(amount: float) -> float:
        moved = noisy(tried, scales, amount, draws("noise"))  # the same noise for every amount
        shown = show(bench.space, moved)
        return float(bench.train.nearest(shown, bench.progress, f"noise of {amount:.3g} spreads")[0].mean())

    amount = amount_for(target, novelty, halvings)
    if amount is None:
        return None, None
    return amount, Sample(noisy(base.fields, scales, amount, draws("noise")), base.labels)


def _choose(
    generated: Population, test: Population, config: MeasureConfig, draws: Callable[[str], Generator]
) -> dict[str, np.ndarray]:
    """Positions of the judged generated fields, and of both halves of the real ones: N each."""
    groups = np.asarray(test.groups)
    order = np.unique(groups)[torch.randperm(len(np.unique(groups)), generator=draws("halves")).numpy()]
    first = np.isin(groups, order[: len(order) // 2])
    halves = np.flatnonzero(first), np.flatnonzero(~first)
    count = min(config.count, len(generated), *map(len, halves))
    if count < 2:
        raise ValueError(
            f"generated holds {len(generated)} fields, the halves of test {len(halves[0])} and {len(halves[1])}: "
            "expected at least two in each"
        )
    found = {"reference": halves[0], REAL: halves[1], GENERATED: np.arange(len(generated))}
    return {name: own[_some(len(own), count, draws(name))] for name, own in found.items()}


def _some(total: int, count: int, generator: Generator, again: bool = False) -> np.ndarray:
    """`count` of the positions below `total` at random; again: also more than there are, each about equally often."""
    rounds = -(-count // total) if again else 1
    return torch.cat([torch.randperm(total, generator=generator) for _ in range(rounds)])[:count].numpy()


def _draws(config: MeasureConfig) -> Callable[[str], Generator]:
    """A generator for each purpose, fresh at every call."""
    purposes = ("halves", "reference", REAL, GENERATED, "train", "noise base", "noise", "average")
    return lambda purpose: generator(config.seed, STREAM_MEASURE, purposes.index(purpose))


def _centre(novelty: np.ndarray) -> tuple[float, float]:
    """Mean and median of the distances that are finite; inf where none is."""
    known = novelty[np.isfinite(novelty)]
    return (float(known.mean()), float(np.median(known))) if len(known) else (float("inf"), float("inf"))
