"""MixUp: fields and shares of labels on straight lines, partners matched as asked for."""

import pytest
import torch
from torch import Generator

from neuralfields import SIREN, FieldBatch, ReLUField, symmetry
from neuralfields.evaluate import evaluate
from neuralfields.testing import random_fields
from wsnets.align import aligned, lerp
from wsnets.mixup import mix

SPEC = SIREN(2, 1, hidden=(7, 5))
N = 6


def test_raw_mixtures_lie_between_field_and_partner(generator: Generator) -> None:
    fields = random_fields(SPEC, N, generator, torch.float32)
    mixed, other, share = mix(fields, 1.0, generator)
    assert 0.0 <= share <= 1.0
    assert sorted(other.tolist()) == list(range(N))
    assert torch.equal(mixed.flat(), lerp(fields[other], fields, share).flat())
    torch.testing.assert_close(mixed.flat(), share * fields.flat() + (1 - share) * fields.flat()[other])


def test_permuted_partners_are_other_orders_of_the_same_functions(generator: Generator) -> None:
    fields = random_fields(SPEC, N, generator)
    mixed, other, share = mix(fields, 1.0, generator, "permuted")
    flat = (mixed.flat() - share * fields.flat()) / (1 - share)
    partners = type(fields).from_flat(SPEC, flat)
    x = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(evaluate(partners, x), evaluate(fields[other], x), rtol=1e-6, atol=1e-6)
    assert (flat - fields.flat()[other]).abs().amax(1).min() > 1e-3
    torch.testing.assert_close(flat.sum(1), fields.flat()[other].sum(1))


def test_aligned_mixtures_of_moved_copies_are_the_field(generator: Generator) -> None:
    field = random_fields(SPEC, 1, generator)
    copies = symmetry.act(symmetry.sample(SPEC, N, generator), field[[0] * N])
    mixed, _, _ = mix(copies, 1.0, generator, "aligned")
    torch.testing.assert_close(mixed.flat(), copies.flat(), rtol=1e-9, atol=1e-9)
    raw, _, _ = mix(copies, 1.0, generator)
    assert (raw.flat() - copies.flat()).abs().max() > 1e-2


@pytest.mark.parametrize("matching", ["permuted", "aligned"])
def test_partners_show_what_they_did_whatever_the_activation(matching, generator: Generator) -> None:
    spec = ReLUField(2, 3, hidden=(7, 5))
    fields = random_fields(spec, N, generator)
    mixed, other, share = mix(fields, 1.0, generator, matching)
    partners = FieldBatch.from_flat(spec, (mixed.flat() - share * fields.flat()) / (1 - share))
    x = torch.rand(20, 2, generator=generator, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(evaluate(partners, x), evaluate(fields[other], x), rtol=1e-6, atol=1e-6)


def test_aligned_partners_are_brought_to_their_field(generator: Generator) -> None:
    fields = random_fields(SPEC, N, generator)
    mixed, other, share = mix(fields, 1.0, generator, "aligned")
    torch.testing.assert_close(mixed.flat(), lerp(aligned(fields[other], fields), fields, share).flat())


def test_shares_follow_the_beta_distribution(generator: Generator) -> None:
    fields = random_fields(SIREN(1, 1, hidden=(1,)), 2, generator)
    for a in (0.2, 1.0, 4.0):
        shares = torch.tensor([mix(fields, a, generator)[2] for _ in range(1000)])
        assert abs(float(shares.mean()) - 0.5) < 0.06
        assert float(shares.var()) == pytest.approx(1 / (4 * (2 * a + 1)), rel=0.15)


def test_the_generator_decides_everything(generator: Generator) -> None:
    fields = random_fields(SPEC, N, generator)
    a, b = (mix(fields, 1.0, Generator().manual_seed(3), "permuted") for _ in range(2))
    assert torch.equal(a[0].flat(), b[0].flat())
    assert a[2] == b[2]


def test_refusals(generator: Generator) -> None:
    fields = random_fields(SPEC, N, generator)
    with pytest.raises(ValueError, match="matching='exact': expected one of raw, permuted, aligned"):
        mix(fields, 1.0, generator, "exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a=0\.0: expected a positive number"):
        mix(fields, 0.0, generator)
