"""Contrast: embed fields without labels, two changed copies of one field near each other, others apart."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from wsnets.augment import AugmentConfig
from wsnets.config import FieldConfig
from wsnets.contrast import nt_xent
from wsnets.loop import STREAM_MODEL, check, generator
from wsnets.tasks.field_task import FieldTask, Prepared


@dataclass(frozen=True, kw_only=True)
class ContrastConfig(FieldConfig):
    """Settings of contrastive training, beside those of FieldConfig; dim: of the embedding; temperature > 0.

    augment must change something, or the population must hold several fits of each item.
    """

    dim: int = 128
    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check("dim", self.dim, self.dim >= 2, "a whole number from 2")
        check("temperature", self.temperature, self.temperature > 0, "a positive number")


class ContrastTask(FieldTask):
    """NT-Xent (Chen et al., SimCLR, ICML 2020) on two augmented copies of each field, the second one of another fit of
    the item where there is one.

    Raises ValueError where all copies of an item would be the same.
    """

    config: ContrastConfig

    def __init__(self, prepared: Prepared, config: ContrastConfig) -> None:
        super().__init__(prepared, config)
        groups = np.asarray(prepared.train.groups)
        if config.augment == AugmentConfig() and config.noise == 0 and len(np.unique(groups)) == len(groups):
            raise ValueError("augment changes nothing: expected some change, or several fits of each item")
        self._groups = torch.from_numpy(groups.astype(np.int64))
        self._val_groups = torch.from_numpy(np.asarray(prepared.val.groups).astype(np.int64))
        self._others, self._val_others = other_fits(self._groups), other_fits(self._val_groups)

    def fetch(self, positions: Tensor) -> tuple[FieldBatch, Tensor]:
        """Training fields at positions (B,) and another fit of each, (2 B,), float32, and the positions."""
        return super().fetch(torch.cat([positions, self._others[positions]]))[0], positions

    def loss(self, model: nn.Module, batch: tuple[FieldBatch, Tensor], generator: Generator) -> Tensor:
        """Loss of fetched training items."""
        pairs, positions = batch
        return self._loss(model, pairs, self._groups[positions], generator, generator)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The same loss on the held-out items, with the same copies every time; the score is minus it."""
        if self.num_held_out < 2:
            return {}
        device, total = next(model.parameters()).device, 0.0
        draws = generator(self.config.seed, STREAM_MODEL, 2, device=device)
        for positions, fields in self.held_out(device, self.config.batch):
            if len(positions) > 1:
                pairs = FieldBatch.cat([fields, self._val[self._val_others[positions]].to(torch.float32).to(device)])
                total += float(self._loss(model, pairs, self._val_groups[positions], draws, None)) * len(positions)
        return {"val_loss": total / self.num_held_out, "score": -total / self.num_held_out}

    def _loss(
        self, model: nn.Module, pairs: FieldBatch, groups: Tensor, draws: Generator, dropout: Generator | None
    ) -> Tensor:
        half = len(groups)
        copies = FieldBatch.cat([self.augmented(part, draws) for part in (pairs[:half], pairs[half:])])
        points = nn.functional.normalize(model(self.features(copies, dropout), dropout), dim=-1)
        return nt_xent(points, self.config.temperature, torch.cat([groups, groups]).to(points.device))


def other_fits(groups: Tensor) -> Tensor:
    """For each of (N,) fields the position of the next one of its group, from the last the first: (N,) int64."""
    order = groups.argsort(stable=True)
    inside = groups[order]
    starts = torch.searchsorted(inside, inside)  # of the group, in that order
    ends = torch.searchsorted(inside, inside, right=True)
    here = torch.arange(len(groups))
    following = torch.where(here + 1 < ends, here + 1, starts)
    others = torch.empty_like(order)
    others[order] = order[following]
    return others
