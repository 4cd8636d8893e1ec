"""Inits: each formula's bound and spread, and draws that depend on the field's id alone."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from neuralfields import SIREN, FieldBatch, FieldSpec, Positional, ReLUField, inits

SINE = SIREN(3, 2, hidden=(24, 16), w0=20.0, w0_hidden=5.0)
NUM_FIELDS = 300


def bounds(scheme: str, layer: int, fan_in: int, last: bool) -> tuple[float, float]:
    """The published half-widths for SINE: of weights and of biases, written out per scheme."""
    w0 = 20.0 if layer == 0 else 5.0
    root = 1 / math.sqrt(fan_in)
    siren = (1 / fan_in if layer == 0 else math.sqrt(6 / fan_in) / 5.0, root)
    return {
        "siren": siren,
        "dws": (root, root) if last else (math.sqrt(6 / fan_in) / w0, 0.0),
        "linear": (root, root),
        "kaiming": (math.sqrt(6 / fan_in), 0.0),
        "finer": (siren[0], 1.0 if layer == 0 else root),
    }[scheme]


@pytest.mark.parametrize("scheme", list(inits.SCHEMES))
def test_bounds_and_spread(scheme: str) -> None:
    fields = inits.initial(SINE, np.arange(NUM_FIELDS), "random", seed=1, scheme=scheme)  # type: ignore[arg-type]
    for layer, fan_in in enumerate(SINE.dims[:-1]):
        expected = bounds(scheme, layer, fan_in, layer == 2)
        for values, bound in zip((fields.weights[layer], fields.biases[layer]), expected, strict=True):
            assert values.dtype == torch.float32
            assert float(values.abs().max()) <= bound * (1 + 1e-6)
            if bound == 0.0:
                continue
            count = values.numel()
            assert float(values.abs().max()) > bound * (1 - 20 / count)
            assert abs(float(values.mean())) < 5 * bound / math.sqrt(3 * count)
            # A uniform's variance is bound^2 / 3, the standard error of its estimate sqrt(4 / 45) bound^2 / sqrt(n).
            assert abs(float(values.double().var()) - bound**2 / 3) < 5 * math.sqrt(4 / 45 / count) * bound**2


def test_first_fan_in_is_the_encoded_one() -> None:
    spec = ReLUField(2, 1, hidden=(16,), encoding=Positional(10))
    largest = float(inits.initial(spec, np.arange(50), "random").weights[0].abs().max())
    assert math.sqrt(6 / 42) * 0.99 < largest <= math.sqrt(6 / 42) * (1 + 1e-6)


@pytest.mark.parametrize("mode", ["shared", "random"])
def test_init_does_not_depend_on_the_batch(mode: str) -> None:
    ids = np.array([7, 0, 123_456, 2**32 - 2])
    whole = inits.initial(SINE, ids, mode, seed=3).flat()
    for row in range(len(ids)):
        assert torch.equal(inits.initial(SINE, ids[row : row + 1], mode, seed=3).flat()[0], whole[row])
    assert torch.equal(inits.initial(SINE, ids[::-1].copy(), mode, seed=3).flat(), whole.flip(0))
    more = inits.initial(SINE, np.concatenate([np.arange(1000, 1050), ids]), mode, seed=3).flat()
    assert torch.equal(more[50:], whole)


def test_shared_is_one_and_random_is_many() -> None:
    ids = np.arange(20)
    assert len(torch.unique(inits.initial(SINE, ids, "shared").flat(), dim=0)) == 1
    assert len(torch.unique(inits.initial(SINE, ids, "random").flat(), dim=0)) == 20
    one = inits.initial(SINE, ids, "shared")
    one.weights[0][0] += 1.0  # fields own their weights: changing one leaves the others
    assert not torch.equal(one.weights[0][0], one.weights[0][1])


def test_seeds_give_other_inits() -> None:
    for mode in ("shared", "random"):
        first, second = (inits.initial(SINE, np.arange(3), mode, seed=seed).flat() for seed in (0, 1))
        assert not bool((first == second).all(dim=1).any())


def test_layers_do_not_repeat_each_other() -> None:
    flat = inits.draw(SIREN(8, 8, hidden=(8, 8)), np.array([0]), scheme="linear")
    assert not torch.equal(flat.weights[0], flat.weights[1])
    assert not torch.equal(flat.weights[1], flat.weights[2])


@pytest.mark.parametrize(
    ("activation", "scheme"),
    [("sine", "siren"), ("gabor", "siren"), ("finer", "finer"), ("relu", "kaiming"), ("tanh", "linear")],
)
def test_default_schemes(activation, scheme: str) -> None:
    spec = FieldSpec(in_dim=2, out_dim=1, hidden=(5,), activation=activation)
    assert inits.default_scheme(spec) == scheme
    ids = np.arange(2)
    assert torch.equal(inits.draw(spec, ids).flat(), inits.draw(spec, ids, scheme=scheme).flat())  # type: ignore[arg-type]


def test_starting_from_a_field() -> None:
    one = inits.initial(SINE, np.array([4]), "random")
    many = inits.from_field(one, SINE, 5)
    assert torch.equal(many.flat(), one.flat().expand(5, -1))
    with pytest.raises(ValueError, match="fields has 5 fields: expected 1"):
        inits.from_field(many, SINE, 2)
    for change in ({"hidden": (8,)}, {"activation": "relu"}, {"w0_hidden": 7.0}, {"axes": "xy"}):
        ((name, wanted),) = change.items()
        words = re.escape(f"init field has {name}={getattr(SINE, name)!r}: expected {wanted!r}")
        with pytest.raises(ValueError, match=words):
            inits.from_field(one, replace(SINE, **change), 2)
    assert isinstance(many, FieldBatch)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="scheme='xavier': expected one of siren, dws"):
        inits.draw(SINE, np.arange(2), scheme="xavier")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="init='meta': expected shared, random"):
        inits.initial(SINE, np.arange(2), "meta")
    with pytest.raises(ValueError, match="ids up to 4294967295: expected"):
        inits.initial(SINE, np.array([inits.SHARED_ID]), "random")
    with pytest.raises(ValueError, match="ids from -1"):
        inits.initial(SINE, np.array([-1]), "random")
