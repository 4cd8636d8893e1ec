"""The streamed CUDA fitting step: its laws under Triton's interpreter, and which widths it takes."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fitting.config import FitConfig
from fitting.kernels import step_triton
from neuralfields.spec import FieldSpec

LAWS = Path(__file__).with_name("streamed_laws.py")


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_laws_hold_under_the_interpreter() -> None:
    # In a process of its own: triton reads the variable once, when it is first imported.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(LAWS)]
    # Interpreted kernels take tensors on the CPU: no GPU may be seen.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, env=environment, cwd=LAWS.parents[3], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize(("width", "accepted"), [(64, True), (65, True), (256, True), (257, False)])
def test_widths_up_to_256_are_taken(width: int, accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_triton, "missing", lambda: None)
    reason = step_triton.unsupported(FieldSpec(in_dim=2, out_dim=1, hidden=(16, width)), FitConfig())
    assert (reason is None) == accepted, reason
    assert accepted or "it goes up to 256" in str(reason)
