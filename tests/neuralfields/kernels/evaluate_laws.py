"""Laws of the CUDA evaluation, on a GPU or in Triton's interpreter: test_evaluate_triton.py runs them in the latter."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from neuralfields import FieldBatch, FieldSpec
from neuralfields.evaluate import forward_raw
from neuralfields.kernels import evaluate_tiles, evaluate_triton
from neuralfields.testing import assert_matches_reference, random_fields

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Where torch's float32 result happens to hit the float64 one almost exactly, this much is still allowed.
FLOOR = 5e-7


@dataclass(frozen=True)
class Case:
    dims: tuple[int, ...]
    points: int
    activation: Literal["sine", "relu"] = "sine"
    fields: int = 2
    own: bool = False  # points of each field's own

    @property
    def spec(self) -> FieldSpec:
        return FieldSpec(
            in_dim=self.dims[0],
            out_dim=self.dims[-1],
            hidden=self.dims[1:-1],
            activation=self.activation,
            w0_first=20.0,
            w0_hidden=25.0,
        )


# Every padded width, depths one to five; one, several and broken tiles; few, many and all inputs and outputs.
CASES = [
    Case((1, 5, 2), 1),
    Case((2, 16, 16, 1), 64, "relu", own=True),
    Case((2, 17, 9, 3), 70),
    Case((15, 20, 32, 5, 30, 12, 4), 37, own=True),
    Case((16, 33, 1), 40, "relu"),
    Case((3, 33, 7, 64, 4), 70, fields=1, own=True),
    Case((64, 40, 3), 21),
    Case((2, 70, 40, 1), 45, fields=1, own=True),
    Case((3, 33, 130, 2), 33, "relu", fields=1),
]
NARROW, WIDE = Case((2, 17, 9, 3), 23), Case((2, 66, 5, 1), 23, own=True)


@dataclass(frozen=True)
class Result:
    """Values (N, B, O); gradients of one number made of them: per parameter (N, ...), and of encoded."""

    values: Tensor
    parameters: dict[str, Tensor]
    encoded: Tensor


def draw(case: Case) -> tuple[FieldBatch, Tensor, Tensor]:
    """Fields, their points and what the gradient flows back from: float32, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    fields = random_fields(case.spec, case.fields, generator, torch.float32)
    shape = (case.fields, case.points, case.dims[0]) if case.own else (case.points, case.dims[0])
    encoded = torch.rand(shape, generator=generator) * 2 - 1
    return fields, encoded, torch.randn((case.fields, case.points, case.dims[-1]), generator=generator)


def run(
    forward: Callable[[FieldBatch, Tensor], Tensor],
    drawn: tuple[FieldBatch, Tensor, Tensor],
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Result:
    fields, encoded, cotangent = drawn
    leaves = {n: v.to(device, dtype, copy=True).requires_grad_() for n, v in fields.parameters.items()}
    encoded = encoded.to(device, dtype, copy=True).requires_grad_()
    values = forward(FieldBatch(fields.spec, leaves), encoded)
    gradients = torch.autograd.grad(values, [*leaves.values(), encoded], cotangent.to(values))
    return Result(values.detach(), dict(zip(leaves, gradients[:-1], strict=True)), gradients[-1])


def kernel(drawn: tuple[FieldBatch, Tensor, Tensor], precision: str = evaluate_triton.DEFAULT_PRECISION) -> Result:
    return run(lambda fields, x: evaluate_triton.forward_raw(fields, x, precision), drawn, device=DEVICE)


def part(drawn: tuple[FieldBatch, Tensor, Tensor], which: slice) -> tuple[FieldBatch, Tensor, Tensor]:
    fields, encoded, cotangent = drawn
    return fields[which], encoded if encoded.ndim == 2 else encoded[which], cotangent[which]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_all_gradients_are_as_near_to_float64_as_torch_is(case: Case) -> None:
    drawn = draw(case)
    exact, plain, result = run(forward_raw, drawn, torch.float64), run(forward_raw, drawn), kernel(drawn)
    assert_matches_reference(result.values, exact.values, plain.values, floor=FLOOR, name="values")
    for name, gradient in result.parameters.items():
        assert exact.parameters[name].abs().max() > 1e-3
        assert_matches_reference(gradient, exact.parameters[name], plain.parameters[name], floor=FLOOR, name=name)
    assert result.encoded.shape == drawn[1].shape
    assert_matches_reference(result.encoded, exact.encoded, plain.encoded, floor=FLOOR, name="encoded")


@pytest.mark.parametrize(
    ("case", "precision"), [*((NARROW, precision) for precision in evaluate_triton.PRECISIONS), (WIDE, "tf32")]
)
def test_every_precision_is_as_exact_as_its_name_says(case: Case, precision: str) -> None:
    drawn = draw(case)
    exact, result = run(forward_raw, drawn, torch.float64), kernel(drawn, precision)
    least, most = {"fp32": (0, 1e-5), "tf32x3": (0, 1e-5), "tf32": (1e-5, 0.02), "bf16": (1e-4, 0.1)}[precision]
    pairs = [(result.values, exact.values), (result.encoded, exact.encoded)]
    for found, right in pairs + [(result.parameters[name], right) for name, right in exact.parameters.items()]:
        error = float((found.cpu() - right).norm() / right.norm())
        assert error <= most
        assert error >= least or right.ndim == 2  # sums of what flows back alone are exact


@pytest.mark.parametrize("case", [replace(NARROW, fields=3, points=130), replace(WIDE, points=66)], ids=str)
def test_a_field_does_not_depend_on_its_company(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw(case)
    whole = kernel(drawn)
    monkeypatch.setattr(evaluate_tiles, "CHUNK", 20)  # so that there are three chunks or more
    assert -(-case.points // evaluate_tiles.chunk(case.points, evaluate_tiles.backward_tile(case.spec))) >= 3
    together, alone = kernel(drawn), kernel(part(drawn, slice(1, 2)))
    monkeypatch.setattr(evaluate_triton, "_BYTES", 1)  # one field a launch
    launches = kernel(drawn)
    for some, place in ((alone, 0), (launches, 1)):
        assert torch.equal(some.values[place], together.values[1])
        for name, gradient in some.parameters.items():
            assert torch.equal(gradient[place], together.parameters[name][1])
        if case.own:
            assert torch.equal(some.encoded[place], together.encoded[1])
    assert torch.allclose(launches.encoded, together.encoded, rtol=1e-6, atol=1e-6)
    for name, gradient in whole.parameters.items():  # chunks change the order of sums at most
        assert torch.allclose(together.parameters[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("case", [NARROW, replace(WIDE, own=False)], ids=str)
def test_points_of_each_fields_own_are_the_shared_ones_when_they_are_equal(case: Case) -> None:
    fields, shared, cotangent = draw(case)
    one, each = kernel((fields, shared, cotangent)), kernel((fields, shared.expand(2, -1, -1), cotangent))
    assert torch.equal(one.values, each.values)
    assert all(torch.equal(one.parameters[name], gradient) for name, gradient in each.parameters.items())
    assert torch.allclose(one.encoded, each.encoded.sum(0), rtol=1e-6, atol=1e-6)
    other = torch.stack([shared, shared.flip(0)]).to(DEVICE)
    values = evaluate_triton.forward_raw(fields.to(DEVICE), other)
    assert torch.equal(values[0], one.values[0])
    # Shared in the same order: the interpreter's products are numpy's, which may round by the place of a row.
    assert torch.equal(values[1], kernel((fields, shared.flip(0), cotangent)).values[1])


@pytest.mark.parametrize("case", [NARROW], ids=str)
def test_gradients_are_the_same_when_asked_for_apart(case: Case) -> None:
    drawn = draw(case)
    everything = kernel(drawn)
    fields, encoded, cotangent = (drawn[0].to(DEVICE), *(x.to(DEVICE) for x in drawn[1:]))
    x = encoded.clone().requires_grad_()
    (alone,) = torch.autograd.grad(evaluate_triton.forward_raw(fields, x), [x], cotangent)
    assert torch.equal(alone, everything.encoded)
    weight = fields.weights[1].clone().requires_grad_()
    partly = FieldBatch(fields.spec, {**fields.parameters, "weights.1": weight})
    (alone,) = torch.autograd.grad(evaluate_triton.forward_raw(partly, encoded), [weight], cotangent)
    assert torch.equal(alone, everything.parameters["weights.1"])


def test_nan_stays_with_its_point_and_its_field() -> None:
    fields, encoded, _ = draw(replace(NARROW, own=True))
    encoded[1, 3, 0] = float("nan")
    values = evaluate_triton.forward_raw(fields.to(DEVICE), encoded.to(DEVICE))
    assert values[1, 3].isnan().all()
    assert int(values.isnan().sum()) == NARROW.dims[-1]


def test_nothing_to_evaluate() -> None:
    fields, encoded, _ = draw(NARROW)
    fields, encoded = fields.to(DEVICE), encoded.to(DEVICE).requires_grad_()
    for some, x in ((fields[:0], encoded), (fields, encoded[:0])):
        values = evaluate_triton.forward_raw(some, x)
        assert values.shape == (len(some), len(x), 3)
        assert torch.autograd.grad(values.sum(), [encoded])[0].abs().max() == 0


def test_what_does_not_fit_is_said() -> None:
    fields, encoded, _ = draw(NARROW)
    fields, encoded = fields.to(DEVICE), encoded.to(DEVICE)
    refusals = [
        (
            r"precision='fp16': expected one of fp32, tf32x3",
            lambda: evaluate_triton.forward_raw(fields, encoded, "fp16"),
        ),
        (
            r"encoded has shape \(23, 1\): expected \(B, 2\)",
            lambda: evaluate_triton.forward_raw(fields, encoded[:, :1]),
        ),
        (r"encoded has shape \(1, 23, 2\)", lambda: evaluate_triton.forward_raw(fields, encoded[None])),
        (r"encoded is torch\.float64", lambda: evaluate_triton.forward_raw(fields, encoded.double())),
        (r"weights\.0 is torch\.float64", lambda: evaluate_triton.forward_raw(fields.to(torch.float64), encoded)),
    ]
    for words, call in refusals:
        with pytest.raises(ValueError, match=words):
            call()
