"""Training of latents: it learns, it resumes bit for bit, its figures are those of the network, what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from neuralfields import FieldBatch, evaluate
from neuralfields.grids import image_coords
from wsnets import Subset
from wsnets.data import held_out
from wsnets.latents import Embedding, reconstruction
from wsnets.models import MLPConfig
from wsnets.models.inr2vec import Inr2VecConfig
from wsnets.tasks.embed import POINTS, EmbedConfig, embed, judged_at
from wsnets.train import TrainProgress

SMALL = Inr2VecConfig(
    encoder=(16, 24), rows="all", row_embedding=True, latent_norm=True, decoder=(24, 24), bands=2, points=32
)
CONFIG = EmbedConfig(model=SMALL, epochs=3, batch=32, lr=3e-3, val_fraction=0.2, noise=0.1)


class StoppedError(Exception):
    pass


def results(folder: Path) -> dict[str, bytes]:
    """The files that must be equal after a resume (training.json holds seconds)."""
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "network.json", "curves.csv")}


def test_it_learns_what_fields_show(population, generator: Generator, tmp_path: Path):
    pattern = torch.randn(3, population.spec.num_params, generator=generator)[torch.from_numpy(population.labels)]
    apart = replace(population.with_flat(population.fields.flat() + 0.05 * pattern), meta={"signal": {"shape": [9, 9]}})
    config = replace(CONFIG, epochs=25, noise=0.0, epoch_items=400, lr=1e-2)
    embedding = embed(apart, config, tmp_path)
    again, coords = Embedding.load(tmp_path), image_coords(apart.spec, (28, 28))
    latents = again.encode(apart.fields)
    assert torch.equal(latents, embedding.encode(apart.fields))
    wanted = evaluate(apart.fields, coords)
    error = (evaluate(again.decode(latents), coords) - wanted).square().mean()
    assert error < 0.6 * (wanted - wanted.mean(0)).square().mean()


def test_the_figures_are_those_of_the_network(population, tmp_path: Path):
    embedding = embed(population, CONFIG, tmp_path)
    held = Subset(population, np.flatnonzero(held_out(population.ids, CONFIG.val_fraction, CONFIG.seed)))
    fields = held[np.arange(len(held))]
    decoded = embedding.decode(embedding.encode(fields))
    psnr, mse = reconstruction(decoded, fields, judged_at(population, Generator()), clip=True)
    assert embedding.training["val_psnr"] == pytest.approx(float(psnr.mean()), rel=1e-4)
    assert embedding.training["val_mse"] == pytest.approx(float(mse.mean()), rel=1e-4)
    best = min(embedding.training["history"], key=lambda row: row["val_mse"])
    assert embedding.training["best_epoch"] == best["epoch"]


def test_stopped_after_an_epoch_and_resumed_is_bit_identical(population, tmp_path: Path):
    embed(population, CONFIG, tmp_path / "whole")

    def stop(now: TrainProgress) -> None:
        if now.epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        embed(population, CONFIG, tmp_path / "cut", stop)
    embed(population, CONFIG, tmp_path / "cut")
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_it_is_judged_on_the_pixels_of_the_store_or_at_random_points(population, generator: Generator):
    small = replace(population, meta={"signal": {"shape": [6, 5]}})
    assert torch.equal(judged_at(small, generator), image_coords(population.spec, (6, 5)))
    assert judged_at(population, generator).shape == (28 * 28, 2)
    volume = replace(population.spec, in_dim=3)
    fields = FieldBatch.from_flat(volume, torch.zeros(240, volume.num_params))
    points = judged_at(replace(population, fields=fields), generator)
    assert points.shape == (POINTS, 3)
    assert points.abs().max() <= 1.0


def test_settings_round_trip_and_readers_are_refused(population, tmp_path: Path):
    assert EmbedConfig.from_json(CONFIG.to_json()) == CONFIG
    assert EmbedConfig() == EmbedConfig(model=Inr2VecConfig())
    with pytest.raises(ValueError, match=r"model='mlp' gives no latents .*: expected one of inr2vec"):
        embed(population, EmbedConfig(model=MLPConfig()), tmp_path / "a")
    assert not (tmp_path / "a").exists()
