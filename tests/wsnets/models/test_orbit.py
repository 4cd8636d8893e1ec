"""Orbit: the whole group and nothing but it, every parameter seen, gradients right, edits that move with the field."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from fitting import fit, images
from neuralfields import SIREN, FieldBatch, FieldSpec, Positional, ReLUField, symmetry
from neuralfields.evaluate import activate, evaluate
from neuralfields.symmetry import Element
from neuralfields.testing import assert_gradients, random_fields
from wsnets.editor import edit
from wsnets.features import weight_features
from wsnets.models.orbit import OrbitConfig
from wsnets.models.orbit_carriers import Carriers, _activate

CONFIG = OrbitConfig(coordinates=11, width=13, hidden=(9,), steps=2, memory=10, output_scale=1.0)
SPECS = {
    "one layer": SIREN(1, 1, hidden=(7,), w0=12.0),
    "sine": SIREN(2, 1, hidden=(9, 5)),
    "deep sine": SIREN(3, 2, hidden=(3, 5, 1, 4), w0=7.0, w0_hidden=3.0),
    "relu": ReLUField(2, 3, hidden=(7, 5)),
    "deep relu": ReLUField(2, 1, hidden=(5, 3, 4)),
    "encoded relu": ReLUField(2, 1, (5, 3), Positional(2)),
}
ALL = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
RTOL = 1e-9


def reader(spec: FieldSpec, generator: Generator, config: OrbitConfig = CONFIG):
    model = config.build(spec, 3, generator).double().eval()
    return lambda fields: model(weight_features(fields))


def editor(spec: FieldSpec, generator: Generator):
    model = CONFIG.build_editor(spec, generator).double().eval()
    return lambda fields: edit(fields, model(weight_features(fields)))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float(((actual - expected).abs().max() / expected.abs().max()).detach())


def words(spec: FieldSpec, n: int, generator: Generator) -> list[Element]:
    """Products of up to 20 generators in random order, and of full periods alone (k = +-2, +-40) on all units."""
    kinds, found = symmetry.groups_of(spec), []
    for length in (1, 2, 5, 20):
        g = symmetry.identity(spec, n)
        for number in torch.randint(len(kinds), (length,), generator=generator):
            g = symmetry.compose(symmetry.sample(spec, n, generator, (kinds[number],)), g)
        found.append(g)
    if "phase" in kinds:
        still = symmetry.identity(spec, n)
        for turns in (-40, -2, 2, 40):
            shifted = tuple(k + turns for k in still.half_periods)
            found.append(Element(still.permutation, still.sign, shifted, still.scale))
    return found


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> FieldBatch:
    """Sine fields 2-9-7-1 fitted to three digits, each from a start of its own."""
    folder: Path = tmp_path_factory.mktemp("fitted") / "store"
    digits = images.load("digits", limit=3)
    return fit(digits, SIREN(2, 1, hidden=(9, 7)), steps=40, lr=1e-3, init="random", out=folder)[:].to(torch.float64)


@pytest.mark.parametrize("probes", [0, 4])
@ALL
def test_products_of_all_generators_change_no_answer(spec: FieldSpec, probes: int, generator: Generator):
    config = OrbitConfig(coordinates=11, width=13, hidden=(9,), probes=probes)
    read, fields = reader(spec, generator, config), random_fields(spec, 3, generator)
    expected = read(fields)
    assert relative_error(expected, expected[:1].expand_as(expected)) > 1e-3
    for g in words(spec, 3, generator):
        moved = symmetry.act(g, fields)
        assert relative_error(read(moved), expected) <= RTOL


def test_fitted_fields_are_read_alike_wherever_they_are_moved(fitted: FieldBatch, generator: Generator):
    read, expected = reader(fitted.spec, generator), None
    for g in words(fitted.spec, 3, generator):
        expected = read(fitted) if expected is None else expected
        assert relative_error(read(symmetry.act(g, fitted)), expected) <= RTOL


def test_half_a_phase_step_and_phase_on_one_side_only_are_noticed(generator: Generator):
    spec = SPECS["sine"]
    read, fields = reader(spec, generator), random_fields(spec, 3, generator)
    for half_periods, parity in ((0.5, 1.0), (1.0, 1.0), (2.0, -1.0)):
        biases, weights = fields.biases, fields.weights
        biases[1] = biases[1] + half_periods * torch.pi / spec.w0(1)
        weights[2] = weights[2] * parity
        moved = FieldBatch.from_layers(spec, weights, biases)
        assert relative_error(read(moved), read(fields)) > 1e-3


@ALL
def test_every_parameter_of_every_layer_is_seen(spec: FieldSpec, generator: Generator):
    read, flat = reader(spec, generator), random_fields(spec, 3, generator).flat().requires_grad_()
    (gradient,) = torch.autograd.grad(read(FieldBatch.from_flat(spec, flat)).sum(), flat)
    slopes = FieldBatch.from_flat(spec, gradient)
    largest = float(gradient.abs().max())
    for name, slope in slopes.parameters.items():
        assert float(slope.abs().amax()) > 1e-6 * largest, name


@ALL
def test_gain_and_offset_of_a_field_are_seen(spec: FieldSpec, generator: Generator):
    read, change, fields = reader(spec, generator), editor(spec, generator), random_fields(spec, 3, generator)
    (*weights, last), (*biases, offset) = fields.weights, fields.biases
    louder = FieldBatch.from_layers(spec, [*weights, 2.0 * last], [*biases, 2.0 * offset])
    brighter = FieldBatch.from_layers(spec, [*weights, last], [*biases, offset + 0.5])
    before = change(fields).flat() - fields.flat()
    for other in (louder, brighter):
        assert relative_error(read(other), read(fields)) > 1e-3
        assert relative_error(change(other).flat() - other.flat(), before) > 1e-3


def test_fields_that_agree_in_their_first_layer_are_told_apart(generator: Generator):
    spec = SIREN(2, 1, hidden=(7, 5, 3))
    read, fields = reader(spec, generator), random_fields(spec, 2, generator)
    for layer in range(1, spec.num_layers):
        weights, biases = fields[0].weights, fields[0].biases
        weights[layer] = fields[1].weights[layer]
        other = FieldBatch.from_layers(spec, weights, biases)
        assert torch.equal(other.weights[0], fields[0].weights[0])
        assert relative_error(read(other), read(fields[0])) > 1e-2
    # Both hidden layers the same up to order, but the second order not followed by what comes after: another function.
    order = [3, 0, 4, 2, 1]
    weights, biases = fields[0].weights, fields[0].biases
    weights[1], biases[1] = weights[1][:, order], biases[1][:, order]
    assert relative_error(read(FieldBatch.from_layers(spec, weights, biases)), read(fields[0])) > 1e-2


@pytest.mark.parametrize("spec", [SPECS["deep sine"], SPECS["deep relu"]], ids=["sine", "relu"])
def test_gradients_in_weights_and_parameters_are_those_of_differences(spec: FieldSpec, generator: Generator):
    config = OrbitConfig(coordinates=3, width=4, hidden=(3,), probes=2)
    model = config.build(spec, 2, generator).double().eval()
    names = list(dict(model.named_parameters()))

    def answer(flat: Tensor, *parameters: Tensor) -> Tensor:
        features = weight_features(FieldBatch.from_flat(spec, flat))
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (features,))

    inputs = [random_fields(spec, 2, generator).flat(), *model.parameters()]
    assert_gradients(answer, inputs, rtol=1e-5, step=1e-7)


@ALL
def test_edits_move_with_the_field_and_leave_its_picture_alone(spec: FieldSpec, generator: Generator):
    change, fields = editor(spec, generator), random_fields(spec, 3, generator)
    edited = change(fields)
    coords = torch.rand(20, spec.in_dim, generator=generator, dtype=torch.float64) * 2 - 1
    shown = evaluate(edited, coords)
    assert relative_error(shown, evaluate(fields, coords)) > 1e-3
    for g in words(spec, 3, generator):
        moved = change(symmetry.act(g, fields))
        for name, expected in symmetry.act(g, edited).parameters.items():
            assert relative_error(moved.parameters[name], expected) <= RTOL, name
        assert relative_error(evaluate(moved, coords), shown) <= RTOL


def test_changes_move_by_the_linear_part_of_the_group(generator: Generator):
    spec = SPECS["sine"]
    model = CONFIG.build_editor(spec, generator).double().eval()
    fields = random_fields(spec, 3, generator)
    g = symmetry.sample(spec, 3, generator)
    start, moved = model(weight_features(fields)), model(weight_features(symmetry.act(g, fields)))
    changes = [FieldBatch.from_layers(spec, *([part[..., 0] for part in parts] for parts in (c.weights, c.biases)))
               for c in (start, moved)]  # fmt: skip
    # Phase adds to a field and not to its change, which only gets the parities: act(g, change) - act(g, 0).
    still = FieldBatch.from_flat(spec, torch.zeros_like(fields.flat()))
    expected = symmetry.act(g, changes[0]).flat() - symmetry.act(g, still).flat()
    torch.testing.assert_close(
        changes[1].flat(), expected, rtol=1e-8, atol=1e-10 * float(expected.detach().abs().max())
    )


def test_units_that_are_rarely_above_zero_change_no_more_than_others(generator: Generator):
    spec = SPECS["deep relu"]
    model = CONFIG.build_editor(spec, generator).double().eval()
    fields, coordinates = random_fields(spec, 1, generator), model.steps[0].carriers.coordinates.detach()
    sizes = []
    for above in (1e-1, 1e-9, 0.0, -1.0):
        biases = [b.clone() for b in fields.biases]
        biases[0][0, 0] = above - (fields.weights[0][0, 0] @ coordinates).max()
        changed = model(weight_features(FieldBatch.from_layers(spec, fields.weights, biases)))
        sizes.append(max(float(change.detach().abs().max()) for change in changed.tensors))
    assert max(sizes) < 3 * min(sizes)
    dead = FieldBatch.from_flat(spec, torch.zeros(1, spec.num_params, dtype=torch.float64))
    assert all(bool(change.isfinite().all()) for change in model(weight_features(dead)).tensors)


@pytest.mark.parametrize("activation", ["sine", "relu", "tanh", "gauss", "gabor", "finer"])
def test_slopes_are_those_of_autograd(activation, generator: Generator):
    spec = FieldSpec(in_dim=2, out_dim=1, hidden=(3, 3), activation=activation, w0_first=5.0, w0_hidden=2.0, width=3.0)
    t = torch.randn(50, generator=generator, dtype=torch.float64).requires_grad_()
    for layer in range(2):
        (expected,) = torch.autograd.grad(activate(t, spec, layer).sum(), t)
        v, slope = _activate(t, spec, layer, slopes=True)
        torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(v, activate(t, spec, layer))


def test_unmixed_channels_are_values_of_the_field(generator: Generator):
    spec = SPECS["deep sine"]
    carriers, fields = Carriers(spec, 6, 6, generator).double(), random_fields(spec, 3, generator)
    with torch.no_grad():
        for mix in carriers.mixes:
            mix.copy_(torch.eye(6))
    values = evaluate(fields, carriers.coordinates.T).transpose(1, 2)
    torch.testing.assert_close(carriers(fields).outputs, values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spec", [SPECS["sine"], SPECS["deep relu"]], ids=["sine", "relu"])
def test_a_batch_is_its_fields_and_autocast_changes_little(spec: FieldSpec, generator: Generator):
    read, change, fields = reader(spec, generator), editor(spec, generator), random_fields(spec, 4, generator)
    alone = torch.cat([read(fields[n]) for n in range(4)])
    torch.testing.assert_close(read(fields), alone, rtol=1e-11, atol=1e-13)
    edited = torch.cat([change(fields[n]).flat() for n in range(4)])
    torch.testing.assert_close(change(fields).flat(), edited, rtol=1e-11, atol=1e-13)
    model, single = CONFIG.build(spec, 3, generator).eval(), fields.to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        low, carried = model(weight_features(single)), model.carriers(single).outputs
    assert carried.dtype == torch.float32
    assert relative_error(low.float(), model(weight_features(single))) < 0.05


def test_probes_have_all_their_digits_under_autocast(generator: Generator):
    spec, seen = SPECS["sine"], []
    model = replace(CONFIG, probes=4).build(spec, 3, generator).eval()
    model.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    features = weight_features(random_fields(spec, 4, generator, torch.float32))
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            model(features)
    assert torch.equal(*seen)


def test_size_in_the_docstring_settings_and_refusals(generator: Generator):
    model = OrbitConfig().build(SIREN(2, 1), 10, generator)
    assert str(sum(p.numel() for p in model.parameters())) in (type(model).__doc__ or "")
    wrong: dict[str, Any] = {"width": 0, "probes": -1, "steps": 0, "p_dropout": 1.0, "hidden": (0,)}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name}=.*: expected"):
            OrbitConfig(**{name: value})
    features = weight_features(random_fields(SPECS["sine"], 2, generator)).map(lambda x: 2 * x)
    model = CONFIG.build(SPECS["sine"], 3, generator)
    with pytest.raises(ValueError, match=r"features.fields=None: orbit needs the fields"):
        model(features)
