"""New latents near those of known fields: sampled from a density that is fitted to them, number by number.

Legend: M anchors, S samples, T tokens of D numbers.
"""

from typing import Literal, get_args

import torch
from torch import Generator, Tensor

Method = Literal["kde", "neighbours", "gaussian"]


def sample(
    anchors: Tensor,
    count: int,
    method: Method,
    generator: Generator,
    share: float = 1.0,
    bandwidth: float | None = None,
) -> Tensor:
    """Draw latents (S, T, D) from a density around anchors (M, T, D), the latents of known fields.

    kde: every number on its own from sum_m N(a_m, h^2) / M, so that a sample takes its numbers from many anchors
    (S_KDE of the paper). neighbours: whole tokens, one of an anchor's three nearest anchors at a time, plus the same
    noise. gaussian: a normal of the anchors' mean and covariance over all numbers, h not used. h: bandwidth times the
    standard deviation of each number over the anchors, None for Silverman's (4 / (3 M))^(1/5). share: of the anchors
    that are kept, drawn at random, in (0, 1]. Schuerholt et al., "Hyper-representations as generative models", NeurIPS
    2022. Raises ValueError for values outside these and for fewer than four anchors.
    """
    _check(anchors, method, share, bandwidth)
    device, (_, tokens, numbers) = anchors.device, anchors.shape
    if share < 1:
        kept = max(4, round(share * len(anchors)))
        anchors = anchors[torch.randperm(len(anchors), generator=generator, device=device)[:kept]]
    flat = anchors.flatten(1)
    if method == "gaussian":
        return _gaussian(flat, count, generator).view(count, tokens, numbers)
    height = (4 / (3 * len(flat))) ** 0.2 if bandwidth is None else bandwidth
    noise = torch.randn(count, flat.shape[1], generator=generator, device=device, dtype=flat.dtype)
    if method == "kde":
        chosen = torch.randint(len(flat), (count, flat.shape[1]), generator=generator, device=device)
        found = flat.gather(0, chosen)
    else:
        found = _mixed_neighbours(anchors, count, generator).flatten(1)
    return (found + height * flat.std(dim=0) * noise).view(count, tokens, numbers)


def _check(anchors: Tensor, method: str, share: float, bandwidth: float | None) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method={method!r}: expected one of {', '.join(get_args(Method))}")
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: expected a number in (0, 1]")
    if bandwidth is not None and not bandwidth >= 0:
        raise ValueError(f"bandwidth={bandwidth}: expected zero or more")
    if anchors.ndim != 3 or len(anchors) < 4:
        raise ValueError(f"anchors has shape {tuple(anchors.shape)}: expected (M, T, D) with at least four anchors")


def _gaussian(flat: Tensor, count: int, generator: Generator) -> Tensor:
    """mean + sum_m g_m (a_m - mean) / sqrt(M - 1), g standard normal: has the anchors' covariance without making it."""
    mean = flat.mean(dim=0)
    weights = torch.randn(count, len(flat), generator=generator, device=flat.device, dtype=flat.dtype)
    return mean + weights @ (flat - mean) / (len(flat) - 1) ** 0.5


def _mixed_neighbours(anchors: Tensor, count: int, generator: Generator) -> Tensor:
    """Of a random anchor, every token replaced by that of itself or one of its three nearest anchors."""
    flat, device = anchors.flatten(1), anchors.device
    first = torch.randint(len(flat), (count,), generator=generator, device=device)
    near = torch.cdist(flat[first], flat).topk(4, largest=False).indices
    choice = torch.randint(4, (count, anchors.shape[1]), generator=generator, device=device)
    source = near.gather(1, choice)
    return anchors[source, torch.arange(anchors.shape[1], device=device)]
