"""Hyper-representations and SANE: one by one as in a batch, gradients everywhere, windows, other sizes, learning."""

from dataclasses import replace

import pytest
import torch
from torch import Generator

from neuralfields import SIREN, FieldBatch
from neuralfields.evaluate import evaluate
from wsnets import models
from wsnets.features import Normaliser, WeightFeatures, weight_features
from wsnets.models.hyper_representation import HyperRepresentationConfig, erased, noisy, permuted, weight_loss
from wsnets.models.sane import SANEConfig
from wsnets.tokens import TokenLayout

SPEC = SIREN(2, 1, hidden=(6, 5), w0=5.0)
TINY = {"width": 16, "num_layers": 1, "num_heads": 2}
CONFIGS = (
    HyperRepresentationConfig(latent=12, **TINY, permute=0.5, noise=0.1, values=1.0, points=16),
    SANEConfig(latent=4, window=5, most=(64, 4, 32), **TINY, permute=0.5, noise=0.1, values=1.0, points=16),
    SANEConfig(latent=4, window=64, most=(64, 4, 32), **TINY, permute=0.5, values=1.0, points=16),
)


def some(count: int, generator: Generator, spec=SPEC) -> FieldBatch:
    return FieldBatch.from_flat(spec, 0.5 * torch.randn(count, spec.num_params, generator=generator).double())


def built(config, generator: Generator):
    return config.build_autoencoder(SPEC, generator).double()


@pytest.mark.parametrize("config", CONFIGS)
def test_a_batch_is_its_fields_one_by_one(config, generator: Generator):
    model, fields = built(config, generator).eval(), some(5, generator)
    whole = model.encode(weight_features(fields))
    assert tuple(whole.shape[1:]) == model.latent_shape
    decoded = model.decode(whole)
    assert decoded.spec == SPEC
    for n in range(len(fields)):
        one = model.encode(weight_features(fields[n]))
        torch.testing.assert_close(one[0], whole[n], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(model.decode(one).flat()[0], decoded.flat()[n], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_parameter_gets_a_gradient_and_draws_come_from_the_generator(config, generator: Generator):
    model, fields = built(config, generator).train(), some(8, generator)
    losses = []
    for seed in (1, 1, 2):
        draws = Generator().manual_seed(seed)
        losses.append(model.loss(fields, weight_features(fields), draws))
    assert losses[0] == losses[1] != losses[2]
    for seed in range(20):  # windows of SANE see all layers in the end
        model.loss(fields, weight_features(fields), Generator().manual_seed(seed)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("config", CONFIGS)
def test_settings_round_trip_and_refusals(config):
    assert models.from_json(models.to_json(config)) == config
    with pytest.raises(ValueError, match="num_heads=3: expected a divisor of width=16"):
        replace(config, num_heads=3)
    with pytest.raises(ValueError, match="latent=0: expected"):
        replace(config, latent=0)
    with pytest.raises(ValueError, match=r"erase=1.0: expected a number in \[0, 1\)"):
        replace(config, erase=1.0)
    with pytest.raises(ValueError, match="permute=2: expected"):
        replace(config, permute=2)
    with pytest.raises(ValueError, match="temperature=0: expected"):
        replace(config, temperature=0)
    for name in ("noise", "values"):
        with pytest.raises(ValueError, match=f"{name}=-1.0: expected zero or more"):
            replace(config, **{name: -1.0})
    with pytest.raises(ValueError, match="expected permute, erase or noise above 0, so that views differ"):
        replace(config, permute=0.0, erase=0.0, noise=0.0)


@pytest.mark.parametrize(
    "config",
    [
        HyperRepresentationConfig(latent=64, width=32, num_layers=1, num_heads=2, permute=0.0, erase=0.0, contrast=0.0),
        SANEConfig(latent=32, window=8, width=32, num_layers=1, num_heads=2, permute=0.0, erase=0.0, contrast=0.0),
    ],
)
def test_it_learns_to_give_fields_back(config, generator: Generator):
    fields = some(16, generator).to(torch.float32)
    normaliser = Normaliser.fit("per_weight", [fields])
    model = config.build_autoencoder(SPEC, generator)
    model.normaliser = normaliser
    features = normaliser(weight_features(fields))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(300):
        optimizer.zero_grad()
        model.loss(fields, features, generator).backward()
        optimizer.step()
    with torch.no_grad():
        found = model.eval().decode(model.encode(features))
    coords = 2 * torch.rand(50, 2, generator=generator) - 1
    wanted = evaluate(fields, coords)
    error = (evaluate(found, coords) - wanted).square().mean()
    assert error < 0.05 * (wanted - wanted.mean(0)).square().mean()


def test_permuted_fields_show_the_same(generator: Generator):
    fields, coords = some(40, generator), torch.rand(9, 2, generator=generator).double()
    moved = permuted(fields, 0.5, generator)
    torch.testing.assert_close(evaluate(moved, coords), evaluate(fields, coords))
    same = (moved.flat() == fields.flat()).all(1)
    assert 5 < int(same.sum()) < 35


def test_erased_tokens(generator: Generator):
    x = torch.ones(200, 10, 3)
    share = (erased(x, 0.25, generator) == 0).float().mean()
    assert share == pytest.approx(0.25, abs=0.05)
    assert erased(x, 0.0, None) is x
    with pytest.raises(ValueError, match="generator=None"):
        erased(x, 0.25, None)


def test_noise(generator: Generator):
    x = torch.zeros(200, 10, 3)
    assert float(noisy(x, 0.5, generator).std()) == pytest.approx(0.5, abs=0.02)
    assert noisy(x, 0.0, None) is x
    with pytest.raises(ValueError, match="generator=None"):
        noisy(x, 0.5, None)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_encoder_is_disturbed_while_training_only(config, generator: Generator):
    model, features = built(config, generator), weight_features(some(3, generator))
    still = model.eval().encode(features)
    assert torch.equal(still, model.encode(features, generator))
    assert not torch.allclose(still, model.train().encode(features, generator))


def test_layers_count_alike_in_the_loss_of_weights(generator: Generator):
    layout, fields = TokenLayout.of(SPEC), some(10, generator)
    tokens = layout.tokens(fields.flat())
    assert weight_loss(tokens, tokens, layout) == 0
    for layer in range(SPEC.num_layers):
        at = layout.layers == layer
        mean = tokens[:, at][:, layout.mask[at]].mean()
        wrong = tokens.clone()
        wrong[:, at] = mean
        assert float(weight_loss(wrong, tokens, layout)) == pytest.approx(1 / SPEC.num_layers)


def test_windows_give_what_one_window_gives_where_they_see_as_much(generator: Generator):
    config = SANEConfig(latent=4, window=64, most=(64, 4, 32), **TINY)
    model, fields = built(config, generator).eval(), some(3, generator)
    tokens = model.layout.tokens(fields.flat())
    whole = model.encode_tokens(tokens, model.layout)
    where = model.positions(model.layout)
    torch.testing.assert_close(whole, model._encode(tokens, where, None))
    model.config = replace(config, window=5)
    cut = model.encode_tokens(tokens, model.layout)
    torch.testing.assert_close(cut[:, :5], model._encode(tokens[:, :5], where[:5], None))
    torch.testing.assert_close(cut[:, 10:], model._encode(tokens[:, 7:], where[7:], None)[:, 3:])


def test_one_network_reads_fields_of_another_size(generator: Generator):
    model = built(SANEConfig(latent=4, token=7, window=5, most=(64, 4, 32), **TINY), generator).eval()
    larger = SIREN(2, 1, hidden=(9, 8, 6))
    layout, fields = TokenLayout.of(larger, 7), some(3, generator, larger)
    latents = model.encode_tokens(layout.tokens(fields.flat()), layout)
    assert latents.shape == (3, layout.shape[0], 4)
    assert model.decode_tokens(latents, layout).shape == (3, *layout.shape)
    with pytest.raises(ValueError, match="tokens hold 10 numbers: expected 7"):
        model.positions(TokenLayout.of(larger))
    with pytest.raises(ValueError, match=r"most=\(64, 4, 32\): expected at least"):
        model.positions(TokenLayout.of(SIREN(2, 1, hidden=(40, 40)), 7))


def test_features_of_more_channels_are_refused(generator: Generator):
    model, fields = built(CONFIGS[0], generator), some(2, generator)
    features = weight_features(fields)
    doubled = WeightFeatures(
        tuple(w.repeat(1, 1, 1, 2) for w in features.weights), tuple(b.repeat(1, 1, 2) for b in features.biases)
    )
    with pytest.raises(ValueError, match="flat has shape"):
        model.encode(doubled)
