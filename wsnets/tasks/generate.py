"""Generate: learn to take noise out of fields' weights, or out of latents of them, so that new fields can be made.

Legend: N fields, T tokens of D numbers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields.batch import FieldBatch
from wsnets import models
from wsnets.config import FieldConfig
from wsnets.data import Population, class_names
from wsnets.diffusion import Diffusion, Prediction, Schedule
from wsnets.features import Normaliser
from wsnets.field_generator import Codec, FieldGenerator, TokenDenoiser, build_denoiser
from wsnets.latents import Embedding
from wsnets.loop import STREAM_MODEL, check, generator
from wsnets.tasks.field_task import FieldTask, Prepared

if TYPE_CHECKING:
    from wsnets.train import TrainProgress

# A number whose spread is below this share of the rest's size is the same in all fields.
_RELATIVE_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(FieldConfig):
    """Settings of training a generator of fields, beside those of FieldConfig; model: one of models.generators().

    conditional: learn the classes of the population, p_drop of the time without them, so that samples can be guided;
    prediction, schedule, noise_steps: see diffusion.Diffusion; gamma: of its weight, 0 for none; latents: folder of
    an embedding whose latents are generated ("": the weights themselves are); token: see field_generator.Codec.
    normalise is of weights; each number of a latent is standardised. ema: longer than for readers, as is usual here.
    Raises ValueError for values outside these.
    """

    model: str | models.ModelConfig = "hyper_diffusion"
    ema: float = 0.999
    conditional: bool = True
    p_drop: float = 0.1
    prediction: Prediction = "v"
    noise_schedule: Schedule = "cosine"
    noise_steps: int = 1000
    gamma: float = 0.0
    latents: str = ""
    token: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check("p_drop", self.p_drop, 0 <= self.p_drop < 1, "a number in [0, 1)")
        for name in ("gamma", "token"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "zero or more")
        for name, allowed in (("prediction", Prediction), ("noise_schedule", Schedule)):
            known = get_args(allowed)
            check(name, getattr(self, name), getattr(self, name) in known, f"one of {', '.join(known)}")
        check("noise_steps", self.noise_steps, self.noise_steps >= 2, "a whole number from 2")

    @property
    def diffusion(self) -> Diffusion:
        """How noise is added."""
        return Diffusion(schedule=self.noise_schedule, steps=self.noise_steps, prediction=self.prediction)

    def codec(self, population: Population) -> Codec:
        """How fields become tokens. Raises ValueError for an embedding of other fields."""
        embedding = Embedding.load(self.latents) if self.latents else None
        return Codec(population.spec, embedding, self.token)


class GenerateTask(FieldTask):
    """mean over items, steps t and living numbers of weight(t) (model(x_t, t / T, class) - target)^2.

    Latents are encoded once, for all fields; with augmentation, or where memory_mb cannot hold them, for every batch.
    `model` of `loss` and `validate` is the TokenDenoiser that `fit` has told what the tokens are like. show: called
    after every epoch with the averaged model.
    """

    config: GenerateConfig

    def __init__(
        self,
        prepared: Prepared,
        config: GenerateConfig,
        codec: Codec,
        show: Callable[[nn.Module], None] | None = None,
    ) -> None:
        super().__init__(prepared, config)
        self.codec, self.diffusion, self.show = codec, config.diffusion, show
        self._labels = torch.from_numpy(np.asarray(prepared.train.labels).astype(np.int64))
        self._val_labels = torch.from_numpy(np.asarray(prepared.val.labels).astype(np.int64))
        self.tokens: Tensor | None = None
        size_mb = self.num_items * codec.shape[0] * codec.shape[1] * 4 / 2**20
        if codec.embedding is not None and config.augment.off and size_mb <= config.memory_mb:
            self.tokens = torch.cat(list(self._pieces()))

    def fit(self, model: TokenDenoiser) -> None:
        """Give the model mean, std and limit of the training tokens."""
        if self.codec.embedding is None:
            mean, std = weight_statistics(self.prepared.normaliser, self.codec)
        else:
            mean, std = moments(self._pieces(), self.codec)
        model.mean.copy_(mean)
        model.std.copy_(std)
        model.limit.copy_(max(model.standardise(piece).abs().max() for piece in self._pieces()))

    def fetch(self, positions: Tensor) -> tuple[FieldBatch | Tensor, Tensor]:
        """Training fields at positions (B,), or their tokens where these are at hand, and the positions."""
        if self.tokens is not None:
            return self.tokens[positions], positions
        return super().fetch(positions)

    def loss(self, model: nn.Module, batch: tuple[FieldBatch | Tensor, Tensor], generator: Generator) -> Tensor:
        """Mean loss of fetched training items."""
        items, positions = batch
        if isinstance(items, FieldBatch):
            items = self.codec.encode(self.augmented(items, generator))
        device, classes = generator.device, self._labels[positions].to(generator.device)
        dropped = torch.rand(len(classes), generator=generator, device=device) < self.config.p_drop
        t = torch.randint(1, self.diffusion.steps + 1, (len(classes),), generator=generator, device=device)
        return self._loss(model, items.to(device), t, self._told(classes, dropped), generator)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The same loss on held-out items, steps spread evenly and the same noise every time; the score is minus it."""
        if self.show is not None:
            self.show(model)
        if self.num_held_out == 0:
            return {}
        device, total = next(model.parameters()).device, 0.0
        draws = generator(self.config.seed, STREAM_MODEL, 4, device=device)
        order = torch.randperm(self.num_held_out, generator=draws, device=device)
        for positions, fields in self.held_out(device, 256):
            t = 1 + order[positions.to(device)] * self.diffusion.steps // self.num_held_out
            classes = self._told(
                self._val_labels[positions].to(device), torch.zeros(1, dtype=torch.bool, device=device)
            )
            tokens = self.codec.encode(fields).to(device)
            total += float(self._loss(model, tokens, t, classes, draws)) * len(positions)
        return {"val_loss": total / self.num_held_out, "score": -total / self.num_held_out}

    def _loss(self, model: nn.Module, tokens: Tensor, t: Tensor, classes: Tensor, draws: Generator) -> Tensor:
        assert isinstance(model, TokenDenoiser)
        clean = model.standardise(tokens)
        noise = torch.randn(clean.shape, generator=draws, device=draws.device) * model.alive
        predicted = model(self.diffusion.noised(clean, t, noise), t / self.diffusion.steps, classes)
        errors = (predicted.float() - self.diffusion.target(clean, noise, t)).square().sum(dim=(1, 2))
        weights = self.diffusion.weight(t, self.config.gamma).to(errors)
        return (weights * errors).mean() / model.alive.sum().clamp_min(1)

    def _told(self, classes: Tensor, dropped: Tensor) -> Tensor:
        return torch.where(dropped, -1, classes) if self.config.conditional else torch.full_like(classes, -1)

    def _pieces(self) -> Iterator[Tensor]:
        """Tokens of all training fields, in order."""
        for positions in torch.arange(self.num_items).split(1024):
            if self.tokens is not None:
                yield self.tokens[positions]
            else:
                yield self.codec.encode(self._train[positions].to(torch.float32))


def weight_statistics(normaliser: Normaliser, codec: Codec) -> tuple[Tensor, Tensor]:
    """Mean and std of weights, (T, D) each, as a normaliser has them; 0 where a token is filled up."""
    if normaliser.mode == "none":
        return torch.zeros(codec.shape), codec.cut(torch.ones(1, codec.count))[0]
    found = []
    for values in (normaliser.mean, normaliser.std):
        parts = zip(values, codec.spec.shapes.values(), strict=True)
        flat = torch.cat([value.squeeze(-1).expand(shape).flatten() for value, shape in parts])
        found.append(codec.cut(flat.unsqueeze(0))[0])
    return found[0], found[1]


def moments(pieces: Iterator[Tensor], codec: Codec) -> tuple[Tensor, Tensor]:
    """Mean and std (T, D) of every number over all tokens, gathered piece by piece; std 0 where all are the same."""
    count, mean = 0, torch.zeros(codec.shape, dtype=torch.float64)
    squares = torch.zeros_like(mean)
    for piece in pieces:
        own, number = piece.double().mean(0), len(piece)
        shift, total = own - mean, count + number
        squares += (piece.double() - own).square().sum(0) + shift.square() * (count * number / total)
        mean, count = mean + shift * (number / total), total
    std = (squares / count).sqrt()
    size = (std.square() + mean.square()).mean().sqrt()
    return mean.float(), torch.where(std > _RELATIVE_FLOOR * size, std, torch.zeros_like(std)).float()


def generate(
    population: Population,
    config: GenerateConfig | None = None,
    out: str | Path = "runs/generator",
    progress: Callable[["TrainProgress"], None] | None = None,
    step: Callable[[float, float], None] | None = None,
    show: Callable[[FieldGenerator], None] | None = None,
) -> FieldGenerator:
    """Train a generator of fields; return it, also stored in the folder `out`; as `train.classify`.

    show: called after every epoch with the generator of the averaged weights, to look at its samples. Raises ValueError
    for a model that generates nothing, an embedding of other fields, and labels missing where config.conditional.
    """
    from wsnets.train import Watch, train_network  # which itself gives this function to the world

    config = config or GenerateConfig.tuned("hyper_diffusion")
    classes = class_names(population) if config.conditional else ()
    codec = config.codec(population)
    model = build_denoiser(config.settings, codec.shape, len(classes), generator(config.seed, STREAM_MODEL, 0))
    prepared = Prepared.of(population, config)
    added = {
        "diffusion": config.diffusion,
        "token": codec.token,
        "classes": classes,
        "embedding": codec.embedding,
        "signal": population.meta.get("signal") or {},
    }

    def look(average: nn.Module) -> None:
        if show is not None:
            show(
                FieldGenerator(
                    spec=population.spec,
                    settings=config.settings,
                    model=average,
                    normaliser=prepared.normaliser,
                    aligner=prepared.aligner,
                    **added,
                )
            )

    task = GenerateTask(prepared, config, codec, look)
    task.fit(model)
    said = {"classes": list(classes), "latents": None if codec.embedding is None else codec.embedding.digest()}
    return train_network(FieldGenerator, model, task, population, said, added, Path(out), Watch(progress, step))
