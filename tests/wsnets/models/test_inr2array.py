"""INR2Array: a plain twin of its reading, what its latents depend on, fields decoded from them, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from neuralfields import SIREN, FieldSpec, HashField, ReLUField, evaluate
from neuralfields.inits import SHARED_ID, draw
from neuralfields.testing import assert_invariant, random_fields
from wsnets import models
from wsnets.features import Normaliser, WeightFeatures, weight_features
from wsnets.models.inr2array import Inr2Array, Inr2ArrayConfig
from wsnets.models.inr2array_layers import ChangeDecoder, LatentRead

SPEC = SIREN(3, 2, hidden=(5, 3, 7), w0=5.0)
TINY = Inr2ArrayConfig(
    num_frequencies=4,
    num_blocks=2,
    num_heads=2,
    factor=2,
    tokens=3,
    token_width=4,
    reads=2,
    latent_heads=2,
    num_mixes=1,
    decoder=(6,),
    points=16,
)


def made(generator: Generator, config: Inr2ArrayConfig = TINY) -> Inr2Array:
    """A model in float64 whose normalisation has statistics of its own."""
    model = config.build_autoencoder(SPEC, generator).double()
    with torch.no_grad():
        for _ in range(20):
            model.encode(weight_features(random_fields(SPEC, 16, generator)), generator)
    return model.eval()


def test_latents_do_not_depend_on_the_order_of_neurons(generator: Generator):
    model = made(generator)
    assert_invariant(lambda fields: model.encode(weight_features(fields)), SPEC, TINY.symmetry(SPEC), generator)


def test_latents_depend_on_the_signs_of_neurons(generator: Generator):
    model = made(generator)
    with pytest.raises(AssertionError, match="not invariant"):
        assert_invariant(lambda fields: model.encode(weight_features(fields)), SPEC, ("sign",), generator)


def test_statistics_of_layers_keep_latents_invariant_and_those_of_weights_do_not(generator: Generator):
    model, seen = made(generator), [random_fields(SPEC, 50, generator)]
    by_layer, by_weight = Normaliser.fit("per_layer", seen), Normaliser.fit("per_weight", seen)
    assert TINY.normalise == "per_layer"
    assert_invariant(lambda fields: model.encode(by_layer(weight_features(fields))), SPEC, ("permutation",), generator)
    with pytest.raises(AssertionError, match="not invariant"):
        assert_invariant(lambda f: model.encode(by_weight(weight_features(f))), SPEC, ("permutation",), generator)


def test_every_weight_changes_the_latents(generator: Generator):
    model, field = made(generator), random_fields(SPEC, 1, generator)
    flat = [x.clone().requires_grad_() for x in weight_features(field).tensors]
    latents = model.encode(WeightFeatures(tuple(flat[0::2]), tuple(flat[1::2])))
    (latents * torch.randn(latents.shape, generator=generator)).sum().backward()
    assert all(x.grad is not None and x.grad.abs().min() > 0 for x in flat)


def test_a_batch_is_its_fields_one_by_one_and_a_large_one_is_cut(generator: Generator):
    model, fields = made(generator), random_fields(SPEC, 67, generator)
    latents = model.encode(weight_features(fields))
    assert latents.shape == (67, *model.latent_shape)
    singles = torch.cat([model.encode(weight_features(fields[i])) for i in (0, 63, 64, 66)])
    torch.testing.assert_close(latents[[0, 63, 64, 66]], singles, rtol=1e-11, atol=1e-12)
    decoded = torch.cat([model.decode(z[None]).flat() for z in latents[:3]])
    torch.testing.assert_close(model.decode(latents).flat()[:3], decoded, rtol=1e-11, atol=1e-12)


def _read(reader: LatentRead, x: Tensor) -> Tensor:
    """The formula for one field (P, C): one query at a time."""
    x = reader.norm(x)
    seen = torch.cat([(x @ query / len(query) ** 0.5).softmax(0) @ x for query in reader.queries])
    heard = reader.standardise(seen[None]).view(len(reader.gather), -1)
    return torch.stack([h @ a + b for h, a, b in zip(heard, reader.gather, reader.bias, strict=True)])


def test_latents_are_read_as_the_formula_says(generator: Generator):
    reader = LatentRead(6, (3, 4), 2, 2, 0, generator).double()
    x = torch.randn(20, 9, 6, generator=generator, dtype=torch.float64)
    reader(reader.look(x))
    reader.eval()
    expected = torch.stack([_read(reader, field) for field in x])
    torch.testing.assert_close(reader(reader.look(x)), expected, rtol=1e-11, atol=1e-12)


def test_decoded_fields_depend_on_all_that_is_trained(generator: Generator):
    model, fields = made(generator).train(), random_fields(SPEC, 8, generator)
    decoded = model.decode(model.encode(weight_features(fields), generator))
    assert decoded.spec == model.decoded_spec == SPEC
    values = evaluate(decoded, torch.rand(20, 3, generator=generator, dtype=torch.float64) * 2 - 1)
    assert values.isfinite().all()
    (values * torch.randn(values.shape, generator=generator)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("spec", [SIREN(2, 1, hidden=(4, 6)), ReLUField(2, 1, (4, 6))], ids=["sine", "relu"])
def test_fields_are_decoded_around_a_start_of_their_kind(spec: FieldSpec, generator: Generator):
    decoder = ChangeDecoder(spec, 5, (7,), generator)
    start = draw(spec, np.array([SHARED_ID], np.uint32)).flat()[0]
    assert torch.equal(decoder.base.detach(), start)
    change = decoder(torch.randn(3, 5, generator=generator)) - start
    assert (change != 0).all()
    assert change.abs().mean() < 0.2 * start.abs().mean()


def test_training_lowers_the_loss_and_another_seed_gives_another_model(generator: Generator):
    model, fields = TINY.build_autoencoder(SPEC, generator), random_fields(SPEC, 8, generator, torch.float32)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(25):
        loss = model.loss(fields, weight_features(fields), torch.Generator().manual_seed(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    first, again, other = (TINY.build_autoencoder(SPEC, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.reader.queries, other.reader.queries)


def test_state_and_settings_round_trip(generator: Generator):
    model, fields = made(generator), random_fields(SPEC, 3, generator)
    settings = models.from_json(models.to_json(TINY))  # type: ignore[arg-type]
    assert settings == TINY
    again = models.build(settings, SPEC, 0, torch.Generator().manual_seed(9)).double().eval()
    again.load_state_dict(model.state_dict())
    assert isinstance(again, Inr2Array)
    latents = model.encode(weight_features(fields))
    assert torch.equal(again.encode(weight_features(fields)), latents)
    assert torch.equal(again.decode(latents).flat(), model.decode(latents).flat())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "tokens=0: expected a whole number from 1"),
        ({"num_mixes": -1}, "num_mixes=-1: expected a whole number from 0"),
        ({"latent_heads": 3}, "latent_heads=3: expected a divisor of token_width=4"),
        ({"num_heads": 3}, "num_heads=3: expected a divisor of the 8 channels"),
        ({"decoder": ()}, "decoder=\\(\\): expected one positive width"),
        ({"decoder": (4, 0)}, "decoder=\\(4, 0\\): expected one positive width"),
    ],
)
def test_settings_that_make_no_sense_are_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **options)


def test_fields_that_are_not_dense_alone_are_refused(generator: Generator):
    with pytest.raises(ValueError, match="inr2array takes dense layers only"):
        Inr2ArrayConfig.small().build_autoencoder(HashField(2, 1), generator)
