"""A small store with uneven rows, shared by the tests of foreign formats."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import neuralfields as nf
from neuralfields.store import FieldStore, save

SPLITS = ["test", "train", "val", "train", "test", "train", "val"]
META = {
    "recipe": "some-recipe",
    "config": {"steps": 3, "lr": 1e-3},
    "signal": {"kind": "image", "shape": [28, 28], "channels": 1, "source": "made", "split": None, "classes": None},
    "created_by": "neuralfields 0.1.0",
}


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., FieldStore]:
    """Return make(name, spec, seed=0): seven fields in mixed splits, with ids and labels in no order."""

    def make(name: str, spec: nf.FieldSpec, seed: int = 0) -> FieldStore:
        count = len(SPLITS)
        rng = np.random.default_rng(seed)
        rows = {
            "id": rng.permutation(2**20)[:count].astype(np.uint32),
            "label": rng.integers(0, 10, count),
            "split": SPLITS,
            "name": [f"picture {i}" for i in range(count)],
            "init_id": [f"random/siren/0/{i}" for i in range(count)],
            "steps": np.full(count, 300, np.int64),
            "psnr": rng.normal(30, 1, count),
        }
        generator = torch.Generator().manual_seed(seed)
        fields = nf.FieldBatch.from_flat(spec, 0.1 * torch.randn(count, spec.num_params, generator=generator))
        return save(tmp_path / name, fields, rows, META, shard_size=3)

    return make
