"""inr2vec: a plain twin, the decoded field is the decoder, no symmetry, gradients, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from neuralfields import SIREN, FieldBatch, ReLUField, evaluate, symmetry
from neuralfields.inits import draw
from neuralfields.testing import assert_gradients, assert_invariant, random_fields
from wsnets import models
from wsnets.autoencoder import value_loss
from wsnets.features import weight_features
from wsnets.models.inr2vec import Inr2Vec, Inr2VecConfig

SPEC = SIREN(2, 3, hidden=(5, 7), grid="corners", axes="xy")
SMALL = Inr2VecConfig(
    encoder=(6, 8), rows="all", row_embedding=True, latent_norm=True, decoder=(9, 10), bands=2, points=11
)
PAPER = Inr2VecConfig(encoder=(6, 8), decoder=(9, 10), bands=2, points=11)


def made(config: Inr2VecConfig, generator: Generator) -> Inr2Vec:
    """A model in float64 whose normalisations have statistics of their own."""
    model = config.build_autoencoder(SPEC, generator).double()
    for _ in range(30):
        model.encode(weight_features(random_fields(SPEC, 16, generator)))
    return model.eval()


def plain(model: Inr2Vec, field: FieldBatch) -> Tensor:
    """The formula for one field, row by row."""
    seen = []
    for layer in model.layers:
        for weight, bias in zip(field.weights[layer][0], field.biases[layer][0], strict=True):
            row = torch.zeros(model.row_width, dtype=torch.float64)
            row[: len(weight) + 1] = torch.cat([weight, bias[None]])
            x = model.encoder[0](row)
            if model.row_scale is not None and model.row_shift is not None:
                x = x * model.row_scale[len(seen)] + model.row_shift[len(seen)]
            seen.append(model.encoder[1](model.norms[0](x[None]).clamp_min(0.0))[0])
    rows = torch.stack(seen)
    pooled = (rows.max(dim=0).values if model.pool == "max" else rows.mean(dim=0))[None]
    return model.latent_norm(pooled if model.widen is None else model.widen(pooled))


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, pool="mean", wide=9), PAPER], ids=["max", "mean", "paper"])
def test_a_field_is_encoded_as_the_formula_says(config: Inr2VecConfig, generator: Generator):
    model, some = made(config, generator), random_fields(SPEC, 3, generator)
    expected = torch.stack([plain(model, field) for field in some])
    assert expected.std(0).max() > 1e-4
    torch.testing.assert_close(model.encode(weight_features(some)), expected, rtol=1e-10, atol=1e-12)


def test_the_paper_reads_the_layers_between_the_first_and_the_last(generator: Generator):
    model, field = made(PAPER, generator), random_fields(SPEC, 1, generator)
    before = model.encode(weight_features(field))
    for layer, seen in ((0, False), (1, True), (2, False)):
        weights, biases = list(field.weights), list(field.biases)
        weights[layer], biases[layer] = weights[layer] + 1.0, biases[layer] - 0.5
        after = model.encode(weight_features(FieldBatch.from_layers(SPEC, weights, biases)))
        assert torch.equal(after, before) != seen


@pytest.mark.parametrize("lift", [0, 13])
def test_a_decoded_field_is_the_decoder(lift: int, generator: Generator):
    model = made(replace(SMALL, lift=lift), generator)
    latents = torch.randn(4, 1, 8, generator=generator, dtype=torch.float64)
    coords = 2 * torch.rand(13, 2, generator=generator, dtype=torch.float64) - 1
    decoded = model.decode(latents)
    assert decoded.spec == model.decoded_spec
    assert (decoded.spec.grid, decoded.spec.axes) == ("corners", "xy")
    torch.testing.assert_close(evaluate(decoded, coords), model.values(latents, coords), rtol=1e-10, atol=1e-12)
    curvature = model.biases(latents + 1)[0] + model.biases(latents - 1)[0] - 2 * model.biases(latents)[0]
    assert (curvature.abs().max() > 1e-6) == bool(lift)  # biases follow the latent straight, but for a lift
    alone = torch.cat([evaluate(model.decode(latents[n : n + 1]), coords) for n in range(4)])
    torch.testing.assert_close(alone, model.values(latents, coords), rtol=1e-10, atol=1e-12)
    apart = FieldBatch.from_flat(decoded.spec, decoded.flat())
    torch.testing.assert_close(evaluate(apart, coords), evaluate(decoded, coords), rtol=1e-12, atol=1e-14)


def test_the_loss_is_that_of_the_decoded_fields(generator: Generator):
    model, some = made(SMALL, generator), random_fields(SPEC, 3, generator)
    features, seed = weight_features(some), 5
    decoded = model.decode(model.encode(features))
    expected = value_loss(decoded, some, SMALL.points, Generator().manual_seed(seed))
    loss = model.loss(some, features, Generator().manual_seed(seed))
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)


def test_gradients_reach_the_fields_and_all_parameters(generator: Generator):
    model, some = made(SMALL, generator), random_fields(SPEC, 3, generator)

    def of_fields(flat: Tensor) -> Tensor:
        return model.encode(weight_features(FieldBatch.from_flat(SPEC, flat))).flatten(1)

    assert_gradients(of_fields, [some.flat()], rtol=1e-5)
    model.loss(some, weight_features(some), generator).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", [SMALL, PAPER, Inr2VecConfig.small()], ids=["tiny", "paper", "small"])
def test_no_symmetry_is_claimed_and_none_is_there(config: Inr2VecConfig, generator: Generator):
    model = made(config, generator)
    assert config.symmetry(SPEC) == ()
    for kind in symmetry.groups_of(SPEC):
        with pytest.raises(AssertionError, match="not invariant"):
            assert_invariant(lambda fields: model.encode(weight_features(fields)), SPEC, [kind], generator)


def test_rows_have_an_order_only_with_an_embedding(generator: Generator):
    some, order = random_fields(SPEC, 2, generator), torch.randperm(7, generator=generator)
    weights, biases = list(some.weights), list(some.biases)
    weights[1], biases[1] = weights[1][:, order], biases[1][:, order]
    features, moved = weight_features(some), weight_features(FieldBatch.from_layers(SPEC, weights, biases))
    paper, small = made(PAPER, generator), made(SMALL, generator)
    torch.testing.assert_close(paper.encode(moved), paper.encode(features), rtol=1e-12, atol=1e-12)
    assert (small.encode(moved) - small.encode(features)).abs().max() > 1e-3


def test_one_layer_is_pooled_too(generator: Generator):
    for pool in ("max", "mean"):
        model = made(replace(SMALL, encoder=(8,), pool=pool), generator)
        some = random_fields(SPEC, 2, generator)
        rows = model.encoder[0](model.rows(weight_features(some))) * model.row_scale + model.row_shift
        expected = rows.amax(dim=1) if pool == "max" else rows.mean(dim=1)
        torch.testing.assert_close(model.encode(weight_features(some))[:, 0], model.latent_norm(expected))


def test_a_batch_is_encoded_as_its_fields_are_alone(generator: Generator):
    model = made(Inr2VecConfig.small(), generator)
    some = draw(SPEC, np.arange(4, dtype=np.uint32)).to(torch.float64)
    alone = torch.cat([model.encode(weight_features(field)) for field in some])
    torch.testing.assert_close(model.encode(weight_features(some)), alone, rtol=1e-10, atol=1e-12)


def test_shape_fields_and_sizes(generator: Generator):
    spec = ReLUField(3, 1, hidden=(6, 6, 6))
    model = PAPER.build_autoencoder(spec, generator).eval()
    some = random_fields(spec, 2, generator, torch.float32)
    decoded = model.decode(model.encode(weight_features(some)))
    assert (decoded.spec.in_dim, decoded.spec.out_dim, len(decoded)) == (3, 1, 2)
    assert Inr2VecConfig().build_autoencoder(spec, generator).latent_shape == (1, 1024)
    for config in (Inr2VecConfig(), Inr2VecConfig.small()):
        assert models.from_json(models.to_json(config)) == config


def test_refusals(generator: Generator):
    with pytest.raises(ValueError, match=r"rows='hidden': .* no layer between first and last; expected 'all'"):
        PAPER.build_autoencoder(SIREN(2, 1, hidden=(4,)), generator)
    for options in (
        {"encoder": ()},
        {"decoder": (8, 0)},
        {"bands": 0},
        {"points": 0},
        {"wide": -1},
        {"rows": "some"},
        {"pool": "sum"},
    ):
        (name,) = options
        with pytest.raises(ValueError, match=f"{name}=.*: expected"):
            Inr2VecConfig(**options)  # type: ignore[arg-type]
