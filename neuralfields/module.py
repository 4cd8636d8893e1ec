"""One field as an nn.Module, for code that expects an ordinary network."""

import torch
from torch import Tensor, nn

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate


class FieldModule(nn.Module):
    """A single field: (..., I) -> (..., O). Its state_dict has the names of `spec.shapes` with "." as "_"."""

    def __init__(self, fields: FieldBatch) -> None:
        super().__init__()
        if len(fields) != 1:
            raise ValueError(f"fields has {len(fields)} fields: expected 1")
        self.spec = fields.spec
        for name, value in fields.parameters.items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(value[0].detach().clone()))

    def fields(self) -> FieldBatch:
        """Return this field as a batch of one that shares the parameters."""
        named = {name: getattr(self, name.replace(".", "_")).unsqueeze(0) for name in self.spec.shapes}
        return FieldBatch(self.spec, named)

    def forward(self, coords: Tensor) -> Tensor:
        """Evaluate at coordinates (..., I)."""
        values = evaluate(self.fields(), coords.reshape(-1, self.spec.in_dim))[0]
        return torch.unflatten(values, 0, coords.shape[:-1]) if coords.ndim != 2 else values
