"""The CUDA fitting step: its laws under Triton's interpreter, and what it says where it cannot run."""

from pathlib import Path

import pytest

from fitting.config import FitConfig
from fitting.kernels import step_triton
from neuralfields import encodings
from neuralfields.spec import FieldSpec, ReLUField

LAWS = Path(__file__).with_name("triton_laws.py")


def test_laws_hold_under_the_interpreter(failures_under_the_interpreter) -> None:
    assert failures_under_the_interpreter(LAWS) == ""


@pytest.mark.parametrize(
    ("spec", "config", "reason"),
    [
        (FieldSpec(in_dim=2, out_dim=1, hidden=(16,), activation="tanh"), FitConfig(), "activation='tanh'"),
        (FieldSpec(in_dim=2, out_dim=1, hidden=(16,) * 6), FitConfig(), "hidden layers=6"),
        (FieldSpec(in_dim=2, out_dim=1, hidden=(300,)), FitConfig(), "hidden width=300"),
        (ReLUField(3, 1, (16,), encodings.Positional(12)), FitConfig(), "encoded inputs=75"),
        (FieldSpec(in_dim=2, out_dim=5, hidden=(16,)), FitConfig(), "out_dim=5"),
        (FieldSpec(in_dim=2, out_dim=1, hidden=(16,)), FitConfig(dtype="float64"), "dtype='float64'"),
    ],
)
def test_what_it_cannot_run_is_said(spec, config, reason, monkeypatch) -> None:
    monkeypatch.setattr(step_triton, "missing", lambda: None)
    assert reason in (step_triton.unsupported(spec, config) or "")


def test_a_machine_without_a_gpu_is_told_so(monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(step_triton.torch.cuda, "is_available", lambda: False)
    reason = step_triton.missing()
    assert reason is not None
    assert "\n" not in reason
    assert "CUDA" in reason or "triton" in reason
    assert step_triton.unsupported(FieldSpec(in_dim=2, out_dim=1, hidden=(16,)), FitConfig()) == reason


def test_an_old_gpu_is_told_so(monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(step_triton, "find_spec", lambda name: object())
    monkeypatch.setattr(step_triton.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(step_triton.torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "7.5" in (step_triton.missing() or "")
