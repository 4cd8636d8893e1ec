"""Helpers shared by the tests of image signals."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fitting import images


@pytest.fixture
def random_bytes(generator: torch.Generator) -> Callable[..., np.ndarray]:
    """random_bytes(*shape): uniform uint8 numbers."""
    return lambda *shape: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).numpy()


@pytest.fixture
def refused() -> Callable[..., None]:
    """refused(match, *args, **options): images.load(*args, **options) raises one line that matches."""

    def check(match: str, *args, error: type[Exception] = ValueError, **options) -> None:
        with pytest.raises(error, match=match) as caught:
            images.load(*args, **options)
        assert "\n" not in str(caught.value)

    return check


@pytest.fixture
def archive(random_bytes, tmp_path) -> Path:
    path = tmp_path / "set.npz"
    arrays = {
        "x_train": random_bytes(9, 6, 5),
        "y_train": np.arange(9, dtype=np.uint8) % 3,
        "x_test": random_bytes(4, 6, 5),
        "y_test": np.zeros(4, np.int32),
        "classes": np.array(["a", "b", "c"]),
    }
    np.savez(path, **arrays)
    return path
