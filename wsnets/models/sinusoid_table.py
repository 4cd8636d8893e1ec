"""Sums of many sinusoids of many numbers, by interpolation in a table: y(x) = A cos(w x) + B sin(w x) + b.

K frequencies and C outputs cost K (2 C + 2) operations for each of M numbers, half of what a network on weights takes.
But y is band-limited, so its values at a few hundred points fix it: with step h = pi / (2 max|w|) and a kernel f of
8 steps, y(x) = sum_j f(x / h - j) g_j, g_j being the same sum of sinusoids at x = j h with every frequency divided by
the kernel's Fourier transform there. Exact to 3e-7 of the size of the coefficients, and to 2e-6 with the roundings of
single precision, as much as rounding w x to it changes y from |w x| = 60 on. Barnett, Magland and af Klinteberg, "A
parallel nonuniform fast Fourier transform library based on an exponential of semicircle kernel", SIAM Journal on
Scientific Computing, 2019.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_STEPS = 8  # width of the kernel
_SHARPNESS = 2.3 * _STEPS
_OVERSAMPLING = 2.0
_WORTHWHILE = 4  # numbers per point of the table


def sinusoids(x: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor, bias: Tensor) -> Tensor:
    """Return (M, C) for x (M,), frequencies (K,) in radians, cosines and sines (C, K), bias (C,).

    Many single-precision numbers are looked up in a table where x and frequencies need no gradient, in single precision
    whatever autocast says; all others are computed one by one.
    """
    fixed = not (x.requires_grad or frequencies.requires_grad)
    if x.dtype == torch.float32 and x.device.type == "cpu" and fixed and len(x) > 0:
        step = math.pi / (_OVERSAMPLING * max(float(frequencies.abs().max()), 1e-6))
        reach = float(x.abs().max()) / step
        if 2.0 * reach + _STEPS < min(len(x) / _WORTHWHILE, 2**15):
            return tabulated(x, step, frequencies, cosines, sines, bias)
    return direct(x, frequencies, cosines, sines, bias)


def direct(x: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor, bias: Tensor) -> Tensor:
    """The definition of `sinusoids`."""
    angles = x.unsqueeze(1) * frequencies
    return torch.addmm(F.linear(angles.cos(), cosines, bias), angles.sin(), sines.t())


def tabulated(x: Tensor, step: float, frequencies: Tensor, cosines: Tensor, sines: Tensor, bias: Tensor) -> Tensor:
    """`sinusoids` by interpolation; step: h, at most pi / (2 max|w|). x and frequencies get no gradient."""
    with torch.no_grad():
        positions = x.double() / step
        first = positions.floor()
        offsets = torch.arange(_STEPS) - (_STEPS // 2 - 1)
        kernel = _kernel((positions - first).to(x.dtype).unsqueeze(1) - offsets)
        start = int(first.min()) + int(offsets[0])
        stop = int(first.max()) + int(offsets[-1]) + 1
        first = first.long() + int(offsets[0]) - start
        # Angles of the table in double precision: it is small, and all numbers share its errors.
        turns = frequencies.double() * step
        angles = torch.arange(start, stop, dtype=torch.float64).unsqueeze(1) * turns
        gain = 1.0 / _transform(turns)
        basis = torch.cat([angles.cos() * gain, angles.sin() * gain], dim=1).to(x.dtype)
        constant = float(1.0 / _transform(turns.new_zeros(1)))
    with torch.autocast(x.device.type, enabled=False):  # rounding the table would show in every number
        table = F.linear(basis, torch.cat([cosines, sines], dim=1).to(x.dtype), bias.to(x.dtype) * constant)
    return _Interpolate.apply(table, first, kernel)  # type: ignore[return-value]


def _kernel(u: Tensor) -> Tensor:
    """exp(beta (sqrt(1 - z^2) - 1)), z = u / half the width, 0 outside."""
    return (((1.0 - (u * (2.0 / _STEPS)).square()).clamp_min_(0.0).sqrt_() - 1.0) * _SHARPNESS).exp_()


@cache
def _quadrature() -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(64)
    u = torch.from_numpy(nodes) * (_STEPS / 2)
    return u, torch.from_numpy(weights) * (_STEPS / 2) * _kernel(u)


def _transform(turns: Tensor) -> Tensor:
    """Fourier transform of the kernel: integral of f(u) cos(turns u) over u."""
    u, weights = _quadrature()
    return (turns.unsqueeze(1) * u).cos() @ weights


class _Interpolate(torch.autograd.Function):
    """y_m = sum_r kernel_mr table_(first_m + r): table (T, C), first (M,), kernel (M, 8) -> (M, C)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, first: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(first, kernel)
        ctx.size = len(table)
        rows = first.unsqueeze(1) + torch.arange(_STEPS)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # Numbers sorted by their place in the table make every row of its gradient a sum over a run of them.
        first, kernel = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        order = torch.from_numpy(np.argsort(first.numpy().astype(np.int16), kind="stable"))
        counts = torch.bincount(first, minlength=ctx.size - _STEPS + 1)
        starts = counts.cumsum(0) - counts
        d_table = gradient.new_zeros((ctx.size, gradient.shape[1]))
        for r, weights in enumerate(kernel.index_select(0, order).t().contiguous()):
            sums = F.embedding_bag(order, gradient, starts, mode="sum", per_sample_weights=weights)
            d_table[r : r + len(sums)] += sums
        return d_table, None, None
