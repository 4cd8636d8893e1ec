"""Unit moves: group elements from scores of pairs of units, and their soft form that gradients go through.

Legend: N fields, H hidden units of a layer, j a unit of the reference, i a unit of the field.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralfields import symmetry
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Element, Kind
from wsnets.align import align

# Activations of which a change of a unit's sign reaches its outgoing weights: f(-x) = -f(x).
ODD = ("sine", "tanh", "finer")
_TINY = 1e-30


def assignment(scores: Tensor) -> Tensor:
    """The permutation of largest sum: scores (N, H, H) of pairs (j, i) -> i of every j, int64 (N, H) on the CPU."""
    from scipy.optimize import linear_sum_assignment

    matrices = scores.detach().to("cpu", torch.float64).numpy()
    if len(matrices) == 0:
        return torch.empty(scores.shape[:2], dtype=torch.int64)
    return torch.from_numpy(np.stack([linear_sum_assignment(x, maximize=True)[1] for x in matrices])).long()


def from_scores(scores: Iterable[Tensor], signs: Iterable[Tensor | None]) -> Element:
    """The element that brings units i to places j so that the sum of scores (N, H, H) of every layer is largest.

    signs: of every pair, (N, H, H), of which those of the chosen pairs become the units'; None: all stay as they are.
    """
    layers = []
    for score, sign in zip(scores, signs, strict=True):
        place = assignment(score)
        unit = torch.ones_like(place)
        if sign is not None:
            unit = torch.where(sign.cpu().gather(2, place.unsqueeze(2)).squeeze(2) < 0, -1, 1)
        layers.append((place, unit, torch.zeros_like(place), torch.ones_like(place, dtype=torch.float64)))
    return _element(layers)


def normal_form(fields: FieldBatch, kinds: Sequence[str]) -> Element:
    """The element that takes moves of `kinds` out of every unit by itself, its place left.

    phase: w0 b comes into [-pi/2, pi/2]; scale: (w, b) gets norm 1, layer after layer; sign: b >= 0. Two fields of one
    orbit then differ by moves of the other kinds alone, for generic weights.
    """
    unmoved = symmetry.identity(fields.spec, len(fields))
    layers = list(unmoved.layers())
    with torch.no_grad():
        moved = fields.to("cpu", torch.float64)
        for layer, (p, sign, k, scale) in enumerate(unmoved.layers()):
            w, b = moved.weights[layer], moved.biases[layer]
            if "phase" in kinds:
                k = -(b * (fields.spec.w0(layer) / math.pi)).round().long()
            if "sign" in kinds:
                sign = torch.where(b < 0, -1, 1)
                k = k * sign  # the sign is applied first, so the same shift is needed with its sign
            if "scale" in kinds:
                norm = torch.cat([w, b.unsqueeze(2)], dim=2).norm(dim=2)
                scale = torch.where(norm > _TINY, 1.0 / norm.clamp_min(_TINY), 1.0)
                # A scale changes the outgoing weights' size, which the next layer's norms are taken of.
                here = [*list(unmoved.layers())[:layer], (p, sign, k, scale), *list(unmoved.layers())[layer + 1 :]]
                moved = symmetry.act(_element(here), moved)
            layers[layer] = (p, sign, k, scale)
    return _element(layers)


def told_by_no_score(spec: FieldSpec) -> tuple[Kind, ...]:
    """The kinds of symmetry of a spec that a signed score of two units does not tell: all but the odd ones' signs."""
    told = ("permutation", "sign") if spec.activation in ODD else ("permutation",)
    return tuple(kind for kind in symmetry.groups_of(spec) if kind not in told)


def settle(element: Element, fields: FieldBatch, reference: FieldBatch, kinds: Sequence[str]) -> Element:
    """The element, then what weight matching still finds from there by moves of `kinds` alone: never farther apart."""
    if not kinds or len(fields) == 0:
        return element
    moved = symmetry.act(element, fields.to("cpu", torch.float64))
    return symmetry.compose(align(moved, reference, kinds, starts=("identity",)), element)


@dataclass(frozen=True)
class Soft:
    """Soft moves of one layer: row j of (N, H, H) says of which units i new unit j is made.

    incoming: applied to incoming weights and biases; outgoing: to outgoing weights.
    """

    incoming: Tensor
    outgoing: Tensor


def soft_act(moves: Sequence[Soft], fields: FieldBatch) -> FieldBatch:
    """Apply soft moves: W_l <- Q_l W_l Q'_{l-1}^T, b_l <- Q_l b_l, Q incoming and Q' outgoing; differentiable in all.

    moves: one per hidden layer. With hard permutations and signs this is symmetry.act.
    """
    weights, biases = fields.weights, fields.biases
    for layer, move in enumerate(moves):
        weights[layer] = torch.matmul(move.incoming, weights[layer])
        biases[layer] = torch.matmul(move.incoming, biases[layer].unsqueeze(2)).squeeze(2)
        weights[layer + 1] = torch.matmul(weights[layer + 1], move.outgoing.transpose(1, 2))
    return FieldBatch.from_layers(fields.spec, weights, biases)


def _element(layers: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Element:
    permutation, sign, half_periods, scale = zip(*layers, strict=True)
    return Element(permutation, sign, half_periods, scale)
