"""Numbers that public code gave, as the tests beside this file read them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from neuralfields import FieldBatch, FieldSpec
from wsnets.features import WeightFeatures, weight_features

RTOL, ATOL = 1e-9, 1e-13


@dataclass(frozen=True)
class Published:
    """Stored cases: "FILE/CASE", or "CASE" of the file that is called as the test module."""

    module: Path

    def stored(self, case: str, part: str) -> dict[str, Tensor]:
        """Tensors of a part of a case: "fields", "state" or "out"."""
        file, _, name = case.rpartition("/")
        file = file or self.module.stem.removeprefix("test_")
        tensors = load_file(self.module.with_name(f"{file}.safetensors"))
        prefix = f"{name}/{part}."
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    def features(self, case: str, spec: FieldSpec) -> WeightFeatures:
        """Features of the fields of a case."""
        tensors = self.stored(case, "fields")
        return weight_features(FieldBatch(spec, {name: tensors[name] for name in spec.shapes}))

    def assert_read(self, model: nn.Module, case: str, spec: FieldSpec) -> None:
        """Assert that a reader gives the numbers of a case, which differ from field to field."""
        result, expected = model(self.features(case, spec)), self.stored(case, "out")["y"]
        assert bool((expected.std(0) > 0.0001).all())
        torch.testing.assert_close(result, expected, rtol=RTOL, atol=ATOL)

    def assert_edited(self, model: nn.Module, case: str, spec: FieldSpec, biases: bool = True) -> None:
        """Assert that an editor gives the changes of a case; biases: those of biases too."""
        change, expected = model(self.features(case, spec)), self.stored(case, "out")
        for layer, (weight, bias) in enumerate(zip(change.weights, change.biases, strict=True)):
            torch.testing.assert_close(weight[..., 0], expected[f"weights.{layer}"], rtol=RTOL, atol=ATOL)
            if biases:
                torch.testing.assert_close(bias[..., 0], expected[f"biases.{layer}"], rtol=RTOL, atol=ATOL)


@pytest.fixture
def published(request: pytest.FixtureRequest) -> Published:
    return Published(request.path)
