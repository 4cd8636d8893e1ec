"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch

from fitting.kernels import step_native


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `native` where the module was not built: the only place that asks."""
    reason = step_native.missing()
    if reason is not None:
        for item in items:
            if item.get_closest_marker("native"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def generator() -> torch.Generator:
    """A generator with a fixed seed: the only source of randomness in tests."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared/data beside the repository")
    return folder
