"""Fixtures shared by all tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from fitting.kernels import step_native


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `native` where the module was not built: the only place that asks; start the longest first."""
    # Minutes of one core each: whoever begins one last keeps the other cores waiting.
    items.sort(key=lambda item: "failures_under_the_interpreter" not in getattr(item, "fixturenames", ()))
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


@pytest.fixture
def failures_under_the_interpreter() -> Callable[[Path], str]:
    """Runs a file of laws in Triton's interpreter: what failed, or nothing; skipped where Triton is not installed."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")

    def failures(laws: Path) -> str:
        # In a process of its own: triton reads the variable once, when it is first imported.
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(laws)]
        # Interpreted kernels take tensors on the CPU: no GPU may be seen.
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run(
            command, env=environment, cwd=root, capture_output=True, text=True, timeout=600, check=False
        )
        said = done.stdout[-6000:] + done.stderr[-2000:]
        return "" if done.returncode == 0 else said or f"status {done.returncode}"

    return failures
