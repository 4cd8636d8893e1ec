"""FieldGenerator: tokens round-trip, samples depend on seed and number alone, a folder gives back the same bits."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

import wsnets.field_generator as module
from neuralfields import SIREN, FieldBatch
from neuralfields.testing import random_fields
from wsnets.diffusion import Diffusion
from wsnets.features import Normaliser, weight_features
from wsnets.field_generator import Codec, FieldGenerator, TokenDenoiser, build_denoiser
from wsnets.latents import Embedding
from wsnets.models import MLPConfig
from wsnets.models.hyper_diffusion import HyperDiffusionConfig
from wsnets.models.inr2vec import Inr2VecConfig

SPEC = SIREN(2, 1, hidden=(6, 5))
CONFIG = HyperDiffusionConfig(width=16, num_layers=1, num_heads=2, group=2)
SIGNAL = {"shape": [4, 4]}


@pytest.fixture
def fields(generator: Generator) -> FieldBatch:
    return random_fields(SPEC, 20, generator, torch.float32)


@pytest.fixture
def embedding(fields: FieldBatch, generator: Generator) -> Embedding:
    settings = Inr2VecConfig(encoder=(6, 8), rows="all", decoder=(7, 6), bands=2, points=8)
    model, normaliser = settings.build_autoencoder(SPEC, generator), Normaliser.fit("per_weight", [fields])
    model.encode(normaliser(weight_features(fields)))
    return Embedding(spec=SPEC, settings=settings, model=model.eval(), normaliser=normaliser)  # type: ignore[arg-type]


def made(generator: Generator, embedding: Embedding | None = None, token: int = 16) -> FieldGenerator:
    """A generator whose network does something, with statistics of its own."""
    codec = Codec(SPEC, embedding, token)
    model = build_denoiser(CONFIG, codec.shape, 3, generator)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        model.mean.copy_(torch.randn(codec.shape, generator=generator))
        model.std.copy_(codec.cut(torch.rand(1, codec.count, generator=generator) + 0.5)[0])
        model.limit.fill_(4.0)
    return FieldGenerator(
        spec=SPEC,
        settings=CONFIG,  # type: ignore[arg-type]
        model=model.eval(),
        normaliser=Normaliser("none"),
        diffusion=Diffusion(steps=20),
        token=token,
        classes=("a", "b", "c"),
        signal=SIGNAL,
        embedding=embedding,
    )


@pytest.mark.parametrize("token", [0, 1, 16, 59, 100])
def test_weights_become_tokens_and_come_back_bit_equal(token: int, fields: FieldBatch):
    codec = Codec(SPEC, None, token)
    tokens = codec.encode(fields)
    assert tokens.shape == (20, *codec.shape)
    assert torch.equal(codec.decode(tokens).flat(), fields.flat())
    assert int((codec.cut(torch.ones(1, codec.count)) == 1).sum()) == SPEC.num_params


@pytest.mark.parametrize("token", [0, 3, 8, 16])
def test_latents_become_tokens_and_are_decoded(token: int, fields: FieldBatch, embedding: Embedding):
    codec = Codec(SPEC, embedding, token)
    tokens = codec.encode(fields)
    assert tokens.shape == (20, *codec.shape)
    latents = embedding.encode(fields)
    assert torch.equal(codec.join(tokens).view_as(latents), latents)
    decoded = codec.decode(tokens)
    assert decoded.spec == embedding.decoded_spec == codec.generated_spec
    torch.testing.assert_close(decoded.flat(), embedding.decode(latents).flat())


def test_standardised_tokens_come_back_and_dead_numbers_stay_out(generator: Generator):
    model = TokenDenoiser(torch.nn.Identity(), (3, 4))
    model.std[1, 2] = 0.0
    model.mean.normal_(generator=generator)
    tokens = torch.randn(5, 3, 4, generator=generator)
    tokens[:, 1, 2] = model.mean[1, 2]
    standard = model.standardise(tokens)
    assert not standard[:, 1, 2].any()
    torch.testing.assert_close(model.restore(standard), tokens)
    assert float(model.alive.sum()) == 11


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
@pytest.mark.parametrize("latent", [False, True])
def test_a_sample_depends_on_seed_and_number_alone(method, latent, embedding, generator, monkeypatch):
    network = made(generator, embedding if latent else None)
    labels = np.arange(9) % 4 - 1
    how = {"guidance": 2.0, "steps": 10, "method": method, "seed": 5}
    whole = network.generate(9, labels, **how)
    assert whole.spec == network.generated_spec
    assert torch.isfinite(whole.flat()).all()
    alone = network.generate(1, labels[6:7], **how, first=6)
    torch.testing.assert_close(alone.flat(), whole[6].flat(), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(module, "_AT_ONCE", 4)
    torch.testing.assert_close(network.generate(9, labels, **how).flat(), whole.flat(), rtol=1e-4, atol=1e-5)
    monkeypatch.undo()
    assert torch.equal(network.generate(9, labels, **how).flat(), whole.flat())
    assert not torch.allclose(network.generate(9, labels, **{**how, "seed": 6}).flat(), whole.flat())


def test_classes_and_guidance_matter_and_guidance_one_is_conditional(generator: Generator):
    network = made(generator)
    base = network.generate(2, [0, 0], steps=10).flat()
    assert not torch.allclose(network.generate(2, [1, 1], steps=10).flat(), base)
    assert not torch.allclose(network.generate(2, [0, 0], guidance=3.0, steps=10).flat(), base)
    free = network.generate(2, steps=10).flat()
    assert torch.equal(network.generate(2, [-1, -1], steps=10).flat(), free)
    assert torch.equal(network.generate(2, [0, 0], guidance=0.0, steps=10).flat(), free)


def test_numbers_that_never_differed_keep_their_value(generator: Generator):
    network = made(generator)
    assert isinstance(network.model, TokenDenoiser)
    network.model.std[0, 3] = 0.0
    found = network.codec.encode(network.generate(3, steps=5))
    assert (found[:, 0, 3] == network.model.mean[0, 3]).all()


@pytest.mark.parametrize("latent", [False, True])
def test_a_folder_gives_back_the_same_bits_and_holds_all_it_needs(latent, embedding, generator, tmp_path: Path):
    network = made(generator, embedding if latent else None)
    network.save(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    again = FieldGenerator.load(tmp_path / "there")
    assert (again.settings, again.diffusion, again.classes) == (network.settings, network.diffusion, network.classes)
    assert (again.token, again.signal, again.digest()) == (network.token, SIGNAL, network.digest())
    assert torch.equal(
        again.generate(4, [0, 1, 2, -1], steps=5).flat(), network.generate(4, [0, 1, 2, -1], steps=5).flat()
    )


@pytest.mark.parametrize("key", FieldGenerator.kinds)
def test_a_damaged_description_is_one_line(key: str, generator: Generator, tmp_path: Path):
    made(generator).save(tmp_path)
    path = tmp_path / "network.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, key: None}))
    with pytest.raises(ValueError, match=rf"^{path}: {key}=None: expected [a-z ]+$"):
        FieldGenerator.load(tmp_path)
    path.write_text(json.dumps({name: value for name, value in about.items() if name != key}))
    with pytest.raises(ValueError, match=rf"^{path} has no {key}: expected all that training wrote$"):
        FieldGenerator.load(tmp_path)
    wrong = {"diffusion": {"speed": 3}, "shape": [16]}.get(key)
    if wrong is not None:
        path.write_text(json.dumps({**about, key: wrong}))
        with pytest.raises(ValueError, match=rf"^{path} is damaged: .+; expected what training wrote$"):
            FieldGenerator.load(tmp_path)


def test_digests_tell_generators_apart(embedding: Embedding):
    one, other = (made(Generator().manual_seed(seed)).digest() for seed in (1, 2))
    assert one != other
    assert made(Generator().manual_seed(1)).digest() == one
    assert made(Generator().manual_seed(1), embedding, 8).digest() != one


def test_what_is_refused(generator: Generator, embedding: Embedding, tmp_path: Path):
    network = made(generator)
    for call, words in (
        (lambda: network.generate(0), "count=0: expected a whole number from 1"),
        (lambda: network.generate(2, [0]), r"labels has shape \(1,\): expected \(2,\)"),
        (lambda: network.generate(1, [3]), "label=3: expected 0 to 2, or -1 for any"),
        (lambda: replace(network, classes=()).generate(1, [0]), "label=0: expected -1: it knows no classes"),
        (lambda: network.generate(1, steps=21), "steps=21: expected a whole number from 1 to 20"),
        (lambda: network.generate(1, steps=5, guidance=-1.0), "guidance=-1.0: expected"),
        (lambda: network.generate(1, steps=5, seed=-1), "seed=-1: expected"),
        (lambda: Codec(SPEC, None, -1), "token=-1: expected zero or more"),
        (lambda: Codec(SIREN(2, 1, hidden=(4, 4)), embedding, 4), "fields are sine 2-4-4-1"),
        (lambda: build_denoiser(MLPConfig(), (2, 3), 0, generator), "'mlp' generates nothing: expected one of hyper"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    embedding.save(tmp_path)
    with pytest.raises(ValueError, match="was trained to embed: expected one trained to generate"):
        FieldGenerator.load(tmp_path)
