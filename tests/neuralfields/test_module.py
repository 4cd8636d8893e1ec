"""One field as an nn.Module: equal to evaluate, trainable, and a copy."""

import pytest
import torch

from neuralfields import SIREN, Positional, ReLUField, grids
from neuralfields.evaluate import evaluate
from neuralfields.module import FieldModule
from neuralfields.testing import random_fields

SPECS = [SIREN(2, 3, hidden=(5, 7), offset=(0.5,)), ReLUField(2, 3, hidden=(5,), encoding=Positional(2), scale=(2.0,))]


@pytest.mark.parametrize("spec", SPECS, ids=["sine", "relu"])
def test_module_equals_evaluate(spec, generator: torch.Generator) -> None:
    fields = random_fields(spec, 3, generator)
    coords = torch.rand(4, 6, 2, generator=generator, dtype=torch.float64) * 2 - 1
    expected = evaluate(fields[1], coords.view(24, 2))[0]
    module = fields.module(1)
    assert torch.equal(module(coords.view(24, 2)), expected)
    assert torch.equal(module(coords), expected.view(4, 6, 3))
    # One point runs through another matrix product than 24 do: equal up to rounding only.
    assert torch.allclose(module(coords[0, 0]), expected[0], rtol=1e-12)
    assert module(coords[0, 0]).shape == (3,)
    assert module(coords[:0]).shape == (0, 6, 3)


def test_module_is_a_copy_with_named_parameters(generator: torch.Generator) -> None:
    fields = random_fields(SPECS[0], 1, generator)
    module = FieldModule(fields)
    assert list(module.state_dict()) == [name.replace(".", "_") for name in SPECS[0].shapes]
    assert sum(p.numel() for p in module.parameters()) == SPECS[0].num_params
    assert torch.equal(module.fields().flat(), fields.flat())
    with torch.no_grad():
        next(module.parameters()).zero_()
    assert float(fields.weights[0].abs().min()) > 0.0


def test_module_trains(generator: torch.Generator) -> None:
    spec = SIREN(2, 1, hidden=(16, 16), w0=10.0)
    coords = grids.product_grid((8, 8))
    target = (3 * coords[:, :1]).sin() * coords[:, 1:]
    module = random_fields(spec, 1, generator, torch.float32).module()
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (module(coords) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-2 * losses[0]


def test_refusals(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="fields has 2 fields: expected 1"):
        FieldModule(random_fields(SPECS[0], 2, generator))
    module = random_fields(SPECS[0], 1, generator).module()
    with pytest.raises(ValueError, match=r"coords has shape \(4, 3\): expected \(\.\.\., 2\)"):
        module(torch.zeros(4, 3, dtype=torch.float64))
