"""Set attention by the native kernel: a few sets at a time stay in cache, from the maps to the sums of the targets.

Legend as in wsnets/models/dws_functions.py: N fields, T neurons, J targets, D channels of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from wsnets.kernels.native import array


@dataclass(frozen=True)
class Block:
    """What set attention from one source does to J targets: indices of both, heads, and outputs of each target."""

    source: int
    targets: tuple[int, ...]
    heads: int
    num_out: int


def attend_sets(
    blocks: Sequence[Block],
    maps: tuple[Tensor, Tensor],
    xs: Sequence[Tensor],
    starts: Sequence[Tensor | None],
    levels: Sequence[Tensor],
    scale: float,
    isa: str = "",
) -> tuple[Tensor, ...]:
    """start + level + scale times the sum of all z_j, as of dws_functions.SetAttention, of every target.

    Shapes: maps (M, 1) and (B,), those of SetAttention of all blocks as of dws_layers.Attentions.packed; xs (in, N, T)
    of the same N and T; starts (out, N, T), contiguous, no views, which are lost, or None;
    levels (out, N).
    Blocks of one source must follow each other. `isa` forces an instruction set. A set's values do not depend on
    the others or on threads, gradients not on threads. Raises ValueError for what does not fit.
    """
    plan = _Plan(tuple(blocks), scale, torch.is_grad_enabled(), isa, len(xs))
    return _AttendSets.apply(plan, *xs, *maps, *starts, *levels)


@dataclass(frozen=True)
class _Plan:
    blocks: tuple[Block, ...]
    scale: float
    keep: bool
    isa: str
    num_xs: int

    def numbers(self) -> tuple[list[int], list[int], list[int], list[tuple[int, ...]]]:
        """Sources, outputs, heads and targets of all blocks."""
        ways = [(b.source, b.num_out, b.heads, b.targets) for b in self.blocks]
        sources, outs, heads, targets = (list(numbers) for numbers in zip(*ways, strict=True))
        return sources, outs, heads, targets

    def parts(self, given: Sequence) -> tuple[Sequence, Sequence, Sequence, Sequence]:
        """Tensors in a row as xs, maps, starts and levels."""
        maps = self.num_xs + 2
        starts = (maps + len(given)) // 2
        return given[: self.num_xs], given[self.num_xs : maps], given[maps:starts], given[starts:]


class _AttendSets(Function):
    """See attend_sets; kept for the gradient are the xs and what saved_of_field in csrc/problem.hpp counts."""

    @staticmethod
    def forward(ctx, plan: _Plan, *given: Tensor | None) -> tuple[Tensor, ...]:
        from wsnets.kernels import _native

        xs, maps, starts, levels = plan.parts(given)
        xs, maps = ([x.contiguous() for x in part] for part in (xs, maps))
        (_, n, t), saved = xs[0].shape, []
        if plan.keep:
            for block in plan.blocks:
                out = block.num_out
                saved.append(xs[0].new_empty(len(block.targets), n, (out + block.heads) * t + out * -(-t // 32)))
        sums = [s if s is not None else v.new_empty(*v.shape, t) for s, v in zip(starts, levels, strict=True)]
        sources, *numbers = plan.numbers()
        before = ([array(x) for x in xs], sources, *map(array, maps), *numbers, [array(s) for s in sums])
        fresh = [s is None for s in starts]
        levels = [v.contiguous() for v in levels]
        after = ([array(v) for v in levels], fresh, [array(s) for s in saved], plan.scale)
        _native.attend(*before, *after, torch.get_num_threads(), plan.isa)
        ctx.mark_dirty(*(s for s in starts if s is not None))
        ctx.save_for_backward(*xs, *maps, *saved)
        ctx.plan, ctx.fresh = plan, fresh
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx, *d_sums: Tensor) -> tuple[Tensor | None, ...]:
        from wsnets.kernels import _native

        plan: _Plan = ctx.plan
        given, saved = ctx.saved_tensors[: plan.num_xs + 2], ctx.saved_tensors[plan.num_xs + 2 :]
        xs, maps = given[: plan.num_xs], given[plan.num_xs :]
        d_sums = tuple(g.contiguous() for g in d_sums)
        d_xs = [torch.empty_like(x) if ctx.needs_input_grad[1 + i] else None for i, x in enumerate(xs)]
        d_maps, d_levels = [torch.empty_like(m) for m in maps], [g.new_empty(g.shape[:2]) for g in d_sums]
        sources, *numbers = plan.numbers()
        before = ([array(x) for x in xs], sources, *map(array, maps), *numbers, [array(g) for g in d_sums])
        after = ([array(g) for g in d_levels], [array(s) for s in saved], plan.scale, [array(g) for g in d_xs])
        _native.attend_back(*before, *after, *map(array, d_maps), torch.get_num_threads(), plan.isa)
        d_starts = [None if fresh else g for fresh, g in zip(ctx.fresh, d_sums, strict=True)]
        return None, *d_xs, *d_maps, *d_starts, *d_levels
