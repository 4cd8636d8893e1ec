"""Edit: change a field so that what it shows is changed, trained on what it shows."""

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate
from wsnets import models
from wsnets.config import FieldConfig
from wsnets.editor import edit
from wsnets.loop import STREAM_MODEL, generator
from wsnets.operations import Operation, operation_from_json
from wsnets.tasks.field_task import FieldTask


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


class EditTask(FieldTask):
    """Mean squared error between what field + model(field) shows and the target, values in [0, 1] for pictures."""

    config: EditConfig

    def loss(self, model: nn.Module, batch: tuple[FieldBatch, Tensor], generator: Generator) -> Tensor:
        """Mean loss of fetched training items."""
        fields = self.augmented(batch[0], generator)
        change = model(self.features(fields, generator), generator)
        # The fields themselves in single precision: phases of w0 = 30 need more than the eight bits of bfloat16.
        with torch.autocast(generator.device.type, enabled=False):
            coords, wanted = self.config.target(fields, generator)
            return (evaluate(edit(fields, change), coords) - wanted).square().mean()

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Mean squared error on the held-out items, beside that of leaving them as they are; the score is minus it."""
        if self.num_held_out == 0:
            return {}
        device, total, unedited = next(model.parameters()).device, 0.0, 0.0
        draws = generator(self.config.seed, STREAM_MODEL, 1, device=device)
        for _, fields in self.held_out(device, self.at_once):
            coords, wanted = self.config.target(fields, draws)
            edited = edit(fields, model(self.features(fields)))
            total += float((evaluate(edited, coords) - wanted).square().mean(dim=(1, 2)).sum())
            unedited += float((evaluate(fields, coords) - wanted).square().mean(dim=(1, 2)).sum())
        mse = total / self.num_held_out
        return {"val_mse": mse, "val_mse_unedited": unedited / self.num_held_out, "score": -mse}
