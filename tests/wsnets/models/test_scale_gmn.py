"""ScaleGMN and its bidirectional form: their group on every kind of field, and that nothing needed is left out."""

import re

import pytest
import torch
from torch import Generator, Tensor

from neuralfields import SIREN, FieldBatch, FieldSpec, ReLUField
from neuralfields.encodings import Positional
from neuralfields.testing import assert_equivariant, assert_invariant, random_fields
from wsnets import models
from wsnets.features import Normaliser, weight_features
from wsnets.models import scale_gmn
from wsnets.models.scale_gmn import BidirectionalConfig, ScaleGMN, ScaleGMNConfig
from wsnets.models.scale_gmn_layers import Live, Product
from wsnets.network import to_fields

KINDS = (ScaleGMNConfig, BidirectionalConfig)
SPECS = {
    "sine": SIREN(2, 3, hidden=(5, 4)),
    "shallow": SIREN(1, 1, hidden=(3,)),
    "relu": ReLUField(3, 2, hidden=(5, 3, 4)),
    "encoded": ReLUField(2, 1, hidden=(3, 4), encoding=Positional(2)),
    "tanh": FieldSpec(in_dim=2, out_dim=2, hidden=(4, 4), activation="tanh"),
    "gauss": FieldSpec(in_dim=2, out_dim=1, hidden=(4, 3), activation="gauss"),
}
OPTIONS = {
    "full": {"readout": "full_graph", "ends": "separate"},
    "turned": {"skip": True, "embed_edges": True, "constants": True, "symmetrised": False, "ends": "shared"},
}
CASES = [(name, "default") for name in SPECS] + [(name, options) for name in ("sine", "relu") for options in OPTIONS]


def _reader(config: ScaleGMNConfig, spec: FieldSpec, generator: Generator) -> ScaleGMN:
    return config.build(spec, 3, generator).double().eval()


def _reads(config: ScaleGMNConfig, spec: FieldSpec, generator: Generator):
    model = _reader(config, spec, generator)
    return lambda fields: model(weight_features(fields))


def _edits(config: ScaleGMNConfig, spec: FieldSpec, generator: Generator):
    model = config.build_editor(spec, generator).double().eval()

    return lambda fields: to_fields(model(weight_features(fields)), spec)


def test_the_sizes_in_the_docstring_are_right(generator: Generator):
    counts = [sum(p.numel() for p in kind().build(SIREN(2, 1), 10, generator).parameters()) for kind in KINDS]
    assert str(counts) in (ScaleGMN.__doc__ or "")


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_group_of_the_activation_changes_nothing(name: str, kind: type, options: str, generator: Generator):
    spec, config = SPECS[name], kind(width=6, num_layers=3, **OPTIONS.get(options, {}))
    kinds = config.symmetry(spec)
    expected = {"sine": "sign", "shallow": "sign", "tanh": "sign", "relu": "scale", "encoded": "scale"}
    assert kinds == (("permutation", expected[name]) if name in expected else ("permutation",))
    assert_invariant(_reads(config, spec, generator), spec, kinds, generator)
    assert_equivariant(_edits(config, spec, generator), spec, kinds, generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "more"), [("sine", "sign"), ("relu", "scale"), ("gauss", "sign")])
def test_a_model_of_permutations_has_no_more(name: str, more: str, kind: type, generator: Generator):
    spec, config = SPECS[name], kind(width=6, num_layers=2, group="permutation", readout="full_graph")
    read = _reads(config, spec, generator)
    assert_invariant(read, spec, config.symmetry(spec), generator)
    with pytest.raises(AssertionError, match="not invariant"):
        assert_invariant(read, spec, (more,), generator)


@pytest.mark.parametrize("name", ["sine", "relu"])
@pytest.mark.parametrize("kind", KINDS)
def test_how_weights_are_normalised_keeps_the_group(name: str, kind: type, generator: Generator):
    spec, config = SPECS[name], kind(width=6, num_layers=3)
    normaliser = Normaliser.fit(config.normalise, [random_fields(spec, 9, generator)])
    model = _reader(config, spec, generator)

    def read(fields: FieldBatch, normaliser: Normaliser = normaliser) -> Tensor:
        return model(normaliser(weight_features(fields)))

    assert_invariant(read, spec, config.symmetry(spec), generator)
    centred = Normaliser.fit("per_layer", [random_fields(spec, 9, generator)])
    if name == "sine":
        with pytest.raises(AssertionError):
            assert_invariant(lambda fields: read(fields, centred), spec, config.symmetry(spec), generator)


def test_phases_of_sines_are_not_in_the_group(generator: Generator):
    read = _reads(BidirectionalConfig(width=6, num_layers=2), SPECS["sine"], generator)
    with pytest.raises(AssertionError, match="not invariant: random phase"):
        assert_invariant(read, SPECS["sine"], ("phase",), generator)


@pytest.mark.parametrize(("make", "check"), [(_reads, assert_invariant), (_edits, assert_equivariant)])
def test_messages_from_above_need_reciprocals(make, check, generator: Generator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scale_gmn, "_reciprocal", lambda x: x)
    spec = SPECS["relu"]
    made = make(BidirectionalConfig(width=6, num_layers=3), spec, generator)
    with pytest.raises(AssertionError, match="random scale"):
        check(made, spec, ("scale",), generator)


def test_weights_of_zero_have_no_reciprocal_and_do_no_harm(generator: Generator):
    spec = SPECS["relu"]
    fields = random_fields(spec, 2, generator)
    flat = fields.flat()
    flat[:, ::3] = 0.0
    flat.requires_grad_()
    model = _reader(BidirectionalConfig(width=6, num_layers=3), spec, generator)
    result = model(weight_features(FieldBatch.from_flat(spec, flat)))
    result.sum().backward()
    assert flat.grad is not None
    gradients = [flat.grad, *(p.grad for p in model.parameters() if p.grad is not None)]
    assert all(bool(x.isfinite().all()) for x in (result, *gradients))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sine", "relu"])
def test_a_batch_is_its_fields_one_by_one(name: str, kind: type, generator: Generator):
    spec = SPECS[name]
    fields, model = random_fields(spec, 4, generator), _reader(kind(width=6, num_layers=2), spec, generator)
    singles = torch.cat([model(weight_features(field)) for field in fields])
    torch.testing.assert_close(model(weight_features(fields)), singles, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sine", "relu", "shallow"])
def test_what_is_not_computed_is_not_read(name: str, kind: type, generator: Generator):
    spec = SPECS[name]
    model = _reader(kind(width=6, num_layers=3), spec, generator)
    features = weight_features(random_fields(spec, 2, generator))
    expected = model(features)
    nodes, blocks = frozenset(range(spec.num_layers + 1)), frozenset(range(spec.num_layers))
    back = blocks if model.trunk.reciprocal else frozenset()
    computed = sum(len(live.nodes) + len(live.edges) for live in model.trunk.live)
    model.trunk.live = [Live(nodes, blocks, back)] * 2 + [Live(nodes, frozenset(), frozenset())]
    assert computed < sum(len(live.nodes) + len(live.edges) for live in model.trunk.live)
    torch.testing.assert_close(model(features), expected, rtol=1e-12, atol=1e-14)


def test_a_product_kept_apart_is_the_product(generator: Generator):
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight, bias, other = draw(6, 4), draw(6), draw(5, 4)
    pending = Product(draw(2, 3, 5, 7), draw(2, 3, 5, 1), (draw(4, 7), draw(4)))
    for apart in (Product(draw(5, 4), draw(2, 3, 5, 1)), pending):
        whole = Product(apart.value)
        assert whole.value.shape == (2, 3, 5, 4)
        for first, second in [
            (apart.linear(weight).value, whole.linear(weight).value),
            (apart.affine(weight, bias), whole.affine(weight, bias)),
            (apart.affine(weight, bias.expand(5, 6)), whole.affine(weight, bias)),
            (apart.times(other).value, whole.times(other).value),
            (apart.absolute().value, whole.absolute().value),
            (apart.norm(), whole.norm()),
        ]:
            torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-13)


def test_dropout_is_drawn_from_the_generator_while_training(generator: Generator):
    spec = SPECS["sine"]
    model = _reader(ScaleGMNConfig(width=6, num_layers=2), spec, generator).train()
    features = weight_features(random_fields(spec, 2, generator))
    draws = [model(features, Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    with pytest.raises(ValueError, match="generator=None"):
        model(features)


@pytest.mark.parametrize("kind", KINDS)
def test_published_editors_start_near_the_identity(kind: type, generator: Generator):
    spec = SIREN(2, 1, hidden=(6, 5))
    fields = random_fields(spec, 3, generator, torch.float32)
    change = kind.editing().build_editor(spec, generator).eval()(weight_features(fields))
    for changed, old in zip(change.tensors, weight_features(fields).tensors, strict=True):
        assert changed.shape == old.shape
        assert 0 < changed.abs().max() < 0.1


@pytest.mark.parametrize("name", ["scale_gmn", "scale_gmn_b"])
def test_settings_round_trip(name: str):
    for settings in (models.kind(name)(), models.kind(name).small(), models.kind(name).editing()):
        assert models.from_json(models.to_json(settings)) == settings


def test_refusals():
    for group, spec, known in [
        ("sign", SPECS["relu"], "scale or permutation for relu fields"),
        ("scale", SPECS["sine"], "sign or permutation for sine fields"),
        ("sign", SPECS["gauss"], "permutation for gauss fields"),
    ]:
        with pytest.raises(ValueError, match=re.escape(f"group={group!r}: expected {known}")):
            ScaleGMNConfig(group=group).symmetry(spec)
    for options, message in [
        ({"width": 0}, "width=0: expected a whole number from 1"),
        ({"p_dropout": 1.0}, "p_dropout=1.0: expected a number in [0, 1)"),
        ({"ends": "open"}, "ends='open': expected one of gated, shared, separate"),
        ({"readout": "mean"}, "readout='mean': expected one of last_layer, full_graph"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            ScaleGMNConfig(**options)
