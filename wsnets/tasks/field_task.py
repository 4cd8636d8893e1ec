"""What every task on a population shares: rows of training and held-out fields, and features of them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from wsnets.align import Aligner
from wsnets.config import FieldConfig
from wsnets.data import Population, Rows, Subset, batches, finite, held_out
from wsnets.features import Normaliser, WeightFeatures, weight_features
from wsnets.network import to_fields


@dataclass(frozen=True)
class Prepared:
    """A population ready to train on: both sides of the split, and what was learned from the training side."""

    train: Subset
    val: Subset
    normaliser: Normaliser
    aligner: Aligner | None
    skipped: int

    @classmethod
    def of(cls, population: Population, config: FieldConfig) -> "Prepared":
        """Split, check and learn statistics. Raises ValueError when too few fields are left to train on."""
        kept = finite(population) if config.skip_bad else np.arange(len(population))
        held = held_out(population.groups, config.val_fraction, config.seed)
        if config.val_last:
            held = np.arange(len(population)) >= len(population) - config.val_last
            _check_together(population.groups, held, config.val_last)
        train, val = Subset(population, kept[~held[kept]]), Subset(population, kept[held[kept]])
        if len(train) < 2:
            raise ValueError(f"{len(train)} of {len(population)} fields are left to train on: expected at least 2")
        kinds = config.kinds(population.spec)
        aligner = Aligner.fit(batches(train, skippable=True), kinds) if kinds else None
        seen = batches(train, skippable=True)
        seen = seen if aligner is None else map(aligner, seen)
        normaliser = Normaliser.fit(config.normaliser_mode, seen)
        return cls(train, val, normaliser, aligner, len(population) - len(kept))


def _check_together(groups: np.ndarray, held: np.ndarray, val_last: int) -> None:
    """Raise ValueError where copies of one item are on both sides."""
    divided = np.intersect1d(np.asarray(groups)[held], np.asarray(groups)[~held])
    if len(divided):
        raise ValueError(
            f"val_last={val_last}: divides the copies of group {divided[0]} ({len(divided)} such groups): expected a "
            "number that keeps them together, or val_fraction, which does"
        )


class FieldTask(ABC):
    """Base of tasks: gives features of training items, augmented, and features of held-out items, as they are."""

    def __init__(self, prepared: Prepared, config: FieldConfig) -> None:
        self.prepared, self.config = prepared, config
        self.num_items, self.num_held_out = len(prepared.train), len(prepared.val)
        self._train = Rows(prepared.train, config.memory_mb, prepared.aligner)
        self._val = Rows(prepared.val, config.memory_mb, prepared.aligner)

    @abstractmethod
    def loss(self, model: nn.Module, batch: tuple[FieldBatch, Tensor], generator: Generator) -> Tensor:
        """Mean loss of fetched training items."""

    @abstractmethod
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures on the held-out items, the one that chooses the epoch as "score"; {} where nothing is held out."""

    def fetch(self, positions: Tensor) -> tuple[FieldBatch, Tensor]:
        """Training fields at positions (B,), float32, and the positions."""
        return self._train[positions].to(torch.float32), positions

    def augmented(self, fields: FieldBatch, generator: Generator) -> FieldBatch:
        """Fields on the generator's device, changed at random as the settings say."""
        return self.config.augment.apply(fields.to(generator.device), generator)

    def features(self, fields: FieldBatch, generator: Generator | None = None) -> WeightFeatures:
        """Normalised features, with noise when a generator is given and the settings ask for it.

        The noise is on the fields behind them as well, for models that read those.
        """
        features = self.prepared.normaliser(weight_features(fields))
        if generator is None or self.config.noise == 0:
            return features
        noise = self.config.noise
        noisy = features.map(
            lambda x: x + noise * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        )
        return replace(noisy, fields=to_fields(self.prepared.normaliser.inverse(noisy), fields.spec))

    def held_out(self, device: torch.device, at_once: int) -> Iterator[tuple[Tensor, FieldBatch]]:
        """Held-out fields in order: (positions, fields on `device`), `at_once` at a time."""
        for positions in torch.arange(self.num_held_out).split(at_once):
            yield positions, self._val[positions].to(torch.float32).to(device)

    @property
    def at_once(self) -> int:
        """Held-out fields that are read together."""
        return 4 * self.config.settings.fields_at_once or 1024


def fingerprint(population: Population) -> dict:
    """What tells one population from another: its size and a digest of ids, labels, groups other than ids, weights."""
    digest = hashlib.sha256()
    digest.update(np.ascontiguousarray(population.ids, np.uint32).tobytes())
    digest.update(np.ascontiguousarray(population.labels, np.int64).tobytes())
    if not np.array_equal(population.groups, population.ids):
        digest.update(np.ascontiguousarray(population.groups, np.uint32).tobytes())
    for start in range(0, len(population), 4096):
        fields = population[np.arange(start, min(start + 4096, len(population)))]
        digest.update(fields.flat().numpy().tobytes())
    return {"fields": len(population), "sha256": digest.hexdigest()}
