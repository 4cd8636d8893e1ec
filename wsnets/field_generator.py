"""FieldGenerator: a trained diffusion that makes new fields, from their weights themselves or from latents of them.

Legend: N fields, T tokens of D numbers, P numbers of a field or a latent.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from wsnets import checkpoint, models
from wsnets.diffusion import Denoiser, Diffusion, Method, counted_noise, guided
from wsnets.latents import Embedding
from wsnets.network import Network, check_spec, digest, fresh, read_about
from wsnets.tokens import TokenLayout

EMBEDDING = "embedding"  # folder of the embedding, inside that of the generator
_AT_ONCE = 256


@dataclass(frozen=True)
class Codec:
    """Fields <-> tokens (N, T, D): their weights in storage order, or the numbers of their latents, cut into tokens.

    token: D, the last token being filled up with zeros; 0: tokens.TokenLayout's rows of weights, or latents as they
    are. Raises ValueError for a negative size, for rows of other than dense layers, and for an embedding of others.
    """

    spec: FieldSpec
    embedding: Embedding | None
    token: int

    def __post_init__(self) -> None:
        if self.token < 0:
            raise ValueError(f"token={self.token}: expected zero or more")
        if self.embedding is not None:
            check_spec(self.spec, self.embedding.spec)

    @property
    def count(self) -> int:
        """P."""
        if self.embedding is None:
            return self.spec.num_params
        tokens, numbers = self.embedding.latent_shape
        return tokens * numbers

    @cached_property
    def rows(self) -> TokenLayout | None:
        """Where the weights lie in rows; None where they do not."""
        return TokenLayout.of(self.spec) if self.token == 0 and self.embedding is None else None

    @property
    def shape(self) -> tuple[int, int]:
        """(T, D)."""
        if self.rows is not None:
            return self.rows.shape
        if self.token == 0 and self.embedding is not None:
            return self.embedding.latent_shape
        return -(-self.count // self.token), self.token

    def cut(self, flat: Tensor) -> Tensor:
        """Tokens (N, T, D) of the P numbers in a row, (N, P); zeros where a token is filled up."""
        if self.rows is not None:
            return self.rows.tokens(flat)
        tokens, numbers = self.shape
        return functional.pad(flat, (0, tokens * numbers - self.count)).view(-1, tokens, numbers)

    def join(self, tokens: Tensor) -> Tensor:
        """Inverse of `cut`."""
        return tokens.flatten(1)[:, : self.count] if self.rows is None else self.rows.flat(tokens)

    @property
    def generated_spec(self) -> FieldSpec:
        """The spec of decoded fields."""
        return self.spec if self.embedding is None else self.embedding.decoded_spec

    def encode(self, fields: FieldBatch) -> Tensor:
        """Tokens (N, T, D) float32 on the CPU."""
        return self.cut(fields.flat().float() if self.embedding is None else self.embedding.encode(fields).flatten(1))

    def decode(self, tokens: Tensor) -> FieldBatch:
        """Fields of `generated_spec` from tokens (N, T, D), on the CPU."""
        flat = self.join(tokens).cpu()
        if self.embedding is None:
            return FieldBatch.from_flat(self.spec, flat)
        return self.embedding.decode(flat.view(-1, *self.embedding.latent_shape))


class TokenDenoiser(nn.Module):
    """A denoiser, with what tokens of the training population were like: mean and std (T, D) of each number.

    alive: 1 where the population differs, 0 where it does not (a weight that no fit moved, the filling of the last
    token): these are neither noised nor learned. limit: the largest size of a number after standardisation.
    Shapes: standardised tokens (N, T, D), time (N,) in [0, 1], classes (N,) -> (N, T, D).
    """

    mean: Tensor
    std: Tensor
    limit: Tensor

    def __init__(self, denoiser: nn.Module, shape: tuple[int, int]) -> None:
        super().__init__()
        self.denoiser = denoiser
        for name, value in (("mean", torch.zeros(shape)), ("std", torch.ones(shape)), ("limit", torch.zeros(()))):
            self.register_buffer(name, value)

    @property
    def alive(self) -> Tensor:
        """(T, D) of 1 and 0."""
        return (self.std > 0).to(self.std)

    def standardise(self, tokens: Tensor) -> Tensor:
        """(x - mean) / std, 0 where std is 0."""
        return torch.where(self.std > 0, (tokens - self.mean) / self.std, torch.zeros_like(tokens))

    def restore(self, tokens: Tensor) -> Tensor:
        """Inverse of `standardise`."""
        return tokens * self.std + self.mean

    def forward(self, tokens: Tensor, time: Tensor, classes: Tensor) -> Tensor:
        """Return what is predicted."""
        return self.denoiser(tokens, time, classes) * self.alive


@dataclass(frozen=True, kw_only=True)
class FieldGenerator(Network):
    """Noise, and a class where there are any -> fields of `generated_spec`.

    classes: their names, () where none were learned; token: D; signal: what the training store says of its fields, such
    as the size of pictures; embedding: where latents are generated; stored in a folder inside the generator's.
    """

    task = "generate"
    kinds: ClassVar = {
        "diffusion": checkpoint.OBJECT,
        "classes": checkpoint.TEXTS,
        "token": checkpoint.COUNT,
        "shape": checkpoint.COUNTS,
        "latents": checkpoint.TRUTH,
        "signal": checkpoint.OBJECT,
    }

    diffusion: Diffusion
    token: int
    classes: tuple[str, ...] = ()
    signal: dict = field(default_factory=dict)
    embedding: Embedding | None = None

    @cached_property
    def codec(self) -> Codec:
        """Fields <-> tokens."""
        return Codec(self.spec, self.embedding, self.token)

    @property
    def generated_spec(self) -> FieldSpec:
        """The spec of generated fields."""
        return self.codec.generated_spec

    def about(self) -> dict:
        """The diffusion, the classes, the tokens, and whether an embedding belongs to it."""
        shape = list(self.codec.shape)
        return {
            "diffusion": asdict(self.diffusion),
            "classes": list(self.classes),
            "token": self.token,
            "shape": shape,
            "latents": self.embedding is not None,
            "signal": self.signal,
        }

    @classmethod
    def rebuild(cls, about: dict, spec: FieldSpec, settings: models.ModelConfig) -> tuple[nn.Module, dict[str, Any]]:
        """From `about`: an untrained model, the diffusion and the classes; not the embedding."""
        shape = (int(about["shape"][0]), int(about["shape"][1]))
        classes = tuple(about["classes"])
        added = {
            "diffusion": Diffusion(**about["diffusion"]),
            "classes": classes,
            "token": about["token"],
            "signal": about["signal"],
        }
        return build_denoiser(settings, shape, len(classes), fresh()), added

    def save(self, folder: str | Path) -> None:
        """Write to a folder, the embedding first; each file is replaced whole."""
        if self.embedding is not None:
            self.embedding.save(Path(folder) / EMBEDDING)
        super().save(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a folder. Raises FileNotFoundError or ValueError in one line when it holds no generator."""
        generator = super().load(folder)
        if read_about(Path(folder))["latents"]:
            return replace(generator, embedding=Embedding.load(Path(folder) / EMBEDDING))
        return generator

    def digest(self) -> str:
        """What tells one generator from another: a digest of its weights, and of those of its embedding."""
        parts = [self.model] if self.embedding is None else [self.model, self.embedding.model]
        return digest(*parts)

    @torch.no_grad()
    def generate(
        self,
        count: int,
        labels: Sequence[int] | np.ndarray | None = None,
        guidance: float = 1.0,
        steps: int = 50,
        method: Method = "ddim",
        seed: int = 0,
        first: int = 0,
    ) -> FieldBatch:
        """`count` fields, numbered from `first`; each depends on (seed, its number, its label) alone.

        That holds up to rounding: products of matrices round differently for other numbers of rows. labels: class of
        each, (count,), -1 for any class; None: any. guidance: see diffusion.guided; steps: evaluations of the network
        for each field, twice that where it is guided. Raises ValueError for labels that are no classes, and for
        settings that the diffusion does not have.
        """
        wanted = np.full(count, -1, np.int64) if labels is None else np.asarray(labels, np.int64)
        self._check(count, wanted)
        parts = []
        for at in range(0, count, _AT_ONCE):
            numbers = np.arange(at, min(at + _AT_ONCE, count))
            classes = torch.from_numpy(wanted[numbers])
            parts.append(self.codec.decode(self.tokens(first + numbers, classes, guidance, steps, method, seed)))
        return FieldBatch.cat(parts)

    def tokens(
        self, numbers: np.ndarray, classes: Tensor, guidance: float, steps: int, method: Method, seed: int
    ) -> Tensor:
        """Tokens (N, T, D) of the samples of these numbers (N,) and classes (N,), -1 for any."""
        model = self.model
        assert isinstance(model, TokenDenoiser)
        shape, device = self.codec.shape, model.std.device
        sides = [denoiser_of(model, some, self.diffusion.steps) for some in (classes, torch.full_like(classes, -1))]

        def noise(step: int) -> Tensor:
            return counted_noise(seed, numbers, step, shape).to(device) * model.alive

        found = self.diffusion.sample(
            guided(sides[0], sides[1], guidance), noise, steps, method, limit=float(model.limit)
        )
        return model.restore(found).cpu()

    def _check(self, count: int, labels: np.ndarray) -> None:
        if count < 1:
            raise ValueError(f"count={count}: expected a whole number from 1")
        if labels.shape != (count,):
            raise ValueError(f"labels has shape {labels.shape}: expected ({count},), one for each field")
        bad = labels[(labels < -1) | (labels >= len(self.classes))]
        if len(bad):
            known = f"0 to {len(self.classes) - 1}, or -1 for any" if self.classes else "-1: it knows no classes"
            raise ValueError(f"label={bad[0]}: expected {known}")


def denoiser_of(model: TokenDenoiser, classes: Tensor, steps: int) -> Denoiser:
    """The model as a sampler calls it, for fields of these classes (N,)."""
    classes = classes.to(model.std.device)

    def denoiser(x: Tensor, t: int) -> Tensor:
        return model(x, torch.full((len(x),), t / steps, device=x.device), classes)

    return denoiser


def build_denoiser(
    settings: models.ModelConfig, shape: tuple[int, int], num_classes: int, generator: Generator
) -> TokenDenoiser:
    """Make the denoiser of a model. Raises ValueError for a model that is none."""
    name = models.name_of(settings)
    if name not in models.generators():
        raise ValueError(f"model={name!r} generates nothing: expected one of {', '.join(models.generators())}")
    return TokenDenoiser(settings.build_denoiser(shape, num_classes, generator), shape)  # type: ignore[attr-defined]
