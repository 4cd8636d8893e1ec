"""Editor: a trained network that changes fields, so that what they show is dilated, smoothed, inflated."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from wsnets import checkpoint, models
from wsnets.network import Network, fresh, to_fields
from wsnets.operations import Operation, operation_from_json


@dataclass(frozen=True, kw_only=True)
class Editor(Network):
    """Weights -> weights: field + model(field); operation: what the edited field was trained to show."""

    task = "edit"
    kinds: ClassVar = {"operation": checkpoint.OBJECT}

    operation: Operation

    def about(self) -> dict:
        """The operation."""
        return {"operation": self.operation.to_json()}

    @classmethod
    def rebuild(cls, about: dict, spec: FieldSpec, settings: models.ModelConfig) -> tuple[nn.Module, dict[str, Any]]:
        """From `about`: an untrained model, and the operation."""
        return models.build_editor(settings, spec, fresh()), {"operation": operation_from_json(about["operation"])}

    def apply(self, fields: FieldBatch) -> FieldBatch:
        """Edited fields, float32 on the CPU. Raises ValueError for fields of another spec or with NaN."""
        fields, edited = self.prepare(fields), []
        for start in range(0, len(fields), self.at_once):
            part = fields[start : start + self.at_once]
            edited.append(edit(part, self.outputs(part)).to("cpu", torch.float32))
        return FieldBatch.cat(edited)


def edit(fields: FieldBatch, change: Any) -> FieldBatch:
    """field + change, parameter by parameter, on the change's device and in the precision of the fields.

    change: WeightFeatures of one channel.
    """
    dtype = fields.weights[0].dtype
    moved = to_fields(change.map(lambda x: x.to(dtype)), fields.spec).parameters
    values = {name: value.to(moved[name]) + moved[name] for name, value in fields.parameters.items()}
    return FieldBatch(fields.spec, values)
