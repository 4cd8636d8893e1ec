"""Weight matching: the group element that brings a field closest to another, by assignment layer by layer.

minimise over g   D(g) = sum_l |W_l(g f) - W_l(r)|^2 + |b_l(g f) - b_l(r)|^2

Ainsworth, Hayase and Srinivasa, "Git Re-Basin: merging models modulo permutation symmetries", ICLR 2023, do so over
permutations: with all other layers held, a hidden layer is a linear assignment problem, solved exactly, and going
over the layers until nothing changes can only lower D. Here the cost of bringing unit i onto unit j of the reference
is already the minimum over every other move that the activation allows that unit, in closed form for signs and half
periods (one round to the nearest period), by a few Newton steps for positive scales, so that the same assignment is
exact over the whole group of a layer. Legend: N fields, H hidden units, i a unit of the field, j of the reference.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec

Parts = tuple[Tensor, Tensor, Tensor, Tensor]  # of an Element, in one layer: permutation, sign, half_periods, scale
EVEN = ("gauss", "gabor")
_NEWTON_COARSE, _NEWTON_FINE = 3, 12
# Scales stay within a factor e^12 of 1: a dead unit (w = 0, b = 0 or u = 0) would run off to 0 or infinity.
_MAX_LOG_SCALE = 12.0
_TINY = 1e-30


@dataclass(frozen=True)
class Inner:
    """All that the distance of moved units to reference units depends on, one entry for each pair (j, i).

    weights, bias_own, bias_reference, outgoing: w_i . W_j, b_i, B_j and u_i . U_j; size_in, size_out: |w_i|^2 + b_i^2
    and |u_i|^2; size_reference: |W_j|^2 + B_j^2. They broadcast to (N, H, H), or (N, H) once i is chosen.
    """

    weights: Tensor
    outgoing: Tensor
    bias_own: Tensor
    bias_reference: Tensor
    size_in: Tensor
    size_out: Tensor
    size_reference: Tensor


@dataclass(frozen=True)
class Moves:
    """The moves of one unit beside its place: whether it may change sign, phase (in steps of `half_period`), scale;
    even: a change of sign leaves the outgoing weights as they are."""

    permutation: bool
    sign: bool
    phase: bool
    scale: bool
    even: bool
    half_period: float

    @classmethod
    def of(cls, spec: FieldSpec, layer: int, kinds: tuple[str, ...]) -> "Moves":
        """The moves that `kinds` give a unit of hidden layer `layer`."""
        has = ("permutation" in kinds, "sign" in kinds, "phase" in kinds, "scale" in kinds)
        return cls(*has, spec.activation in EVEN, math.pi / spec.w0(layer))


def match_layer(
    fields: FieldBatch, reference: FieldBatch, layer: int, parts: list[Parts], moves: Moves, incoming_only: bool
) -> Parts:
    """The best part of an element for one hidden layer, the parts of its neighbours held; exact for the whole group.

    fields: N; reference: N, or one for all; both float64. incoming_only: leave the outgoing weights out of D.
    """
    inner = _inner(fields, reference, layer, parts, incoming_only)
    n, width = fields.biases[layer].shape
    place = torch.arange(width).expand(n, width)
    if moves.permutation:
        place = _assign(_costs(inner, moves, incoming_only))
    chosen = Inner(*(x.expand(n, width, width).gather(2, place.unsqueeze(2)).squeeze(2) for x in vars(inner).values()))
    return _best_moves(chosen, moves, incoming_only, place)


def _inner(fields: FieldBatch, reference: FieldBatch, layer: int, parts: list[Parts], incoming_only: bool) -> Inner:
    w, b = fields.weights[layer], fields.biases[layer].unsqueeze(1)
    big_w, big_b = reference.weights[layer], reference.biases[layer].unsqueeze(2)
    if layer > 0:
        p, factor = parts[layer - 1][0], outgoing_factor(fields.spec, parts[layer - 1])
        w = w.gather(2, p.unsqueeze(1).expand_as(w)) * factor.unsqueeze(1)
    size_in = (w.square().sum(2) + b.squeeze(1).square()).unsqueeze(1)
    size_reference = (big_w.square().sum(2) + big_b.squeeze(2).square()).unsqueeze(2)
    products = torch.matmul(big_w, w.transpose(1, 2))
    if incoming_only:
        none = torch.zeros_like(size_in)
        return Inner(products, none, b, big_b, size_in, none, size_reference)
    u, big_u = fields.weights[layer + 1], reference.weights[layer + 1]
    if layer + 1 < len(parts):
        p, sign, _, scale = parts[layer + 1]
        u = u.gather(1, p.unsqueeze(2).expand_as(u)) * (sign * scale).unsqueeze(2)
    outgoing = torch.matmul(big_u.transpose(1, 2), u)
    return Inner(products, outgoing, b, big_b, size_in, u.square().sum(1).unsqueeze(1), size_reference)


def outgoing_factor(spec: FieldSpec, parts: Parts) -> Tensor:
    """What the outgoing weights of every new unit are multiplied by: (N, H)."""
    _, sign, half_periods, scale = parts
    parity = 1 - 2 * (half_periods % 2)
    return (parity if spec.activation in EVEN else parity * sign) / scale


def _costs(inner: Inner, moves: Moves, incoming_only: bool) -> Tensor:
    """D of every pair (N, H, H), less what depends on i alone or on j alone, which no assignment can change."""
    if moves.scale:
        return _scale_cost(inner, _scale(inner, incoming_only, _NEWTON_COARSE))
    cost = _signed_cost(inner, moves, 1)
    return torch.minimum(cost, _signed_cost(inner, moves, -1)) if moves.sign else cost


def _signed_cost(inner: Inner, moves: Moves, sign: int) -> Tensor:
    outgoing = inner.outgoing * (2 if moves.even else 2 * sign)
    weights = inner.weights * (2 * sign)
    if not moves.phase:
        return inner.bias_own * inner.bias_reference * (-2 * sign) - weights - outgoing
    # r: what is left of the bias after the nearest number of full periods; an odd half period leaves the rest of one.
    half = moves.half_period
    gap = (inner.bias_reference - sign * inner.bias_own).div_(2 * half)
    r = gap.sub_(gap.round()).abs_().mul_(2 * half)
    odd = (half - r).square_().add_(outgoing)
    return torch.minimum(r.square_().sub_(outgoing), odd).sub_(weights)


def _best_moves(chosen: Inner, moves: Moves, incoming_only: bool, place: Tensor) -> Parts:
    """The moves of each new unit j whose old unit is chosen: (N, H) each."""
    sign, turns = torch.ones_like(place), torch.zeros_like(place)
    scale = torch.ones_like(chosen.weights)
    if moves.scale:
        return place, sign, turns, _scale(chosen, incoming_only, _NEWTON_FINE)
    if moves.sign:
        sign = torch.where(_signed_cost(chosen, moves, -1) < _signed_cost(chosen, moves, 1), -1, 1)
    if moves.phase:
        half = moves.half_period
        gap = (chosen.bias_reference - sign * chosen.bias_own) / half
        even = 2 * (gap / 2).round()
        odd = 2 * ((gap - 1) / 2).round() + 1
        outgoing = 2 * sign * chosen.outgoing
        better = ((gap - odd) * half).square() + outgoing < ((gap - even) * half).square() - outgoing
        turns = torch.where(better, odd, even).long()
    return place, sign, turns, scale


def _scale_cost(inner: Inner, s: Tensor) -> Tensor:
    return s * (s * inner.size_in - 2 * _towards(inner)) + (inner.size_out / s - 2 * inner.outgoing) / s


def _towards(inner: Inner) -> Tensor:
    return inner.weights + inner.bias_own * inner.bias_reference


def _scale(inner: Inner, incoming_only: bool, steps: int) -> Tensor:
    """The scale s > 0 least in s^2 |a|^2 - 2 s a.A + |u|^2 / s^2 - 2 u.U / s, a incoming weights with the bias.

    Every minimum lies between a.A / |a|^2 and |u|^2 / u.U where these are positive; Newton's method in log s starts
    from both and from what balances the squares, and the best of the three is kept.
    """
    towards, shape = _towards(inner), inner.weights.shape
    size_in, size_out = inner.size_in.clamp_min(_TINY), inner.size_out.clamp_min(_TINY)
    if incoming_only:
        return _within(inner.size_reference.clamp_min(_TINY).sqrt() / size_in.sqrt()).expand(shape)
    balanced = (size_out / size_in).pow(0.25).expand(shape)
    starts = (
        balanced,
        torch.where(towards > 0, towards / size_in, balanced),
        torch.where(inner.outgoing > 0, size_out / inner.outgoing.clamp_min(_TINY), balanced),
    )
    best, least = balanced, torch.full(shape, math.inf, dtype=towards.dtype)
    for start in starts:
        s = _within(start)
        for _ in range(steps):
            first, second = s * towards, inner.outgoing / s
            square, inverse = s.square() * size_in, size_out / s.square()
            slope = 2 * (square - first - inverse + second)
            curvature = (4 * (square + inverse) - 2 * (first + second)).abs().clamp_min(_TINY)
            s = _within(s * (-slope / curvature).clamp(-1.0, 1.0).exp())
        cost = _scale_cost(inner, s)
        best, least = torch.where(cost < least, s, best), torch.minimum(cost, least)
    return best


def _within(s: Tensor) -> Tensor:
    return s.clamp(math.exp(-_MAX_LOG_SCALE), math.exp(_MAX_LOG_SCALE))


def _assign(cost: Tensor) -> Tensor:
    """Column of each row in the cheapest assignment: (N, H, H) -> int64 (N, H)."""
    from scipy.optimize import linear_sum_assignment

    matrices = cost.numpy()
    return torch.from_numpy(np.stack([linear_sum_assignment(matrix)[1] for matrix in matrices])).long()
