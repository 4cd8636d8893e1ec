"""The token transformer: one by one as in a batch, blind to order, deaf to nothing, drawn from its generator."""

import pytest
import torch
from torch import Generator

from wsnets.models.token_transformer import SelfAttention, TokenTransformer, positions


@pytest.fixture
def trunk(generator: Generator) -> TokenTransformer:
    return TokenTransformer(12, 2, 3, generator).double()


@pytest.mark.parametrize("tokens", [1, 7])
def test_a_batch_is_its_items_one_by_one_and_keeps_its_shape(trunk: TokenTransformer, tokens, generator: Generator):
    x = torch.randn(4, tokens, 12, generator=generator).double()
    whole = trunk(x)
    assert whole.shape == x.shape
    torch.testing.assert_close(whole, torch.cat([trunk(item) for item in x.split(1)]), rtol=1e-9, atol=1e-12)


def test_tokens_in_another_order_give_the_same_in_that_order(trunk: TokenTransformer, generator: Generator):
    x, order = torch.randn(4, 7, 12, generator=generator).double(), torch.randperm(7, generator=generator)
    torch.testing.assert_close(trunk(x[:, order]), trunk(x)[:, order], rtol=1e-9, atol=1e-12)
    placed = x + positions(7, 12, generator).double()
    assert not torch.allclose(trunk(placed[:, order]), trunk(x[:, order] + (placed - x)))


def test_every_token_hears_every_other(trunk: TokenTransformer, generator: Generator):
    x = torch.randn(1, 5, 12, generator=generator).double().requires_grad_()
    weights = torch.randn(12, generator=generator).double()  # a plain sum is constant after the last normalisation
    for token in range(5):
        (gradient,) = torch.autograd.grad((trunk(x)[0, token] * weights).sum(), x)
        assert bool((gradient.abs().sum(-1) > 0).all())


def test_every_parameter_gets_a_gradient(trunk: TokenTransformer, generator: Generator):
    x = torch.randn(3, 5, 12, generator=generator).double()
    (trunk(x) * torch.randn(12, generator=generator).double()).sum().backward()
    for name, parameter in trunk.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_attention_is_the_formula(generator: Generator):
    attention, x = SelfAttention(6, 2, generator).double(), torch.randn(2, 4, 6, generator=generator).double()
    query, key, value = (part.view(2, 4, 2, 3) for part in attention.to_heads(x).chunk(3, dim=-1))
    scores = torch.einsum("nihc,njhc->nhij", query, key) / 3**0.5
    found = torch.einsum("nhij,njhc->nihc", scores.softmax(-1), value).reshape(2, 4, 6)
    torch.testing.assert_close(attention(x), attention.from_heads(found))


def test_weights_come_from_the_generator():
    first, again, other = (TokenTransformer(8, 1, 2, Generator().manual_seed(seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.widen.weight"], other["blocks.0.widen.weight"])
