"""NFT: its attention against loops over single weights, its pooling against plain cross-attention, and what it sees."""

import pytest
import torch
from torch import Generator, Tensor
from torch.func import functional_call

from neuralfields import SIREN, HashField
from neuralfields.testing import assert_gradients, random_fields
from wsnets.features import WeightFeatures, weight_features
from wsnets.models.nft import NFTConfig, NFTReader
from wsnets.models.nft_layers import Block, Pool, SelfAttention, Tokens, attend_neurons

DIMS = (3, 5, 2, 4)
TINY = NFTConfig(num_frequencies=3, num_blocks=2, num_heads=2, num_latents=3, latent_width=4, latent_heads=2)


def _tokens(dims: tuple[int, ...], *channels: int, generator: Generator) -> Tensor:
    return torch.randn(2, sum(Tokens(dims).sizes), *channels, generator=generator, dtype=torch.float64)


def _attend(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """One query vector over lists of vectors, one softmax."""
    scores = torch.stack([(query * key).sum() / query.numel() ** 0.5 for key in keys]).exp()
    return sum((s * value for s, value in zip(scores / scores.sum(), values, strict=True)), torch.zeros_like(query))


def _heard_by_loops(qkv: Tensor, dims: tuple[int, ...]) -> Tensor:
    """`attend_neurons` for one field and one head, (P, 3, D) -> (P, D): one weight, one query, one key at a time."""
    weights, biases = Tokens(dims).split(qkv.unsqueeze(0))
    weights, biases = [w[0] for w in weights], [b[0] for b in biases]

    def vectors(stage: int, part: int) -> list[Tensor]:
        found = []
        if stage > 0:
            found += [weights[stage - 1][:, i, part] for i in range(dims[stage - 1])] + [biases[stage - 1][:, part]]
        if stage < len(dims) - 1:
            found += [weights[stage][o, :, part] for o in range(dims[stage + 1])]
        return found

    def heard(query: Tensor, stage: int, neuron: int) -> Tensor:
        return _attend(query, vectors(stage, 1), vectors(stage, 2))[neuron]

    result = []
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        for o in range(dims[k + 1]):
            for i in range(dims[k]):
                result.append(heard(w[:, i, 0], k + 1, o) + heard(w[o, :, 0], k, i))
        result += [heard(b[:, 0], k + 1, o) for o in range(dims[k + 1])]
    return torch.stack(result)


def test_attention_among_neurons_is_that_of_single_weights(generator: Generator):
    qkv = _tokens(DIMS, 3, 2, 3, generator=generator)
    expected = torch.stack(
        [torch.stack([_heard_by_loops(qkv[n, :, :, h], DIMS) for h in range(2)], dim=1) for n in range(2)]
    )
    torch.testing.assert_close(attend_neurons(qkv, DIMS), expected, rtol=1e-11, atol=1e-12)


def test_a_layer_adds_what_means_of_tensors_hear_from_each_other(generator: Generator):
    layer = SelfAttention(DIMS, 6, 2, generator).double()
    x = _tokens(DIMS, 6, generator=generator)
    qkv = layer.project(x).unflatten(2, (3, 2, 3))
    far = []
    for n in range(2):
        means = [part.mean(0) for part in qkv[n].split(Tokens(DIMS).sizes)]
        rows = []
        for mean, size in zip(means, Tokens(DIMS).sizes, strict=True):
            heads = [_attend(mean[0, h], [m[1, h] for m in means], [m[2, h] for m in means]) for h in range(2)]
            rows.append(torch.cat(heads).expand(size, -1))
        far.append(torch.cat(rows))
    expected = attend_neurons(qkv, DIMS).flatten(2) + torch.stack(far)
    torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-12)


def test_gradients_of_a_block(generator: Generator):
    dims = (2, 3, 1)
    block = Block(dims, 4, 2, 2, 0.0, generator).double()
    names, values = zip(*((name, p.detach()) for name, p in block.named_parameters()), strict=True)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(block, dict(zip(names, parameters, strict=True)), (x, None))

    assert_gradients(run, [_tokens(dims, 4, generator=generator), *values], rtol=1e-6)


def test_tokens_are_weights_and_biases_in_storage_order(generator: Generator):
    spec = SIREN(3, 4, hidden=(5, 2))
    fields, tokens = random_fields(spec, 2, generator), Tokens(spec.dims)
    flat = fields.flat()
    weights, biases = tokens.split(flat)
    assert all(torch.equal(a, b) for a, b in zip((*weights, *biases), (*fields.weights, *fields.biases), strict=True))
    assert torch.equal(tokens.join(weights, biases), flat)


def test_pooling_is_cross_attention_with_projected_keys_and_values(generator: Generator):
    pool = Pool(6, 3, 4, 2, 0, generator).double()
    x = _tokens(DIMS, 6, generator=generator)
    maps = [torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
    queries, out = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 5), (4, 5)))
    with torch.no_grad():
        pool.queries.copy_(queries @ maps[0] * (6 / 5) ** 0.5)
        pool.gather.weight.copy_(out @ maps[1])
    keys, values = (pool.norm(x) @ m.T for m in maps)
    read = (queries @ keys.transpose(1, 2) / 5**0.5).softmax(-1) @ values
    expected = pool.last(pool.first(pool.latents + read @ out.T + pool.gather.bias).mean(1))
    torch.testing.assert_close(pool(x), expected, rtol=1e-11, atol=1e-12)


def _turned(features: WeightFeatures) -> WeightFeatures:
    """Inputs and outputs in reverse order."""
    weights, biases = list(features.weights), list(features.biases)
    weights[0], weights[-1], biases[-1] = weights[0].flip(2), weights[-1].flip(1), biases[-1].flip(1)
    return WeightFeatures(tuple(weights), tuple(biases))


@pytest.mark.parametrize("told_apart", [True, False])
def test_positions_alone_tell_inputs_and_outputs_apart(told_apart: bool, generator: Generator):
    spec = SIREN(3, 2, hidden=(4, 5))
    model = TINY.build_editor(spec, generator).double().eval()
    features = weight_features(random_fields(spec, 2, generator))
    if not told_apart:
        with torch.no_grad():
            model.trunk.positions.inputs.zero_()
            model.trunk.positions.outputs.zero_()
    change, turned = _turned(model(features)), model(_turned(features))
    same = [torch.allclose(a, b, rtol=1e-10, atol=1e-14) for a, b in zip(change.tensors, turned.tensors, strict=True)]
    assert not any(same) if told_apart else all(same)


def test_parameter_count_of_the_example(generator: Generator):
    model = NFTConfig().build(SIREN(2, 1), 10, generator)
    assert str(sum(p.numel() for p in model.parameters())) in (NFTReader.__doc__ or "")


@pytest.mark.parametrize("edits", [False, True])
def test_every_parameter_gets_a_gradient(edits: bool, generator: Generator):
    spec = SIREN(2, 3, hidden=(4, 5))
    model = TINY.build_editor(spec, generator) if edits else TINY.build(spec, 3, generator)
    y = model.double()(weight_features(random_fields(spec, 3, generator)), generator)
    torch.stack([x.square().sum() for x in (y.tensors if edits else [y])]).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-12, name


def test_dropout_takes_a_channel_from_all_weights_of_a_field(generator: Generator):
    block = Block(DIMS, 64, 2, 2, 0.5, generator).double()
    x = _tokens(DIMS, 64, generator=generator)
    kept = block(x, generator) == x
    whole = kept.all(1)
    assert torch.equal(kept.any(1), whole)
    assert 0.1 < whole.double().mean() < 0.4
    assert not torch.equal(whole[0], whole[1])
    assert not (block.eval()(x, None) == x).any()


def test_training_needs_a_generator_and_repeats_with_its_seed(generator: Generator):
    spec = SIREN(2, 1, hidden=(4, 5))
    model, features = TINY.build(spec, 3, generator).double(), weight_features(random_fields(spec, 2, generator))
    with pytest.raises(ValueError, match="generator=None"):
        model(features)
    first, second = (model(features, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 0}, "num_blocks=0"),
        ({"num_mixes": -1}, "num_mixes=-1"),
        ({"num_heads": 7}, "num_heads=7"),
        ({"latent_heads": 3}, "latent_heads=3"),
        ({"p_dropout": 1.0}, "p_dropout=1.0"),
    ],
)
def test_settings_that_make_no_sense_are_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        NFTConfig(**options)


def test_fields_that_are_not_dense_alone_are_refused(generator: Generator):
    with pytest.raises(ValueError, match="neural functional transformer"):
        NFTConfig.small().build(HashField(2, 1), 3, generator)
