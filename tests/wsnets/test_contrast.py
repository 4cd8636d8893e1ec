"""Contrastive loss: its closed forms, its groups, its gradients."""

import math

import pytest
import torch
from torch import Generator, Tensor

from neuralfields.testing import assert_gradients
from wsnets.contrast import nt_xent
from wsnets.tasks.contrast import other_fits


def unit(shape: tuple[int, int], generator: Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


def test_pairs_give_the_loss_of_the_paper(generator: Generator) -> None:
    z, t = unit((6, 4), generator), 0.5
    similarity = (z @ z.T / t).exp()
    partner = [3, 4, 5, 0, 1, 2]
    terms = [
        -math.log(similarity[i, j] / (similarity[i].sum() - similarity[i, i]))
        for i, j in zip(range(6), partner, strict=True)
    ]
    loss = nt_xent(z, t, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert float(loss) == pytest.approx(sum(terms) / 6, rel=1e-12)


def test_the_other_fit_of_an_item_is_the_next_of_its_group() -> None:
    groups = torch.tensor([7, 2, 7, 9, 2, 7])
    assert other_fits(groups).tolist() == [2, 4, 5, 3, 1, 0]
    assert other_fits(torch.tensor([], dtype=torch.int64)).tolist() == []


def test_groups_count_every_pair_once(generator: Generator) -> None:
    z, groups = unit((7, 3), generator), torch.tensor([5, 5, 5, 2, 2, 5, 9])
    log_p = (z @ z.T / 0.2).fill_diagonal_(-math.inf).log_softmax(1)
    expected = []
    for i in range(6):  # the last point is alone in its group
        mates = [j for j in range(7) if j != i and groups[j] == groups[i]]
        expected.append(-sum(float(log_p[i, j]) for j in mates) / len(mates))
    assert float(nt_xent(z, 0.2, groups)) == pytest.approx(sum(expected) / 6, rel=1e-12)


def test_order_and_names_of_groups_do_not_matter(generator: Generator) -> None:
    z, groups = unit((8, 3), generator), torch.tensor([0, 0, 1, 1, 2, 2, 1, 3])
    order = torch.randperm(8, generator=generator)
    loss = nt_xent(z, 0.3, groups)
    torch.testing.assert_close(nt_xent(z[order], 0.3, groups[order]), loss)
    torch.testing.assert_close(nt_xent(z, 0.3, 7 - groups), loss)


def test_better_embeddings_lose_less(generator: Generator) -> None:
    groups = torch.arange(4).repeat(2)
    right = torch.eye(4, dtype=torch.float64).repeat(2, 1)
    assert nt_xent(right, 0.1, groups) < 1e-3 < nt_xent(unit((8, 4), generator), 0.1, groups)
    same = torch.ones(8, 4, dtype=torch.float64) / 2
    assert float(nt_xent(same, 0.1, groups)) == pytest.approx(math.log(7))


def test_gradients(generator: Generator) -> None:
    groups = torch.tensor([0, 1, 0, 1, 2])
    assert_gradients(lambda z: nt_xent(z, 0.4, groups).unsqueeze(0), [unit((5, 3), generator)])


def test_refusals(generator: Generator) -> None:
    z = unit((3, 2), generator)
    with pytest.raises(ValueError, match="at least two points of one group"):
        nt_xent(z, 0.1, torch.arange(3))
    with pytest.raises(ValueError, match="temperature"):
        nt_xent(z, 0.0, torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected \(M,\), \(M, D\)"):
        nt_xent(z, 0.1, torch.zeros(4))
