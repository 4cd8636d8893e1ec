"""Alignment: moved copies come back, layers are solved exactly, nothing depends on how a field was moved."""

import itertools
from dataclasses import replace

import pytest
import torch

from neuralfields import SIREN, FieldBatch, FieldSpec, symmetry
from neuralfields.evaluate import evaluate
from neuralfields.symmetry import Element
from neuralfields.testing import assert_invariant, random_fields
from wsnets.align import Aligner, align, aligned, barrier, distance, lerp

WIDTHS = ((5,), (7, 4), (6, 1, 5))
SPECS = [
    FieldSpec(in_dim=2, out_dim=3, hidden=hidden, activation=activation, w0_first=20.0, w0_hidden=7.0, width=3.0)
    for activation in ("sine", "relu", "tanh", "gauss", "gabor", "finer")
    for hidden in WIDTHS
]
SINE, RELU, TANH = SPECS[1], SPECS[4], SPECS[7]


def named(value: object) -> str:
    return f"{value.activation}-{value.hidden}" if isinstance(value, FieldSpec) else str(value)


def returned(element: Element) -> torch.Tensor:
    """Whether each field's element is the identity: (N,) bool."""
    back = []
    for p, sign, k, scale in element.layers():
        exact = (p == torch.arange(p.shape[1])) & (sign == 1) & (k == 0)
        back.append((exact & ((scale - 1).abs() < 1e-6)).all(1))
    return torch.stack(back).all(0)


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_moved_copies_come_back(spec: FieldSpec, generator: torch.Generator) -> None:
    fields = random_fields(spec, 20, generator)
    g = symmetry.sample(spec, 20, generator)
    found = align(symmetry.act(g, fields), fields)
    assert returned(symmetry.compose(found, g)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_thousand_moved_copies_of_one_field_come_back(dtype: torch.dtype, generator: torch.Generator) -> None:
    spec = SIREN(2, 1, hidden=(32, 32))
    field = random_fields(spec, 1, generator, dtype)
    g = symmetry.sample(spec, 500, generator)
    copies = symmetry.act(g, field[[0] * 500])
    assert int(returned(symmetry.compose(align(copies, field, starts=("incoming",)), g)).sum()) == 500


@pytest.mark.parametrize("kinds", [("permutation",), ("sign",), ("phase",), ("permutation", "phase"), ()], ids=str)
def test_only_the_kinds_asked_for_are_used(kinds: tuple[str, ...], generator: torch.Generator) -> None:
    fields = random_fields(SINE, 10, generator)
    g = symmetry.sample(SINE, 10, generator, kinds)
    assert returned(symmetry.compose(align(symmetry.act(g, fields), fields, kinds), g)).all()
    for p, sign, k, scale in align(random_fields(SINE, 10, generator), fields, kinds).layers():
        assert "permutation" in kinds or torch.equal(p, torch.arange(p.shape[1]).expand_as(p))
        assert "sign" in kinds or bool((sign == 1).all())
        assert "phase" in kinds or bool((k == 0).all())
        assert bool((scale == 1).all())


def test_kinds_that_are_left_out_are_missed(generator: torch.Generator) -> None:
    fields = random_fields(SINE, 10, generator)
    moved = symmetry.act(symmetry.sample(SINE, 10, generator, ("sign",)), fields)
    assert (distance(aligned(moved, fields, ("permutation",)), fields) > 1e-3).all()


@pytest.mark.parametrize("spec", SPECS, ids=named)
@pytest.mark.parametrize("starts", [("identity",), ("incoming", "identity")], ids=len)
def test_distance_never_grows_and_functions_stay(spec: FieldSpec, starts, generator: torch.Generator) -> None:
    fields, reference = random_fields(spec, 12, generator), random_fields(spec, 12, generator)
    near = aligned(fields, reference, starts=starts)
    before, after = distance(fields, reference), distance(near, reference)
    assert (after <= before * (1 + 1e-12)).all()
    assert (after < 0.99 * before).any()
    coords = torch.rand(30, 2, generator=generator, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(evaluate(near, coords), evaluate(fields, coords), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", ["sine", "tanh", "gauss"])
def test_one_layer_is_solved_exactly(activation, generator: torch.Generator) -> None:
    spec = FieldSpec(in_dim=2, out_dim=2, hidden=(3,), activation=activation, w0_first=3.0, width=2.0)
    field, reference = (random_fields(spec, 1, generator) for _ in range(2))
    every = _every_element(3, 2 if activation == "sine" else 0)
    n = len(every.sign[0])
    least = distance(symmetry.act(every, field[[0] * n]), reference).min()
    torch.testing.assert_close(distance(aligned(field, reference), reference)[0], least, rtol=1e-12, atol=0.0)


def test_one_layer_of_scales_is_solved_exactly(generator: torch.Generator) -> None:
    spec = replace(RELU, hidden=(3,))
    fields, reference = random_fields(spec, 20, generator), random_fields(spec, 20, generator)
    found = distance(aligned(fields, reference), reference)
    grid = torch.linspace(-4, 4, 2001, dtype=torch.float64).exp()
    w, b, u = (x.unsqueeze(-1) for x in (fields.weights[0], fields.biases[0], fields.weights[1]))
    big_w, big_b, big_u = (x.unsqueeze(-1) for x in (reference.weights[0], reference.biases[0], reference.weights[1]))
    least = torch.full((20,), torch.inf, dtype=torch.float64)
    for p in itertools.permutations(range(3)):
        order = list(p)
        cost = (w[:, order] * grid - big_w).square().sum(2) + (b[:, order] * grid - big_b).square()
        cost = cost + (u[:, :, order] / grid - big_u).square().sum(1)
        least = torch.minimum(least, cost.amin(-1).sum(1))
    least = least + (fields.biases[1] - reference.biases[1]).square().sum(1)
    assert (found <= least * (1 + 1e-12)).all()
    assert (found > least * (1 - 1e-3)).all()


@pytest.mark.parametrize("spec", [SINE, RELU, TANH], ids=named)
def test_a_batch_equals_its_fields_one_by_one(spec: FieldSpec, generator: torch.Generator) -> None:
    fields, references = random_fields(spec, 6, generator), random_fields(spec, 6, generator)
    pairs, one = aligned(fields, references), aligned(fields, references[0])
    for n in range(6):
        for batched, reference in ((pairs, references[n]), (one, references[0])):
            single = aligned(fields[n], reference)
            torch.testing.assert_close(batched[n].flat(), single.flat(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("spec", [SINE, RELU, TANH], ids=named)
def test_aligner_is_invariant(spec: FieldSpec, generator: torch.Generator) -> None:
    aligner = Aligner.fit([random_fields(spec, 30, generator)])
    assert_invariant(lambda fields: aligner(fields).flat(), spec, None, generator, rtol=1e-6)
    part = Aligner(aligner.reference, ("permutation",))
    assert_invariant(lambda fields: part(fields).flat(), spec, ("permutation",), generator)
    with pytest.raises(AssertionError, match="not invariant"):
        assert_invariant(lambda fields: part(fields).flat(), spec, None, generator)


def test_fitted_reference_is_nearer_than_a_field(generator: torch.Generator) -> None:
    fields = random_fields(SINE, 60, generator)
    fitted = Aligner.fit([fields[:10], fields[10:]])
    first = Aligner(fields[0], fitted.kinds)
    assert distance(fitted(fields), fitted.reference).mean() < 0.8 * distance(first(fields), first.reference).mean()
    whole = Aligner.fit([fields])
    assert torch.equal(whole.reference.flat(), fitted.reference.flat())


def test_aligner_state_round_trip_and_precision(generator: torch.Generator) -> None:
    fields = random_fields(SINE, 20, generator, torch.float32)
    aligner = Aligner.fit([fields], ("permutation", "sign"))
    again = Aligner.from_state(SINE, aligner.kinds, aligner.state())
    assert again.kinds == ("permutation", "sign")
    assert aligner(fields).weights[0].dtype == torch.float32
    assert torch.equal(again(fields).flat(), aligner(fields).flat())
    assert len(aligner(fields[:0])) == 0


def test_barrier_falls_to_zero_when_a_copy_is_aligned(generator: torch.Generator) -> None:
    fields = random_fields(SINE, 4, generator)
    coords = torch.rand(40, 2, generator=generator, dtype=torch.float64) * 2 - 1
    targets = evaluate(fields, coords)

    def loss(batch: FieldBatch) -> torch.Tensor:
        return (evaluate(batch, coords) - targets).square().mean((1, 2))

    moved = symmetry.act(symmetry.sample(SINE, 4, generator), fields)
    path, height = barrier(fields, moved, loss, num_points=5)
    assert path.shape == (4, 5)
    assert (path[:, [0, -1]].abs() < 1e-12).all()
    assert (height > 1e-3).all()
    assert (barrier(fields, aligned(moved, fields), loss, num_points=5)[1] < 1e-12).all()


def test_barrier_is_what_the_line_between_the_ends_leaves(generator: torch.Generator) -> None:
    a, b = random_fields(TANH, 3, generator), random_fields(TANH, 3, generator)
    path, height = barrier(a, b, lambda batch: batch.flat().sum(1))
    assert path.abs().max() < 1e-12
    path, _ = barrier(a, b, lambda batch: -batch.flat().square().sum(1), num_points=3)
    torch.testing.assert_close(path[:, 1], distance(a, b) / 4)
    assert (height >= 0).all()


def test_lerp_ends_are_exact(generator: torch.Generator) -> None:
    a, b = random_fields(SINE, 3, generator), random_fields(SINE, 3, generator)
    mixed = lerp(a, b, torch.tensor([0.0, 1.0, 0.25])).flat()
    assert torch.equal(mixed[0], a.flat()[0])
    assert torch.equal(mixed[1], b.flat()[1])
    torch.testing.assert_close(mixed[2], 0.75 * a.flat()[2] + 0.25 * b.flat()[2])


def test_refusals(generator: torch.Generator) -> None:
    fields = random_fields(SINE, 3, generator)
    with pytest.raises(ValueError, match="kinds has 'scale': expected some of permutation, sign, phase"):
        align(fields, fields, ("scale",))
    with pytest.raises(ValueError, match="reference holds 2 fields: expected 1 or 3"):
        align(fields, fields[:2])
    with pytest.raises(ValueError, match="expected the spec of the fields"):
        align(fields, random_fields(TANH, 1, generator))
    with pytest.raises(ValueError, match="starts has 'best': expected some of incoming, identity"):
        align(fields, fields, starts=("best",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite"):
        align(FieldBatch.from_flat(SINE, fields.flat() * torch.nan), fields)
    with pytest.raises(ValueError, match="expected one"):
        Aligner(fields, ("permutation",))
    with pytest.raises(ValueError, match="at least one field"):
        Aligner.fit([])
    with pytest.raises(ValueError, match="num_points=1"):
        barrier(fields, fields, lambda batch: batch.flat().sum(1), num_points=1)


def _every_element(width: int, turns: int) -> Element:
    """All elements of one layer: permutations x signs x half periods in -turns .. turns."""
    orders = list(itertools.permutations(range(width)))
    signs = list(itertools.product((-1, 1), repeat=width))
    phases = list(itertools.product(range(-turns, turns + 1), repeat=width))
    rows = list(itertools.product(orders, signs, phases))
    p, sign, k = (torch.tensor([row[part] for row in rows]) for part in range(3))
    return Element((p,), (sign,), (k,), (torch.ones(len(rows), width, dtype=torch.float64),))
