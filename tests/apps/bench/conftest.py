"""Fixtures of the benchmarks' tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def in_the_interpreter() -> Callable[[str], str]:
    """Runs Python code with Triton's interpreter: what it printed; skipped where Triton is not installed."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")

    def run(code: str) -> str:
        # In a process of its own: triton reads the variable once, when it is first imported.
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
