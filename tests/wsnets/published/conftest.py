"""Numbers that public code gave, as the tests beside this file read them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from neuralfields import FieldBatch, FieldSpec
from wsnets.features import WeightFeatures, weight_features


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


@pytest.fixture
def published(request: pytest.FixtureRequest) -> Published:
    return Published(request.path)
