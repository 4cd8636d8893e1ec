"""Tokens: an exact round trip, positions that say where a token comes from, widths of all sorts."""

import pytest
import torch
from torch import Generator

from neuralfields import SIREN, FieldBatch, HashField, ReLUField
from wsnets.tokens import TokenLayout

SPECS = (SIREN(2, 1, hidden=(5, 7)), SIREN(3, 4, hidden=(6,)), ReLUField(2, 3, hidden=(4, 9, 3)))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("width", [None, 1, 3, 4, 64])
def test_round_trip_is_bit_equal(spec, width, generator: Generator):
    layout = TokenLayout.of(spec, width)
    flat = torch.randn(3, spec.num_params, generator=generator)
    tokens = layout.tokens(flat)
    assert tuple(tokens.shape[1:]) == layout.shape
    assert torch.equal(layout.flat(tokens), flat)
    assert torch.equal(layout.flat(tokens + 5.0 * ~layout.mask), flat)
    assert int(layout.mask.sum()) == spec.num_params
    assert float(tokens[:, ~layout.mask].abs().sum()) == 0.0


def test_a_row_is_what_comes_into_a_unit(generator: Generator):
    spec = SIREN(2, 1, hidden=(5, 7))
    fields = FieldBatch.from_flat(spec, torch.randn(2, spec.num_params, generator=generator))
    layout = TokenLayout.of(spec)
    tokens = layout.tokens(fields.flat())
    assert layout.shape == (5 + 7 + 1, 8)
    assert layout.layers.tolist() == [0] * 5 + [1] * 7 + [2]
    assert layout.rows.tolist() == [*range(5), *range(7), 0]
    assert torch.equal(tokens[:, 5 + 3, :5], fields.weights[1][:, 3])
    assert torch.equal(tokens[:, 5 + 3, 5], fields.biases[1][:, 3])
    cut = TokenLayout.of(spec, 4)
    assert cut.layers.tolist() == [0] * 5 + [1] * 14 + [2] * 2
    assert torch.equal(cut.tokens(fields.flat())[:, 5:19].reshape(2, 7, 8)[..., :5], fields.weights[1])


def test_refusals():
    layout = TokenLayout.of(SPECS[0])
    with pytest.raises(ValueError, match="width=0: expected a whole number from 1"):
        TokenLayout.of(SPECS[0], 0)
    with pytest.raises(ValueError, match=r"flat has shape \(2, 3\): expected \(N, "):
        layout.tokens(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"tokens has shape \(2, 3, 4\): expected \(N, 13, 8\)"):
        layout.flat(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="tokens"):
        TokenLayout.of(HashField(3, 1))
