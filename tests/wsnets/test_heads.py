"""Laws of heads and their dropout."""

import pytest
import torch

from wsnets.heads import VectorHead, dropout


def test_dropout_keeps_the_mean_and_the_share(generator: torch.Generator):
    out = dropout(torch.ones(200_000), 0.3, generator)
    assert abs(out.mean() - 1) < 0.01
    assert abs((out == 0).double().mean() - 0.3) < 0.01


def test_the_same_generator_state_gives_the_same_output_and_the_global_one_is_untouched(generator: torch.Generator):
    before = torch.random.get_rng_state()
    head = VectorHead(7, (16, 8), 3, generator=generator, p_dropout=0.5)
    x = torch.randn(20, 7, generator=generator)
    first, second, other = (head(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_an_answer_does_not_depend_on_the_batch(norm, generator: torch.Generator):
    head = VectorHead(7, (16,), 3, generator=generator, norm=norm, p_dropout=0.5)
    x = torch.randn(20, 7, generator=generator)
    head(x, generator)
    head.eval()
    singles = torch.cat([head(row[None]) for row in x])
    torch.testing.assert_close(head(x), singles, rtol=1e-5, atol=1e-6)


def test_refusals(generator: torch.Generator):
    with pytest.raises(ValueError, match="norm='group': expected one of batch, layer, none"):
        VectorHead(7, (16,), 3, generator=generator, norm="group")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"p_dropout=1.0: expected a number in \[0, 1\)"):
        VectorHead(7, (16,), 3, generator=generator, p_dropout=1.0)
    head = VectorHead(7, (16,), 3, generator=generator, p_dropout=0.5)
    with pytest.raises(ValueError, match="generator=None: dropout"):
        head(torch.zeros(4, 7))
