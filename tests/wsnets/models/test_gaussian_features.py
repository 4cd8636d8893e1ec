"""Gaussian Fourier features: the formula, with and without gradients, and the spread of the frequencies."""

import math

import pytest
import torch
from torch import Generator

from neuralfields.testing import assert_gradients
from wsnets.models.gaussian_features import GaussianFeatures


def test_values_are_sines_and_cosines_whether_or_not_a_gradient_is_wanted(generator: Generator):
    encode = GaussianFeatures(5, 0.5, generator).double()
    x = torch.randn(2, 3, 4, 1, generator=generator, dtype=torch.float64)
    y = encode(x)
    assert y.shape == (2, 3, 4, encode.num_out)
    for k, frequency in enumerate(encode.frequencies.tolist()):
        expected = [[math.sin(v * frequency), math.cos(v * frequency)] for v in x.flatten().tolist()]
        torch.testing.assert_close(y[..., [k, k + 5]].reshape(-1, 2), torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(encode(x.requires_grad_()), y)
    assert_gradients(encode, [x.detach()])


@pytest.mark.parametrize(
    ("of_x", "of_model"), [("bfloat16", "float32"), ("float32", "float64"), ("float64", "float32")]
)
def test_precision_is_that_of_the_angles_whether_or_not_a_gradient_is_wanted(of_x, of_model, generator: Generator):
    encode = GaussianFeatures(5, 0.5, generator).to(getattr(torch, of_model))
    x = torch.randn(4, 1, generator=generator).to(getattr(torch, of_x))
    with_gradient = encode(x.clone().requires_grad_())
    assert encode(x).dtype == with_gradient.dtype == torch.promote_types(x.dtype, encode.frequencies.dtype)
    assert torch.equal(encode(x), with_gradient)


def test_scale_is_the_spread_of_the_frequencies_in_periods(generator: Generator):
    periods = GaussianFeatures(20_000, 3.0, generator).frequencies / (2.0 * math.pi)
    assert abs(float(periods.std()) - 3.0) < 0.05
    assert abs(float(periods.mean())) < 0.1


def test_frequencies_are_kept_with_the_model_and_not_trained(generator: Generator):
    encode = GaussianFeatures(4, 1.0, generator)
    assert list(encode.state_dict()) == ["frequencies"]
    assert list(encode.parameters()) == []


def test_more_than_one_channel_is_refused(generator: Generator):
    with pytest.raises(ValueError, match="features have 2 channels: expected 1"):
        GaussianFeatures(4, 1.0, generator)(torch.zeros(3, 2))
