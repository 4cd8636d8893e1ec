"""Training of generators: it learns the population, it resumes bit for bit, what it is given, what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from wsnets.augment import AugmentConfig
from wsnets.features import Normaliser
from wsnets.field_generator import Codec, FieldGenerator, TokenDenoiser, build_denoiser
from wsnets.models.hyper_diffusion import HyperDiffusionConfig
from wsnets.models.inr2vec import Inr2VecConfig
from wsnets.tasks.embed import EmbedConfig, embed
from wsnets.tasks.field_task import Prepared
from wsnets.tasks.generate import GenerateConfig, GenerateTask, generate, moments
from wsnets.train import TrainProgress

SMALL = HyperDiffusionConfig(width=16, num_layers=1, num_heads=2)
CONFIG = GenerateConfig(model=SMALL, epochs=3, batch=32, lr=3e-3, val_fraction=0.2, token=16, noise_steps=50)  # type: ignore[arg-type]
EMBED = Inr2VecConfig(encoder=(8, 12), rows="all", latent_norm=True, decoder=(8, 8), bands=2, points=16)


class StoppedError(Exception):
    pass


def results(folder: Path) -> dict[str, bytes]:
    """The files that must be equal after a resume (training.json holds seconds)."""
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "network.json", "curves.csv")}


@pytest.fixture
def latents(population, tmp_path: Path) -> str:
    """Folder of an embedding that was hardly trained."""
    embed(population, EmbedConfig(model=EMBED, epochs=1, batch=32), tmp_path / "embedding")  # type: ignore[arg-type]
    return str(tmp_path / "embedding")


def test_it_learns_the_classes_of_the_population(population, tmp_path: Path):
    config = replace(CONFIG, epochs=25, epoch_items=960, lr=1e-2, ema=0.9, model=replace(SMALL, width=32))
    network = generate(population, config, tmp_path)
    history = network.training["history"]
    assert history[-1]["val_loss"] < 0.9 * history[0]["val_loss"]
    flat = population.fields.flat()
    means = torch.stack([flat[population.labels == label].mean(0) for label in range(3)])
    labels = np.arange(60) % 3
    found = network.generate(60, labels, steps=25).flat()
    distances = torch.cdist((found - flat.mean(0)) / flat.std(0), (means - flat.mean(0)) / flat.std(0))
    assert float((distances.argmin(1).numpy() == labels).mean()) > 0.9
    spread = (found - means[labels]).std(0) / (flat - means[population.labels]).std(0)
    assert 0.5 < float(spread.mean()) < 1.5


@pytest.mark.parametrize("latent", [False, True])
def test_stopped_after_any_epoch_and_resumed_is_bit_identical(latent, population, latents: str, tmp_path: Path):
    config = replace(CONFIG, latents=latents if latent else "", token=4)
    generate(population, config, tmp_path / "whole")

    def stop(now: TrainProgress) -> None:
        if now.epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        generate(population, config, tmp_path / "cut", stop)
    network = generate(population, config, tmp_path / "cut")
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    again = FieldGenerator.load(tmp_path / "cut")
    assert (again.embedding is not None) == latent
    assert torch.equal(again.generate(3, [0, 1, 2]).flat(), network.generate(3, [0, 1, 2]).flat())


def task_of(population, config: GenerateConfig) -> tuple[GenerateTask, TokenDenoiser]:
    codec = config.codec(population)
    model = build_denoiser(config.settings, codec.shape, 3, Generator().manual_seed(0))
    task = GenerateTask(Prepared.of(population, config), config, codec)
    task.fit(model)
    return task, model


@pytest.mark.parametrize("token", [0, 16])
@pytest.mark.parametrize("mode", ["per_weight", "per_layer", "none"])
def test_training_tokens_are_standardised_as_the_normaliser_says(token: int, mode, population):
    task, model = task_of(population, replace(CONFIG, token=token, normalise=mode))
    tokens = torch.cat(list(task._pieces()))
    standard = model.standardise(tokens)
    expected = Normaliser.fit(mode, [task.fetch(torch.arange(task.num_items))[0]])
    assert float(model.limit) == pytest.approx(float(standard.abs().max()))
    assert int(model.alive.sum()) <= population.spec.num_params
    if mode == "per_weight":
        living = model.alive.bool()
        assert float(standard[:, living].std(0, correction=0).sub(1).abs().max()) < 1e-3
    elif mode == "per_layer":
        assert torch.unique(model.std[model.alive.bool()]).numel() == len(expected.std)
    else:
        assert torch.equal(standard, tokens)


def test_latents_are_standardised_number_by_number_and_encoded_once(population, latents: str):
    config = replace(CONFIG, latents=latents, token=0)
    task, model = task_of(population, config)
    assert task.tokens is not None
    standard = model.standardise(task.tokens)
    torch.testing.assert_close(standard.std(0, correction=0), model.alive, atol=1e-3, rtol=0)
    streamed, other = task_of(population, replace(config, memory_mb=0))
    assert streamed.tokens is None
    torch.testing.assert_close(other.std, model.std)
    losses = [
        one.loss(net, one.fetch(torch.arange(8)), Generator().manual_seed(1)).item()
        for one, net in ((task, model), (streamed, other))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    augmented, _ = task_of(population, replace(config, augment=AugmentConfig(shift=0.1)))
    assert augmented.tokens is None


def test_moments_of_pieces_are_those_of_the_whole(generator: Generator, population):
    codec = Codec(population.spec, None, 16)
    tokens = 3 + torch.randn(50, *codec.shape, generator=generator)
    tokens[:, 1, 1] = 7.0
    mean, std = moments(iter(tokens.split(13)), codec)
    torch.testing.assert_close(mean, tokens.mean(0))
    torch.testing.assert_close(std, tokens.std(0, correction=0))
    assert std[1, 1] == 0


@torch.no_grad()
def test_a_network_that_gives_nothing_has_the_loss_of_its_target(population):
    config = replace(CONFIG, prediction="eps")
    task, model = task_of(population, config)
    losses = [task.loss(model, task.fetch(torch.arange(180)), Generator().manual_seed(k)).item() for k in range(5)]
    assert np.mean(losses) == pytest.approx(1.0, abs=0.03)
    assert task.validate(model) == task.validate(model)


def test_labels_are_dropped_or_never_told(population):
    told: list[torch.Tensor] = []

    class Ear(torch.nn.Module):
        def forward(self, tokens: torch.Tensor, time: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
            told.append(classes)
            return tokens * 0

    for conditional, share in ((True, 0.3), (False, 1.0)):
        config = replace(CONFIG, conditional=conditional, p_drop=0.3)
        task, model = task_of(population, config)
        model.denoiser = Ear()
        told.clear()
        for seed in range(5):
            task.loss(model, task.fetch(torch.arange(180)), Generator().manual_seed(seed))
        heard = torch.stack(told)
        assert float((heard == -1).float().mean()) == pytest.approx(share, abs=0.05)
        expected = torch.from_numpy(np.asarray(task.prepared.train.labels)[:180])
        assert (heard == expected)[heard >= 0].all()


def test_unconditional_training_needs_no_labels_and_shows_every_epoch(population, tmp_path: Path):
    unlabelled = replace(population, labels=np.full(240, -1))
    seen: list[int] = []
    config = replace(CONFIG, conditional=False)
    network = generate(unlabelled, config, tmp_path, show=lambda shown: seen.append(len(shown.generate(2, steps=2))))
    assert seen == [2, 2, 2]
    assert network.classes == ()
    with pytest.raises(ValueError, match="240 of 240 fields have no label"):
        generate(unlabelled, CONFIG, tmp_path / "other")


def test_settings_round_trip_and_are_checked(population, tmp_path: Path):
    assert GenerateConfig.from_json(CONFIG.to_json()) == CONFIG
    for options in ({"p_drop": 1.0}, {"gamma": -1.0}, {"token": -1}, {"prediction": "y"}, {"noise_schedule": "z"}):
        (name,) = options
        with pytest.raises(ValueError, match=f"{name}=.*: expected"):
            replace(CONFIG, **options)
    with pytest.raises(ValueError, match="noise_steps=1: expected a whole number from 2"):
        replace(CONFIG, noise_steps=1)
    with pytest.raises(ValueError, match="'mlp' generates nothing"):
        generate(population, replace(CONFIG, model="mlp"), tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        generate(population, replace(CONFIG, latents=str(tmp_path / "none")), tmp_path / "a")
