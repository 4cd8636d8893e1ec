"""Edit: change a field so that what it shows is changed, trained on what it shows."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate
from wsnets import models
from wsnets.config import FieldConfig
from wsnets.data import Subset
from wsnets.editor import edit
from wsnets.loop import STREAM_MODEL, generator
from wsnets.operations import Operation, operation_from_json
from wsnets.tasks.field_task import FieldTask, Prepared


@dataclass(frozen=True, kw_only=True)
class EditConfig(FieldConfig):
    """Settings of editing, beside those of FieldConfig; target: what an edited field is to show.

    Raises ValueError for a model that does not edit.
    """

    model: str | models.ModelConfig = "nfn_np"
    target: Operation = field(default_factory=lambda: Operation(name="dilate"))

    def __post_init__(self) -> None:
        super().__post_init__()
        models.check_edits(self.settings)

    def to_json(self) -> dict:
        """Plain JSON values."""
        return {**super().to_json(), "target": self.target.to_json()}

    @classmethod
    def from_json(cls, data: dict) -> "EditConfig":
        """Read `to_json` output. Raises ValueError for unknown keys."""
        return super().from_json({**data, "target": operation_from_json(data["target"])})


class Images(Protocol):
    """Images that the fields of a population were fitted to, in its order, such as a tensor of them."""

    def __getitem__(self, positions: np.ndarray, /) -> Tensor:
        """Images (n, H, W, C) in [0, 1] of the fields at positions (n,)."""
        ...


class EditTask(FieldTask):
    """Mean squared error between what field + model(field) shows and the target, values in [0, 1] for pictures.

    The target is made of what a field shows or, where `images` are given, of the image it was fitted to.
    """

    config: EditConfig

    def __init__(self, prepared: Prepared, config: EditConfig, images: Images | None = None) -> None:
        super().__init__(prepared, config)
        self.images = images

    def fetch(self, positions: Tensor) -> tuple[FieldBatch, Tensor | None]:  # type: ignore[override]
        """Training fields at positions (B,), float32, and their images, where the target is made of these."""
        fields, _ = super().fetch(positions)
        return fields, self._images_of(self.prepared.train, positions)

    def _images_of(self, side: Subset, positions: Tensor) -> Tensor | None:
        return None if self.images is None else self.images[side.positions[positions.numpy()]]

    def loss(  # type: ignore[override]
        self, model: nn.Module, batch: tuple[FieldBatch, Tensor | None], generator: Generator
    ) -> Tensor:
        """Mean loss of fetched training items."""
        fields, place = self.config.augment.placed(batch[0].to(generator.device), generator)
        change = model(self.features(fields, generator), generator)
        # The fields themselves in single precision: phases of w0 = 30 need more than the eight bits of bfloat16.
        with torch.autocast(generator.device.type, enabled=False):
            coords, wanted = self._wanted(fields, batch[1], generator)
            where = coords if batch[1] is None else place.find(coords)
            return (evaluate(edit(fields, change), where) - wanted).square().mean()

    def _wanted(self, fields: FieldBatch, images: Tensor | None, generator: Generator) -> tuple[Tensor, Tensor]:
        if images is None:
            return self.config.target(fields, generator)
        return self.config.target.of_images(fields, images.to(generator.device))

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Mean squared error on the held-out items, beside that of leaving them as they are; the score is minus it."""
        if self.num_held_out == 0:
            return {}
        device, total, unedited = next(model.parameters()).device, 0.0, 0.0
        draws = generator(self.config.seed, STREAM_MODEL, 1, device=device)
        for positions, fields in self.held_out(device, self.at_once):
            coords, wanted = self._wanted(fields, self._images_of(self.prepared.val, positions), draws)
            edited = edit(fields, model(self.features(fields)))
            total += float((evaluate(edited, coords) - wanted).square().mean(dim=(1, 2)).sum())
            unedited += float((evaluate(fields, coords) - wanted).square().mean(dim=(1, 2)).sum())
        mse = total / self.num_held_out
        return {"val_mse": mse, "val_mse_unedited": unedited / self.num_held_out, "score": -mse}
