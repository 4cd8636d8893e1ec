"""Symmetries: group axioms, functions left as they are, and elements of the wrong kind noticed."""

import math

import pytest
import torch

from neuralfields import SIREN, FieldBatch, FieldSpec, ReLUField, symmetry
from neuralfields.evaluate import evaluate
from neuralfields.symmetry import Element
from neuralfields.testing import random_fields

ACTIVATIONS = ("sine", "relu", "tanh", "gauss", "gabor", "finer")
WIDTHS = ((5,), (7, 3), (3, 1, 5))
# Specs of every activation, odd sizes, one to three hidden layers; two w0, so that a layer with the wrong one shows.
SPECS = [
    FieldSpec(in_dim=2, out_dim=3, hidden=hidden, activation=activation, w0_first=20.0, w0_hidden=7.0, width=3.0)
    for activation in ACTIVATIONS
    for hidden in WIDTHS
]
CASES = [(spec, kind) for spec in SPECS for kind in symmetry.groups_of(spec)]
N = 3


def named(value: object) -> str:
    return f"{value.activation}-{value.hidden}" if isinstance(value, FieldSpec) else str(value)


def same(g: Element, h: Element) -> bool:
    exact = zip((*g.permutation, *g.sign, *g.half_periods), (*h.permutation, *h.sign, *h.half_periods), strict=True)
    scales = zip(g.scale, h.scale, strict=True)
    return all(torch.equal(a, b) for a, b in exact) and all(torch.allclose(a, b, rtol=1e-14) for a, b in scales)


def difference(f: FieldBatch, g: FieldBatch) -> float:
    """Largest difference of two batches' parameters, relative to the largest entry."""
    return float((f.flat() - g.flat()).abs().max() / f.flat().abs().max())


def changed(f: FieldBatch, g: FieldBatch, generator: torch.Generator) -> float:
    """Largest difference of two batches' values at random coordinates, relative to the largest value."""
    coords = torch.rand(50, f.spec.in_dim, generator=generator, dtype=torch.float64) * 2 - 1
    a, b = evaluate(f, coords), evaluate(g, coords)
    return float((a - b).abs().max() / a.abs().max())


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_group_axioms(spec: FieldSpec, generator: torch.Generator) -> None:
    g, h, k = (symmetry.sample(spec, N, generator) for _ in range(3))
    one = symmetry.identity(spec, N)
    assert not same(g, h)
    assert same(symmetry.compose(g, one), g)
    assert same(symmetry.compose(one, g), g)
    assert same(symmetry.compose(symmetry.inverse(g), g), one)
    assert same(symmetry.compose(g, symmetry.inverse(g)), one)
    assert same(symmetry.compose(symmetry.compose(g, h), k), symmetry.compose(g, symmetry.compose(h, k)))
    reverse = symmetry.compose(symmetry.inverse(h), symmetry.inverse(g))
    assert same(symmetry.inverse(symmetry.compose(g, h)), reverse)


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_action_follows_the_group(spec: FieldSpec, generator: torch.Generator) -> None:
    fields = random_fields(spec, N, generator)
    g, h = (symmetry.sample(spec, N, generator) for _ in range(2))
    twice = symmetry.act(g, symmetry.act(h, fields))
    assert difference(symmetry.act(symmetry.compose(g, h), fields), twice) < 1e-13
    assert difference(symmetry.act(symmetry.inverse(g), symmetry.act(g, fields)), fields) < 1e-13
    assert torch.equal(symmetry.act(symmetry.identity(spec, N), fields).flat(), fields.flat())


def test_composition_has_an_order(generator: torch.Generator) -> None:
    spec = SIREN(2, 1, hidden=(7, 5))
    fields = random_fields(spec, N, generator)
    g, h = (symmetry.sample(spec, N, generator) for _ in range(2))
    other = symmetry.act(h, symmetry.act(g, fields))
    assert difference(symmetry.act(symmetry.compose(g, h), fields), other) > 1e-3


@pytest.mark.parametrize(("spec", "kind"), CASES, ids=named)
@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
def test_each_generator_keeps_the_picture(spec: FieldSpec, kind: str, near: bool, generator: torch.Generator) -> None:
    fields = random_fields(spec, N, generator)
    g = symmetry.sample(spec, N, generator, (kind,), near)
    moved = symmetry.act(g, fields)
    assert difference(fields, moved) > 1e-6
    assert changed(fields, moved, generator) < 1e-10


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_all_generators_composed_keep_the_picture(spec: FieldSpec, generator: torch.Generator) -> None:
    fields = random_fields(spec, N, generator)
    g = symmetry.identity(spec, N)
    for kind in (*symmetry.groups_of(spec), *reversed(symmetry.groups_of(spec))):
        g = symmetry.compose(symmetry.sample(spec, N, generator, (kind,)), g)
    assert changed(fields, symmetry.act(g, fields), generator) < 1e-10


# A spec of another activation with the same widths lends elements of a kind that the first does not have.
WRONG = [("sine", "relu", "scale"), ("tanh", "relu", "scale"), ("gauss", "relu", "scale"), ("relu", "tanh", "sign")]
WRONG += [(a, "sine", "phase") for a in ("relu", "tanh", "gauss", "gabor", "finer")]


@pytest.mark.parametrize(("activation", "lender", "kind"), WRONG)
def test_wrong_kind_changes_the_picture(activation: str, lender: str, kind: str, generator: torch.Generator) -> None:
    spec, other = (
        FieldSpec(in_dim=2, out_dim=3, hidden=(7, 5), activation=a, w0_first=20.0, w0_hidden=7.0, width=3.0)  # type: ignore[arg-type]
        for a in (activation, lender)
    )
    fields = random_fields(spec, N, generator)
    g = symmetry.sample(other, N, generator, (kind,))
    assert changed(fields, symmetry.act(g, fields), generator) > 1e-3
    with pytest.raises(ValueError, match=f"kinds has '{kind}': expected some of .* for {activation} fields"):
        symmetry.sample(spec, N, generator, (kind,))


def test_half_period_needs_its_sign_flip(generator: torch.Generator) -> None:
    spec = SIREN(1, 1, hidden=(4,), w0=5.0)
    fields = random_fields(spec, 1, generator)
    one = torch.ones(1, 4, dtype=torch.int64)
    units = (torch.arange(4)[None],)
    for k, flip in ((1, -1.0), (2, 1.0)):
        g = Element(units, (one,), (k * one,), (one.double(),))
        moved = symmetry.act(g, fields)
        assert torch.allclose(moved.biases[0], fields.biases[0] + k * math.pi / 5.0, rtol=1e-14)
        assert torch.equal(moved.weights[1], flip * fields.weights[1])
        assert torch.equal(moved.weights[0], fields.weights[0])


def test_every_field_has_its_own_element(generator: torch.Generator) -> None:
    spec = SIREN(2, 1, hidden=(7, 5))
    fields = random_fields(spec, 1, generator)
    g = symmetry.sample(spec, 4, generator)
    same_field = FieldBatch(
        spec, {name: value.expand(4, *value.shape[1:]) for name, value in fields.parameters.items()}
    )
    assert len(torch.unique(symmetry.act(g, same_field).flat(), dim=0)) == 4


def test_acting_in_float32_and_through_gradients(generator: torch.Generator) -> None:
    spec = SIREN(2, 1, hidden=(7, 5))
    flat = random_fields(spec, N, generator).flat().requires_grad_()
    g = symmetry.sample(spec, N, generator)
    moved = symmetry.act(g, FieldBatch.from_flat(spec, flat))
    (gradient,) = torch.autograd.grad(moved.flat().square().sum() / 2, flat)
    moved = FieldBatch.from_flat(spec, moved.flat().detach())
    # Every entry moves to one other place with a factor of +-1, so squared length has gradient +-(moved entry).
    assert torch.allclose(gradient.abs().sort(1).values, moved.flat().abs().sort(1).values)
    small = symmetry.act(g, FieldBatch.from_flat(spec, flat.detach().float()))
    assert small.flat().dtype == torch.float32
    assert difference(moved.to(torch.float32), small) < 1e-6


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_canonical_form_is_one_per_orbit(spec: FieldSpec, generator: torch.Generator) -> None:
    fields = random_fields(spec, 20, generator)
    canonical = symmetry.canonicalise(fields)
    g = symmetry.sample(spec, 20, generator)
    assert difference(canonical, symmetry.canonicalise(symmetry.act(g, fields))) < 1e-12
    assert difference(canonical, symmetry.canonicalise(canonical)) < 1e-14
    assert changed(fields, canonical, generator) < 1e-10
    assert difference(canonical[:10], canonical[10:]) > 1e-3


@pytest.mark.parametrize(("spec", "kind"), CASES, ids=named)
def test_canonical_form_of_one_kind(spec: FieldSpec, kind: str, generator: torch.Generator) -> None:
    fields = random_fields(spec, 20, generator)
    canonical = symmetry.canonicalise(fields, (kind,))
    g = symmetry.sample(spec, 20, generator, (kind,))
    assert difference(canonical, symmetry.canonicalise(symmetry.act(g, fields), (kind,))) < 1e-12
    assert changed(fields, canonical, generator) < 1e-10


def test_canonical_sine_biases_are_sorted_and_small(generator: torch.Generator) -> None:
    spec = SIREN(2, 1, hidden=(9, 7))
    canonical = symmetry.canonicalise(random_fields(spec, 20, generator))
    for bias in canonical.biases[:-1]:
        assert bool((bias[:, 1:] >= bias[:, :-1]).all())
        assert float(bias.min()) >= 0.0
        assert float(bias.max()) <= math.pi / 2 / 30.0 + 1e-15


def test_zero_biases_are_told_apart_by_weights(generator: torch.Generator) -> None:
    spec = ReLUField(2, 1, hidden=(7, 5))
    fields = random_fields(spec, 5, generator)
    for bias in fields.biases:
        bias.zero_()
    g = symmetry.sample(spec, 5, generator)
    canonical = symmetry.canonicalise(fields)
    assert difference(canonical, symmetry.canonicalise(symmetry.act(g, fields))) < 1e-12


def test_dead_units_stay_finite() -> None:
    spec = ReLUField(2, 1, hidden=(3,))
    fields = FieldBatch.from_flat(spec, torch.zeros(1, spec.num_params, dtype=torch.float64))
    assert torch.equal(symmetry.canonicalise(fields).flat(), fields.flat())


def test_near_elements_are_near(generator: torch.Generator) -> None:
    spec = SIREN(2, 1, hidden=(9, 7))
    g = symmetry.sample(spec, 50, generator, near=True)
    for (p, sign, k, _), width in zip(g.layers(), spec.hidden, strict=True):
        assert torch.equal((p != torch.arange(width)).sum(1), torch.full((50,), 2))
        assert torch.equal((sign < 0).sum(1), torch.ones(50, dtype=torch.int64))
        assert torch.equal(k.abs().sum(1), torch.ones(50, dtype=torch.int64))


def test_samples_reach_the_whole_group(generator: torch.Generator) -> None:
    spec = SIREN(2, 1, hidden=(3,))
    g = symmetry.sample(spec, 400, generator)
    assert len(torch.unique(g.permutation[0], dim=0)) == 6
    assert len(torch.unique(g.sign[0], dim=0)) == 8
    assert torch.unique(g.half_periods[0]).tolist() == [-3, -2, -1, 0, 1, 2, 3]
    scale = symmetry.sample(ReLUField(2, 1, hidden=(3,)), 400, generator).scale[0]
    assert 0.25 <= float(scale.min()) < 0.3 < 3.0 < float(scale.max()) <= 4.0


def test_same_generator_state_gives_the_same_element() -> None:
    spec = SIREN(2, 1, hidden=(9, 7))
    g, h = (symmetry.sample(spec, N, torch.Generator().manual_seed(5)) for _ in range(2))
    assert same(g, h)


def test_refusals(generator: torch.Generator) -> None:
    spec = SIREN(2, 1, hidden=(3,))
    fields = random_fields(spec, N, generator)
    one = symmetry.identity(spec, N)
    with pytest.raises(ValueError, match=r"g has shapes \[\(2, 3\)\]: expected \[\(3, 3\)\]"):
        symmetry.act(symmetry.identity(spec, 2), fields)
    with pytest.raises(ValueError, match="kinds has 'rotation': expected some of permutation, sign, phase, scale"):
        symmetry.canonicalise(fields, ("rotation",))
    with pytest.raises(ValueError, match=r"permutation of layer 0: expected every row to hold 0 \.\. 2 once"):
        Element((torch.zeros_like(one.permutation[0]),), one.sign, one.half_periods, one.scale)
    with pytest.raises(ValueError, match=r"sign of layer 0: expected only -1 and \+1"):
        Element(one.permutation, one.half_periods, one.half_periods, one.scale)
    with pytest.raises(ValueError, match="scale of layer 0: expected positive finite numbers"):
        Element(one.permutation, one.sign, one.half_periods, (-one.scale[0],))
    with pytest.raises(ValueError, match="half_periods and scale in layer 0: expected one of them"):
        Element(one.permutation, one.sign, (one.half_periods[0] + 1,), (2 * one.scale[0],))
    with pytest.raises(ValueError, match=r"expected four times one \(N, H\)"):
        Element(one.permutation, (one.sign[0][:1],), one.half_periods, one.scale)
    with pytest.raises(ValueError, match=r"permutation is torch\.float64"):
        Element((one.scale[0],), one.sign, one.half_periods, one.scale)
