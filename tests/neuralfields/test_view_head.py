"""Radiance fields: density and colour by their formulas, density without direction, and what refuses them."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from neuralfields import (
    SIREN,
    FieldBatch,
    FieldSpec,
    HashGrid,
    HashNeRF,
    NeRF,
    TriPlane,
    TriPlaneNeRF,
    ViewHead,
    density,
    evaluate,
    inits,
    symmetry,
)
from neuralfields.evaluate import encode, forward_raw
from neuralfields.testing import assert_gradients

HEAD = ViewHead(hidden=(5,), features=3, bands=2)
SPECS = [
    NeRF(hidden=(6, 5), bands=2, view=HEAD),
    HashNeRF(hidden=(6,), encoding=HashGrid(levels=2, log2_size=5, base=3, scale=2.0), view=HEAD),
    TriPlaneNeRF(hidden=(6, 6), encoding=TriPlane(resolution=4, features=3), view=ViewHead((5, 4), 2, 1)),
]
N, B = 3, 6


def generic(spec: FieldSpec, count: int, generator: torch.Generator) -> FieldBatch:
    flat = torch.randn(count, spec.num_params, generator=generator, dtype=torch.float64)
    return FieldBatch.from_flat(spec, flat * 0.5)


def rays(*shape: int, generator: torch.Generator) -> Tensor:
    """Positions in the box and unit directions: (*shape, 6)."""
    positions = torch.rand(*shape, 3, generator=generator, dtype=torch.float64) * 2 - 1
    directions = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    return torch.cat([positions, torch.nn.functional.normalize(directions, dim=-1)], dim=-1)


def by_hand(fields: FieldBatch, index: int, point: Tensor) -> np.ndarray:
    """One field at one position and direction, layer by layer."""
    spec = fields.spec
    assert spec.view is not None
    p = {name: value[index].numpy() for name, value in fields.parameters.items()}
    h = encode(fields[index], point[None, :3]).reshape(-1).numpy()
    for layer in range(spec.num_layers):
        z = p[f"weights.{layer}"] @ h + p[f"biases.{layer}"]
        h = np.maximum(z, 0) if layer < spec.num_layers - 1 else z
    d, raw = point[3:].numpy(), h
    angles = [2.0**k * np.pi * d for k in range(spec.view.bands)]
    h = np.concatenate([raw[1:], d, *(np.sin(a) for a in angles), *(np.cos(a) for a in angles)])
    for layer in range(len(spec.view.hidden) + 1):
        z = p[f"view.weights.{layer}"] @ h + p[f"view.biases.{layer}"]
        h = np.maximum(z, 0) if layer < len(spec.view.hidden) else z
    return np.append(1 / (1 + np.exp(-h)), np.exp(min(raw[0], 15.0)))


@pytest.mark.parametrize("spec", SPECS, ids=FieldSpec.describe)
def test_formula(spec: FieldSpec, generator: torch.Generator) -> None:
    fields, coords = generic(spec, N, generator), rays(N, B, generator=generator)
    values = evaluate(fields, coords)
    assert values.shape == (N, B, 4)
    for n in range(N):
        expected = np.array([by_hand(fields, n, point) for point in coords[n]])
        assert np.allclose(values[n].numpy(), expected, rtol=1e-11, atol=1e-12)
        assert torch.allclose(evaluate(fields[n], coords[n])[0], values[n], rtol=1e-12, atol=1e-13)
        assert torch.allclose(evaluate(fields, coords[n])[n], values[n], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("spec", SPECS, ids=FieldSpec.describe)
def test_density_is_that_of_evaluate_and_needs_no_direction(spec: FieldSpec, generator: torch.Generator) -> None:
    fields, coords = generic(spec, N, generator), rays(N, B, generator=generator)
    sigma = density(fields, coords[..., :3])
    assert sigma.shape == (N, B)
    assert bool((sigma > 0).all())
    assert torch.allclose(sigma, evaluate(fields, coords)[..., 3], rtol=1e-12, atol=0)
    turned = torch.cat([coords[..., :3], rays(N, B, generator=generator)[..., 3:]], dim=-1)
    assert torch.equal(evaluate(fields, turned)[..., 3], evaluate(fields, coords)[..., 3])
    assert not torch.allclose(evaluate(fields, turned)[..., :3], evaluate(fields, coords)[..., :3])
    assert density(fields, coords[0, :, :3]).shape == (N, B)
    assert density(fields[:0], coords[0, :, :3]).shape == (0, B)
    assert density(fields, coords[:, :0, :3]).shape == (N, 0)


@pytest.mark.parametrize("spec", SPECS, ids=FieldSpec.describe)
def test_gradients_to_all_parameters_and_coordinates(spec: FieldSpec, generator: torch.Generator) -> None:
    fields, coords = generic(spec, 2, generator), rays(3, generator=generator)

    def values(flat: Tensor, x: Tensor) -> Tensor:
        return evaluate(FieldBatch.from_flat(spec, flat), x)

    assert_gradients(values, [fields.flat(), coords], rtol=1e-5)


@pytest.mark.parametrize("spec", SPECS, ids=FieldSpec.describe)
def test_chunked_equals_whole(spec: FieldSpec, generator: torch.Generator) -> None:
    fields, coords = generic(spec, 4, generator), rays(4, 3000, generator=generator)
    whole = evaluate(fields, coords, memory_mb=4096)
    assert torch.allclose(evaluate(fields, coords, memory_mb=1), whole, rtol=1e-11, atol=1e-12)


def test_density_stays_finite_in_float32(generator: torch.Generator) -> None:
    spec = SPECS[0]
    fields = generic(spec, 1, generator)
    fields.biases[-1][:, 0] = 1000.0
    sigma = density(fields.to(torch.float32), rays(5, generator=generator)[:, :3].float())
    assert torch.allclose(sigma, torch.tensor(15.0).exp().expand(1, 5))


@pytest.mark.parametrize("spec", SPECS, ids=FieldSpec.describe)
def test_json_and_shapes(spec: FieldSpec) -> None:
    assert FieldSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    names = list(spec.shapes)
    trained = [name for name in names if name.startswith("encoding.")]
    head = [name for name in names if name.startswith("view.")]
    dense = [f"{kind}.{layer}" for layer in range(spec.num_layers) for kind in ("weights", "biases")]
    assert names == [*trained, *dense, *head]
    assert len(trained) == int(spec.trained_encoding)
    assert spec.view is not None
    assert spec.dims[-1] == 1 + spec.view.features
    assert "view" not in SIREN(2, 1).to_json()


@pytest.mark.parametrize("spec", SPECS, ids=FieldSpec.describe)
def test_inits_have_their_ranges_and_depend_on_the_id_alone(spec: FieldSpec) -> None:
    ids = np.arange(40)
    fields = inits.initial(spec, ids, "random", seed=1)
    assert torch.equal(inits.initial(spec, ids[7:8], "random", seed=1).flat()[0], fields.flat()[7])
    ranges = {"encoding.table": 1e-4, "encoding.planes": 0.1, "view.biases.0": 0.0}
    assert spec.view is not None
    ranges |= {"view.weights.0": (6 / spec.view.dims[0]) ** 0.5, "weights.1": (6 / spec.dims[1]) ** 0.5}
    for name, bound in ranges.items():
        if name in fields.parameters:
            assert 0.95 * bound <= float(fields.parameters[name].abs().max()) <= bound * (1 + 1e-6)


def test_factors_of_a_product_start_away_from_zero() -> None:
    spec = TriPlaneNeRF(encoding=TriPlane(resolution=8, reduce="product"))
    planes = inits.initial(spec, np.arange(2), "random").parameters["encoding.planes"]
    assert 0.1 <= float(planes.min()) < 0.11
    assert 0.49 < float(planes.max()) <= 0.5


def test_a_field_alone_as_a_module(generator: torch.Generator) -> None:
    fields, coords = generic(SPECS[1], 1, generator), rays(2, 3, generator=generator)
    module = fields.module()
    assert set(module.state_dict()) == {name.replace(".", "_") for name in SPECS[1].shapes}
    assert torch.allclose(module(coords), evaluate(fields, coords.view(6, 6)).view(2, 3, 4), rtol=1e-12, atol=1e-13)


def test_refusals(generator: torch.Generator) -> None:
    fields = generic(SPECS[1], 2, generator)
    with pytest.raises(ValueError, match=r"offset=.*: expected .* for a field with a view head"):
        NeRF(offset=(0.5,))
    with pytest.raises(ValueError, match="view features=0: expected a positive integer"):
        ViewHead(features=0)
    with pytest.raises(ValueError, match=r"view hidden=.*: expected at least one width"):
        ViewHead(hidden=())
    with pytest.raises(ValueError, match=r"coords has shape \(5, 3\): expected \(B, 6\)"):
        evaluate(fields, torch.zeros(5, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"coords has shape \(5, 6\): expected \(B, 3\)"):
        density(fields, torch.zeros(5, 6, dtype=torch.float64))
    plain = inits.initial(SIREN(3, 1), np.arange(2))
    with pytest.raises(ValueError, match=r"fields are sine 3-32-32-1.*: expected radiance fields"):
        density(plain, torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"fields is a spec, relu .*: expected fields, whose encoding is trained"):
        encode(SPECS[1], torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"takes dense layers only: .* also has encoding.table, view.weights.0"):
        symmetry.act(symmetry.identity(SPECS[1], 2), fields)
    assert forward_raw(fields, encode(fields, torch.zeros(5, 3, dtype=torch.float64))).shape == (2, 5, 4)
