"""HyperDiffusion: shapes, what it is told matters, a batch is its items, settings."""

import math

import pytest
import torch

from neuralfields import SIREN, HashField
from wsnets import models
from wsnets.models.hyper_diffusion import HyperDiffusion, HyperDiffusionConfig, time_features

SMALL = HyperDiffusionConfig(width=16, num_layers=2, num_heads=2)


def stirred(config: HyperDiffusionConfig, generator: torch.Generator, shape=(7, 5), num_classes: int = 3):
    """A model whose zero-initialised parts have moved."""
    model = config.build_denoiser(shape, num_classes, generator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


@pytest.mark.parametrize("group", [1, 3, 7, 10])
def test_tokens_keep_their_shape_and_a_batch_is_its_items(group: int, generator: torch.Generator):
    model = stirred(HyperDiffusionConfig(width=16, num_layers=2, num_heads=2, group=group), generator)
    tokens = torch.randn(4, 7, 5, generator=generator, dtype=torch.float64)
    time, classes = torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64), torch.tensor([0, -1, 2, 1])
    whole = model(tokens, time, classes)
    assert whole.shape == tokens.shape
    for item in range(4):
        one = slice(item, item + 1)
        torch.testing.assert_close(model(tokens[one], time[one], classes[one]), whole[one])


def test_it_starts_at_zero_and_every_parameter_is_trained(generator: torch.Generator):
    tokens, time, classes = torch.randn(2, 7, 5, generator=generator), torch.rand(2), torch.tensor([0, -1])
    assert not SMALL.build_denoiser((7, 5), 3, generator)(tokens, time, classes).any()
    model = stirred(SMALL, generator, num_classes=1)
    model(tokens.double(), time.double(), classes).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_time_class_and_every_token_matter(generator: torch.Generator):
    model = stirred(SMALL, generator)
    tokens = torch.randn(1, 7, 5, generator=generator, dtype=torch.float64)
    half, first = torch.tensor([0.5], dtype=torch.float64), torch.tensor([0])
    base = model(tokens, half, first)
    assert not torch.allclose(base, model(tokens, half + 0.01, first))
    for other in (-1, 1, 2):
        assert not torch.allclose(base, model(tokens, half, torch.tensor([other])))
    for token in range(7):
        changed = tokens.clone()
        changed[0, token, 2] += 1
        assert (model(changed, half, first) != base).any(dim=2).all()


def test_time_features_are_unit_pairs_that_tell_times_apart():
    found = time_features(torch.linspace(0, 1, 200, dtype=torch.float64), torch.float64)
    cosines, sines = found.chunk(2, dim=1)
    torch.testing.assert_close(cosines.square() + sines.square(), torch.ones_like(cosines))
    gaps = torch.cdist(found, found) + 10 * torch.eye(200)
    assert float(gaps.min()) > 0.1


def test_settings_round_trip_and_are_checked():
    for settings in (HyperDiffusionConfig(), HyperDiffusionConfig.small()):
        assert models.from_json(models.to_json(settings)) == settings  # type: ignore[arg-type]
    assert (HyperDiffusionConfig().width, HyperDiffusionConfig().num_layers) == (2880, 12)
    assert HyperDiffusionConfig().symmetry(SIREN(2, 1)) == ()
    with pytest.raises(ValueError, match="dense layers only"):
        HyperDiffusionConfig().symmetry(HashField(2, 1))
    with pytest.raises(ValueError, match="num_heads=3: expected a divisor of width=16"):
        HyperDiffusionConfig(width=16, num_heads=3)
    with pytest.raises(ValueError, match="group=0: expected a whole number from 1"):
        HyperDiffusionConfig(group=0)


def test_classes_that_are_not_known_are_refused(generator: torch.Generator):
    model = SMALL.build_denoiser((7, 5), 3, generator)
    assert isinstance(model, HyperDiffusion)
    tokens, time = torch.zeros(1, 7, 5), torch.ones(1)
    for bad in (3, -2):
        with pytest.raises(ValueError, match=f"classes run from {bad} to {bad}: expected -1 to 2"):
            model(tokens, time, torch.tensor([bad]))
    unconditional = SMALL.build_denoiser((7, 5), 0, generator)
    with pytest.raises(ValueError, match="expected -1 to -1"):
        unconditional(tokens, time, torch.tensor([0]))


def test_the_initial_spread_of_inputs_is_that_of_a_linear_layer(generator: torch.Generator):
    inputs = SMALL.build_denoiser((7, 5), 3, generator).inputs
    assert float(inputs.detach().abs().max()) <= 1 / math.sqrt(5)
    assert float(inputs.detach().std()) == pytest.approx(1 / math.sqrt(15), rel=0.1)
