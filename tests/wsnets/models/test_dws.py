"""DWSNets: every kind of layer against loops over single neurons, gradients of what is written out, and its group."""

import copy
import math
import re
from itertools import product

import pytest
import torch
from torch import Generator, Tensor, nn

from neuralfields import SIREN, FieldBatch, FieldSpec
from neuralfields.testing import assert_gradients, assert_invariant, random_fields
from tests.wsnets.kernels.exactness import assert_same_gradients
from wsnets import models
from wsnets.features import WeightFeatures, weight_features
from wsnets.models import dws_functions
from wsnets.models.dws import DWSConfig, DWSReader, from_site, to_site
from wsnets.models.dws_functions import Activate, MatrixMap, SetAttention, Spread, Statistics
from wsnets.models.dws_layers import Attentions, DeepSets, DWSLayer, FromPooled, Kronecker, Style
from wsnets.models.dws_maps import LinearMap, apply_maps
from wsnets.models.dws_sites import SiteActivation, Unspread, sites

SPEC = SIREN(2, 2, hidden=(5, 3, 4))


def _draw(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


def _mlp(first: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """What follows a first linear map of one vector."""
    for k, weight in enumerate(weights):
        first = weight @ first.relu() + (biases[k] if biases else 0.0)
    return first


def _attend_by_loops(x: Tensor, qkv: list[tuple[Tensor, Tensor]], out: tuple[Tensor, Tensor], heads: int) -> Tensor:
    """Set attention of one field, x (in, T) -> (out, T): one head, one query at a time."""
    q, k, v = (weight @ x + bias.unsqueeze(1) for weight, bias in qkv)
    columns = []
    for i in range(x.shape[1]):
        mixed = []
        for head in torch.arange(len(q)).chunk(heads):
            scores = torch.stack([q[head, i] @ k[head, j] / len(q) ** 0.5 for j in range(x.shape[1])]).softmax(0)
            mixed.append(q[head, i] + sum(s * v[head, j] for j, s in enumerate(scores)))
        o = torch.cat(mixed)
        columns.append(o + (out[0] @ o + out[1]).relu())
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("size", [1.0, 40.0], ids=["small scores", "large scores"])
def test_set_attention_is_one_query_at_a_time(size: float, generator: Generator):
    count, num_in, num_out, heads = 2, 3, 6, 3
    layer = Attentions([(num_in, num_out, count), (2, heads, 1)], heads, generator).double()
    maps, shifts = (
        _draw(3 * count, num_out, num_in, generator=generator),
        _draw(3 * count, num_out, generator=generator),
    )
    out_weight, out_bias = (_draw(*s, generator=generator) for s in ((count, num_out, num_out), (count, num_out)))
    ordered = (layer.ordered(maps * size, heads), layer.ordered(shifts.unsqueeze(2), heads).flatten())
    blocks = [(*ordered, out_weight, out_bias), layer.maps()[1]]
    layer.load_state_dict(dict(zip(("matrices", "biases"), layer.packed(blocks), strict=True)))
    x = _draw(num_in, 4, 5, generator=generator)
    z = layer([x, x[:2]])[0]
    for t, n in product(range(count), range(4)):
        qkv = [(size * maps[kind * count + t], shifts[kind * count + t]) for kind in range(3)]
        expected = _attend_by_loops(x[:, n], qkv, (out_weight[t], out_bias[t]), heads)
        torch.testing.assert_close(z[t, :, n], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2])
def test_deep_sets_pooled_maps_and_matrices_are_their_sums(depth: int, generator: Generator):
    layer = DeepSets(3, 4, 2, depth, "max", generator).double()
    x = _draw(3, 2, 5, generator=generator)
    z = layer(x)
    for t, n, i in product(range(2), range(2), range(5)):
        deeper = [w[t] for w in layer.each_deeper.weights]
        each = _mlp(
            layer.each[t] @ x[:, n, i] + layer.each_bias[t, :, 0],
            deeper,
            [b[t, :, 0] for b in layer.each_deeper.biases],
        )
        pooled = _mlp(layer.pooled[t] @ x[:, n].amax(1), [w[t] for w in layer.pooled_deeper.weights], [])
        _close(z[t, :, n, i], each - pooled)

    sources = [_draw(size, 2, generator=generator) for size in (3, 1, 4)]
    pooled_map = FromPooled([3, 1, 4], 5, depth, generator).double()
    weights = pooled_map.weight.split([3, 1, 4], dim=1)
    for n in range(2):
        terms = [
            _mlp(
                weights[s] @ p[:, n] + pooled_map.bias[s, :, 0],
                [w[s] for w in pooled_map.deeper.weights],
                [b[s, :, 0] for b in pooled_map.deeper.biases],
            )
            for s, p in enumerate(sources)
        ]
        found = pooled_map.follow(apply_maps(pooled_map.maps(sources, 0.5)), 0.5)
        _close(found[:, n], 0.5 * torch.stack(terms).sum(0))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_matrix_hears_itself_its_rows_its_columns_and_all(depth: int, generator: Generator):
    layer = Kronecker(3, 4, depth, 0.5, generator).double()
    x = _draw(2, 5, 3, 3, generator=generator)
    rows, columns = x.amax(2), x.amax(1)
    pooled = rows.amax(1)
    sides = (p.movedim(-1, 0).contiguous() for p in (rows, columns, pooled))
    parts = layer.follow(x @ layer.entries().T, apply_maps(layer.maps(*sides)))
    z = parts[0] + parts[1].movedim(0, -1).unsqueeze(2) + parts[2].movedim(0, -1).unsqueeze(1)
    z = z + parts[3].T[:, None, None]
    for n, o, i in product(range(2), range(5), range(3)):
        inputs = (x[n, o, i], rows[n, o], columns[n, i], pooled[n])
        terms = [
            _mlp(
                layer.weight[k] @ v + layer.bias[k, :, 0],
                [w[0] for w in layer.deeper[k].weights],
                [b[0, :, 0] for b in layer.deeper[k].biases],
            )
            for k, v in enumerate(inputs)
        ]
        _close(z[n, o, i], 0.5 * torch.stack(terms).mean(0))


def _pair_by_loops(layer: DWSLayer, x: Tensor, s: int, t: int, num_out: int) -> Tensor:
    """f_st of one field, x (F C, *free axes of s) -> (F D, *free axes of t), for deep sets of depth 1 and max."""
    source, target = layer.places[s], layer.places[t]
    sizes = [SPEC.dims[a] for a in target.free]
    y = x.new_zeros(target.groups * num_out, *sizes)
    shared = [a for a in source.free if a in target.free]
    if len(shared) == 2:
        a, inputs = layer.matrices[str(s)], (x, x.amax(2, keepdim=True), x.amax(1, keepdim=True), x.amax((1, 2), True))
        for k, v in enumerate(inputs):
            y = y + (torch.einsum("dc,coi->doi", a.weight[k], v) + a.bias[k, :, :, None]) / 4
        return y
    if not shared:
        sources = layer.sources[t]
        pooled, first = layer.pooled[str(t)], sources.index(s)
        weight = pooled.weight.split(pooled.num_ins, dim=1)[first]
        return y + (weight @ x.reshape(len(x), -1).amax(1) + pooled.bias[first, :, 0]).view(-1, *(1 for _ in sizes))
    axis = shared[0]
    vectors = x if x.ndim == 2 else x.amax(2 - source.free.index(axis))
    ways = layer.along[axis]
    place = next(i for i, (s_, ts) in enumerate(ways) if s_ == s and t in ts)
    sets, number = layer.sets[str(axis)][place], ways[place][1].index(t)
    for i in range(SPEC.dims[axis]):
        value = sets.each[number] @ vectors[:, i] + sets.each_bias[number, :, 0] - sets.pooled[number] @ vectors.amax(1)
        where = (slice(None), *(i if a == axis else slice(None) for a in target.free))
        y[where] = value.view(-1, *(1 for _ in sizes[1:]))
    return y


def test_a_layer_is_the_mean_over_all_pairs_of_tensors(generator: Generator):
    places, num_in, num_out = sites(SPEC), 3, 2
    layer = DWSLayer(places, num_in, num_out, Style("max", "ds", 1, 1, False), generator).double()
    features = weight_features(random_fields(SPEC, 2, generator)).map(
        lambda x: _draw(*x.shape[:-1], num_in, generator=generator)
    )
    values = [to_site(place, x) for place, x in zip(places, features.tensors, strict=True)]
    result = [y.spread() if isinstance(y, Unspread) else y for y in layer(values, None)]
    for t, place in enumerate(places):
        for n in range(2):
            total = 0.0
            for s, source in enumerate(places):
                x = values[s][n].movedim(-1, 0) if len(source.free) == 2 else values[s][:, n]
                x = x if source.free else x[:, 0]
                total = total + _pair_by_loops(layer, x, s, t, num_out)
            y = result[t][n].movedim(-1, 0) if len(place.free) == 2 else result[t][:, n]
            _close(y if place.free else y[:, 0], torch.as_tensor(total) / len(places))


def test_a_layer_has_all_pairs_once_and_a_near_one_those_that_share_an_axis(generator: Generator):
    places = sites(SPEC)
    for near in (False, True):
        layer = DWSLayer(places, 1, 1, Style("max", "ds", 1, 1, near), generator)
        found = [(s, t) for ways in layer.along.values() for s, targets in ways for t in targets]
        found += [(s, t) for t, sources in layer.sources.items() for s in sources]
        found += [(int(s), int(s)) for s in layer.matrices]
        axes = [set(place.free + place.fixed) for place in places]
        expected = [(s, t) for s in range(len(places)) for t in range(len(places)) if not near or axes[s] & axes[t]]
        assert sorted(found) == expected


def test_sites_and_back(generator: Generator):
    features = weight_features(random_fields(SPEC, 3, generator)).map(lambda x: torch.cat((x, 2 * x), dim=-1))
    for place, x in zip(sites(SPEC), features.tensors, strict=True):
        y = to_site(place, x)
        assert y.shape[0] == (3 if len(place.free) == 2 else place.groups * 2)
        assert torch.equal(from_site(place, y, x), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["torch", "kernel where it is built"])
@pytest.mark.parametrize("width", [2, 4])
def test_normalisation_is_torchs_over_fields_groups_and_neurons(width: int, dtype: torch.dtype, generator: Generator):
    place = sites(SPEC)[0]
    ours, theirs = SiteActivation(place, width, "batch", 0.0).to(dtype), nn.BatchNorm1d(width).to(dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5

    def compare(y: Tensor) -> None:
        by_group = y.view(place.groups, width, 4, 5).permute(2, 1, 0, 3).flatten(2)
        expected = theirs(by_group).relu().view(4, width, place.groups, 5).permute(2, 1, 0, 3).reshape(y.shape)
        x, pooled = ours(y, "max", None)
        torch.testing.assert_close(x, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(pooled, expected.amax(2), rtol=tolerance, atol=tolerance)

    for _ in range(3):
        compare((2 * _draw(place.groups * width, 4, 5, generator=generator) + 1).to(dtype))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=tolerance, atol=tolerance)
    ours.eval()
    theirs.eval()
    compare(_draw(place.groups * width, 4, 5, generator=generator).to(dtype))


@pytest.mark.parametrize("piece", [1, 2**19], ids=["pieces", "whole"])
def test_gradients_of_what_is_written_out(piece: int, generator: Generator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dws_functions, "_PIECE", piece)

    def draw(*shape: int) -> Tensor:
        return _draw(*shape, generator=generator)

    inputs = (draw(2, 2, 3), draw(24, 2), draw(24), draw(2, 4, 4), draw(2, 4))
    assert_gradients(lambda *parts: SetAttention.apply(*parts, 2), inputs)
    y, gamma, beta = draw(3, 4, 2, 2), draw(2), draw(2)

    def normed(y: Tensor, summed: tuple[int, ...], shape: tuple[int, ...]) -> Statistics:
        mean, variance = (f.view(shape) for f in dws_functions.moments(y.detach(), summed))
        return Statistics(mean, (variance + 1e-5).rsqrt(), True)

    for pool in ("max", "mean", "sum"):

        def mapped(y: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, pool: str = pool) -> Tensor:
            parts = MatrixMap.apply(y, weight, pool, False, gamma, beta, normed(y, (0, 1, 2), (2,)), None)
            return torch.cat([part.flatten() for part in parts])

        assert_gradients(mapped, (y, draw(3, 2), gamma, beta))
    sets, of_sets = draw(2, 2, 3, 4), (gamma.view(2, 1, 1), beta.view(2, 1, 1))
    assert_gradients(lambda y, g, b: Activate.apply(y, g, b, normed(y, (0, 2, 3), (2, 1, 1)), None), (sets, *of_sets))
    assert_gradients(lambda z, r, c: Spread.apply(z.clone(), r, c), (y, draw(3, 4, 2), draw(3, 2, 2)))

    def linear(a: Tensor, b: Tensor, weight: Tensor, other: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
        maps = (LinearMap(weight, bias, (a, b, a), 0.5), LinearMap(other, shift, (b,), 1.5))
        return torch.cat([y.flatten() for y in apply_maps(maps)])

    of_maps = (draw(4, 8), draw(5, 2), draw(2, 4, 1), draw(5, 1))
    assert_gradients(linear, (draw(3, 2, 2), draw(2, 2, 2), *of_maps))


@pytest.mark.parametrize("set_layer", ["sab", "ds"])
def test_gradients_of_a_reader_in_training(set_layer, generator: Generator):
    spec = SIREN(2, 1, hidden=(3, 2))
    config = DWSConfig(width=4, heads=2, num_hidden=1, set_layer=set_layer, depth=2, head_depth=2)
    model = config.build(spec, 3, generator).double()
    tensors = [_draw(*x.shape, generator=generator) for x in weight_features(random_fields(spec, 2, generator)).tensors]
    assert_gradients(lambda *x: model(WeightFeatures(x[0::2], x[1::2])), tensors)


def _reader(spec: FieldSpec, generator: Generator, **options) -> DWSReader:
    return DWSConfig(**{"width": 4, "heads": 2, "num_hidden": 2, **options}).build(spec, 3, generator).double().eval()


@pytest.mark.parametrize("options", [{}, {"set_layer": "ds", "pool": "sum"}, {"near": True, "pool": "mean"}], ids=str)
def test_coupled_permutations_change_nothing_and_others_something(options: dict, generator: Generator):
    model = _reader(SPEC, generator, **options)

    def read(fields: FieldBatch) -> Tensor:
        return model(weight_features(fields).map(lambda x: 10 * x))

    assert_invariant(read, SPEC, ("permutation",), generator)
    with pytest.raises(AssertionError, match="not invariant: random sign"):
        assert_invariant(read, SPEC, ("sign",), generator)
    fields = random_fields(SPEC, 3, generator)
    weights = list(fields.weights)
    weights[1] = weights[1].flip(1)
    uncoupled = FieldBatch.from_layers(SPEC, weights, list(fields.biases))
    assert (read(uncoupled) - read(fields)).abs().max() > 1e-6 * read(fields).abs().max()


def test_outputs_are_told_apart(generator: Generator):
    fields, model = random_fields(SPEC, 2, generator), _reader(SPEC, generator)
    weights, biases = (
        [*fields.weights[:-1], fields.weights[-1].flip(1)],
        [*fields.biases[:-1], fields.biases[-1].flip(1)],
    )
    moved = FieldBatch.from_layers(SPEC, weights, biases)
    difference = model(weight_features(moved)) - model(weight_features(fields))
    assert difference.abs().max() > 1e-6


def test_the_size_in_the_docstring_is_right_and_the_head_starts_as_published(generator: Generator):
    model = DWSConfig().build(SIREN(2, 1), 10, generator)
    assert str(sum(p.numel() for p in model.parameters())) in (DWSReader.__doc__ or "")
    weight = model.head[0].weight.detach()
    bound = 1 / math.sqrt(weight.shape[1])
    assert 0.95 * bound < float(weight.abs().max()) <= bound


@pytest.mark.native
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"near": True, "pool": "mean"}, {"pool": "sum"}, {"p_dropout": 0.5}, {"depth": 2, "p_dropout": 0.5}],
    ids=str,
)
def test_a_reader_by_the_native_kernels_is_the_exact_one(options: dict, training: bool, generator: Generator):
    exact = _reader(SPEC, generator, **options).train(training)
    native = copy.deepcopy(exact).float()
    # The same numbers in both precisions, so that rounding of an input does not decide at kinks.
    features = weight_features(random_fields(SPEC, 6, generator)).map(lambda x: (10 * x).float())
    exact.load_state_dict({k: v.double() for k, v in native.state_dict().items()})
    draws = [Generator().manual_seed(1) for _ in range(2)]
    expected, found = exact(features.map(Tensor.double), draws[0]), native(features, draws[1])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    towards = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    (expected * towards).sum().backward()
    (found.double() * towards).sum().backward()
    assert_same_gradients(native, exact)


@pytest.mark.native
def test_an_editor_by_the_native_kernels_is_the_exact_one(generator: Generator):
    exact = DWSConfig(width=8, heads=4, num_hidden=2, change=0.01).build_editor(SPEC, generator).double().train()
    native = copy.deepcopy(exact).float()
    exact.load_state_dict({k: v.double() for k, v in native.state_dict().items()})
    features = weight_features(random_fields(SPEC, 4, generator)).map(lambda x: (10 * x).float())
    found, expected = native(features).tensors, exact(features.map(Tensor.double)).tensors
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)
    towards = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in expected]
    for answers in (found, expected):
        torch.stack([(x.double() * w).sum() for x, w in zip(answers, towards, strict=True)]).sum().backward()
    assert_same_gradients(native, exact)


@pytest.mark.parametrize("config", [DWSConfig(), DWSConfig.small()], ids=["published", "small"])
def test_an_editor_starts_near_the_field(config: DWSConfig, generator: Generator):
    fields = weight_features(random_fields(SIREN(2, 1), 3, generator, torch.float32))
    change = config.build_editor(SIREN(2, 1), generator).train()(fields.map(lambda x: x / x.std()))
    for changed, old in zip(change.tensors, fields.tensors, strict=True):
        assert 0 < changed.norm() < 0.2 * old.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalisations_are_trained_behind_a_frozen_layer(dtype: torch.dtype, generator: Generator):
    model = _reader(SPEC, generator).to(dtype).train()
    model.stack.layers[0].requires_grad_(False)
    features = weight_features(random_fields(SPEC, 3, generator)).map(lambda x: x.to(dtype))
    model(features).sum().backward()
    assert all(p.grad is not None for p in model.stack.activations.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_field_with_nan_has_no_answer(dtype: torch.dtype, generator: Generator):
    features = weight_features(random_fields(SPEC, 3, generator)).map(lambda x: x.to(dtype))
    features.weights[1][1, 0, 2] = torch.nan
    answers = _reader(SPEC, generator).to(dtype).eval()(features)
    assert bool(answers[1].isnan().all())
    assert bool(answers[[0, 2]].isfinite().all())


def test_dropout_is_drawn_from_the_generator_while_training(generator: Generator):
    model = _reader(SPEC, generator, p_dropout=0.5).train()
    features = weight_features(random_fields(SPEC, 2, generator))
    draws = [model(features, Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    with pytest.raises(ValueError, match="generator=None"):
        model(features)


def test_settings_round_trip_and_refusals():
    for settings in (DWSConfig(), DWSConfig.small()):
        assert models.from_json(models.to_json(settings)) == settings
    for options, message in [
        ({"width": 0}, "width=0: expected a whole number from 1"),
        ({"pool": "min"}, "pool='min': expected one of max, mean, sum"),
        ({"set_layer": "mab"}, "set_layer='mab': expected one of sab, ds"),
        ({"width": 6}, "heads=8: expected a divisor of width=6"),
        ({"p_dropout": 1.0}, "p_dropout=1.0: expected a number in [0, 1)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            DWSConfig(**options)
