"""Path matching: the sum of columns is the path, no single change lowers the loss, never worse than weight matching."""

from dataclasses import replace

import pytest
import torch

from neuralfields import FieldBatch, FieldSpec, symmetry
from neuralfields.evaluate import evaluate
from neuralfields.symmetry import Element
from neuralfields.testing import random_fields
from tests.wsnets.test_align import RELU, SINE, SPECS, TANH, named, returned
from wsnets.align import aligned
from wsnets.path_matching import match_paths, most_points, path_loss

SCALED = replace(SINE, scale=(0.5, 2.0, 1.0), offset=(0.1, -0.3, 0.5))


def points(generator: torch.Generator, count: int = 40) -> torch.Tensor:
    return torch.rand(count, 2, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("spec", [*SPECS, SCALED], ids=named)
def test_never_worse_than_weight_matching_and_functions_stay(spec: FieldSpec, generator: torch.Generator) -> None:
    fields, reference, coords = random_fields(spec, 6, generator), random_fields(spec, 6, generator), points(generator)
    near = symmetry.act(match_paths(fields, reference, coords), fields)
    torch.testing.assert_close(evaluate(near, coords), evaluate(fields, coords), rtol=1e-8, atol=1e-8)
    before = path_loss(reference, aligned(fields, reference), coords)
    after = path_loss(reference, near, coords)
    assert (after <= before * (1 + 1e-12)).all()
    assert (after < 0.95 * before).any()


@pytest.mark.parametrize("spec", [SINE, TANH, SCALED], ids=named)
def test_no_change_of_units_in_the_last_layer_is_better(spec: FieldSpec, generator: torch.Generator) -> None:
    field, reference, coords = random_fields(spec, 1, generator), random_fields(spec, 1, generator), points(generator)
    found = match_paths(field, reference, coords)
    least = float(path_loss(reference, symmetry.act(found, field), coords))
    p, sign, k, _ = list(found.layers())[-1]
    changes = []
    for j in range(p.shape[1]):
        changes.append(_changed(found, sign=sign.clone().index_fill_(1, torch.tensor([j]), -int(sign[0, j]))))
        for other in range(j):
            order = torch.arange(p.shape[1])
            order[[j, other]] = order[[other, j]]
            changes.append(_changed(found, permutation=p[:, order], sign=sign[:, order], half_periods=k[:, order]))
    for change in changes:
        assert float(path_loss(reference, symmetry.act(change, field), coords)) >= least * (1 - 1e-3)


@pytest.mark.parametrize("spec", SPECS[1::3], ids=named)
def test_moved_copies_come_back(spec: FieldSpec, generator: torch.Generator) -> None:
    fields = random_fields(spec, 5, generator)
    g = symmetry.sample(spec, 5, generator)
    found = match_paths(symmetry.act(g, fields), fields, points(generator))
    assert returned(symmetry.compose(found, g)).all()


@pytest.mark.parametrize("kinds", [("permutation",), ("sign",), ("permutation", "phase"), ()], ids=str)
def test_only_the_kinds_asked_for_are_used(kinds: tuple[str, ...], generator: torch.Generator) -> None:
    fields, reference, coords = random_fields(SINE, 3, generator), random_fields(SINE, 1, generator), points(generator)
    for p, sign, k, _ in match_paths(fields, reference, coords, kinds).layers():
        assert "permutation" in kinds or torch.equal(p, torch.arange(p.shape[1]).expand_as(p))
        assert "sign" in kinds or bool((sign == 1).all())
        assert "phase" in kinds or bool((k == 0).all())


@pytest.mark.parametrize("spec", [SINE, RELU], ids=named)
def test_a_batch_equals_its_fields_one_by_one(spec: FieldSpec, generator: torch.Generator) -> None:
    fields, references, coords = random_fields(spec, 3, generator), random_fields(spec, 3, generator), points(generator)

    def moved(some: FieldBatch, reference: FieldBatch) -> torch.Tensor:
        return symmetry.act(match_paths(some, reference, coords), some).flat()

    pairs, one = moved(fields, references), moved(fields, references[0])
    for n in range(3):
        torch.testing.assert_close(pairs[n : n + 1], moved(fields[n], references[n]), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one[n : n + 1], moved(fields[n], references[0]), rtol=1e-9, atol=1e-12)


def test_path_loss_is_that_of_the_fields_on_the_path(generator: torch.Generator) -> None:
    a, b, coords = random_fields(SINE, 2, generator), random_fields(SINE, 2, generator), points(generator)
    middle = FieldBatch.from_flat(SINE, (a.flat() + b.flat()) / 2)
    wanted = (evaluate(a, coords) + evaluate(b, coords)) / 2
    expected = (evaluate(middle, coords) - wanted).square().mean((1, 2))
    torch.testing.assert_close(path_loss(a, b, coords, (0.5,)), expected)
    assert (path_loss(a, a, coords) < 1e-20).all()


def test_refusals(generator: torch.Generator) -> None:
    fields, coords, done = random_fields(SINE, 3, generator), points(generator), []
    assert len(match_paths(fields[:0], fields[:0], coords).sign[0]) == 0
    match_paths(fields, fields[0], coords, ("permutation",), progress=lambda *now: done.append(now))
    assert done == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(ValueError, match=r"shares=\(0.5, 1.0\): expected some numbers between 0 and 1"):
        match_paths(fields, fields, coords, shares=(0.5, 1.0))
    with pytest.raises(ValueError, match=r"coords has shape \(40, 1\)"):
        match_paths(fields, fields, coords[:, :1])
    with pytest.raises(ValueError, match="reference holds 2 fields"):
        match_paths(fields, fields[:2], coords)
    assert most_points(fields, ("permutation",)) // 4 == most_points(fields)


def _changed(element: Element, **parts: torch.Tensor) -> Element:
    """The element with some parts of its last layer replaced."""
    names = ("permutation", "sign", "half_periods", "scale")
    return Element(*((*getattr(element, x)[:-1], parts.get(x, getattr(element, x)[-1])) for x in names))
