"""Activation and pool of sets by the native kernel: normalisation, relu and pool in one pass over each channel.

Legend as in wsnets/models/dws_functions.py: N fields, T neurons, C channels, F groups.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from wsnets.kernels.native import array


@dataclass(frozen=True)
class BatchNorm:
    """Mean and variance (divided by the count) of every channel, (C,): of the values themselves where `of_batch`, then
    written here, or given; epsilon, which is added to the variance."""

    mean: Tensor
    variance: Tensor
    of_batch: bool
    epsilon: float

    def inverse(self) -> Tensor:
        """1 / sqrt(variance + epsilon)."""
        return (self.variance + self.epsilon).rsqrt()


class ActivateSet(Function):
    """x = relu(norm(y)) of a set, and x pooled over T: largest value, mean or sum.

    Row r of y belongs to channel r mod C. Equal largest values share the gradient. Shapes: y (F C, N, T); gamma, beta
    (C,) or None for relu(y); x (F C, N, T), pooled (F C, N). isa: forces an instruction set.
    """

    @staticmethod
    def forward(
        ctx,
        y: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        norm: BatchNorm | None,
        pool: str,
        isa: str = "",
    ) -> tuple[Tensor, Tensor]:
        from wsnets.kernels import _native

        y = y.contiguous()
        channels = len(y) if gamma is None else len(gamma)
        numbers = (gamma, beta, *((None, None) if norm is None else (norm.mean, norm.variance)))
        how = (channels, pool, norm is not None and norm.of_batch, 0.0 if norm is None else norm.epsilon)
        x, pooled = torch.empty_like(y), y.new_empty(y.shape[:2])
        arrays = (*map(array, numbers), array(x), array(pooled))
        _native.activate(array(y), *how, *arrays, torch.get_num_threads(), isa)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, x, pooled)
        ctx.numbers, ctx.how, ctx.isa = numbers, how, isa
        return x, pooled

    @staticmethod
    @once_differentiable
    def backward(ctx, dx: Tensor | None, d_pooled: Tensor | None) -> tuple[Tensor | None, ...]:
        from wsnets.kernels import _native

        y, x, pooled = ctx.saved_tensors
        dx, d_pooled = (None if g is None else g.contiguous() for g in (dx, d_pooled))
        dy = torch.empty_like(y)
        d_gamma, d_beta = (None if given is None else torch.empty_like(given) for given in ctx.numbers[:2])
        given = (array(y), *ctx.how, *map(array, ctx.numbers), array(x), array(pooled))
        _native.activate_back(
            *given, *map(array, (dx, d_pooled, dy, d_gamma, d_beta)), torch.get_num_threads(), ctx.isa
        )
        return dy, d_gamma, d_beta, None, None, None
