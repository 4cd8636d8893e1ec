"""Which backend `evaluate` takes: the decision with stand-in devices, and the kernels' side in Triton's interpreter."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from neuralfields import SIREN, FieldBatch, FieldSpec, HashField, NeRF
from neuralfields.evaluate import choose_backend, evaluate
from neuralfields.kernels import evaluate_triton
from neuralfields.testing import random_fields

LAWS = Path(__file__).with_name("evaluate_backend_laws.py")
SPEC = SIREN(2, 3, hidden=(16, 16))


@pytest.fixture(autouse=True)
def _a_gpu_that_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(evaluate_triton, "missing", lambda: None)


def stand_ins(spec: FieldSpec, device: str, dtype: torch.dtype = torch.float32) -> tuple[FieldBatch, Tensor]:
    """Fields and points (7, I) without numbers, on a device that need not exist."""
    with FakeTensorMode():
        parameters = {n: torch.empty(2, *shape, dtype=dtype, device=device) for n, shape in spec.shapes.items()}
        return FieldBatch(spec, parameters), torch.empty(7, spec.in_dim, dtype=dtype, device=device)


@pytest.mark.parametrize(
    ("spec", "device", "dtype", "expected"),
    [
        (SPEC, "cuda:0", torch.float32, "triton"),
        (SPEC, "cuda:1", torch.float32, "triton"),
        (SPEC, "cpu", torch.float32, "torch"),
        (SPEC, "cuda:0", torch.float64, "torch"),
        (SPEC, "cuda:0", torch.bfloat16, "torch"),
        (replace(SPEC, activation="tanh"), "cuda:0", torch.float32, "torch"),
        (SIREN(2, 3, hidden=(300,)), "cuda:0", torch.float32, "torch"),
        (HashField(2, 1), "cuda:0", torch.float32, "torch"),
        (NeRF(), "cuda:0", torch.float32, "torch"),
    ],
    ids=str,
)
def test_auto_takes_the_kernels_wherever_they_can(spec, device: str, dtype: torch.dtype, expected: str) -> None:
    fields, coords = stand_ins(spec, device, dtype)
    assert choose_backend(fields, coords) == expected
    assert choose_backend(fields, coords, "torch") == "torch"
    if expected == "triton":
        assert choose_backend(fields, coords, "triton") == "triton"
    else:
        with pytest.raises(ValueError, match="backend='triton' cannot run this: ") as caught:
            choose_backend(fields, coords, "triton")
        assert "\n" not in str(caught.value)


def test_fields_and_points_are_on_one_device() -> None:
    fields, coords = stand_ins(SPEC, "cuda:0")[0], stand_ins(SPEC, "cuda:1")[1]
    assert choose_backend(fields, coords) == "torch"  # which says what is wrong in its own words
    with pytest.raises(ValueError, match=r"weights\.0 is torch\.float32 on cuda:0 \(expected torch\.float32 on cuda:1"):
        choose_backend(fields, coords, "triton")


def test_what_is_chosen_is_what_runs(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    calls: list[tuple[int, ...]] = []

    def kernel(fields: FieldBatch, encoded: Tensor) -> Tensor:
        calls.append(tuple(encoded.shape))
        return encoded.new_empty(len(fields), encoded.shape[-2], fields.spec.out_dim)

    monkeypatch.setattr(evaluate_triton, "forward_raw", kernel)
    monkeypatch.setattr(evaluate_triton, "_device_type", lambda: "cpu")
    fields, coords = random_fields(SPEC, 2, generator, torch.float32), torch.rand(7, 2, generator=generator)
    assert evaluate(fields, coords, backend="triton").shape == (2, 7, 3)
    assert calls == [(7, 2)]
    assert evaluate(fields, coords, backend="torch").shape == (2, 7, 3)
    assert len(calls) == 1


def test_a_gpu_that_will_not_do_leaves_it_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_triton, "missing", lambda: "triton is not installed (pip install triton)")
    fields, coords = stand_ins(SPEC, "cuda:0")
    assert choose_backend(fields, coords) == "torch"
    with pytest.raises(ValueError, match="backend='triton' cannot run this: triton is not installed"):
        evaluate(fields, coords, backend="triton")


def test_on_the_cpu_nothing_but_a_request_asks_for_kernels(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("asked")

    monkeypatch.setattr(evaluate_triton, "refused", asked)
    fields = random_fields(SPEC, 2, generator, torch.float32)
    coords = torch.rand(5, 2, generator=generator)
    assert torch.equal(evaluate(fields, coords), evaluate(fields, coords, backend="torch"))
    monkeypatch.setattr(evaluate_triton, "refused", lambda *_: None)
    with pytest.raises(ValueError, match="backend='native' cannot run this: expected one of triton, torch"):
        evaluate(fields, coords, backend="native")
    with pytest.raises(ValueError, match="backend='cuda': expected one of auto, torch"):
        evaluate(fields, coords, backend="cuda")


def test_laws_hold_under_the_interpreter(failures_under_the_interpreter) -> None:
    assert failures_under_the_interpreter(LAWS) == ""
