"""One field as an nn.Module, for code that expects an ordinary network."""

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
        """Evaluate at coordinates (..., I). Raises ValueError when the last dimension is not I."""
        if coords.ndim == 0 or coords.shape[-1] != self.spec.in_dim:
            raise ValueError(f"coords has shape {tuple(coords.shape)}: expected (..., {self.spec.in_dim})")
        values = evaluate(self.fields(), coords.reshape(-1, self.spec.in_dim))[0]
        return values.view(*coords.shape[:-1], self.spec.out_dim)
