"""Merge: one field out of several fits of one signal, by averages of their weights.

Legend: k parts, N items: part p holds the p-th fit of every item.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from neuralfields import symmetry
from neuralfields.batch import FieldBatch
from wsnets.align import align, distance
from wsnets.loop import check
from wsnets.transport_fusion import transported

Method = Literal["mean", "aligned", "transport", "soup"]
_ROUNDS = 20  # of aligning every part to the mean of the others; rounds end before, where nothing gets closer


def merge(
    parts: Sequence[FieldBatch],
    method: Method = "aligned",
    kinds: Sequence[str] | None = None,
    loss: Callable[[FieldBatch], Tensor] | None = None,
) -> FieldBatch:
    """Average the k fits of each of N items: parts of N fields each -> N fields.

    mean: of the weights as they are (a uniform soup); aligned: after `align_parts`; transport: of all parts
    transported onto the units of the first, from which their hidden widths may differ (transport_fusion.py); soup:
    `greedy_soup` of the aligned parts, by `loss`: fields -> (N,), which only this method needs. kinds: of symmetry,
    None for all that the activation has. Raises ValueError for no part at all, parts that do not fit, and a soup
    without a loss.
    """
    check("method", method, method in get_args(Method), f"one of {', '.join(get_args(Method))}")
    if not parts:
        raise ValueError("parts=[]: expected at least one part")
    if method == "transport":
        return mean([parts[0], *(transported(part, parts[0], kinds=kinds) for part in parts[1:])])
    if method == "mean":
        return mean(parts)
    near = align_parts(parts, kinds)
    if method == "aligned":
        return mean(near)
    if loss is None:
        raise ValueError("loss=None: expected a function of fields for a greedy soup")
    return greedy_soup(near, loss)


def mean(parts: Sequence[FieldBatch]) -> FieldBatch:
    """Mean of the parts' parameters, in their dtype. Raises ValueError for parts of other specs or counts."""
    _check_parts(parts)
    names = parts[0].parameters
    sums = {name: torch.stack([part.parameters[name].double() for part in parts]).mean(0) for name in names}
    return FieldBatch(parts[0].spec, {name: value.to(parts[0].parameters[name]) for name, value in sums.items()})


def align_parts(parts: Sequence[FieldBatch], kinds: Sequence[str] | None = None) -> list[FieldBatch]:
    """All parts brought next to each other, item by item, by weight matching; the first part of each starts as it is.

    Each part is brought to the first, then in turn to the mean of the others, until the sum of squared distances to
    the mean stops falling: MergeMany of Ainsworth, Hayase and Srinivasa, "Git Re-Basin", ICLR 2023.
    """
    _check_parts(parts)
    first = parts[0]
    near = [first, *(symmetry.act(align(part, first, kinds), part) for part in parts[1:])]
    if len(parts) < 3:
        return near
    before = _scatter(near)
    for _ in range(_ROUNDS):
        for p, part in enumerate(near):
            others = mean(near[:p] + near[p + 1 :])
            near[p] = symmetry.act(align(part, others, kinds, starts=("identity",)), part)
        after = _scatter(near)
        if not bool((after < before * (1 - 1e-6)).any()):
            break
        before = after
    return near


def greedy_soup(parts: Sequence[FieldBatch], loss: Callable[[FieldBatch], Tensor]) -> FieldBatch:
    """For each item by itself: parts in order of their loss, each kept in the average if that gets no worse by it.

    loss: N fields -> (N,). No item's loss is above that of its best part. Wortsman et al., "Model soups: averaging
    weights of multiple fine-tuned models improves accuracy without increasing inference time", ICML 2022.
    """
    _check_parts(parts)
    spec, like = parts[0].spec, parts[0].flat()
    losses = torch.stack([loss(part) for part in parts])
    order = losses.argsort(dim=0, stable=True)
    flat, items = torch.stack([part.flat().double() for part in parts]), torch.arange(len(parts[0]))
    total, count, least = flat[order[0], items], torch.ones(len(items), 1, dtype=torch.float64), losses.amin(0)
    for rank in range(1, len(parts)):
        tried = total + flat[order[rank], items]
        found = loss(FieldBatch.from_flat(spec, (tried / (count + 1)).to(like)))
        better = (found <= least).unsqueeze(1)
        total, count = torch.where(better, tried, total), torch.where(better, count + 1, count)
        least = torch.where(better.squeeze(1), found, least)
    return FieldBatch.from_flat(spec, (total / count).to(like))


def _scatter(parts: Sequence[FieldBatch]) -> Tensor:
    """Sum of squared distances of an item's parts to their mean: (N,)."""
    middle = mean(parts)
    return torch.stack([distance(part, middle) for part in parts]).sum(0)


def _check_parts(parts: Sequence[FieldBatch]) -> None:
    if not parts:
        raise ValueError("parts=[]: expected at least one part")
    for part in parts:
        if part.spec != parts[0].spec or len(part) != len(parts[0]):
            said = f"{len(part)} fields of {part.spec.describe()}"
            raise ValueError(f"parts has {said}: expected {len(parts[0])} of {parts[0].spec.describe()}")
