"""Transport fusion: copies come back, whatever their widths; plans are optimal; each field stands for itself."""

import math

import numpy as np
import pytest
import torch

from neuralfields import SIREN, FieldBatch, FieldSpec, symmetry
from neuralfields.evaluate import evaluate
from neuralfields.testing import random_fields
from wsnets.transport_fusion import _program, fuse, transported

SPECS = [
    FieldSpec(in_dim=2, out_dim=3, hidden=(7, 5), activation=name, w0_first=20.0, w0_hidden=7.0, width=3.0)
    for name in ("sine", "relu", "tanh", "gauss", "finer")
]
SINE = SPECS[0]


def named(value: object) -> str:
    return value.activation if isinstance(value, FieldSpec) else str(value)


def close(a: FieldBatch, b: FieldBatch, tolerance: float = 1e-9) -> bool:
    return a.spec == b.spec and torch.allclose(a.flat(), b.flat(), rtol=tolerance, atol=tolerance)


def doubled(fields: FieldBatch) -> FieldBatch:
    """The same functions with every hidden unit twice and its outgoing weights halved, in another order."""
    spec = FieldSpec.from_json({**fields.spec.to_json(), "hidden": [2 * width for width in fields.spec.hidden]})
    weights, biases = fields.weights, fields.biases
    for layer in range(len(spec.hidden)):
        weights[layer], biases[layer] = weights[layer].repeat(1, 2, 1), biases[layer].repeat(1, 2)
        weights[layer + 1] = weights[layer + 1].repeat(1, 1, 2) / 2
    return FieldBatch.from_layers(spec, weights, biases)


@pytest.mark.parametrize("ground", ["weights", "activations"])
@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_a_moved_copy_comes_back(spec: FieldSpec, ground: str, generator: torch.Generator) -> None:
    fields = random_fields(spec, 4, generator)
    copies = symmetry.act(symmetry.sample(spec, 4, generator), fields)
    coords = torch.rand(200, 2, generator=generator, dtype=torch.float64) * 2 - 1 if ground == "activations" else None
    if spec.activation == "relu" and coords is not None:
        copies = symmetry.act(symmetry.sample(spec, 4, generator, ["permutation"]), fields)  # answers tell scales apart
    fused = fuse(copies, fields, 0.3, ground, coords=coords)  # type: ignore[arg-type]
    assert close(fused, fields)


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_doubled_units_are_taken_together_again(spec: FieldSpec, generator: torch.Generator) -> None:
    fields = random_fields(spec, 3, generator)
    wide = doubled(fields)
    wide = symmetry.act(symmetry.sample(wide.spec, 3, generator), wide)
    assert close(transported(wide, fields), fields)
    back = transported(fields, wide)
    coords = torch.rand(50, 2, generator=generator, dtype=torch.float64) * 2 - 1
    assert torch.allclose(evaluate(back, coords), evaluate(fields, coords), rtol=1e-8, atol=1e-8)


def test_ends_of_the_average(generator: torch.Generator) -> None:
    fields, reference = random_fields(SINE, 3, generator), random_fields(SINE, 1, generator)
    assert torch.equal(fuse(fields, reference, 1.0).flat(), reference.flat().expand(3, -1))
    moved = transported(fields, reference)
    assert torch.equal(fuse(fields, reference, 0.0).flat(), moved.flat())
    coords = torch.rand(50, 2, generator=generator, dtype=torch.float64) * 2 - 1
    assert torch.allclose(evaluate(moved, coords), evaluate(fields, coords))  # equal widths: a group element moves


def test_a_batch_is_its_fields_one_by_one(generator: torch.Generator) -> None:
    spec = SIREN(2, 3, hidden=(7, 5), w0=20.0)
    fields, reference = (
        random_fields(spec, 3, generator),
        random_fields(SIREN(2, 3, hidden=(4, 6), w0=20.0), 3, generator),
    )
    together = transported(fields, reference)
    for n in range(3):
        assert torch.equal(transported(fields[n], reference[n]).flat(), together[n].flat())


def test_plans_keep_their_masses_and_cost_the_least() -> None:
    draws = np.random.default_rng(0)
    cost = draws.random((4, 6))
    plan = _program(cost)
    assert np.allclose(plan.sum(1), 1.0)
    assert np.allclose(plan.sum(0), 4 / 6)
    # Units split into parts of equal mass turn the plan into an assignment, which scipy solves on its own.
    from scipy.optimize import linear_sum_assignment

    split = np.kron(cost, np.ones((math.lcm(4, 6) // 4, math.lcm(4, 6) // 6)))
    least = split[linear_sum_assignment(split)].sum() / (math.lcm(4, 6) // 4)
    assert (plan * cost).sum() == pytest.approx(least)


def test_only_the_kinds_asked_for_are_used(generator: torch.Generator) -> None:
    fields = random_fields(SINE, 3, generator)
    copies = symmetry.act(symmetry.sample(SINE, 3, generator, ["sign", "phase"]), fields)
    assert close(fuse(copies, fields, kinds=("sign", "phase")), fields)
    assert not close(fuse(copies, fields, kinds=("permutation",)), fields)
    assert close(fuse(copies, copies, kinds=()), copies)


def test_bad_input_is_refused_in_one_line(generator: torch.Generator) -> None:
    fields = random_fields(SINE, 3, generator)
    coords = torch.zeros(5, 2, dtype=torch.float64)
    bad = FieldBatch.from_flat(SINE, fields.flat() * torch.nan)
    cases = [
        (lambda: fuse(fields, fields, 1.5), "eta=1.5: expected a number in"),
        (lambda: fuse(fields, fields, ground="names"), "ground='names'"),  # type: ignore[arg-type]
        (lambda: fuse(fields, random_fields(SPECS[1], 3, generator)), "but for its widths"),
        (lambda: fuse(fields, fields[:2]), "reference holds 2 fields: expected 1 or 3"),
        (lambda: fuse(fields, fields, kinds=["scale"]), "kinds='scale'"),
        (lambda: fuse(fields, fields, coords=coords), "coords=given"),
        (lambda: fuse(fields, fields, ground="activations"), "coords=None"),
        (lambda: fuse(fields, bad), "NaN"),
        (lambda: fuse(fields, random_fields(SIREN(2, 3, hidden=(4, 5)), 3, generator)), "widths"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
