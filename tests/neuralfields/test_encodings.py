"""Encodings: each equals its formula, and the random one is the same everywhere."""

import math

import pytest
import torch

from neuralfields import GaussianFourier, Positional, philox
from neuralfields.encodings import encoding_from_json
from neuralfields.testing import assert_gradients

ENCODINGS = [
    Positional(3),
    Positional(1, include_input=False),
    Positional(4, use_pi=False),
    GaussianFourier(5, std=2.0),
]


@pytest.fixture
def coords(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(7, 3, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_shapes_and_round_trip(encoding, coords: torch.Tensor) -> None:
    assert encoding(coords).shape == (7, encoding.out_dim(3))
    assert torch.equal(encoding(coords.view(1, 7, 3))[0], encoding(coords))
    assert encoding(coords.float()).dtype == torch.float32
    assert encoding_from_json(encoding.to_json()) == encoding


@pytest.mark.parametrize("use_pi", [True, False])
@pytest.mark.parametrize("include_input", [True, False])
def test_positional_formula(use_pi: bool, include_input: bool, coords: torch.Tensor) -> None:
    factor = math.pi if use_pi else 1.0
    expected = [coords] if include_input else []
    for function in (torch.sin, torch.cos):
        expected += [function(2.0**k * factor * coords) for k in range(4)]
    encoded = Positional(4, include_input, use_pi)(coords)
    assert torch.allclose(encoded, torch.cat(expected, dim=1), rtol=0, atol=1e-13)


def test_gaussian_features_lie_on_circles(coords: torch.Tensor) -> None:
    encoded = GaussianFourier(5, std=2.0, seed=1)(coords)
    assert torch.allclose(encoded[:, :5] ** 2 + encoded[:, 5:] ** 2, torch.ones(7, 5, dtype=torch.float64))


def test_gaussian_formula() -> None:
    # At a tiny coordinate sin(2 pi B x) = 2 pi B x: one axis at a time gives B itself.
    encoding, tiny = GaussianFourier(20_000, std=3.0, seed=4), 1e-9
    encoded = encoding(tiny * torch.eye(2, dtype=torch.float64))[:, :20_000]
    basis = encoded.T / (2 * math.pi * tiny)
    assert abs(float(basis.mean())) < 5 * 3.0 / 200
    assert abs(float(basis.std()) / 3.0 - 1) < 5 / math.sqrt(2 * 40_000)
    assert abs(float((basis / 3.0).pow(4).mean()) - 3.0) < 5 * math.sqrt(96 / 40_000)  # kurtosis of a normal
    assert abs(float((basis[:, 0] * basis[:, 1]).mean())) < 5 * 9.0 / math.sqrt(20_000)
    point = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    angles = 2 * math.pi * point @ basis.T
    assert torch.allclose(encoding(point), torch.cat([angles.sin(), angles.cos()], dim=1), rtol=0, atol=1e-6)


def test_seed_and_std_of_gaussian_features(coords: torch.Tensor) -> None:
    first = GaussianFourier(5, seed=1)(coords)
    assert torch.equal(first, GaussianFourier(5, seed=1)(coords))
    assert not torch.allclose(first, GaussianFourier(5, seed=2)(coords))
    assert torch.allclose(GaussianFourier(5, std=2.0)(coords), GaussianFourier(5, std=1.0)(2 * coords))


def test_gaussian_features_share_no_draw_with_inits() -> None:
    assert philox.STREAM_ENCODING not in (philox.STREAM_INIT, philox.STREAM_SAMPLE)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_gradients(encoding, coords: torch.Tensor) -> None:
    assert_gradients(encoding, [coords], rtol=1e-7)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="bands=0: expected"):
        Positional(0)
    with pytest.raises(ValueError, match="features=0"):
        GaussianFourier(0)
    with pytest.raises(ValueError, match="std=0"):
        GaussianFourier(3, std=0.0)
    with pytest.raises(ValueError, match="encoding name=None"):
        encoding_from_json({})
