"""The streamed CUDA fitting step: its laws under Triton's interpreter, and which widths it takes."""

from pathlib import Path

import pytest

from fitting.config import FitConfig
from fitting.kernels import step_triton
from neuralfields.spec import FieldSpec

LAWS = Path(__file__).with_name("streamed_laws.py")


def test_laws_hold_under_the_interpreter(failures_under_the_interpreter) -> None:
    assert failures_under_the_interpreter(LAWS) == ""


@pytest.mark.parametrize(("width", "accepted"), [(64, True), (65, True), (256, True), (257, False)])
def test_widths_up_to_256_are_taken(width: int, accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_triton, "missing", lambda: None)
    reason = step_triton.unsupported(FieldSpec(in_dim=2, out_dim=1, hidden=(16, width)), FitConfig())
    assert (reason is None) == accepted, reason
    assert accepted or "it goes up to 256" in str(reason)
