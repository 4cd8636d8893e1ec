"""Embedding: pieces are the whole, a folder gives back the same bits, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from neuralfields import SIREN, FieldBatch, ReLUField, evaluate
from neuralfields.testing import random_fields
from wsnets import Reader
from wsnets.autoencoder import random_coords
from wsnets.features import Normaliser, weight_features
from wsnets.latents import Embedding, build_autoencoder, reconstruction
from wsnets.models import MLPConfig
from wsnets.models.inr2vec import Inr2VecConfig

SPEC = SIREN(2, 1, hidden=(6, 5))
CONFIG = Inr2VecConfig(
    encoder=(6, 8), rows="all", row_embedding=True, latent_norm=True, decoder=(7, 6), bands=2, points=8
)


@pytest.fixture
def fields(generator: Generator) -> FieldBatch:
    return random_fields(SPEC, 40, generator, torch.float32)


@pytest.fixture
def embedding(fields: FieldBatch, generator: Generator) -> Embedding:
    model, normaliser = CONFIG.build_autoencoder(SPEC, generator), Normaliser.fit("per_weight", [fields])
    model.encode(normaliser(weight_features(fields)))
    return Embedding(spec=SPEC, settings=CONFIG, model=model.eval(), normaliser=normaliser)


def grid(generator: Generator) -> Tensor:
    return 2 * torch.rand(9, 2, generator=generator) - 1


def test_pieces_are_the_whole(
    embedding: Embedding, fields: FieldBatch, generator: Generator, monkeypatch: pytest.MonkeyPatch
):
    latents = embedding.encode(fields)
    assert latents.shape == (40, *embedding.latent_shape)
    assert (latents.dtype, latents.device.type, latents.requires_grad) == (torch.float32, "cpu", False)
    assert torch.equal(embedding.vectors(fields), latents.flatten(1))
    decoded, coords = embedding.decode(latents), grid(generator)
    assert decoded.spec == embedding.decoded_spec
    assert not any(value.requires_grad for value in decoded.parameters.values())
    monkeypatch.setattr(Inr2VecConfig, "fields_at_once", 2)
    torch.testing.assert_close(embedding.encode(fields), latents, rtol=1e-5, atol=1e-6)
    pieces = embedding.decode(latents)
    torch.testing.assert_close(evaluate(pieces, coords), evaluate(decoded, coords), rtol=1e-5, atol=1e-6)


def test_a_batch_is_its_fields_alone(embedding: Embedding, fields: FieldBatch):
    alone = torch.cat([embedding.encode(field) for field in fields])
    torch.testing.assert_close(embedding.encode(fields), alone, rtol=1e-5, atol=1e-6)


def test_a_model_in_training_mode_encodes_the_same_and_stays_in_it(embedding: Embedding, fields: FieldBatch):
    expected, state = embedding.encode(fields), {k: v.clone() for k, v in embedding.model.state_dict().items()}
    embedding.model.train()
    assert torch.equal(embedding.encode(fields), expected)
    embedding.decode(expected)
    assert embedding.model.training
    assert all(torch.equal(value, state[name]) for name, value in embedding.model.state_dict().items())


def test_a_folder_gives_back_the_same_bits(embedding: Embedding, fields: FieldBatch, tmp_path: Path):
    embedding.save(tmp_path)
    again = Embedding.load(tmp_path)
    assert again.settings == CONFIG
    assert (again.latent_shape, again.decoded_spec) == (embedding.latent_shape, embedding.decoded_spec)
    latents = embedding.encode(fields)
    assert torch.equal(again.encode(fields), latents)
    assert torch.equal(again.decode(latents).flat(), embedding.decode(latents).flat())
    assert again.autoencoder.normaliser is again.normaliser
    with pytest.raises(ValueError, match="was trained to embed: expected one trained to classify"):
        Reader.load(tmp_path)


def test_reconstruction_is_that_of_the_formula(fields: FieldBatch, generator: Generator):
    coords, others = grid(generator), random_fields(SPEC, 40, generator, torch.float32)
    f, g = evaluate(fields, coords), evaluate(others, coords)
    psnr, mse = reconstruction(others, fields, coords, clip=True)
    torch.testing.assert_close(mse, (f - g).square().mean((1, 2)))
    torch.testing.assert_close(psnr, -10 * (f.clip(0, 1) - g.clip(0, 1)).square().mean((1, 2)).clip(1e-10).log10())
    unclipped, _ = reconstruction(others, fields, coords, clip=False)
    torch.testing.assert_close(unclipped, -10 * mse.log10())
    assert reconstruction(fields, fields, coords, clip=True)[0].tolist() == pytest.approx([100.0] * 40)


def test_refusals(embedding: Embedding, fields: FieldBatch, generator: Generator):
    with pytest.raises(ValueError, match=r"latents has shape \(2, 8\): expected \(N, 1, 8\)"):
        embedding.decode(torch.zeros(2, 8))
    with pytest.raises(ValueError, match=r"fields are .*: expected .*; hidden"):
        embedding.encode(random_fields(SIREN(2, 1, hidden=(6, 6)), 2, generator))
    for read in (embedding.encode, embedding.vectors):
        with pytest.raises(ValueError, match="fields is empty: expected at least one field"):
            read(fields[:0])
    flat = fields.flat().clone()
    flat[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite weights"):
        embedding.encode(FieldBatch.from_flat(SPEC, flat))
    with pytest.raises(ValueError, match=r"model='mlp' gives no latents .*: expected one of inr2vec, "):
        build_autoencoder(MLPConfig(), SPEC, generator)


def test_points_of_shapes_gather_where_some_field_shows_something(generator: Generator):
    spec = ReLUField(3, 1, hidden=(1,))
    slabs = [[20.0, 0.0, 0.0, -18.0, 1.0, 0.0], [0.0, 20.0, 0.0, -18.0, 1.0, 0.0]]  # 0 but where x or y is above 0.9
    coords = random_coords(FieldBatch.from_flat(spec, torch.tensor(slabs)), 401, generator)
    assert coords.shape == (401, 3)
    assert float(coords.abs().max()) <= 1
    inside = (coords[:, :2] > 0.9).any(1)
    assert bool(inside[201:].all())
    assert float(inside[:201].float().mean()) < 0.3
    assert random_coords(random_fields(SPEC, 2, generator, torch.float32), 10, generator).shape == (10, 2)
