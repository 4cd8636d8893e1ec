"""Specs: the JSON round trip, what is refused, and shapes that add up."""

import json
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise

import pytest

from neuralfields import SIREN, FieldSpec, GaussianFourier, Positional, ReLUField

SPECS = [
    SIREN(2, 1),
    SIREN(3, 4, hidden=(7, 5, 3), w0=15.0, w0_hidden=1.5, scale=(0.5,), offset=(0.5, 0.25, 0.0, -1.0)),
    ReLUField(2, 3, hidden=(11,), encoding=Positional(4, include_input=False, use_pi=False), grid="corners", axes="xy"),
    ReLUField(2, 3, encoding=GaussianFourier(9, std=0.1, seed=3)),
    FieldSpec(in_dim=1, out_dim=1, hidden=(3,), activation="gabor", width=1.0 / 3.0),
]


@pytest.mark.parametrize("spec", SPECS, ids=FieldSpec.describe)
def test_json_round_trip_is_exact(spec: FieldSpec) -> None:
    text = json.dumps(spec.to_json())
    back = FieldSpec.from_json(json.loads(text))
    assert back == spec
    assert hash(back) == hash(spec)
    assert back.shapes == spec.shapes
    assert json.dumps(back.to_json()) == text


def test_every_setting_is_written() -> None:
    written = SPECS[1].to_json()
    for name in written:
        assert FieldSpec.from_json(written) == SPECS[1]
        others = {k: v for k, v in written.items() if k != name}
        if name in ("in_dim", "out_dim", "hidden"):
            with pytest.raises(ValueError, match=f"missing keys \\['{name}'\\]"):
                FieldSpec.from_json(others)
    assert FieldSpec.from_json({**written, "w0_first": 16.0}) != SPECS[1]
    assert FieldSpec.from_json({**written, "grid": "corners"}) != SPECS[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"omega": 30.0}, r"unknown keys \['omega'\]"),
        ({"_shapes": {}}, r"unknown keys \['_shapes'\]"),
        ({"hidden": 32}, "spec: .*expected values of the types"),
        ({"w0_first": "30"}, "spec: .*expected values of the types"),
        ({"encoding": {"name": "positional", "band": 3}}, "encoding 'positional'"),
        ({"encoding": {"name": "hash"}}, "encoding name='hash': expected positional, gaussian_fourier, hash_grid or"),
        ({"encoding": {"name": "hash_grid"}, "in_dim": 4}, "spec: in_dim=4: expected 2 or 3 for a hash grid"),
        ({"encoding": {"name": "tri_plane"}}, "spec: in_dim=2: expected 3 for a tri-plane"),
        ({"view": {"feature": 3}}, "view: .*expected values of the types"),
        ({"view": 3}, "view: .*expected values of the types"),
        ({"view": {}}, "spec: in_dim=2: expected 6 for a field with a view head"),
    ],
)
def test_foreign_json_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FieldSpec.from_json({**SIREN(2, 1).to_json(), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_dim": 0}, "in_dim=0: expected a positive integer"),
        ({"out_dim": 1.5}, "out_dim=1.5: expected a positive integer"),
        ({"hidden": ()}, r"hidden=\(\): expected at least one width"),
        ({"hidden": (32, 0)}, r"hidden=\(32, 0\): expected at least one width"),
        ({"hidden": (32.5,)}, r"hidden=\(32\.5,\): expected at least one width"),
        ({"activation": "sin"}, "activation='sin': expected one of sine, relu, tanh, gauss, gabor, finer"),
        ({"grid": "centres"}, "grid='centres': expected one of centers, corners"),
        ({"axes": "yx"}, "axes='yx': expected one of ij, xy"),
        ({"w0_first": 0.0}, "w0_first=0.0: expected a positive number"),
        ({"w0_hidden": float("nan")}, "w0_hidden=nan: expected a positive number"),
        ({"width": -1.0}, "width=-1.0: expected a positive number"),
        ({"scale": (1.0, 2.0)}, "scale=.*: expected 3 finite numbers"),
        ({"offset": (float("inf"),)}, "offset=.*: expected 3 finite numbers"),
    ],
)
def test_values_out_of_range_are_refused(change: dict, message: str) -> None:
    base = {"in_dim": 2, "out_dim": 3, "hidden": (4,)}
    with pytest.raises(ValueError, match=message):
        FieldSpec(**{**base, **change})


@pytest.mark.parametrize("spec", SPECS, ids=FieldSpec.describe)
def test_shapes_follow_the_dims(spec: FieldSpec) -> None:
    dims = spec.dims
    assert dims[1:-1] == spec.hidden
    assert dims[-1] == spec.out_dim
    assert spec.num_layers == len(dims) - 1
    expected = []
    for layer in range(spec.num_layers):
        expected += [(f"weights.{layer}", (dims[layer + 1], dims[layer])), (f"biases.{layer}", (dims[layer + 1],))]
    assert list(spec.shapes.items()) == expected
    assert spec.num_params == sum(o * (i + 1) for i, o in pairwise(dims))


def test_known_sizes() -> None:
    assert SIREN(2, 1, hidden=(32, 32)).num_params == 1185
    assert SIREN(2, 1, hidden=(32, 32)).describe() == "sine 2-32-32-1, 1,185 parameters"
    assert ReLUField(2, 3, hidden=(8,), encoding=Positional(10)).dims == (42, 8, 3)
    assert ReLUField(2, 3, hidden=(8,), encoding=GaussianFourier(64)).dims == (128, 8, 3)


def test_frequencies_per_layer() -> None:
    spec = SIREN(2, 1, hidden=(4, 4, 4), w0=20.0, w0_hidden=5.0)
    assert [spec.w0(layer) for layer in range(3)] == [20.0, 5.0, 5.0]
    assert SIREN(2, 1, w0=12.0).w0_hidden == 12.0


def test_specs_are_frozen_and_replaced_whole() -> None:
    spec = SIREN(2, 1, hidden=(4,))
    with pytest.raises(FrozenInstanceError):
        spec.in_dim = 3  # type: ignore[misc]
    spec.shapes.clear()
    assert len(spec.shapes) == 4
    wider = replace(spec, hidden=(9, 9))
    assert len(wider.shapes) == 6
    assert len(spec.shapes) == 4
