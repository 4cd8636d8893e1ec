"""A small labelled population, made without fitting: one shared init, moved by a class pattern and by noise."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from neuralfields import SIREN, FieldBatch, FieldSpec
from neuralfields.inits import initial

CLASSES = 3
SPEC = SIREN(2, 1, hidden=(6, 5))


@dataclass(frozen=True)
class Memory:
    """A population in memory, with the reading interface of a store."""

    fields: FieldBatch
    labels: np.ndarray
    ids: np.ndarray
    meta: dict

    @property
    def spec(self) -> FieldSpec:
        return self.fields.spec

    @property
    def groups(self) -> np.ndarray:
        return self.ids

    def __len__(self) -> int:
        return len(self.fields)

    def __getitem__(self, positions: Any, /) -> FieldBatch:
        return self.fields[torch.as_tensor(positions)]

    def with_flat(self, flat: torch.Tensor) -> "Memory":
        return replace(self, fields=FieldBatch.from_flat(self.spec, flat))


@pytest.fixture
def population(generator: torch.Generator) -> Memory:
    count = 240
    labels = np.arange(count) % CLASSES
    start = initial(SPEC, np.arange(count, dtype=np.uint32)).flat()
    pattern = torch.randn(CLASSES, SPEC.num_params, generator=generator)
    noise = torch.randn(count, SPEC.num_params, generator=generator)
    flat = start + 0.01 * (pattern[torch.from_numpy(labels)] + noise)
    return Memory(FieldBatch.from_flat(SPEC, flat), labels.astype(np.int64), np.arange(count, dtype=np.uint32), {})
