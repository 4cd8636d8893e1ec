"""Classify: read the label of a field from its weights."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from wsnets.config import FieldConfig
from wsnets.loop import check
from wsnets.mixup import Matching, mix
from wsnets.tasks.field_task import FieldTask, Prepared


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(FieldConfig):
    """Settings of classification, beside those of FieldConfig.

    label_smoothing in [0, 1) (Szegedy et al., CVPR 2016); mixup: a of the Beta(a, a) by which pairs of fields and their
    labels are mixed (0: off; Zhang et al., ICLR 2018); mixup_matching: how the second field of a pair is moved by its
    symmetries before, see mixup.mix ("raw" is sensible for aligned or shared-init populations only). Raises ValueError
    for values outside these.
    """

    label_smoothing: float = 0.1
    mixup: float = 0.0
    mixup_matching: Matching = "raw"

    def __post_init__(self) -> None:
        super().__post_init__()
        check("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "a number in [0, 1)")
        check("mixup", self.mixup, self.mixup >= 0, "zero or more")


class ClassifyTask(FieldTask):
    """Cross-entropy with label smoothing on augmented, mixed, noisy fields; validated by loss and accuracy."""

    config: ClassifyConfig

    def __init__(self, prepared: Prepared, config: ClassifyConfig) -> None:
        super().__init__(prepared, config)
        self._labels = torch.from_numpy(prepared.train.labels.astype(np.int64))
        self._val_labels = torch.from_numpy(prepared.val.labels.astype(np.int64))

    def loss(self, model: nn.Module, batch: tuple[FieldBatch, Tensor], generator: Generator) -> Tensor:
        """Mean loss of fetched training items."""
        fields, positions = batch
        fields, labels = self.augmented(fields, generator), self._labels[positions].to(generator.device)
        if self.config.mixup == 0:
            return self._cross_entropy(model(self.features(fields, generator), generator), labels)
        mixed, other, share = mix(fields, self.config.mixup, generator, self.config.mixup_matching)
        logits = model(self.features(mixed, generator), generator)
        own, theirs = self._cross_entropy(logits, labels), self._cross_entropy(logits, labels[other])
        return share * own + (1.0 - share) * theirs

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss (nats, not smoothed) and accuracy on the held-out items; the score is the accuracy, then the loss."""
        if self.num_held_out == 0:
            return {}
        loss, right = 0.0, 0
        for positions, fields in self.held_out(next(model.parameters()).device, self.at_once):
            logits = model(self.features(fields)).float().cpu()
            labels = self._val_labels[positions]
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(dim=1) == labels).sum())
        mean, accuracy = loss / self.num_held_out, right / self.num_held_out
        # The loss breaks ties only: with mixed and smoothed targets it is smallest long before the accuracy is best.
        return {"val_loss": mean, "val_accuracy": accuracy, "score": accuracy - 1e-6 * mean}

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
