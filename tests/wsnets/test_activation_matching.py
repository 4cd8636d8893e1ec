"""Activation matching: moved copies come back, functions stay, the best assignment is the best of all."""

import itertools

import pytest
import torch

from neuralfields import FieldBatch, FieldSpec, symmetry
from neuralfields.evaluate import evaluate
from neuralfields.testing import random_fields
from tests.wsnets.test_align import RELU, SINE, SPECS, TANH, named, returned
from wsnets.activation_matching import activations, correlations, match_activations


def points(spec: FieldSpec, generator: torch.Generator, count: int = 60) -> torch.Tensor:
    return torch.rand(count, spec.in_dim, generator=generator, dtype=torch.float64) * 2 - 1


# Behind a layer of one unit, ReLU units that are awake everywhere differ by a factor and a constant: all correlate.
TOLD_APART = [spec for spec in SPECS if spec.activation != "relu" or 1 not in spec.hidden]


@pytest.mark.parametrize("spec", TOLD_APART, ids=named)
def test_moved_copies_come_back(spec: FieldSpec, generator: torch.Generator) -> None:
    fields, coords = random_fields(spec, 20, generator), points(spec, generator)
    g = symmetry.sample(spec, 20, generator)
    found = match_activations(symmetry.act(g, fields), fields, coords)
    back = symmetry.act(found, symmetry.act(g, fields))
    awake = torch.stack([(h.std(1) > 1e-3).all(1) for h in activations(fields, coords)]).all(0)
    assert awake.any()  # ReLU units that are silent everywhere are told apart by nothing
    torch.testing.assert_close(back.flat()[awake], fields.flat()[awake], rtol=1e-9, atol=1e-9)
    if spec.activation != "relu":
        assert returned(symmetry.compose(found, g)).all()


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_functions_stay(spec: FieldSpec, generator: torch.Generator) -> None:
    fields, reference = random_fields(spec, 6, generator), random_fields(spec, 6, generator)
    coords = points(spec, generator)
    near = symmetry.act(match_activations(fields, reference, coords), fields)
    torch.testing.assert_close(evaluate(near, coords), evaluate(fields, coords), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kinds", [("permutation",), ("sign",), ("phase",), ("permutation", "phase"), ()], ids=str)
def test_only_the_kinds_asked_for_are_used(kinds: tuple[str, ...], generator: torch.Generator) -> None:
    fields, coords = random_fields(SINE, 10, generator), points(SINE, generator)
    g = symmetry.sample(SINE, 10, generator, kinds)
    assert returned(symmetry.compose(match_activations(symmetry.act(g, fields), fields, coords, kinds), g)).all()
    for p, sign, k, _ in match_activations(random_fields(SINE, 10, generator), fields, coords, kinds).layers():
        assert "permutation" in kinds or torch.equal(p, torch.arange(p.shape[1]).expand_as(p))
        assert "sign" in kinds or bool((sign == 1).all())
        assert "phase" in kinds or bool((k == 0).all())


@pytest.mark.parametrize("kinds", [("permutation",), None], ids=str)
def test_no_other_order_of_units_correlates_better(kinds, generator: torch.Generator) -> None:
    spec = FieldSpec(in_dim=2, out_dim=2, hidden=(4, 3), w0_first=3.0, w0_hidden=3.0)
    fields, reference = random_fields(spec, 5, generator), random_fields(spec, 5, generator)
    coords = points(spec, generator)
    near = symmetry.act(match_activations(fields, reference, coords, kinds), fields)
    for own, moved, goal in zip(*(activations(x, coords) for x in (fields, near, reference)), strict=True):
        found = correlations(own, goal) if kinds else correlations(own, goal).abs()
        orders = [list(order) for order in itertools.permutations(range(own.shape[2]))]
        best = torch.stack([found[:, range(len(order)), order].sum(1) for order in orders]).amax(0)
        torch.testing.assert_close(correlations(moved, goal).diagonal(dim1=1, dim2=2).sum(1), best)


def test_correlations_are_those_of_statistics(generator: torch.Generator) -> None:
    own, goal = torch.randn(2, 1, 30, 3, generator=generator, dtype=torch.float64)
    both = torch.corrcoef(torch.cat([goal[0], own[0]], dim=1).T)
    torch.testing.assert_close(correlations(own, goal)[0], both[:3, 3:])
    own[:, :, 1] = 0.7
    assert (correlations(own, goal)[:, :, 1] == 0).all()


@pytest.mark.parametrize("spec", [SINE, RELU, TANH], ids=named)
def test_a_batch_equals_its_fields_one_by_one(spec: FieldSpec, generator: torch.Generator) -> None:
    fields, references = random_fields(spec, 6, generator), random_fields(spec, 6, generator)
    coords = points(spec, generator)

    def moved(some: FieldBatch, reference: FieldBatch) -> torch.Tensor:
        return symmetry.act(match_activations(some, reference, coords), some).flat()

    pairs, one = moved(fields, references), moved(fields, references[0])
    for n in range(6):
        torch.testing.assert_close(pairs[n : n + 1], moved(fields[n], references[n]), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one[n : n + 1], moved(fields[n], references[0]), rtol=1e-9, atol=1e-12)


def test_silent_units_keep_a_finite_scale(generator: torch.Generator) -> None:
    fields = random_fields(RELU, 3, generator)
    fields.biases[0][:] = -100.0
    reference, coords = random_fields(RELU, 3, generator), points(RELU, generator)
    for x, y in ((fields, reference), (reference, fields)):
        near = symmetry.act(match_activations(x, y, coords), x)
        torch.testing.assert_close(evaluate(near, coords), evaluate(x, coords), rtol=1e-8, atol=1e-8)


def test_refusals(generator: torch.Generator) -> None:
    fields, coords = random_fields(SINE, 3, generator), points(SINE, generator)
    assert len(match_activations(fields[:0], fields[:0], coords).sign[0]) == 0
    with pytest.raises(ValueError, match="kinds has 'scale': expected some of permutation, sign, phase"):
        match_activations(fields, fields, coords, ("scale",))
    with pytest.raises(ValueError, match="reference holds 2 fields: expected 1 or 3"):
        match_activations(fields, fields[:2], coords)
    with pytest.raises(ValueError, match="expected the spec of the fields"):
        match_activations(fields, random_fields(TANH, 1, generator), coords)
    with pytest.raises(ValueError, match=r"coords has shape \(60, 1\): expected \(B, 2\)"):
        match_activations(fields, fields, coords[:, :1])
    with pytest.raises(ValueError, match="finite"):
        match_activations(FieldBatch.from_flat(SINE, fields.flat() * torch.nan), fields, coords)
