"""NG-GNN and NG-T: aggregation, attention and probes against plain loops, and that nothing needed is left out."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from neuralfields import SIREN, FieldSpec, ReLUField
from neuralfields.encodings import Positional
from neuralfields.evaluate import encode
from neuralfields.testing import random_fields
from wsnets import models
from wsnets.features import weight_features
from wsnets.models.neural_graph import GNN, GNNConfig, GNNReader, Pending
from wsnets.models.neural_graph_attention import pair_sum, scatter
from wsnets.models.neural_graph_features import ProbeFeatures
from wsnets.models.neural_graph_messages import Layout, aggregate, update
from wsnets.models.neural_graph_transformer import Attention, EdgeUpdate, Residual, TransformerConfig, TransformerReader

SPEC = SIREN(3, 2, hidden=(5, 4), offset=(0.5, 0.25))
LAYOUT = Layout((3, 5, 2))
GNN_SIZE = GNNConfig(width=5, num_layers=3, num_frequencies=3, num_probes=4)
TRANSFORMER_SIZE = TransformerConfig(
    node_width=7, edge_width=5, attention_width=6, num_heads=3, num_layers=3, num_frequencies=3, num_probes=4
)
CONFIGS = {"ng_gnn": GNN_SIZE, "ng_t": TRANSFORMER_SIZE}


def _draw(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def _assert_same(
    function: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: list[Tensor], generator: Generator
) -> None:
    """Equal results and equal gradients with respect to `inputs`."""
    actual, expected = function(*inputs), plain(*inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    along = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad(result, inputs, along) for result in (actual, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def _statistics(messages: Tensor) -> Tensor:
    """Mean, least, largest, standard deviation of messages (M, C) in a row."""
    variance = messages.square().mean(0) - messages.mean(0).square()
    spread = torch.where(variance > 1e-5, variance, 1.0).sqrt() * (variance > 1e-5)
    return torch.cat([messages.mean(0), messages.amin(0), messages.amax(0), spread])


def _into_each_node(modulation: Tensor, message: Callable[[int, int, int], Tensor], layout: Layout) -> list[Tensor]:
    """Messages scale * message(field, target, source) + shift into every node, field after field, (M, C) each."""
    count, first = len(modulation) // (2 * layout.num_weights), [sum(layout.dims[:k]) for k in range(len(layout.dims))]
    arrived: list[list[Tensor]] = [[] for _ in range(count * sum(layout.dims))]
    for block, changes in zip(layout.blocks, layout.split_edges(modulation, count), strict=True):
        for n in range(count):
            for t in range(block.num_targets):
                target = first[block.target] + t
                for s in range(block.num_sources):
                    scale, shift = changes[n, t, s].chunk(2)
                    value = scale * message(n, target, first[block.source] + s) + shift
                    arrived[n * sum(layout.dims) + target].append(value)
    return [torch.stack(messages) for messages in arrived]


def test_aggregation_is_that_of_all_neighbours_one_by_one(generator: Generator):
    def plain(modulation: Tensor, nodes: Tensor) -> Tensor:
        def message(n: int, target: int, source: int) -> Tensor:
            return nodes[n, target, :3] + nodes[n, source, 3:]

        arrived = _into_each_node(modulation, message, LAYOUT)
        return torch.stack([_statistics(messages) for messages in arrived]).view(2, 10, 12)

    inputs = [_draw(generator, 2 * 2 * LAYOUT.num_weights, 6), _draw(generator, 2, 10, 6)]
    _assert_same(lambda change, x: aggregate(change, x, LAYOUT), plain, inputs, generator)


def test_a_spread_of_nothing_has_no_gradient():
    modulation = torch.zeros(2 * LAYOUT.num_weights, 2, dtype=torch.float64, requires_grad=True)
    statistics = aggregate(modulation, torch.ones(1, 10, 2, dtype=torch.float64), LAYOUT)
    assert float(statistics.detach().abs().max()) == 0.0
    statistics[..., 3].sum().backward()
    assert modulation.grad is not None
    assert float(modulation.grad.abs().max()) == 0.0


def test_a_round_of_messages_is_the_formula(generator: Generator):
    body = GNN(SIREN(3, 2, hidden=(5,)), GNN_SIZE, generator).double()
    layer, amplification = body.rounds[0], body.amplification
    average = (5 * math.log(3 + 1) + 2 * math.log(5 + 1)) / 10  # of degrees with the flow: 0, 3, 5
    expected = torch.full((10, 1), math.log(5 + 1) / average, dtype=torch.float64)
    torch.testing.assert_close(amplification, expected, rtol=1e-12, atol=0.0)

    def plain(edges: Tensor, nodes: Tensor) -> Tensor:
        def message(n: int, target: int, source: int) -> Tensor:
            return layer.message(torch.cat([nodes[n, target], nodes[n, source]]))

        gathered = [_statistics(m) for m in _into_each_node(layer.modulate(edges), message, LAYOUT)]
        own, factor = nodes.flatten(0, 1), amplification.repeat(2, 1)
        rows = torch.cat([own, torch.stack(gathered), factor * torch.stack(gathered)], dim=1)
        return layer.mix(layer.gather(rows)).view_as(nodes)

    inputs = [_draw(generator, 2 * 2 * LAYOUT.num_weights, 5), _draw(generator, 2, 10, 5)]
    _assert_same(lambda e, x: layer(e, Pending(), x, LAYOUT, amplification), plain, inputs, generator)


def test_an_update_of_edges_reads_both_ends(generator: Generator):
    def plain(edges: Tensor, nodes: Tensor) -> Tensor:
        done, first = [], (0, 3, 8)
        for block, part in zip(LAYOUT.blocks, LAYOUT.split_edges(edges, 2), strict=True):
            for n in range(2):
                for t in range(block.num_targets):
                    for s in range(block.num_sources):
                        ends = nodes[n, first[block.target] + t, :3] + nodes[n, first[block.source] + s, 3:]
                        done.append(F.silu(part[n, t, s] + ends))
        return torch.stack(done)

    inputs = [_draw(generator, 2 * 2 * LAYOUT.num_weights, 3), _draw(generator, 2, 10, 6)]
    _assert_same(lambda e, x: update(e, x, LAYOUT), plain, inputs, generator)


@pytest.mark.parametrize("attending", [5, 2])
def test_attention_is_that_of_each_pair_of_nodes(attending: int, generator: Generator):
    layer = Attention(TRANSFORMER_SIZE, generator).double()

    def plain(nodes: Tensor, edges: Tensor, *_: Tensor) -> Tensor:
        at_node, at_edge = layer.node.weight.view(3, 3, 2, 7), layer.edge.weight.view(3, 4, 2, 5)
        rows = []
        for n in range(len(nodes)):
            for i in range(attending):
                heads = []
                for node, edge in zip(at_node, at_edge, strict=True):
                    e, x = edges[n, i], nodes[n]
                    query = x[len(x) - attending + i] @ node[0].t() + e @ edge[0].t()
                    key, value = x @ node[1].t() + e @ edge[1].t(), (x @ node[2].t()) * (e @ edge[3].t())
                    weights = ((query * key).sum(1) / 6**0.5).softmax(0)
                    heads.append(weights @ (value + e @ edge[2].t()))
                rows.append(layer.out(torch.cat(heads)))
        return torch.stack(rows).view(len(nodes), attending, 7)

    inputs = [_draw(generator, 2, 5, 7), _draw(generator, 2, attending, 5, 5), *layer.parameters()]
    _assert_same(lambda nodes, edges, *_: layer(nodes, edges), plain, inputs, generator)


def test_operations_on_pairs_are_their_formulas(generator: Generator):
    def plain_sum(maps: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        there, back = maps.chunk(2, dim=-1)
        return F.gelu(there + back.transpose(1, 2) + sources.unsqueeze(2) + targets.unsqueeze(1))

    def plain_scatter(default: Tensor, *blocks: Tensor) -> Tensor:
        pairs = default.repeat(2, 5, 5, 1)
        for (rows, columns), block in zip(places, blocks, strict=True):
            pairs = pairs.clone()
            pairs[:, rows, columns] = block
        return pairs

    places = [(slice(0, 2), slice(2, 5)), (slice(2, 5), slice(0, 2))]
    pairs = [_draw(generator, 2, 5, 5, 6), _draw(generator, 2, 5, 3), _draw(generator, 2, 5, 3)]
    _assert_same(pair_sum, plain_sum, pairs, generator)
    blocks = [_draw(generator, 3), _draw(generator, 2, 2, 3, 3), _draw(generator, 2, 3, 2, 3)]
    _assert_same(lambda x, *parts: scatter(x, list(parts), places, 5), plain_scatter, blocks, generator)


def test_some_pairs_are_updated_as_all_are(generator: Generator):
    layer = EdgeUpdate(TRANSFORMER_SIZE, generator).double().eval()
    edges, nodes, rows, columns = _draw(generator, 2, 6, 6, 5), _draw(generator, 2, 6, 7), slice(1, 3), slice(2, 6)
    some = layer.some(edges[:, rows, columns], edges[:, columns, rows], nodes[:, rows], nodes[:, columns], None)
    torch.testing.assert_close(some, layer(edges, nodes, None)[:, rows, columns], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("spec", [SPEC, ReLUField(2, 1, hidden=(5, 3), encoding=Positional(2))], ids=["sine", "relu"])
def test_probes_are_what_each_neuron_answers(spec: FieldSpec, generator: Generator):
    fields, probes = random_fields(spec, 2, generator), ProbeFeatures(spec, 3, 4, generator).double()
    offset = spec.offset or (0.0,) * spec.out_dim
    rows = []
    for n in range(2):
        values = encode(spec, probes.coords)  # (P, I)
        for layer in range(spec.num_layers + 1):
            for answers in values.t():
                rows.append(probes.norms[layer](probes.linears[layer](answers)))
            if layer == spec.num_layers:
                break
            sums = values @ fields.weights[layer][n].t() + fields.biases[layer][n]
            if layer < len(spec.hidden):
                values = torch.sin(spec.w0(layer) * sums) if spec.activation == "sine" else sums.relu()
            else:
                values = sums + sums.new_tensor(offset)
    torch.testing.assert_close(probes(fields), torch.stack(rows).view(2, sum(spec.dims), 4), rtol=1e-11, atol=1e-12)


def test_probes_have_all_their_digits_under_autocast(generator: Generator):
    spec = SIREN(2, 1, hidden=(32, 32))
    fields, probes = random_fields(spec, 2, generator, torch.float32), ProbeFeatures(spec, 16, 8, generator)
    with torch.autocast("cpu", torch.bfloat16):
        low = probes(fields)
    assert torch.equal(low, probes(fields))


def test_what_the_outputs_do_not_need_is_left_out(generator: Generator):
    features = weight_features(random_fields(SPEC, 2, generator))
    reader = GNN_SIZE.build(SPEC, 3, generator).double().eval()
    nodes, _, _ = reader.gnn(features, None, whole=True)
    torch.testing.assert_close(reader(features), reader.head(nodes[:, -2:].flatten(1)), rtol=1e-11, atol=1e-13)
    model = TRANSFORMER_SIZE.build(SPEC, 3, generator).double().eval()
    nodes, edges = model.transformer.start(features)
    for update_nodes, update_edges in zip(model.transformer.nodes, [*model.transformer.edges, None], strict=True):
        nodes = update_nodes(nodes, edges, None)
        edges = edges if update_edges is None else update_edges(edges, nodes, None)
    torch.testing.assert_close(model(features), model.head(nodes[:, -2:].flatten(1)), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_is_its_fields_one_by_one(name: str, generator: Generator):
    fields, config = random_fields(SPEC, 4, generator), CONFIGS[name]
    model, editor = (
        config.build(SPEC, 3, generator).double().eval(),
        config.build_editor(SPEC, generator).double().eval(),
    )
    singles = torch.cat([model(weight_features(field)) for field in fields])
    torch.testing.assert_close(model(weight_features(fields)), singles, rtol=1e-11, atol=1e-13)
    apart = [editor(weight_features(field)).tensors for field in fields]
    for together, parts in zip(editor(weight_features(fields)).tensors, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(together, torch.cat(parts), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", CONFIGS)
def test_dropout_is_drawn_from_the_generator_while_training(name: str, generator: Generator):
    model = CONFIGS[name].build(SPEC, 3, generator).double().train()
    features = weight_features(random_fields(SPEC, 2, generator))
    draws = [model(features, Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    with pytest.raises(ValueError, match="generator=None"):
        model(features)


def test_dropout_keeps_the_mean(generator: Generator):
    layer = Residual(4, p_dropout=0.25).train()
    layer.norm = nn.Identity()  # type: ignore[assignment]
    dropped = layer(torch.zeros(101, 99, 4), torch.ones(101, 99, 4), generator)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 4.0 / 3.0]))
    assert abs(float(dropped.mean()) - 1.0) < 0.02


@pytest.mark.parametrize("name", CONFIGS)
def test_published_editors_start_near_the_identity(name: str, generator: Generator):
    spec = SIREN(2, 1, hidden=(6, 5))
    fields = random_fields(spec, 3, generator, torch.float32)
    change = models.kind(name).editing().build_editor(spec, generator).eval()(weight_features(fields))
    for changed, old in zip(change.tensors, weight_features(fields).tensors, strict=True):
        assert changed.shape == old.shape
        assert 0 < changed.abs().max() < 0.1


@pytest.mark.parametrize(("name", "kind"), [("ng_gnn", GNNReader), ("ng_t", TransformerReader)])
def test_sizes_in_docstrings_are_right_and_settings_round_trip(name: str, kind: type[nn.Module], generator: Generator):
    model = models.kind(name)().build(SIREN(2, 1), 10, generator)
    assert isinstance(model, kind)
    assert str(sum(p.numel() for p in model.parameters())) in (kind.__doc__ or "")
    for settings in (models.kind(name)(), models.kind(name).small(), models.kind(name).editing()):
        assert models.from_json(models.to_json(settings)) == settings


def test_refusals(generator: Generator):
    for options, message in [
        ({"width": 0}, "width=0: expected a whole number from 1"),
        ({"num_probes": -1}, "num_probes=-1: expected a whole number from 0"),
        ({"p_dropout": 1.0}, "p_dropout=1.0: expected a number in [0, 1)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            GNNConfig(**options)
    for options, message in [
        ({"num_layers": 0}, "num_layers=0: expected a whole number from 1"),
        ({"num_heads": 3}, "attention_width=128: expected a multiple of 3 heads"),
        ({"p_dropout": -0.5}, "p_dropout=-0.5: expected a number in [0, 1)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            TransformerConfig(**options)
    features = weight_features(random_fields(SPEC, 1, generator)).map(lambda x: x * 2.0)
    with pytest.raises(ValueError, match=r"features\.fields=None: a model with probes"):
        GNN_SIZE.build(SPEC, 3, generator).double()(features)
