"""A small population and ways to store it, for the tests of the store."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import neuralfields as nf
from neuralfields import inits
from neuralfields.store import save

SPEC = nf.SIREN(2, 3, hidden=(5, 4), offset=(0.5,), grid="corners", axes="xy")
META = {"recipe": None, "signal": {"kind": "image", "shape": [4, 4]}}


def population(count: int) -> nf.FieldBatch:
    return inits.initial(SPEC, np.arange(count, dtype=np.uint32), "random")


def rows(count: int) -> dict:
    return {"label": np.arange(count) % 3, "split": ["train"] * count, "psnr": np.linspace(30, 40, count)}


@pytest.fixture(name="population")
def _population() -> Callable[[int], nf.FieldBatch]:
    """population(count): fields of one spec with different weights."""
    return population


@pytest.fixture
def make() -> Callable[..., nf.FieldStore]:
    """make(path, count=10, shard_size=4): a complete store of that population."""

    def make(path: Path, count: int = 10, shard_size: int = 4) -> nf.FieldStore:
        return save(path, population(count), rows(count), META, shard_size)

    return make


@pytest.fixture
def digests() -> Callable[[Path], dict[str, str]]:
    """digests(folder): name -> sha256 of all its files."""
    return lambda folder: {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
