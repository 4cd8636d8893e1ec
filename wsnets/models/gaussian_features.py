"""Gaussian Fourier features of single numbers, the input encoding of the networks of Zhou et al."""

import math

import torch
from torch import Generator, Tensor, nn


class GaussianFeatures(nn.Module):
    """y = [sin(x f), cos(x f)] with fixed frequencies f = 2 pi scale g, g standard normal.

    Shapes: (..., 1) -> (..., 2 K). K: number of frequencies; scale: their standard deviation in periods per unit of x.
    Tancik et al., "Fourier features let networks learn high frequency functions in low dimensional domains", NeurIPS
    2020. Raises ValueError for features of more than one channel.
    """

    frequencies: Tensor

    def __init__(self, num_frequencies: int, scale: float, generator: Generator) -> None:
        super().__init__()
        drawn = torch.randn(num_frequencies, generator=generator, dtype=torch.float64) * scale
        self.register_buffer("frequencies", (2.0 * math.pi * drawn).to(torch.get_default_dtype()))

    @property
    def num_out(self) -> int:
        """Number of channels 2 K."""
        return 2 * len(self.frequencies)

    def forward(self, x: Tensor) -> Tensor:
        """Encode x (..., 1)."""
        if x.shape[-1] != 1:
            raise ValueError(f"features have {x.shape[-1]} channels: expected 1")
        angles = x * self.frequencies
        if angles.requires_grad:
            return torch.cat((angles.sin(), angles.cos()), dim=-1)
        y = angles.new_empty(*x.shape[:-1], self.num_out)
        half = len(self.frequencies)
        torch.sin(angles, out=y[..., :half])
        torch.cos(angles, out=y[..., half:])
        return y
