"""Evaluation: right against plain formulas and finite differences, and the same however it is batched or chunked."""

import importlib

import numpy as np
import pytest
import torch
from torch import Tensor

from neuralfields import FieldBatch, FieldSpec, GaussianFourier, Positional
from neuralfields.evaluate import denormalise, encode, evaluate, forward_raw, normalise
from neuralfields.testing import assert_gradients, assert_matches_reference, random_fields

ACTIVATIONS = ("sine", "relu", "tanh", "gauss", "gabor", "finer")
ENCODINGS = (None, Positional(2), GaussianFourier(3, std=0.5))
N, B = 3, 5


def make(activation: str, encoding=None, hidden: tuple[int, ...] = (7, 5)) -> FieldSpec:
    options = {"w0_first": 6.0, "w0_hidden": 3.0, "width": 2.0, "scale": (0.5, 2.0, 1.0), "offset": (0.5, 0.0, -1.0)}
    return FieldSpec(in_dim=2, out_dim=3, hidden=hidden, activation=activation, encoding=encoding, **options)  # type: ignore[arg-type]


def points(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


def by_hand(fields: FieldBatch, index: int, x: np.ndarray) -> np.ndarray:
    """One field at one point, from the formulas alone."""
    spec, h = fields.spec, x
    formulas = {
        "sine": lambda z, w0: np.sin(w0 * z),
        "relu": lambda z, w0: np.maximum(z, 0),
        "tanh": lambda z, w0: np.tanh(z),
        "gauss": lambda z, w0: np.exp(-((2.0 * z) ** 2)),
        "gabor": lambda z, w0: np.cos(w0 * z) * np.exp(-((2.0 * z) ** 2)),
        "finer": lambda z, w0: np.sin(w0 * (abs(z) + 1) * z),
    }
    for layer in range(spec.num_layers):
        z = fields.weights[layer][index].numpy() @ h + fields.biases[layer][index].numpy()
        h = formulas[spec.activation](z, 6.0 if layer == 0 else 3.0) if layer < spec.num_layers - 1 else z
    return np.array(spec.scale) * h + np.array(spec.offset)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_formulas(activation: str, generator: torch.Generator) -> None:
    fields = random_fields(make(activation), N, generator)
    coords = points(B, 2, generator=generator)
    expected = np.array([[by_hand(fields, n, x.numpy()) for x in coords] for n in range(N)])
    assert np.allclose(evaluate(fields, coords).numpy(), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=["plain", "positional", "gaussian"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_to_weights_and_coordinates(activation: str, encoding, generator: torch.Generator) -> None:
    spec = make(activation, encoding, hidden=(4, 3))
    fields = random_fields(spec, 2, generator)
    coords = points(2, B, 2, generator=generator)

    def values(flat: Tensor, x: Tensor) -> Tensor:
        return evaluate(FieldBatch.from_flat(spec, flat), x)

    assert_gradients(values, [fields.flat(), coords])
    assert_gradients(values, [fields.flat(), coords[0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_batch_equals_singles(activation: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    # Up to rounding, not bit for bit: a batched matrix product may order its sums otherwise than a single one.
    fields = random_fields(make(activation, Positional(2)), N, generator)
    coords = points(N, 33, 2, generator=generator)
    whole = evaluate(fields.to(dtype), coords.to(dtype))
    assert whole.shape == (N, 33, 3)
    singles = torch.cat([evaluate(fields[n].to(dtype), coords[n].to(dtype)) for n in range(N)])
    exact = evaluate(fields, coords)
    assert_matches_reference(whole, exact, singles, factor=4.0)
    assert float((whole - singles).abs().max()) <= 200 * torch.finfo(dtype).eps * float(exact.abs().max())


def test_own_coordinates_equal_shared_ones(generator: torch.Generator) -> None:
    fields = random_fields(make("sine"), N, generator)
    shared = points(B, 2, generator=generator)
    own = shared.expand(N, B, 2).contiguous()
    assert torch.allclose(evaluate(fields, own), evaluate(fields, shared), rtol=1e-12, atol=1e-13)
    own = points(N, B, 2, generator=generator)
    for n in range(N):
        row = evaluate(fields, own[n])[n]
        assert torch.allclose(evaluate(fields, own)[n], row, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=["plain", "positional", "gaussian"])
def test_chunked_equals_whole(encoding, shared: bool, generator: torch.Generator) -> None:
    spec = make("sine", encoding, hidden=(37, 5))
    fields = random_fields(spec, 4, generator)
    coords = points(2000, 2, generator=generator) if shared else points(4, 2000, 2, generator=generator)
    whole = evaluate(fields, coords)
    chunks = []

    def counted(part: FieldBatch, encoded: Tensor) -> Tensor:
        chunks.append((len(part), encoded.shape[-2]))
        return forward_raw(part, encoded)

    with pytest.MonkeyPatch.context() as patch:
        # By import_module: the attribute `evaluate` of the package is the function.
        patch.setattr(importlib.import_module("neuralfields.evaluate"), "forward_raw", counted)
        chunked = evaluate(fields, coords, memory_mb=1)
    assert len(chunks) > 1
    assert max(n * b for n, b in chunks) * 2 * 37 * 8 <= 2**20
    assert torch.allclose(chunked, whole, rtol=1e-11, atol=1e-12)


def test_chunks_carry_gradients(generator: torch.Generator) -> None:
    spec = make("sine", hidden=(37, 5))
    flat = random_fields(spec, 4, generator).flat().requires_grad_()
    coords = points(2000, 2, generator=generator).requires_grad_()
    gradients = []
    for memory_mb in (256, 1):
        values = evaluate(FieldBatch.from_flat(spec, flat), coords, memory_mb)
        gradients.append(torch.autograd.grad(values.square().sum(), [flat, coords]))
    for whole, chunked in zip(*gradients, strict=True):
        assert torch.allclose(whole, chunked, rtol=1e-9, atol=1e-9)


def test_empty_inputs() -> None:
    spec = make("sine")
    fields = random_fields(spec, 2, torch.Generator().manual_seed(1))
    assert evaluate(fields[:0], torch.zeros(4, 2, dtype=torch.float64)).shape == (0, 4, 3)
    assert evaluate(fields, torch.zeros(0, 2, dtype=torch.float64)).shape == (2, 0, 3)


def test_values_and_raw_outputs_are_inverse(generator: torch.Generator) -> None:
    spec = make("tanh", Positional(2))
    fields, coords = random_fields(spec, N, generator), points(B, 2, generator=generator)
    raw = forward_raw(fields, encode(spec, coords))
    assert torch.equal(denormalise(spec, raw), evaluate(fields, coords))
    assert torch.allclose(normalise(spec, evaluate(fields, coords)), raw, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"scale=.*: expected non-zero numbers"):
        normalise(FieldSpec(in_dim=2, out_dim=1, hidden=(3,), scale=(0.0,)), raw[..., :1])


def test_refusals(generator: torch.Generator) -> None:
    fields = random_fields(make("sine"), N, generator)
    with pytest.raises(ValueError, match=r"coords has shape \(4, 3\): expected \(B, 2\) or \(N, B, 2\)"):
        evaluate(fields, points(4, 3, generator=generator))
    with pytest.raises(ValueError, match=r"coords has shape \(2, 4, 2\): expected 3 sets"):
        evaluate(fields, points(2, 4, 2, generator=generator))
    with pytest.raises(ValueError, match=r"coords is torch\.float32: expected torch\.float64"):
        evaluate(fields, points(4, 2, generator=generator).float())
