"""Samples follow the anchors: their mean and spread, their values without noise, their seeds."""

import pytest
import torch
from torch import Generator

from wsnets.density_sampling import sample


@pytest.fixture
def anchors(generator: Generator) -> torch.Tensor:
    scale = torch.tensor([[0.5, 2.0, 1.0], [1.0, 0.1, 3.0]]).double()
    return 3.0 + scale * torch.randn(300, 2, 3, generator=generator).double()


@pytest.mark.parametrize("method", ["kde", "neighbours", "gaussian"])
def test_mean_and_spread_are_near_those_of_the_anchors(anchors, method, generator: Generator):
    found = sample(anchors, 20_000, method, generator)
    torch.testing.assert_close(found.mean(0), anchors.mean(0), rtol=0, atol=0.15)
    assert bool(((found.std(0) / anchors.std(0) - 1).abs() < 0.15).all())


def test_without_noise_numbers_are_those_of_anchors(anchors, generator: Generator):
    found = sample(anchors, 50, "kde", generator, bandwidth=0.0)
    for t in range(2):
        for d in range(3):
            assert bool(torch.isin(found[:, t, d], anchors[:, t, d]).all())
    tokens = sample(anchors, 50, "neighbours", generator, bandwidth=0.0)
    for t in range(2):
        assert bool((tokens[:, None, t] == anchors[None, :, t]).all(-1).any(1).all())


def test_a_gaussian_has_the_covariance_of_the_anchors(generator: Generator):
    mixing = torch.randn(4, 4, generator=generator).double()
    anchors = (torch.randn(500, 4, generator=generator).double() @ mixing).view(500, 2, 2)
    found = sample(anchors, 40_000, "gaussian", generator).flatten(1)
    wanted = torch.cov(anchors.flatten(1).T)
    torch.testing.assert_close(torch.cov(found.T), wanted, rtol=0, atol=0.05 * float(wanted.diagonal().max()))


def test_seeds_and_shares(anchors):
    first, again, other = (sample(anchors, 9, "kde", Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    few = sample(anchors, 1000, "kde", Generator().manual_seed(0), share=0.02, bandwidth=0.0)
    assert len(few[:, 0, 0].unique()) == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "magic"}, "method='magic': expected one of kde, neighbours, gaussian"),
        ({"share": 0.0}, r"share=0.0: expected a number in \(0, 1\]"),
        ({"bandwidth": -1.0}, "bandwidth=-1.0: expected zero or more"),
    ],
)
def test_refusals(anchors, options, said, generator: Generator):
    with pytest.raises(ValueError, match=said):
        sample(anchors, 3, **{"method": "kde", **options}, generator=generator)
    with pytest.raises(ValueError, match="expected \\(M, T, D\\) with at least four anchors"):
        sample(anchors[:3], 3, "kde", generator)
