"""Losses per field: raw outputs against normalised targets."""

import torch
import torch.nn.functional as F
from torch import Tensor


def per_field(loss: str, raw: Tensor, target: Tensor) -> Tensor:
    """Return the mean loss of every field: raw, target (N, B, O) -> (N,).

    mse: (y - t)^2; l1: |y - t|; bce: binary cross-entropy with y as the logit and t in [0, 1].
    """
    if loss == "mse":
        return (raw - target).square().mean((1, 2))
    if loss == "l1":
        return (raw - target).abs().mean((1, 2))
    return F.binary_cross_entropy_with_logits(raw, target, reduction="none").mean((1, 2))


def surface_terms(gradient: Tensor, clipped: Tensor, normals: Tensor, on_surface: Tensor) -> tuple[Tensor, Tensor]:
    """Return two losses of distance fields, each (N,): of the length of the gradient and of its direction.

    eikonal: mean of (|grad f| - 1)^2 over the points whose target is not clipped; normals: mean of 1 - cos(grad f, n)
    over the points on the surface. gradient (N, B, I) of the value; clipped, on_surface (N, B) bool; normals (N, B, I),
    unit where on_surface. 0 for a field without such points. Sitzmann et al., "Implicit neural representations with
    periodic activation functions", NeurIPS 2020; Gropp et al., "Implicit geometric regularization for learning
    shapes", ICML 2020.
    """
    length = gradient.square().sum(-1).clamp_min(1e-12).sqrt()
    eikonal = _masked_mean((length - 1).square(), ~clipped)
    return eikonal, _masked_mean(1 - (gradient * normals).sum(-1) / length, on_surface)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(1) / mask.sum(1).clamp_min(1)


def value_mse(raw: Tensor, target: Tensor, scale: tuple[float, ...]) -> Tensor:
    """Return the mean squared error of every field in value space: mean of (scale_c (y_c - t_c))^2, (N,)."""
    return ((raw - target) * raw.new_tensor(scale)).square().mean((1, 2))


def psnr_to_mse(psnr: float) -> float:
    """The mean squared error at a PSNR in dB on data of range 1; 0 dB stands for "never" and gives 0."""
    return 0.0 if psnr == 0 else 10.0 ** (-psnr / 10.0)


def mse_to_psnr(mse: Tensor) -> Tensor:
    """PSNR in dB on data of range 1: -10 log10(mse), at most 150 dB (an exact fit has no finite PSNR)."""
    return -10.0 * torch.log10(mse.clamp_min(1e-15))
