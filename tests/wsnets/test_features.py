"""Laws of weight features and their normalisation."""

import pytest
import torch

from neuralfields import SIREN, FieldBatch
from wsnets.features import Normaliser, flatten, raw_fields, weight_features

SPEC = SIREN(2, 3, hidden=(4, 5))


@pytest.fixture
def fields(generator: torch.Generator) -> FieldBatch:
    return FieldBatch.from_flat(SPEC, 3.0 + 2.0 * torch.randn(50, SPEC.num_params, generator=generator))


def test_flatten_is_the_flat_layout_of_the_batch(fields: FieldBatch):
    features = weight_features(fields)
    assert [tuple(t.shape[1:]) for t in features.tensors] == [(*shape, 1) for shape in SPEC.shapes.values()]
    assert torch.equal(flatten(features), fields.flat())


def test_map_keeps_weights_and_biases_apart(fields: FieldBatch):
    features = weight_features(fields)
    negated = features.map(torch.neg)
    assert all(torch.equal(a, -b) for a, b in zip(negated.weights, features.weights, strict=True))
    assert all(torch.equal(a, -b) for a, b in zip(negated.biases, features.biases, strict=True))


def test_per_weight_gives_mean_zero_and_std_one_for_every_weight(fields: FieldBatch):
    flat = flatten(Normaliser.fit("per_weight", [fields])(weight_features(fields))).double()
    assert flat.mean(0).abs().max() < 1e-5
    assert (flat.std(0, correction=0) - 1).abs().max() < 1e-5


def test_per_layer_gives_mean_zero_and_std_one_for_every_tensor(fields: FieldBatch):
    for tensor in Normaliser.fit("per_layer", [fields])(weight_features(fields)).tensors:
        assert abs(tensor.double().mean()) < 1e-5
        assert abs(tensor.double().std(correction=0) - 1) < 1e-5


def test_per_layer_scale_keeps_signs_and_zero(fields: FieldBatch):
    normaliser = Normaliser.fit("per_layer_scale", [fields])
    plus, minus = (normaliser(weight_features(FieldBatch.from_flat(SPEC, s * fields.flat()))) for s in (1, -1))
    for a, b in zip(plus.tensors, minus.tensors, strict=True):
        assert torch.equal(a, -b)
        assert a.double().square().mean().sqrt() == pytest.approx(1.0, abs=1e-5)


def test_features_know_their_fields_until_they_are_changed(fields: FieldBatch):
    features = weight_features(fields)
    assert features.fields is fields
    assert Normaliser.fit("per_layer", [fields])(features).fields is fields
    with pytest.raises(ValueError, match="fields=None: probes needs the fields themselves"):
        raw_fields(features.map(torch.neg), "probes")


@pytest.mark.parametrize("mode", ["per_weight", "per_layer", "per_layer_scale"])
def test_statistics_do_not_depend_on_how_the_population_is_cut(fields: FieldBatch, mode):
    whole = Normaliser.fit(mode, [fields])
    parts = Normaliser.fit(mode, [fields[:1], fields[1:20], fields[20:]])
    for name, value in whole.state().items():
        torch.testing.assert_close(parts.state()[name], value, rtol=1e-6, atol=1e-7)


def test_per_layer_commutes_with_permuting_neurons_and_per_weight_does_not(fields: FieldBatch):
    order = torch.tensor([2, 0, 3, 1])

    def permuted(batch: FieldBatch) -> FieldBatch:
        weights, biases = batch.weights, batch.biases
        weights = [weights[0][:, order], weights[1][:, :, order], weights[2]]
        return FieldBatch.from_layers(SPEC, weights, [biases[0][:, order], biases[1], biases[2]])

    shifted = FieldBatch.from_flat(SPEC, fields.flat() + torch.arange(SPEC.num_params))
    for mode, commutes in (("per_layer", True), ("per_weight", False)):
        normaliser = Normaliser.fit(mode, [shifted])
        after = flatten(normaliser(weight_features(permuted(shifted))))
        before = flatten(weight_features(permuted(_as_batch(normaliser(weight_features(shifted))))))
        assert torch.allclose(after, before, atol=1e-5) == commutes


def _as_batch(features) -> FieldBatch:
    return FieldBatch.from_flat(SPEC, flatten(features))


@pytest.mark.parametrize("value", [0.0, 0.3, -1e-30, 1e20])
def test_a_constant_weight_becomes_zero(fields: FieldBatch, value: float):
    flat = fields.flat().clone()
    flat[:, 5] = value
    constant = FieldBatch.from_flat(SPEC, flat)
    out = flatten(Normaliser.fit("per_weight", [constant])(weight_features(constant)))
    assert torch.isfinite(out).all()
    assert (out[:, 5] == 0).all()


def test_a_weight_that_differs_by_rounding_only_becomes_zero(fields: FieldBatch):
    flat = fields.flat().clone()
    flat[:, 5] = 0.3
    flat[::2, 5] = torch.nextafter(torch.tensor(0.3), torch.tensor(1.0))
    same = FieldBatch.from_flat(SPEC, flat)
    assert (flatten(Normaliser.fit("per_weight", [same])(weight_features(same)))[:, 5] == 0).all()


def test_none_is_the_identity(fields: FieldBatch):
    features = weight_features(fields)
    assert torch.equal(flatten(Normaliser.fit("none", [])(features)), flatten(features))


@pytest.mark.parametrize("mode", ["per_weight", "per_layer", "per_layer_scale", "none"])
def test_state_round_trip(fields: FieldBatch, mode):
    normaliser = Normaliser.fit(mode, [fields])
    again = Normaliser.from_state(mode, normaliser.state())
    features = weight_features(fields)
    assert torch.equal(flatten(again(features)), flatten(normaliser(features)))


@pytest.mark.parametrize("mode", ["per_weight", "per_layer", "per_layer_scale", "none"])
def test_the_inverse_undoes_it_and_gives_constants_back(fields: FieldBatch, mode):
    flat = fields.to(torch.float64).flat()
    flat[:, 3] = 0.75
    fields = FieldBatch.from_flat(SPEC, flat)
    normaliser = Normaliser.fit(mode, [fields])
    again = normaliser.inverse(normaliser(weight_features(fields)))
    torch.testing.assert_close(flatten(again), flat, rtol=1e-6, atol=1e-6)


def test_refusals():
    with pytest.raises(
        ValueError, match="normalise='per_field': expected one of per_weight, per_layer, per_layer_scale, none"
    ):
        Normaliser.fit("per_field", [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one field"):
        Normaliser.fit("per_layer", [])
