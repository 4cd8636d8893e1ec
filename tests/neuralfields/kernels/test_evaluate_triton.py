"""The CUDA evaluation: its laws under Triton's interpreter, and what it says where it cannot run."""

from pathlib import Path

import pytest
import torch

from neuralfields import FieldSpec, Positional, ReLUField
from neuralfields.kernels import evaluate_tiles, evaluate_triton
from neuralfields.testing import random_fields

LAWS = Path(__file__).with_name("evaluate_laws.py")


def test_laws_hold_under_the_interpreter(failures_under_the_interpreter) -> None:
    assert failures_under_the_interpreter(LAWS) == ""


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (FieldSpec(in_dim=2, out_dim=1, hidden=(16,), activation="tanh"), "activation='tanh'"),
        (FieldSpec(in_dim=2, out_dim=1, hidden=(16,) * 6), "hidden layers=6"),
        (FieldSpec(in_dim=2, out_dim=1, hidden=(16, 257)), "hidden width=257"),
        (ReLUField(3, 1, (16,), Positional(12)), "encoded inputs=75"),
        (FieldSpec(in_dim=2, out_dim=5, hidden=(16,)), "out_dim=5"),
    ],
)
def test_what_it_cannot_run_is_said(spec: FieldSpec, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_triton, "missing", lambda: None)
    assert reason in (evaluate_triton.unsupported(spec) or "")
    fields = random_fields(spec, 1, torch.Generator().manual_seed(0), torch.float32)
    with pytest.raises(ValueError, match="cannot evaluate these fields: " + reason.replace("(", r"\(")):
        evaluate_triton.forward_raw(fields, torch.zeros(3, spec.dims[0]))


def test_the_largest_fields_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_triton, "missing", lambda: None)
    assert evaluate_triton.unsupported(FieldSpec(in_dim=64, out_dim=4, hidden=(256,) * 5)) is None
    assert evaluate_triton.unsupported(ReLUField(3, 1, (16,), Positional(10))) is None


def test_a_machine_without_a_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(evaluate_triton.torch.cuda, "is_available", lambda: False)
    reason = evaluate_triton.missing()
    assert reason is not None
    assert "\n" not in reason
    assert "CUDA" in reason or "triton" in reason
    assert evaluate_triton.unsupported(FieldSpec(in_dim=2, out_dim=1, hidden=(16,))) == reason


def test_an_old_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(evaluate_triton, "find_spec", lambda name: object())
    monkeypatch.setattr(evaluate_triton.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(evaluate_triton.torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "7.5" in (evaluate_triton.missing() or "")


@pytest.mark.parametrize("num_points", [1, 511, 512, 1023, 4096, 100_003, 3_000_000])
def test_chunks_cover_the_points_and_depend_on_them_alone(num_points: int) -> None:
    for width in evaluate_tiles.BACKWARD:
        tile = evaluate_tiles.backward_tile(FieldSpec(in_dim=2, out_dim=1, hidden=(width,)))
        size = evaluate_tiles.chunk(num_points, tile)
        chunks = -(-num_points // size)
        assert size % tile.points == 0
        assert 1 <= chunks <= 64
        assert chunks >= min(64, num_points // 512) // 2
