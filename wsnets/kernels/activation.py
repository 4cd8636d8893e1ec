"""Activation and pool of sets by the native kernel: normalisation, relu and pool in one pass over each channel.

Legend as in wsnets/models/dws_functions.py: N fields, T neurons, C channels, F groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


def numbers_of(gamma: Tensor | None, beta: Tensor | None, norm: BatchNorm | None) -> tuple[Tensor | None, ...]:
    """Gamma, beta, mean and variance, or None for what there is not."""
    return gamma, beta, *((None, None) if norm is None else (norm.mean, norm.variance))


class SetValues(NamedTuple):
    """A set before its activation: y (F C, N, T); gamma and beta (C,) with a normalisation, or None for relu(y)."""

    y: Tensor
    gamma: Tensor | None = None
    beta: Tensor | None = None
    norm: BatchNorm | None = None


def activate_sets(sets: Sequence[SetValues], pool: str, isa: str = "") -> list[tuple[Tensor, Tensor]]:
    """x = relu(norm(y)) of every set, and x pooled over T: largest value, mean or sum.

    Row r of y belongs to channel r mod C. Equal largest values share the gradient. Shapes: x (F C, N, T), pooled (F C,
    N). isa: forces an instruction set. Raises ValueError for what does not fit.
    """
    norms = [s.norm for s in sets]
    ys, lines = [s.y for s in sets], [line for s in sets for line in (s.gamma, s.beta)]
    results = _ActivateSets.apply(norms, pool, isa, *ys, *lines)
    return list(zip(results[: len(sets)], results[len(sets) :], strict=True))


class _ActivateSets(Function):
    """See activate_sets; given are all y, then gamma and beta of each."""

    @staticmethod
    def forward(ctx, norms: list[BatchNorm | None], pool: str, isa: str, *given: Tensor | None) -> tuple[Tensor, ...]:
        from wsnets.kernels import _native

        count = len(norms)
        ys, lines = [y.contiguous() for y in given[:count] if y is not None], given[count:]
        numbers = [x for i, norm in enumerate(norms) for x in numbers_of(lines[2 * i], lines[2 * i + 1], norm)]
        how = (
            [norm is not None and norm.of_batch for norm in norms],
            [0.0 if norm is None else norm.epsilon for norm in norms],
            pool,
        )
        xs, pools = [torch.empty_like(y) for y in ys], [y.new_empty(y.shape[:2]) for y in ys]
        before, after = _arrays(ys), (_arrays(xs), _arrays(pools))
        _native.activate(before, _arrays(numbers), *how, *after, torch.get_num_threads(), isa)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*ys, *xs, *pools, *lines)
        ctx.norms, ctx.how, ctx.isa = norms, how, isa
        return *xs, *pools

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        from wsnets.kernels import _native

        saved, count = ctx.saved_tensors, len(ctx.norms)
        ys, xs, pools = (saved[k * count : (k + 1) * count] for k in range(3))
        lines = saved[3 * count :]
        numbers = [x for i, norm in enumerate(ctx.norms) for x in numbers_of(lines[2 * i], lines[2 * i + 1], norm)]
        d_results = [None if g is None else g.contiguous() for g in gradients]
        d_ys = [torch.empty_like(y) for y in ys]
        d_lines = [None if given is None else torch.empty_like(given) for given in lines]
        before = (_arrays(ys), _arrays(numbers), *ctx.how, _arrays(xs), _arrays(pools))
        after = (_arrays(d_results[:count]), _arrays(d_results[count:]), _arrays(d_ys), _arrays(d_lines))
        _native.activate_back(*before, *after, torch.get_num_threads(), ctx.isa)
        return None, None, None, *d_ys, *d_lines


def _arrays(tensors: Sequence[Tensor | None]) -> list:
    return [array(x) for x in tensors]
