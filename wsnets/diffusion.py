"""Gaussian diffusion: noise is added to data step by step, and a network that undoes it makes new data from noise.

Legend: N samples, T steps, t a step from 0 (data) to T (noise), a_t = alpha_bar_t, e standard normal noise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from neuralfields import philox

Schedule = Literal["cosine", "linear"]
Prediction = Literal["v", "x0", "eps"]
Method = Literal["ddim", "ddpm"]
# (x_t (N, ...), t) -> what the network predicts, (N, ...).
Denoiser = Callable[[Tensor, int], Tensor]
# (step t) -> standard normal noise (N, ...).
Noise = Callable[[int], Tensor]

STREAM_NOISE = 27  # of philox, apart from those of fits, pictures and training
_COSINE_OFFSET = 0.008
_MOST_BETA = 0.999
_LINEAR = (0.1, 20.0)  # beta of the first and the last step, times T


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,   a_t = prod_{s <= t} (1 - beta_s),   a_0 = 1.

    schedule: "linear": beta from 0.1 / T to 20 / T, at most 0.999 (1e-4 to 0.02 for T = 1000: Ho et al., "Denoising
    diffusion probabilistic models", NeurIPS 2020); "cosine": a_t = g(t) / g(0), g(t) = cos^2(pi/2 (t/T + 0.008) /
    1.008), beta at most 0.999 (Nichol and Dhariwal, "Improved DDPM", ICML 2021). steps: T, 2 at least. prediction:
    what the network gives: the noise "eps", the data "x0", or "v" = sqrt(a_t) e - sqrt(1 - a_t) x_0 (Salimans and
    Ho, "Progressive distillation", ICLR 2022). Raises ValueError for values outside these.
    """

    schedule: Schedule = "cosine"
    steps: int = 1000
    prediction: Prediction = "v"

    def __post_init__(self) -> None:
        for name, allowed in (("schedule", Schedule), ("prediction", Prediction)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(get_args(allowed))}")
        if self.steps < 2:
            raise ValueError(f"steps={self.steps}: expected a whole number from 2")

    @cached_property
    def betas(self) -> Tensor:
        """beta_1 .. beta_T: (T,) float64."""
        if self.schedule == "linear":
            low, high = (value / self.steps for value in _LINEAR)
            return torch.linspace(low, high, self.steps, dtype=torch.float64).clamp_max(_MOST_BETA)
        times = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        level = torch.cos(math.pi / 2 * (times + _COSINE_OFFSET) / (1 + _COSINE_OFFSET)).square()
        return (1 - level[1:] / level[:-1]).clamp_max(_MOST_BETA)

    @cached_property
    def alpha_bar(self) -> Tensor:
        """a_0 .. a_T: (T + 1,) float64, falling from 1."""
        return torch.cat([torch.ones(1, dtype=torch.float64), (1 - self.betas).cumprod(0)])

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio a_t / (1 - a_t): (T + 1,) float64, infinite at t = 0."""
        return self.alpha_bar / (1 - self.alpha_bar)

    def scales(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a_t), sqrt(1 - a_t) for steps t, (N,) or one for all, shaped and typed to multiply `like` (N, ...)."""
        level = self.alpha_bar[torch.as_tensor(t).cpu()].view(-1, *(1,) * (like.ndim - 1))
        return level.sqrt().to(like), (1 - level).sqrt().to(like)

    def noised(self, x0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """x_t from data and noise, both (N, ...)."""
        signal, sigma = self.scales(t, x0)
        return signal * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """What the network is to predict."""
        if self.prediction == "x0":
            return x0
        if self.prediction == "eps":
            return noise
        signal, sigma = self.scales(t, x0)
        return signal * noise - sigma * x0

    def split(self, x: Tensor, predicted: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """(x_0, e) from x_t and what the network predicted; inverse of `target` and `noised` for steps t >= 1."""
        signal, sigma = self.scales(t, x)
        if self.prediction == "v":
            return signal * x - sigma * predicted, sigma * x + signal * predicted
        if self.prediction == "x0":
            return predicted, (x - signal * predicted) / sigma
        return (x - sigma * predicted) / signal, predicted

    def weight(self, t: Tensor, gamma: float) -> Tensor:
        """Weight (N,) float64 of the squared error of a prediction at steps t >= 1: min(snr, gamma) / s_t.

        s_t turns an error of x_0 into one of the prediction: snr for eps, snr + 1 for v, 1 for x0. Hang et al.,
        "Efficient diffusion training via min-SNR weighting strategy", ICCV 2023. gamma = 0: 1 for all.
        """
        snr = self.snr[t.cpu()]
        if gamma == 0:
            return torch.ones_like(snr)
        per_x0 = {"eps": snr, "v": snr + 1, "x0": torch.ones_like(snr)}[self.prediction]
        return snr.clamp_max(gamma) / per_x0

    def path(self, steps: int) -> list[int]:
        """T = t_K > ... > t_0 = 0, evenly spaced. Raises ValueError for K = steps outside 1 .. T."""
        if not 1 <= steps <= self.steps:
            raise ValueError(f"steps={steps}: expected a whole number from 1 to {self.steps}, those of the training")
        return [round(self.steps * (steps - k) / steps) for k in range(steps + 1)]

    def posterior_std(self, t: int, s: int) -> float:
        """Standard deviation of q(x_s | x_t, x_0), s < t: sqrt((1 - a_s) / (1 - a_t) (1 - a_t / a_s))."""
        here, there = self.alpha_bar[t], self.alpha_bar[s]
        return float(((1 - there) / (1 - here) * (1 - here / there)).clamp_min(0).sqrt())

    def step(self, x: Tensor, split: tuple[Tensor, Tensor], t: int, s: int, std: float, noise: Tensor | None) -> Tensor:
        """x_s = sqrt(a_s) x_0 + sqrt(1 - a_s - std^2) e + std noise; split: x_0 and e found in x_t, (N, ...) each.

        std 0 is DDIM, in either direction; posterior_std(t, s) is DDPM. Song et al., "Denoising diffusion implicit
        models", ICLR 2021.
        """
        x0, e = split
        there = float(self.alpha_bar[s])
        moved = math.sqrt(there) * x0 + math.sqrt(max(0.0, 1 - there - std**2)) * e
        return moved if noise is None or std == 0 else moved + std * noise

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        noise: Noise,
        steps: int = 50,
        method: Method = "ddim",
        eta: float = 0.0,
        limit: float = 0.0,
    ) -> Tensor:
        """Data (N, ...) from noise(T), along `path(steps)`.

        method: "ddim", with eta times the noise of DDPM, in [0, 1]; "ddpm" is eta = 1. noise: called with T first and
        with t before every step that adds noise. limit: the data found on the way are kept in [-limit, limit] (0: as
        they are). Raises ValueError for values outside these.
        """
        if method not in get_args(Method):
            raise ValueError(f"method={method!r}: expected one of {', '.join(get_args(Method))}")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta}: expected a number in [0, 1]")
        share = 1.0 if method == "ddpm" else eta
        path = self.path(steps)
        x = noise(self.steps)
        for t, s in pairwise(path):
            found = self._limited(x, self.split(x, denoiser(x, t), t), t, limit)
            std = share * self.posterior_std(t, s)
            x = self.step(x, found, t, s, std, noise(s) if std > 0 else None)
        return x

    @torch.no_grad()
    def encode(self, denoiser: Denoiser, x0: Tensor, steps: int = 50) -> Tensor:
        """Noise (N, ...) that `sample` with DDIM, eta 0, takes back to the data, up to the error of its steps.

        The path is walked the other way; the first step takes the prediction at t = 1 for that of the data.
        """
        x = x0
        for s, t in pairwise(self.path(steps)[::-1]):
            at = max(s, 1)
            x = self.step(x, self.split(x, denoiser(x, at), at), s, t, 0.0, None)
        return x

    def _limited(self, x: Tensor, split: tuple[Tensor, Tensor], t: int, limit: float) -> tuple[Tensor, Tensor]:
        if limit == 0:
            return split
        x0 = split[0].clamp(-limit, limit)
        signal, sigma = self.scales(t, x)
        return x0, (x - signal * x0) / sigma


def guided(conditional: Denoiser, unconditional: Denoiser, guidance: float) -> Denoiser:
    """unconditional + guidance (conditional - unconditional): 1 is conditional, 0 unconditional, above 1 exaggerates.

    Linear in what is predicted, and so the same for eps, v and x0. Ho and Salimans, "Classifier-free diffusion
    guidance", 2022, where guidance is 1 + w. Raises ValueError for a guidance that is negative or not finite.
    """
    if not 0 <= guidance < math.inf:
        raise ValueError(f"guidance={guidance}: expected a finite number from 0")
    if guidance in (0, 1):
        return conditional if guidance == 1 else unconditional

    def denoiser(x: Tensor, t: int) -> Tensor:
        without = unconditional(x, t)
        return without + guidance * (conditional(x, t) - without)

    return denoiser


def counted_noise(seed: int, numbers: Sequence[int] | np.ndarray, step: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (N, *shape) float32, a function of (seed, number, step) alone.

    Philox words through the transform of Box and Muller, "A note on the generation of random normal deviates", 1958.
    Raises ValueError for a seed or a number outside [0, 2^32).
    """
    count = math.prod(shape)
    half = (count + 1) // 2
    drawn = philox.uniform(seed, np.asarray(numbers, np.int64), STREAM_NOISE, step, 2 * half)
    drawn = torch.from_numpy(drawn.astype(np.float64))
    radius, angle = (-2 * torch.log1p(-drawn[:, :half])).sqrt(), 2 * math.pi * drawn[:, half:]
    pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return pairs[:, :count].float().view(-1, *shape)
