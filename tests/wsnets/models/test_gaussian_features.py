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
