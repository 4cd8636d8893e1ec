"""NFN, both forms: layers against sums over single neurons, what is written out or left out, and their groups."""

import copy
import math
import re
from itertools import product
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from neuralfields import SIREN, FieldBatch, FieldSpec
from neuralfields.testing import assert_equivariant, assert_gradients, assert_invariant, random_fields
from tests.wsnets.kernels.exactness import assert_same_gradients
from wsnets import models
from wsnets.features import weight_features
from wsnets.models import nfn_layers
from wsnets.models.gaussian_features import GaussianFeatures
from wsnets.models.nfn import HNPConfig, NFNReader, NPConfig, Positions, readout, sinusoids
from wsnets.models.nfn_layers import EquivariantLinear, Layout, MapBlock, means, signals_of
from wsnets.network import to_fields

DIMS = ((2, 5, 3, 4, 2), (3, 4, 2, 1), (2, 4, 3))
SPEC = SIREN(2, 2, hidden=(5, 3))
SIZE: dict[str, Any] = {"channels": (5, 4), "num_frequencies": 3, "head": 6}
KINDS = (NPConfig, HNPConfig)


def _draw(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


def _tensors(dims: tuple[int, ...], channels: int, generator: Generator) -> tuple[tuple[Tensor, ...], ...]:
    layers = range(len(dims) - 1)
    weights = tuple(_draw(2, dims[k + 1], dims[k], channels, generator=generator) for k in layers)
    return weights, tuple(_draw(2, dims[k + 1], channels, generator=generator) for k in layers)


def _neuron(weights: list[Tensor], biases: list[Tensor], layout: Layout, j: int, n: int) -> list[Tensor]:
    """Vectors of neuron n of stage j: what leads into it, its bias, what leaves it; means over what permutes."""
    found, last = [], layout.num_layers
    if j > 0:
        row = weights[j - 1][n]
        found += [*row] if layout.ends and j == 1 else [row.mean(0)]
        found += [biases[j - 1][n]]
    if j < last:
        column = weights[j][:, n]
        found += [*column] if layout.ends and j == last - 1 else [column.mean(0)]
    return found


def _means_by_loops(weights: list[Tensor], biases: list[Tensor], layout: Layout) -> list[Tensor]:
    found = []
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        if layout.ends and k == layout.num_layers - 1:
            found += [*w.mean(1), *b]
        else:
            found += [*w.mean(0)] if layout.ends and k == 0 else [w.mean((0, 1))]
            found += [b.mean(0)]
    return found


def _layer_by_loops(
    layer: EquivariantLinear, weights: list[Tensor], biases: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The layer on one field, weights (O, I, C) and biases (O, C): one entry at a time."""
    layout, width, bias = layer.layout, layer.num_out, layer.bias
    assert bias is not None
    shift = (torch.cat([*layer.mean]) @ torch.cat(_means_by_loops(weights, biases, layout)) + bias).view(-1, width)
    firsts = [sum(sum(layout.mean(k)) for k in range(end)) for end in range(layout.num_layers)]

    def heard(j: int, n: int, part: int, index: int) -> Tensor:
        """What neuron n of stage j gives to the weights into it (0), its bias (1) or the weights out of it (2)."""
        sets = layer.node[str(j)] @ torch.cat(_neuron(weights, biases, layout, j, n))
        return sets.view(-1, width)[sum(layout.node(j)[:part]) + index]

    new_weights, new_biases, last = [], [], layout.num_layers - 1
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        first, final = layout.ends and k == 0, layout.ends and k == last
        y = w.new_zeros(*w.shape[:2], width)
        for o, i in product(*(range(size) for size in w.shape[:2])):
            y[o, i] = shift[firsts[k] + (i if first else o if final else 0)]
            y[o, i] += 0.0 if first or final else layer.block[str(k)] @ w[o, i]
            y[o, i] += 0.0 if final else heard(k + 1, o, 0, i if first else 0)
            y[o, i] += 0.0 if first else heard(k, i, 2, o if final else 0)
        new_weights.append(y)
        start = firsts[k] + layout.mean(k)[0]
        rows = [shift[start + (o if final else 0)] + (0.0 if final else heard(k + 1, o, 1, 0)) for o in range(len(b))]
        new_biases.append(torch.stack(rows))
    return new_weights, new_biases


@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("ends", [False, True], ids=["NP", "HNP"])
def test_a_layer_is_its_sums_over_neurons(ends: bool, dims: tuple[int, ...], generator: Generator):
    layout, (weights, biases) = Layout(dims, ends), _tensors(dims, 3, generator)
    layer = EquivariantLinear(layout, 3, 4, generator).double()
    x = signals_of(weights, biases, layout)
    new_weights, new_biases = layer.linear(x)
    for n in range(2):
        expected = _layer_by_loops(layer, [w[n] for w in weights], [b[n] for b in biases])
        for actual, value in zip((*new_weights, *new_biases), (*expected[0], *expected[1]), strict=True):
            _close(actual[n], value)
        _close(means(x, layout)[n], torch.cat(_means_by_loops([w[n] for w in weights], [b[n] for b in biases], layout)))


@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("ends", [False, True], ids=["NP", "HNP"])
def test_between_layers_are_relus_and_their_means(ends: bool, dims: tuple[int, ...], generator: Generator):
    layout, (weights, biases) = Layout(dims, ends), _tensors(dims, 3, generator)
    layer = EquivariantLinear(layout, 3, 4, generator).double()
    x = signals_of(weights, biases, layout)
    new_weights, new_biases = layer.linear(x)
    expected = signals_of(tuple(w.relu() for w in new_weights), tuple(b.relu() for b in new_biases), layout)
    for keep in (True, False):
        y = layer(x, keep=keep)
        for j in layout.stages:
            _close(y.nodes[j], expected.nodes[j])
        assert (y.last is None) == (not ends)
        if y.last is not None and expected.last is not None:
            _close(y.last, expected.last)
        assert set(y.blocks) == (set(layout.blocks) if keep else set())
        for k, block in y.blocks.items():
            _close(block, expected.blocks[k])


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("piece", [1, 2**22], ids=["pieces", "whole"])
def test_gradients_of_a_block(piece: int, keep: bool, generator: Generator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nfn_layers, "_PIECE_BYTES", piece)
    gain = torch.tensor([[[0.0, 2.0]], [[2.0, 2.0]], [[2.0, 0.0]]], dtype=torch.float64)

    def run(x: Tensor, weight: Tensor, row: Tensor, column: Tensor) -> Tensor:
        parts = MapBlock.apply(x, weight, row, column, gain, 2.0, keep)
        return torch.cat([part.flatten() for part in parts if part is not None])

    shapes = ((3, 3, 2, 3), (2, 3), (3, 3, 2), (3, 2, 2))
    assert_gradients(run, [_draw(*shape, generator=generator) for shape in shapes])


def test_positions_are_what_appended_channels_would_give(generator: Generator):
    config = NPConfig(**SIZE, bands=2)
    positions = Positions(SPEC, config, 3, 4, generator).double()
    positions.first, positions.final = sinusoids(2, 2, 3.0), sinusoids(2, 2, 3.0)
    layout, (weights, biases) = Layout(SPEC.dims, ends=False), _tensors(SPEC.dims, 3, generator)
    layer, whole = (EquivariantLinear(layout, size, 4, generator).double() for size in (3, 3 + 5))
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if name == "bias":
                parameter.copy_(layer.get_parameter(name))
                continue
            parts = [m.get_parameter(name) for m in (layer, positions.layer)]
            joined = torch.cat([p.view(len(p), -1, size) for p, size in zip(parts, (3, 5), strict=True)], dim=2)
            parameter.copy_(joined.flatten(1))
    more = [torch.zeros(*w.shape[:3], 5, dtype=torch.float64) for w in weights]
    more[0] += positions.first
    more[-1] += positions.final.unsqueeze(1)
    own = [torch.zeros(*b.shape[:2], 5, dtype=torch.float64) for b in biases]
    own[-1] += positions.final
    appended = (
        tuple(torch.cat(pair, dim=3) for pair in zip(weights, more, strict=True)),
        tuple(torch.cat(pair, dim=2) for pair in zip(biases, own, strict=True)),
    )
    expected = whole.linear(signals_of(*appended, layout))
    actual = layer.linear(signals_of(weights, biases, layout), positions())
    for a, b in zip((*actual[0], *actual[1]), (*expected[0], *expected[1]), strict=True):
        _close(a, b)


def test_encodings_are_their_formulas(generator: Generator):
    encoding = GaussianFeatures(3, 2.0, generator).double()
    x = _draw(4, 1, generator=generator)
    angles = [[float(v) * float(f) for f in encoding.frequencies] for v in x]
    expected = [[math.sin(a) for a in row] + [math.cos(a) for a in row] for row in angles]
    _close(encoding(x), torch.tensor(expected, dtype=torch.float64))
    rows = [
        [f(math.pi * scale * p) for f in (math.sin, math.cos) for scale in (1.0, 1.25, 1.5)] + [p]
        for p in (-1.0, 0.0, 1.0)
    ]
    _close(sinusoids(3, 3, 3.0), torch.tensor(rows, dtype=torch.float64))


@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("ends", [False, True], ids=["NP", "HNP"])
def test_the_readout_has_a_mean_for_every_input_and_output(ends: bool, dims: tuple[int, ...], generator: Generator):
    layout, (weights, biases) = Layout(dims, ends), _tensors(dims, 3, generator)
    read = readout(signals_of(weights, biases, layout), layout).unflatten(1, (-1, 3))
    expected = [weights[0][:, :, i].mean(1) for i in range(dims[0])]
    expected += [weights[-1][:, o].mean(1) for o in range(dims[-1])] + [w.mean((1, 2)) for w in weights[1:-1]]
    expected += [b.mean(1) for b in biases[:-1]] + [*biases[-1].unbind(1)]
    assert read.shape[1] == len(expected) == Layout(dims, ends=True).num_means
    for vector in expected:
        assert int(((read - vector.unsqueeze(1)).abs().amax((0, 2)) < 1e-12).sum()) == 1


def _read(config: HNPConfig, spec: FieldSpec, generator: Generator):
    model = config.build(spec, 3, generator).double().eval()
    return lambda fields: model(weight_features(fields))


def _edit(config: HNPConfig, spec: FieldSpec, generator: Generator):
    model = config.build_editor(spec, generator).double().eval()

    return lambda fields: to_fields(model(weight_features(fields)), spec)


@pytest.mark.parametrize(
    "config", [NPConfig(**SIZE), NPConfig(**SIZE, bands=0), HNPConfig(**SIZE)], ids=["NP, encoded", "NP", "HNP"]
)
def test_coupled_permutations_change_nothing_and_others_something(config: HNPConfig, generator: Generator):
    read = _read(config, SPEC, generator)
    assert_invariant(read, SPEC, ("permutation",), generator)
    assert_equivariant(_edit(config, SPEC, generator), SPEC, ("permutation",), generator)
    with pytest.raises(AssertionError, match="not invariant: random sign"):
        assert_invariant(read, SPEC, ("sign",), generator)
    fields = random_fields(SPEC, 3, generator)
    weights = [fields.weights[0].flip(1), *fields.weights[1:]]
    uncoupled = FieldBatch.from_layers(SPEC, weights, list(fields.biases))
    assert (read(uncoupled) - read(fields)).abs().max() > 1e-6 * read(fields).abs().max()


@pytest.mark.parametrize(
    ("config", "permute"),
    [(NPConfig(**SIZE), False), (NPConfig(**SIZE, bands=0), True), (HNPConfig(**SIZE), False)],
    ids=["NP, encoded", "NP", "HNP"],
)
def test_inputs_permute_in_np_layers_that_do_not_know_positions(config: HNPConfig, permute: bool, generator: Generator):
    edit, fields = _edit(config, SPEC, generator), random_fields(SPEC, 3, generator)

    def swapped(fields: FieldBatch) -> FieldBatch:
        return FieldBatch.from_layers(SPEC, [fields.weights[0].flip(2), *fields.weights[1:]], list(fields.biases))

    error = (edit(swapped(fields)).flat() - swapped(edit(fields)).flat()).abs().max()
    assert (error < 1e-12) if permute else (error > 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_drawn_from_the_generator_while_training(kind: type, generator: Generator):
    model = kind(**SIZE, p_feature_dropout=0.5, p_dropout=0.5).build(SPEC, 3, generator).double().train()
    features = weight_features(random_fields(SPEC, 2, generator))
    draws = [model(features, Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    with pytest.raises(ValueError, match="generator=None"):
        model(features)


@pytest.mark.parametrize("ends", [False, True], ids=["NP", "HNP"])
def test_a_dropped_channel_is_dropped_in_all_weights_of_a_layer(ends: bool, generator: Generator):
    dims = (2, 5, 3, 4, 2)
    layout, (weights, biases) = Layout(dims, ends), _tensors(dims, 3, generator)
    layer = EquivariantLinear(layout, 3, 40, generator).double()
    x = signals_of(weights, biases, layout)
    full, dropped = layer(x), layer(x, p_dropout=0.5, generator=generator)
    into, own, _ = layout.node(1)
    pairs = [*((dropped.blocks[k], full.blocks[k]) for k in layout.blocks)]
    for part in (slice(0, into), slice(into + own, None)):
        pairs.append(tuple(y.nodes[1].unflatten(2, (-1, 40))[:, :, part].flatten(2, -2) for y in (dropped, full)))
    for actual, expected in pairs:
        kept = (actual != 0).flatten(1, -2).any(1)
        assert 0 < int(kept.sum()) < kept.numel()
        _close(actual, 2.0 * expected * kept.view(2, *(1 for _ in expected.shape[1:-1]), 40))


def test_the_sizes_in_the_docstring_are_right(generator: Generator):
    counts = [sum(p.numel() for p in kind().build(SIREN(2, 1), 10, generator).parameters()) for kind in KINDS]
    assert str(counts) in (NFNReader.__doc__ or "")


@pytest.mark.parametrize("kind", KINDS)
def test_settings_round_trip_and_refusals(kind: type):
    for settings in (kind(), kind.small(), kind.editing()):
        assert models.from_json(models.to_json(settings)) == settings
    for options, message in [
        ({"channels": ()}, "channels=(): expected at least one width, all positive"),
        ({"head": 0}, "head=0: expected a whole number from 1"),
        ({"p_dropout": 1.0}, "p_dropout=1.0: expected a number in [0, 1)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            kind(**options)


def test_bands_below_zero_are_refused():
    with pytest.raises(ValueError, match="bands=-1: expected a whole number from 0"):
        NPConfig(bands=-1)


@pytest.mark.native
@pytest.mark.parametrize("kind", [NPConfig, HNPConfig])
def test_a_reader_by_the_native_kernel_is_the_exact_one(kind: type, generator: Generator):
    exact = kind(**SIZE).build(SPEC, 3, generator).double().eval()
    native = copy.deepcopy(exact).float()
    exact.load_state_dict({k: v.double() for k, v in native.state_dict().items()})
    features = weight_features(random_fields(SPEC, 5, generator)).map(Tensor.float)
    found, expected = native(features), exact(features.map(Tensor.double))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    towards = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    (expected * towards).sum().backward()
    (found.double() * towards).sum().backward()
    assert_same_gradients(native, exact)


def test_half_precision_trains_by_torch(generator: Generator, monkeypatch: pytest.MonkeyPatch):
    reader = NPConfig(**SIZE).build(SPEC, 3, generator).eval()  # without dropout, but with gradients
    features = weight_features(random_fields(SPEC, 4, generator)).map(Tensor.float)
    with torch.autocast("cpu", torch.bfloat16):
        found = reader(features)
        monkeypatch.setattr(nfn_layers, "takes", lambda x: False)
        assert torch.equal(found, reader(features))
    found.sum().backward()
    assert all(p.grad is not None for p in reader.parameters())
