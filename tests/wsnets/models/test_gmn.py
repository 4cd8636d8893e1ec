"""GMN: equivariant under permutations and under nothing else; its shortcuts are only shortcuts."""

import pytest
import torch
from torch import Generator

from neuralfields import SIREN, FieldBatch, FieldSpec, ReLUField
from neuralfields.testing import assert_equivariant, assert_invariant, random_fields
from wsnets import models
from wsnets.features import weight_features
from wsnets.models.gmn import GMN, FirstEdges, GMNConfig, UpdatedEdges
from wsnets.network import to_fields

SPECS = [SIREN(2, 3, hidden=(5, 4)), ReLUField(3, 2, hidden=(5, 3, 4)), SIREN(1, 1, hidden=(3,))]
CONFIG = GMNConfig(width=6, num_layers=3)


def _read(spec: FieldSpec, generator: Generator):
    model = CONFIG.build(spec, 3, generator).double().eval()
    return lambda fields: model(weight_features(fields))


def _edit(spec: FieldSpec, generator: Generator):
    model = CONFIG.build_editor(spec, generator).double().eval()

    return lambda fields: to_fields(model(weight_features(fields)), spec)


def test_the_size_in_the_docstring_is_right(generator: Generator):
    model = GMNConfig().build(SIREN(2, 1), 10, generator)
    assert str(sum(p.numel() for p in model.parameters())) in (GMN.__doc__ or "")


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_permutations_change_nothing(spec: FieldSpec, generator: Generator):
    assert CONFIG.symmetry(spec) == ("permutation",)
    assert_invariant(_read(spec, generator), spec, ("permutation",), generator)
    assert_equivariant(_edit(spec, generator), spec, ("permutation",), generator)


@pytest.mark.parametrize(("spec", "more"), [(SPECS[0], "sign"), (SPECS[1], "scale")], ids=["sign", "scale"])
def test_signs_and_scales_change_something(spec: FieldSpec, more: str, generator: Generator):
    with pytest.raises(AssertionError, match="not invariant"):
        assert_invariant(_read(spec, generator), spec, (more,), generator)
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(_edit(spec, generator), spec, (more,), generator)


def test_a_batch_is_its_fields_one_by_one(generator: Generator):
    fields, read = random_fields(SPECS[0], 4, generator), _read(SPECS[0], generator)
    torch.testing.assert_close(read(fields), torch.cat([read(field) for field in fields]), rtol=1e-12, atol=1e-14)


def test_every_parameter_is_an_edge_of_its_own_type(generator: Generator):
    fields = random_fields(SPECS[0], 1, generator)
    read, flat = _read(SPECS[0], generator), fields.flat().requires_grad_()
    read(FieldBatch.from_flat(SPECS[0], flat)).square().sum().backward()
    assert flat.grad is not None
    assert bool((flat.grad != 0).all())
    swapped = [w.clone() for w in fields.weights]
    swapped[-1] = swapped[-1].flip(1)
    swapped_biases = [*fields.biases[:-1], fields.biases[-1].flip(1)]
    moved = FieldBatch.from_layers(SPECS[0], swapped, swapped_biases)
    assert (read(moved) - read(fields)).abs().max() > 1e-6


def test_features_kept_apart_are_the_features(generator: Generator):
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    first, weight = FirstEdges(draw(2, 3, 4, 1), draw(5), draw(1, 4, 5)), draw(1, 5)
    torch.testing.assert_close(first.linear(weight), first.value @ weight.T, rtol=1e-12, atol=1e-14)
    updated = UpdatedEdges(first.value, draw(2, 3, 4, 5), torch.nn.Linear(5, 5, dtype=torch.float64))
    torch.testing.assert_close(updated.linear(weight), updated.value @ weight.T, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(updated.total(), updated.value.sum((1, 2)), rtol=1e-12, atol=1e-13)


def test_settings_round_trip_and_refusals():
    for settings in (GMNConfig(), GMNConfig.small()):
        assert models.from_json(models.to_json(settings)) == settings
    with pytest.raises(ValueError, match="num_layers=0: expected a whole number from 1"):
        GMNConfig(num_layers=0)
