"""Align pairs: learn which units of two fields belong together, from moved copies and from fields as they are.

Legend: N fields, H hidden units of a layer, j a unit of the reference, i a unit of the field.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from neuralfields import symmetry
from neuralfields.batch import FieldBatch
from neuralfields.symmetry import Element
from wsnets import models
from wsnets.align import lerp
from wsnets.augment import noise, tensor_stds
from wsnets.config import FieldConfig
from wsnets.data import Population
from wsnets.deep_aligner import DeepAligner
from wsnets.features import weight_features
from wsnets.loop import STREAM_MODEL, check, generator
from wsnets.models.deep_align import DeepAlign, DeepAlignConfig, scores, signed
from wsnets.sinkhorn import midpoint_loss, sinkhorn, weight_loss
from wsnets.tasks.field_task import FieldTask, Prepared
from wsnets.unit_moves import Soft, assignment, normal_form, soft_act, told_by_no_score

if TYPE_CHECKING:
    from wsnets.train import TrainProgress


@dataclass(frozen=True, kw_only=True)
class AlignConfig(FieldConfig):
    """Settings of training an aligner, beside those of FieldConfig.

    copy_noise: Gaussian noise of moved copies, up to so many standard deviations of each parameter's entries;
    supervised, weights, midpoint: how much the losses count that `AlignPairsTask` names; tau: temperature of scores;
    iterations: of Sinkhorn's algorithm; points: at which midpoints are compared. Raises ValueError for values below 0,
    tau, iterations or points of 0, losses that all count 0, and a model that does not align.
    """

    copy_noise: float = 1.0
    supervised: float = 1.0
    weights: float = 10.0
    midpoint: float = 0.0
    tau: float = 0.05
    iterations: int = 10
    points: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("copy_noise", "supervised", "weights", "midpoint"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "zero or more")
        check("tau", self.tau, self.tau > 0, "a positive number")
        for name in ("iterations", "points"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "a whole number from 1")
        check("supervised", self.supervised, self.supervised + self.weights + self.midpoint > 0, "one loss that counts")
        check("align", self.align, self.align == "none", "'none': the network is to do that itself")
        name = models.name_of(self.settings)
        check("model", name, isinstance(self.settings, DeepAlignConfig), "a network that aligns: deep_align")


class AlignPairsTask(FieldTask):
    """Losses of soft permutations P = Sinkhorn(|scores| / tau), signs those of the scores.

    supervised: -mean log P[j, i] over the units of a copy of the field, moved by a random group element and made noisy;
    weights: squared distance between a pair of different fields, one moved softly, over that of the field unmoved;
    midpoint: mean squared difference between the values halfway and the mean of the values of both. All fields come
    with principal phases and unit norms (unit_moves.normal_form). Navon et al., "Equivariant deep weight space
    alignment", ICML 2024.
    """

    config: AlignConfig

    def __init__(self, prepared: Prepared, config: AlignConfig) -> None:
        super().__init__(prepared, config)
        some = self._train[torch.arange(min(1024, self.num_items))]
        self._stds = tensor_stds(some.to(torch.float32))

    def loss(self, model: nn.Module, batch: tuple[FieldBatch, Tensor], generator: Generator) -> Tensor:
        """Mean loss of fetched training items."""
        return self._losses(model, self.augmented(batch[0], generator), generator)[0]

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss on held-out items, and the share of units of their moved, noisy copies that are brought back."""
        if self.num_held_out < 2:
            return {}
        device, total = next(model.parameters()).device, torch.zeros(2, dtype=torch.float64)
        draws = generator(self.config.seed, STREAM_MODEL, 3, device=device)
        for positions, fields in self.held_out(device, self.config.batch):
            loss, back = self._losses(model, fields, draws)
            total += torch.tensor([float(loss), back], dtype=torch.float64) * len(positions)
        loss, back = (total / self.num_held_out).tolist()
        return {"val_loss": loss, "val_units": back, "score": -loss}

    def _losses(self, model: nn.Module, fields: FieldBatch, draws: Generator) -> tuple[Tensor, float]:
        assert isinstance(model, DeepAlign)
        config = self.config
        # Of normal forms the parity that scores show is the sign, and both may be moved softly by it.
        fields = symmetry.act(normal_form(fields, told_by_no_score(fields.spec)), fields)
        g = symmetry.sample(fields.spec, len(fields), draws)
        share = float(torch.rand((), generator=draws, device=draws.device)) * config.copy_noise
        copies = noise(symmetry.act(g, fields), draws, share, self._stds)
        units, moved = model(weight_features(fields)), model(weight_features(copies))
        with torch.autocast(draws.device.type, enabled=False):  # sines of large phases need all their digits
            found = scores(moved, units)
            loss, back = copy_loss(found, symmetry.inverse(g), signed(fields.spec), config.tau, config.iterations)
            loss = config.supervised * loss
            # A field that is alone would be its own neighbour, at no distance.
            if len(fields) > 1 and (config.weights or config.midpoint):
                loss = loss + self._between(fields, units, draws)
        return loss, back

    def _between(self, fields: FieldBatch, units: Sequence[Tensor], draws: Generator) -> Tensor:
        """What the unsupervised losses add, of every field and the one after it in the batch."""
        config, odd = self.config, signed(fields.spec)
        others = torch.arange(len(fields), device=fields.biases[0].device).roll(-1)
        reference = [z[others] for z in units]
        moves = []
        for score in scores(list(units), reference):
            soft = sinkhorn(score.abs() if odd else score, config.tau, config.iterations)
            # A hard sign would have no gradient; tanh has, and is one for all scores that matter.
            turned = soft * (score / config.tau).tanh() if odd else soft
            moves.append(Soft(turned, turned))
        near = fields[others]
        moved, total = soft_act(moves, fields), fields.biases[0].new_zeros(())
        if config.weights:
            apart = weight_loss(fields, near).clamp_min(1e-12)
            total = total + config.weights * (weight_loss(moved, near) / apart).mean()
        if config.midpoint:
            size = config.points, fields.spec.in_dim
            coords = 2 * torch.rand(size, generator=draws, device=draws.device) - 1
            loss = midpoint_loss(lerp(moved, near, 0.5), fields, near, coords).mean()
            total = total + config.midpoint * loss
        return total


def copy_loss(found: Sequence[Tensor], wanted: Element, odd: bool, tau: float, iterations: int) -> tuple[Tensor, float]:
    """-mean log P[j, i] over the units i that `wanted` brings to places j, and the share of units that come back.

    found: scores (N, H, H) per hidden layer. odd: scores count as |score|, but the wanted ones with the wanted parity
    sign (-1)^half_periods, so that a score of the wrong sign costs as much as one that is too small.
    """
    losses, right, units = [], 0, 0
    for score, (place, sign, half_periods, _) in zip(found, wanted.layers(), strict=True):
        place, parity = place.to(score.device), (sign * (1 - 2 * (half_periods % 2))).to(score)
        logits = score
        if odd:
            chosen = score.gather(2, place.unsqueeze(2)) * parity.unsqueeze(2)
            logits = score.abs().scatter(2, place.unsqueeze(2), chosen)
        logs = sinkhorn(logits, tau, iterations, log=True)
        losses.append(-logs.gather(2, place.unsqueeze(2)).mean())
        with torch.no_grad():
            best = assignment(score.abs() if odd else score).to(score.device)
            signs = (score.gather(2, best.unsqueeze(2)).squeeze(2) < 0) == (parity < 0) if odd else True
            right += int(((best == place) & signs).sum())
            units += best.numel()
    return torch.stack(losses).mean(), right / units


def align_pairs(
    population: Population,
    config: AlignConfig | None = None,
    out: str | Path = "runs/aligner",
    progress: Callable[["TrainProgress"], None] | None = None,
    step: Callable[[float, float], None] | None = None,
) -> DeepAligner:
    """Train a network that aligns fields; return it, also stored in the folder `out`. Otherwise as train.classify."""
    from wsnets.train import Watch, train_network  # which itself gives this function to the world

    config = config or AlignConfig.tuned("deep_align")
    prepared, settings = Prepared.of(population, config), config.settings
    assert isinstance(settings, DeepAlignConfig)
    model = settings.build_aligner(population.spec, generator(config.seed, STREAM_MODEL, 0))
    task = AlignPairsTask(prepared, config)
    return train_network(DeepAligner, model, task, population, {}, {}, Path(out), Watch(progress, step))
