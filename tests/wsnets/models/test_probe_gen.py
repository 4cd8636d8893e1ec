"""Learned probes: a plain twin, gradients to the probes, the full group, and what is refused."""

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from neuralfields import SIREN, FieldBatch, symmetry
from neuralfields.inits import draw
from neuralfields.testing import assert_gradients
from wsnets.features import weight_features
from wsnets.models.probe_gen import ProbeGen, ProbeGenConfig

SPEC = SIREN(2, 3, hidden=(5, 7))
CONFIG = ProbeGenConfig(probes=4, latent=3, width=24, num_layers=3)


def fields(count: int = 3) -> FieldBatch:
    return draw(SPEC, np.arange(count, dtype=np.uint32)).to(torch.float64)


def plain(model: ProbeGen, field: FieldBatch) -> Tensor:
    """The formula for one field, unit by unit."""
    value = []
    for code in model.codes:
        x = code
        for layer in model.maker:
            x = layer.weight @ x + layer.bias  # type: ignore[operator]
        for layer, (weight, bias) in enumerate(zip(field.weights, field.biases, strict=True)):
            x = weight[0] @ x + bias[0]
            x = torch.sin(SPEC.w0(layer) * x) if layer < len(SPEC.hidden) else x
        value.append(x)
    y = torch.cat(value)
    for layer in model.layers[:-1]:
        y = (layer.weight @ y + layer.bias).clamp_min(0.0)  # type: ignore[operator]
    return model.layers[-1].weight @ y + model.layers[-1].bias  # type: ignore[operator]


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_field_is_read_as_the_formula_says(layers: int, generator: Generator):
    config = ProbeGenConfig(probes=4, latent=3, generator_layers=layers, width=24, num_layers=3)
    model, some = config.build(SPEC, 2, generator).double(), fields()
    expected = torch.stack([plain(model, some[n]) for n in range(len(some))])
    assert expected.std(0).min() > 1e-3
    torch.testing.assert_close(model(weight_features(some)), expected, rtol=1e-10, atol=1e-12)


def test_gradients_reach_the_probes_and_the_fields(generator: Generator):
    model, some = CONFIG.build(SPEC, 2, generator).double(), fields(2)

    def of_codes(codes: Tensor) -> Tensor:
        return torch.func.functional_call(model, {"codes": codes}, (weight_features(some),))

    def of_fields(flat: Tensor) -> Tensor:
        return model(weight_features(FieldBatch.from_flat(SPEC, flat)))

    assert_gradients(of_codes, [model.codes.detach()], rtol=1e-5)
    assert_gradients(of_fields, [some.flat()], rtol=1e-5)


def test_all_that_leaves_a_field_as_it_is_leaves_the_answer(generator: Generator):
    model, some = CONFIG.build(SPEC, 2, generator).double(), fields()
    expected = model(weight_features(some))
    for _ in range(5):
        moved = symmetry.act(symmetry.sample(SPEC, len(some), generator), some)
        assert not torch.allclose(moved.flat(), some.flat())
        torch.testing.assert_close(model(weight_features(moved)), expected, rtol=1e-9, atol=1e-11)
    other = FieldBatch.from_flat(SPEC, some.flat() * 1.1)
    assert (model(weight_features(other)) - expected).abs().max() > 1e-3


def test_what_is_refused(generator: Generator):
    with pytest.raises(ValueError, match="num_layers=1: expected a whole number from 2"):
        ProbeGenConfig(num_layers=1)
    with pytest.raises(ValueError, match="probes=0"):
        ProbeGenConfig(probes=0)
    changed = weight_features(fields()).map(lambda x: 2.0 * x)
    with pytest.raises(ValueError, match="probe_gen needs the fields themselves"):
        CONFIG.build(SPEC, 2, generator)(changed)
