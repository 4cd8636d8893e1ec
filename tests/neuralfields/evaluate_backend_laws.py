"""Laws of `evaluate` through the CUDA kernels, on a GPU or in the interpreter, where test_evaluate_backend.py is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from neuralfields.batch import FieldBatch
from neuralfields.encodings import Positional
from neuralfields.evaluate import choose_backend, evaluate
from neuralfields.kernels import evaluate_triton
from neuralfields.spec import FieldSpec
from neuralfields.testing import assert_matches_reference, random_fields

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Where torch's float32 result happens to hit the float64 one almost exactly, this much is still allowed.
FLOOR = 5e-7
SINE = FieldSpec(
    in_dim=2, out_dim=3, hidden=(17, 9), w0_first=6.0, w0_hidden=3.0, scale=(0.5, 2.0, 1.0), offset=(0.5, 0.0, -1.0)
)
RELU = FieldSpec(in_dim=3, out_dim=1, hidden=(20,), activation="relu", encoding=Positional(2))
# What is differentiated in the end: gradients of it, by name, from leaves of a dtype on a device.
Outcome = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def draw(spec: FieldSpec, own: bool = False, fields: int = 2, points: int = 21) -> tuple[FieldBatch, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (fields, points, spec.in_dim) if own else (points, spec.in_dim)
    return random_fields(spec, fields, generator, torch.float32), torch.rand(shape, generator=generator) * 2 - 1


def outcome(drawn: tuple[FieldBatch, Tensor], loss: Loss, backend: str, dtype=torch.float32, **options) -> Outcome:
    """Values, and gradients of loss(values, coords) in parameters and coordinates."""
    device = DEVICE if backend == "triton" else "cpu"
    leaves = {n: v.to(device, dtype, copy=True).requires_grad_() for n, v in drawn[0].parameters.items()}
    coords = drawn[1].to(device, dtype, copy=True).requires_grad_()
    fields = FieldBatch(drawn[0].spec, leaves)
    values = evaluate(fields, coords, backend=backend, **options)
    gradients = torch.autograd.grad(loss(values, coords), [*leaves.values(), coords])
    return {"values": values.detach(), **dict(zip([*leaves, "coords"], gradients, strict=True))}


def squares(values: Tensor, coords: Tensor) -> Tensor:
    return values.square().sum()


def eikonal(values: Tensor, coords: Tensor) -> Tensor:
    """How far the gradient is from unit length, and the values' squares: weights see both derivatives."""
    (slope,) = torch.autograd.grad(values[..., 0].sum(), coords, create_graph=True)
    return (slope.norm(dim=-1) - 1.0).square().sum() + values.square().sum()


def assert_as_near_as_torch(drawn: tuple[FieldBatch, Tensor], loss: Loss) -> None:
    exact, plain = outcome(drawn, loss, "torch", torch.float64), outcome(drawn, loss, "torch")
    for name, value in outcome(drawn, loss, "triton").items():
        assert_matches_reference(value, exact[name], plain[name], floor=FLOOR, name=name)


@pytest.mark.parametrize(("spec", "own"), [(SINE, False), (SINE, True), (RELU, False)], ids=str)
def test_values_and_gradients_are_as_near_to_float64_as_torchs(spec: FieldSpec, own: bool) -> None:
    assert_as_near_as_torch(draw(spec, own), squares)


@pytest.mark.parametrize("own", [False, True])
def test_gradients_of_gradients_are_as_near_to_float64_as_torchs(own: bool) -> None:
    assert_as_near_as_torch(draw(replace(SINE, scale=(0.5,), offset=(0.0,), out_dim=1), own), eikonal)


def test_gradients_of_gradients_in_coordinates_of_any_memory_layout() -> None:
    fields, coords = draw(replace(SINE, scale=(0.5,), offset=(0.0,), out_dim=1), own=True)
    found = []
    for layout in (coords, coords.transpose(1, 2).contiguous().transpose(1, 2)):
        leaf = layout.to(DEVICE).requires_grad_()
        values = evaluate(fields.to(DEVICE), leaf, backend="triton")
        found.append(torch.autograd.grad(eikonal(values, leaf), leaf)[0])
    assert not leaf.is_contiguous()
    assert torch.equal(*found)


def test_the_kernel_is_what_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw(SINE)
    kernel, calls = evaluate_triton._values, []
    monkeypatch.setattr(evaluate_triton, "_values", lambda *given: [calls.append(given), kernel(*given)][1])
    whole = outcome(drawn, squares, "triton")
    assert len(calls) == 1
    outcome(drawn, squares, "torch")
    assert len(calls) == 1
    fields, coords = drawn[0].to(DEVICE), drawn[1].to(DEVICE)
    assert choose_backend(fields, coords) == ("triton" if DEVICE == "cuda" else "torch")
    assert torch.equal(evaluate(fields, coords, backend="triton"), whole["values"])


def test_chunks_change_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = FieldSpec(in_dim=62, out_dim=2, hidden=(5,), scale=(2.0, 1.0), offset=(0.5, 0.0))
    fields, coords = draw(spec, fields=3, points=1500)  # 64 floats a point: two fields in a chunk of a megabyte
    fields, coords = fields.to(DEVICE), coords.to(DEVICE)
    whole = evaluate(fields, coords, backend="triton")
    kernel, sizes = evaluate_triton._values, []
    monkeypatch.setattr(evaluate_triton, "_values", lambda *given: [sizes.append(len(given[0])), kernel(*given)][1])
    assert torch.equal(evaluate(fields, coords, memory_mb=1, backend="triton"), whole)
    assert sizes == [2, 1]


def test_many_outputs_are_differentiated_at_once() -> None:
    fields, coords = draw(SINE, points=3)
    x = coords.to(DEVICE).requires_grad_()
    values = evaluate(fields.to(DEVICE), x, backend="triton").flatten()
    rows = torch.eye(len(values), device=DEVICE)
    (at_once,) = torch.autograd.grad(values, x, rows, is_grads_batched=True, retain_graph=True)
    for row, found in zip(rows, at_once, strict=True):
        (expected,) = torch.autograd.grad(values, x, row, retain_graph=True)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own, of jvp
def test_where_torch_is_needed_it_is_taken_or_the_request_refused() -> None:
    fields, coords = draw(SINE)
    fields, coords = fields.to(DEVICE), coords.to(DEVICE)
    slopes = torch.func.jacrev(lambda x: evaluate(fields, x).sum((0, 2)))(coords)
    assert slopes.shape == (21, 21, 2)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(coords, torch.ones_like(coords))
        tangent = torch.autograd.forward_ad.unpack_dual(evaluate(fields, dual)).tangent
        assert tangent is not None
        assert torch.allclose(tangent.sum((0, 2)), slopes.sum((1, 2)), rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match=r"backend='triton' cannot run this: torch\.func and forward-mode"):
            evaluate(fields, dual, backend="triton")
    with pytest.raises(ValueError, match=r"backend='triton' cannot run this: torch\.func and forward-mode"):
        torch.func.vmap(lambda x: evaluate(fields, x, backend="triton"))(coords[None])
    with pytest.raises(ValueError, match="activation='tanh'"):
        evaluate(FieldBatch(replace(SINE, activation="tanh"), fields.parameters), coords, backend="triton")
    with pytest.raises(ValueError, match=r"weights\.0 is torch\.float64"):
        evaluate(fields.to(torch.float64), coords, backend="triton")
