"""tiny-cuda-nn: configurations go both ways, its vector of parameters is read in its order, the rest is refused."""

import json
import math

import pytest
import torch
from torch import Tensor

from neuralfields import (
    SIREN,
    FieldBatch,
    FieldSpec,
    GaussianFourier,
    HashField,
    HashGrid,
    HashNeRF,
    Positional,
    ReLUField,
    TriPlaneField,
    evaluate,
)
from neuralfields.interop import tcnn

GRID = HashGrid(levels=3, features=2, log2_size=6, base=3, scale=1.5)
SPECS = [
    HashField(3, 4, hidden=(64, 64), encoding=GRID),
    HashField(2, 3, hidden=(24,), encoding=GRID),
    ReLUField(2, 3, hidden=(16, 16), encoding=Positional(3, include_input=False)),
    ReLUField(2, 3, hidden=(16,)),
    SIREN(2, 1, hidden=(8, 8), w0=1.0),
]


def without_biases(spec: FieldSpec, generator: torch.Generator) -> FieldBatch:
    values = {n: torch.randn(1, *shape, generator=generator) for n, shape in spec.shapes.items()}
    return FieldBatch(spec, {n: v * 0 if n.startswith("biases") else v for n, v in values.items()})


@pytest.mark.parametrize("spec", SPECS, ids=FieldSpec.describe)
def test_config_round_trip(spec: FieldSpec) -> None:
    config = json.loads(json.dumps(tcnn.to_config(spec)))
    assert tcnn.from_config(config, spec.in_dim, spec.out_dim) == spec


def test_the_published_sample() -> None:
    # The configuration in tiny-cuda-nn's own README, with its losses and optimizers.
    config = {
        "loss": {"otype": "L2"},
        "encoding": {
            "otype": "HashGrid",
            "n_levels": 16,
            "n_features_per_level": 2,
            "log2_hashmap_size": 19,
            "base_resolution": 16,
            "per_level_scale": 2.0,
        },
        "network": {
            "otype": "FullyFusedMLP",
            "activation": "ReLU",
            "output_activation": "None",
            "n_neurons": 64,
            "n_hidden_layers": 2,
        },
    }
    spec = tcnn.from_config(config, 3, 1)
    assert spec == HashField(3, 1, hidden=(64, 64), encoding=HashGrid(scale=2.0))
    assert tcnn.to_config(spec) == {k: v for k, v in config.items() if k != "loss"}
    assert tcnn.to_config(HashField(3, 1, hidden=(24,)))["network"]["otype"] == "CutlassMLP"


def by_definition(spec: FieldSpec, params: Tensor, x: Tensor) -> Tensor:
    """A field as tiny-cuda-nn computes it from its own vector, at one point: padded matrices, features in its order."""
    start = 0
    if isinstance(spec.encoding, Positional):
        angles = [math.pi * 2.0**k * c + s * math.pi / 2 for c in x.tolist() for k in range(3) for s in (0, 1)]
        features = torch.tensor([math.sin(a) for a in angles])
    elif spec.encoding is None:
        features = x
    else:
        table = params[-math.prod(spec.shapes["encoding.table"]) :].view(1, -1, GRID.features)
        features = GRID(x.unsqueeze(0), table)[0, 0]
    inputs = -(-len(features) // 16) * 16
    h = torch.full((inputs,), 0.0 if spec.trained_encoding else 1.0)
    h[: len(features)] = features
    for layer in range(spec.num_layers):
        rows = spec.hidden[layer] if layer < len(spec.hidden) else 16
        matrix = params[start : start + rows * len(h)].view(rows, len(h))
        start += matrix.numel()
        h = matrix @ h
        if layer < len(spec.hidden):
            h = h.sin() if spec.activation == "sine" else h.relu()
    return h[: spec.out_dim]


@pytest.mark.parametrize("spec", SPECS, ids=FieldSpec.describe)
def test_the_vector_means_the_same_field(spec: FieldSpec, generator: torch.Generator) -> None:
    fields = without_biases(spec, generator)
    params = tcnn.to_params(fields)
    back = tcnn.from_params(spec, params)
    for name, value in fields.parameters.items():
        assert torch.equal(back.parameters[name], value), name
    # Any vector of theirs, with numbers in the padding too.
    theirs = torch.randn(len(params), generator=generator)
    x = torch.tensor([0.3, -0.7, 0.2])[: spec.in_dim]
    expected = by_definition(spec, theirs, x)
    actual = evaluate(tcnn.from_params(spec, theirs), x.unsqueeze(0))[0, 0]
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (HashNeRF(encoding=GRID), r"view=ViewHead.*: expected None for tiny-cuda-nn"),
        (ReLUField(2, 1, hidden=(16, 8)), r"hidden=\(16, 8\): expected one width"),
        (FieldSpec(in_dim=2, out_dim=1, hidden=(8,), activation="finer"), "activation='finer': expected relu, tanh"),
        (SIREN(2, 1), r"w0=\(30.0, 30.0\): expected 1"),
        (ReLUField(2, 1, offset=(0.5,)), r"offset=\(0.5,\): expected 0"),
        (ReLUField(2, 1, scale=(0.5,)), r"scale=\(0.5,\): expected 1"),
        (TriPlaneField(1), r"encoding=TriPlane.*: expected None, HashGrid or Positional"),
        (ReLUField(2, 1, encoding=Positional(3)), r"encoding=Positional.*: expected None, HashGrid or"),
        (ReLUField(2, 1, encoding=GaussianFourier(3)), r"encoding=GaussianFourier.*: expected None, HashGrid or"),
    ],
)
def test_specs_that_do_not_map_are_refused_by_name(spec: FieldSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tcnn.to_config(spec)


@pytest.mark.parametrize(
    ("encoding", "network", "message"),
    [
        ({"otype": "OneBlob"}, {}, "encoding otype='OneBlob': expected HashGrid"),
        ({"otype": "Grid", "type": "Dense"}, {}, "encoding type='Dense': expected Hash"),
        ({"otype": "HashGrid", "interpolation": "Smoothstep"}, {}, "interpolation='Smoothstep': expected Linear"),
        ({"otype": "HashGrid", "fixed_point_pos": True}, {}, "encoding HashGrid has fixed_point_pos=True: expected"),
        ({"otype": "Identity", "scale": 2.0}, {}, "encoding scale=2.0: expected 1.0"),
        ({"otype": "Identity"}, {"otype": "CutlassResNet"}, "network otype='CutlassResNet': expected FullyFusedMLP"),
        ({"otype": "Identity"}, {"activation": "Squareplus"}, "activation='Squareplus': expected ReLU or"),
        ({"otype": "Identity"}, {"output_activation": "Sigmoid"}, "output_activation='Sigmoid': expected None"),
        ({"otype": "Identity"}, {"n_neurons": 48}, "n_neurons=48: expected 16 or 32"),
        ({"otype": "Identity"}, {"feedback_alignment": True}, "network has feedback_alignment=True: expected"),
    ],
)
def test_configurations_that_do_not_map_are_refused_by_name(encoding: dict, network: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tcnn.from_config({"encoding": encoding, "network": {"otype": "FullyFusedMLP", **network}}, 2, 1)


def test_other_refusals(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="config lacks network: expected"):
        tcnn.from_config({"encoding": {"otype": "Identity"}}, 2, 1)
    fields = without_biases(SPECS[1], generator)
    with pytest.raises(ValueError, match="fields has 2 fields: expected 1"):
        tcnn.to_params(FieldBatch.cat([fields, fields]))
    with pytest.raises(ValueError, match=r"params has shape \(3,\): expected"):
        tcnn.from_params(SPECS[1], torch.zeros(3))
    fields.biases[1][0, 0] = 0.1
    with pytest.raises(ValueError, match=r"biases\.1 is not 0 everywhere: tiny-cuda-nn has no biases"):
        tcnn.to_params(fields)
