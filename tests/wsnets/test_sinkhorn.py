"""Sinkhorn: doubly stochastic, the assignment at low temperature, right gradients; re-basin brings copies back."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from neuralfields import FieldSpec, symmetry
from neuralfields.evaluate import evaluate
from neuralfields.testing import assert_gradients, random_fields
from wsnets.align import align, distance, lerp
from wsnets.sinkhorn import RebasinConfig, midpoint_loss, rebasin, sinkhorn, soft_moves
from wsnets.unit_moves import Soft, from_scores, normal_form, settle, soft_act

SPECS = [
    FieldSpec(in_dim=2, out_dim=3, hidden=(6, 5), activation=name, w0_first=20.0, w0_hidden=7.0, width=3.0)
    for name in ("sine", "relu", "tanh", "gauss")
]
SINE = SPECS[0]


def named(value: object) -> str:
    return value.activation if isinstance(value, FieldSpec) else str(value)


def returned(element: symmetry.Element) -> torch.Tensor:
    """Whether each field's element is the identity: (N,) bool."""
    kept = [
        ((p == torch.arange(p.shape[1])) & (sign == 1) & (k == 0) & ((scale - 1).abs() < 1e-6)).all(1)
        for p, sign, k, scale in element.layers()
    ]
    return torch.stack(kept).all(0)


@pytest.mark.parametrize("tau", [0.2, 1.0, 5.0])
def test_rows_and_columns_sum_to_one(tau: float, generator: torch.Generator) -> None:
    logits = torch.randn(3, 7, 7, generator=generator, dtype=torch.float64)
    p = sinkhorn(logits, tau, 2000)
    assert (p > 0).all()
    assert torch.allclose(p.sum(1), torch.ones(3, 7, dtype=p.dtype), atol=1e-12)
    assert torch.allclose(p.sum(2), torch.ones(3, 7, dtype=p.dtype), atol=1e-6)
    assert torch.allclose(sinkhorn(logits, tau, 2000, log=True).exp(), p)


def test_it_goes_to_the_assignment_as_the_temperature_falls(generator: torch.Generator) -> None:
    logits = torch.randn(4, 8, 8, generator=generator, dtype=torch.float64)
    best = torch.zeros_like(logits)
    for n, matrix in enumerate(logits):
        rows, columns = linear_sum_assignment(matrix.numpy(), maximize=True)
        best[n, torch.from_numpy(rows), torch.from_numpy(columns)] = 1
    soft = [sinkhorn(logits, tau, 5000) for tau in (1.0, 0.1, 0.01)]
    far = [float((p - best).abs().max()) for p in soft]
    assert far[0] > far[1] > far[2]
    assert far[2] < 0.05
    assert torch.equal(soft[2].argmax(2), best.argmax(2))
    tiny = sinkhorn(logits.float(), 1e-6)  # logits / tau of a million: nothing may underflow to NaN
    assert tiny.isfinite().all()


def test_gradients(generator: torch.Generator) -> None:
    logits = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    assert_gradients(lambda x: sinkhorn(x, 0.7, 15), [logits])
    both = torch.randn(2, 2, 4, 4, generator=generator, dtype=torch.float64)
    assert_gradients(lambda x: soft_moves(x, True, 0.7, 15).incoming, [both])


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_hard_soft_moves_are_group_elements(spec: FieldSpec, generator: torch.Generator) -> None:
    fields = random_fields(spec, 3, generator)
    kinds = [kind for kind in symmetry.groups_of(spec) if kind in ("permutation", "sign")]
    g = symmetry.sample(spec, 3, generator, kinds)
    moves = []
    for p, sign, _, _ in g.layers():
        place = torch.nn.functional.one_hot(p, p.shape[1]).double()
        signed = place * sign.unsqueeze(2)
        moves.append(Soft(signed, place if spec.activation == "gauss" else signed))
    assert torch.allclose(soft_act(moves, fields).flat(), symmetry.act(g, fields).flat())
    again = from_scores([move.incoming.abs() for move in moves], [move.incoming for move in moves])
    assert torch.equal(symmetry.act(again, fields).flat(), symmetry.act(g, fields).flat())


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_normal_forms_differ_by_places_and_signs_alone(spec: FieldSpec, generator: torch.Generator) -> None:
    fields, kinds = random_fields(spec, 4, generator), symmetry.groups_of(spec)
    copies = symmetry.act(symmetry.sample(spec, 4, generator), fields)
    near, far = (symmetry.act(normal_form(x, kinds), x) for x in (fields, copies))
    coords = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    assert torch.allclose(evaluate(near, coords), evaluate(fields, coords), atol=1e-9)
    left = [kind for kind in kinds if kind in ("permutation", "sign")]
    back = symmetry.act(align(far, near, left), far)
    assert torch.allclose(back.flat(), near.flat(), atol=1e-9)


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_a_moved_copy_is_brought_back(spec: FieldSpec, generator: torch.Generator) -> None:
    fields = random_fields(spec, 3, generator)
    g = symmetry.sample(spec, 3, generator)
    found = rebasin(symmetry.act(g, fields), fields, config=RebasinConfig(steps=60, lr=0.1, iterations=10))
    assert returned(symmetry.compose(found, g)).all()


def test_what_a_midpoint_shows_brings_a_copy_nearer_too(generator: torch.Generator) -> None:
    spec = FieldSpec(in_dim=2, out_dim=1, hidden=(4, 3), activation="sine", w0_first=8.0, w0_hidden=4.0)
    fields = random_fields(spec, 2, generator)
    copies = symmetry.act(symmetry.sample(spec, 2, generator), fields)
    config = RebasinConfig(steps=40, lr=0.2, iterations=8, points=64)
    coords = torch.rand(64, 2, generator=generator, dtype=torch.float64) * 2 - 1
    moved = symmetry.act(rebasin(copies, fields, "midpoint", config=config), copies)
    before, after = (midpoint_loss(lerp(x, fields, 0.5), x, fields, coords) for x in (copies, moved))
    assert (after < before).all()
    assert torch.allclose(evaluate(moved, coords), evaluate(fields, coords), atol=1e-7)


@pytest.mark.parametrize("kinds", [("permutation",), ("sign",), ("phase",), ("permutation", "sign"), ()], ids=str)
def test_only_the_kinds_asked_for_are_used(kinds: tuple[str, ...], generator: torch.Generator) -> None:
    fields = random_fields(SINE, 2, generator)
    g = symmetry.sample(SINE, 2, generator, kinds)
    few = RebasinConfig(steps=40, lr=0.1, iterations=8)
    assert returned(symmetry.compose(rebasin(symmetry.act(g, fields), fields, kinds=kinds, config=few), g)).all()
    for p, sign, k, _ in rebasin(random_fields(SINE, 2, generator), fields, kinds=kinds, config=few).layers():
        assert "permutation" in kinds or torch.equal(p, torch.arange(p.shape[1]).expand_as(p))
        assert "sign" in kinds or (sign == 1).all()
        assert "phase" in kinds or (k == 0).all()


def test_a_batch_is_its_pairs_one_by_one_and_progress_ends(generator: torch.Generator) -> None:
    fields, reference = random_fields(SINE, 3, generator), random_fields(SINE, 1, generator)
    said: list[tuple[int, int]] = []
    few = RebasinConfig(steps=10, lr=0.1)
    together = rebasin(fields, reference, config=few, progress=lambda *now: said.append(now))
    assert said[-1] == (10, 10)
    for n in range(3):
        alone = symmetry.act(rebasin(fields[n], reference, config=few), fields[n])
        assert torch.allclose(alone.flat(), symmetry.act(together, fields)[n].flat())
    assert len(rebasin(fields[:0], reference).permutation[0]) == 0


def test_a_loss_of_ones_own_and_settling_never_hurts(generator: torch.Generator) -> None:
    fields, reference = random_fields(SINE, 3, generator), random_fields(SINE, 3, generator)
    coords = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    few = RebasinConfig(steps=5)
    found = rebasin(fields, reference, lambda middle: midpoint_loss(middle, fields, reference, coords), config=few)
    after = settle(found, fields, reference, ("phase",))
    near, nearer = (distance(symmetry.act(x, fields), reference) for x in (found, after))
    assert (nearer <= near + 1e-9).all()


def test_bad_input_is_refused_in_one_line(generator: torch.Generator) -> None:
    fields = random_fields(SINE, 2, generator)
    cases = [
        (lambda: sinkhorn(torch.zeros(2, 3)), r"logits has shape \(2, 3\)"),
        (lambda: sinkhorn(torch.zeros(3, 3), 0.0), "tau=0.0"),
        (lambda: sinkhorn(torch.zeros(3, 3), 1.0, 0), "iterations=0"),
        (lambda: rebasin(fields, fields, "both"), "loss='both': expected weights or midpoint"),
        (lambda: rebasin(fields, random_fields(SPECS[1], 2, generator)), "reference is"),
        (lambda: rebasin(fields, fields, kinds=["scale"]), "kinds has 'scale'"),
        (lambda: RebasinConfig(steps=0), "steps=0"),
        (lambda: RebasinConfig(lr=0.0), "lr=0.0"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
