"""Batches of fields: selection, joining, and the flat form are one and the same population."""

import numpy as np
import pytest
import torch

from neuralfields import SIREN, FieldBatch, ReLUField
from neuralfields.testing import random_fields

SPEC = SIREN(2, 3, hidden=(5, 7))
N = 6


@pytest.fixture
def fields(generator: torch.Generator) -> FieldBatch:
    return random_fields(SPEC, N, generator, torch.float32)


def test_flat_round_trip(fields: FieldBatch) -> None:
    flat = fields.flat()
    assert flat.shape == (N, SPEC.num_params)
    back = FieldBatch.from_flat(SPEC, flat)
    for name, value in fields.parameters.items():
        assert torch.equal(back.parameters[name], value)
    # In storage order: the first layer's weights row by row, then its biases.
    assert torch.equal(flat[:, :10].view(N, 5, 2), fields.weights[0])
    assert torch.equal(flat[:, 10:15], fields.biases[0])
    assert torch.equal(flat[:, -3:], fields.biases[-1])


def test_from_flat_gives_views_that_carry_gradients(fields: FieldBatch) -> None:
    flat = fields.flat().requires_grad_()
    FieldBatch.from_flat(SPEC, flat).biases[1].sum().backward()
    assert flat.grad is not None
    assert float(flat.grad.sum()) == N * 7


def test_layers_round_trip(fields: FieldBatch) -> None:
    back = FieldBatch.from_layers(SPEC, fields.weights, fields.biases)
    assert torch.equal(back.flat(), fields.flat())
    assert [tuple(w.shape) for w in fields.weights] == [(N, 5, 2), (N, 7, 5), (N, 3, 7)]
    assert [tuple(b.shape) for b in fields.biases] == [(N, 5), (N, 7), (N, 3)]


@pytest.mark.parametrize("index", [slice(1, 4), slice(None, None, 2), [3, 0, 3], torch.tensor([5, 1])])
def test_selection_picks_rows(fields: FieldBatch, index) -> None:
    assert torch.equal(fields[index].flat(), fields.flat()[index])


@pytest.mark.parametrize("index", [2, -1, np.int64(2), np.int32(-6)])
def test_an_integer_gives_a_batch_of_one(fields: FieldBatch, index) -> None:
    one = fields[index]
    assert len(one) == 1
    assert torch.equal(one.flat()[0], fields.flat()[int(index)])


def test_iterating_gives_every_field(fields: FieldBatch) -> None:
    assert torch.equal(FieldBatch.cat(list(fields)).flat(), fields.flat())
    for index in (N, -N - 1):
        with pytest.raises(IndexError):
            fields[index]


def test_cat_is_the_inverse_of_slicing(fields: FieldBatch) -> None:
    assert torch.equal(FieldBatch.cat([fields[:2], fields[2:]]).flat(), fields.flat())
    with pytest.raises(ValueError, match="expected at least one FieldBatch"):
        FieldBatch.cat([])
    with pytest.raises(ValueError, match="different specs"):
        FieldBatch.cat([fields, random_fields(SIREN(2, 3, hidden=(5, 7), w0=1.0), 1, torch.Generator())])


def test_to_casts_everything(fields: FieldBatch) -> None:
    assert {value.dtype for value in fields.to(torch.float64).parameters.values()} == {torch.float64}
    assert torch.equal(fields.to(torch.float64).to(torch.float32).flat(), fields.flat())


def test_what_does_not_fit_is_refused(fields: FieldBatch) -> None:
    wrong = {**fields.parameters, "biases.1": torch.zeros(N, 6)}
    with pytest.raises(ValueError, match=r"biases\.1 has shape \(6, 6\): expected \(6, 7\)"):
        FieldBatch(SPEC, wrong)
    with pytest.raises(ValueError, match=r"biases\.2 has shape \(5, 3\): expected \(6, 3\)"):
        FieldBatch(SPEC, {**fields.parameters, "biases.2": torch.zeros(N - 1, 3)})
    with pytest.raises(ValueError, match=r"parameters=.*: expected"):
        FieldBatch(SPEC, dict(list(fields.parameters.items())[::-1]))
    with pytest.raises(ValueError, match=r"flat has shape \(6, 80\): expected \(N, 81\)"):
        FieldBatch.from_flat(SPEC, torch.zeros(6, 80))
    with pytest.raises(ValueError, match=r"parameters=.*: expected"):
        FieldBatch(ReLUField(2, 3, hidden=(5,)), fields.parameters)


def test_empty_batches(fields: FieldBatch) -> None:
    assert len(fields[:0]) == 0
    assert fields[:0].flat().shape == (0, SPEC.num_params)
