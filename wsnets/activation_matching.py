"""Activation matching: units are brought to those of a reference that do the same at the same coordinates.

maximise over g   sum_l sum_j  similarity(h_lj(g f), h_lj(r))

Li, Yosinski, Clune, Lipson and Hopcroft, "Convergent learning: do different neural networks learn the same
representations?", ICLR 2016; Ainsworth, Hayase and Srinivasa, "Git Re-Basin: merging models modulo permutation
symmetries", ICLR 2023. What a hidden unit does depends on no move of another unit, so that every layer is one linear
assignment, solved exactly. Over the whole group of an odd activation a unit may turn its activation around (a sign, and
a half period: sin(z + pi) = -sin z), so that the similarity of two units is the absolute correlation. Legend: N fields,
B points, H hidden units, i a unit of the field, j of the reference.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from neuralfields import symmetry
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import activate, encode
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Element
from wsnets.align import align
from wsnets.unit_moves import assignment
from wsnets.weight_matching import EVEN, Moves, Parts, outgoing_factor

_CHUNK_BYTES = 1 << 22  # of the activations of one layer, float64
_MOST_SCALE = 1e5  # a unit that is silent in one of the two fields would be scaled to nothing or to infinity
_TINY = 1e-30


def match_activations(
    fields: FieldBatch, reference: FieldBatch, coords: Tensor, kinds: Sequence[str] | None = None
) -> Element:
    """The element whose act(element, fields) has hidden units that correlate best with the reference's.

    Per layer, a permutation maximises sum_j |corr_ji| over the B points, without the absolute value where the kinds
    cannot turn an activation around. Which of the moves that do the same to the activation is taken, weights decide:
    those nearest to the reference's. A scale is the ratio of root mean squares of two activations. A unit that is
    constant over the points correlates with none. reference: N fields, one for each, or one for all; coords: (B, I) in
    [-1, 1], B at least 2; kinds: None for all that the activation has. Raises ValueError for another spec, count of
    references or kind, for weights that are not finite, and for coords that do not fit.
    """
    spec = fields.spec
    align(fields[:0], reference[:0], kinds)  # says which kinds or specs do not fit
    if len(reference) not in (1, len(fields)):
        raise ValueError(f"reference holds {len(reference)} fields: expected 1 or {len(fields)}")
    for batch in (fields, reference):
        if not bool(batch.flat().isfinite().all()):
            raise ValueError("fields hold NaN or infinite weights: expected finite ones")
    if coords.ndim != 2 or coords.shape[1] != spec.in_dim or len(coords) < 2:
        raise ValueError(f"coords has shape {tuple(coords.shape)}: expected (B, {spec.in_dim}), B at least 2")
    own = symmetry.groups_of(spec) if kinds is None else tuple(kinds)
    moves = [Moves.of(spec, layer, own) for layer in range(len(spec.hidden))]
    points, count = coords.to("cpu", torch.float64), max(1, _CHUNK_BYTES // (8 * len(coords) * max(spec.hidden)))
    pieces: list[list[Parts]] = []
    with torch.no_grad():
        wanted = activations(reference.to("cpu", torch.float64), points) if len(reference) == 1 else None
        for at in range(0, len(fields), count):
            some = fields[at : at + count].to("cpu", torch.float64)
            near = (reference if len(reference) == 1 else reference[at : at + count]).to("cpu", torch.float64)
            pieces.append(_match(some, near, activations(near, points) if wanted is None else wanted, points, moves))
    if not pieces:
        return symmetry.identity(spec, 0)
    layers = [tuple(map(torch.cat, zip(*layer, strict=True))) for layer in zip(*pieces, strict=True)]
    permutation, sign, half_periods, scale = zip(*layers, strict=True)
    return Element(permutation, sign, half_periods, scale)


def activations(fields: FieldBatch, coords: Tensor) -> list[Tensor]:
    """Outputs of all hidden units at coords (B, I), in the fields' dtype: (N, B, H) per hidden layer."""
    h, found = encode(fields, coords), []
    h = h.expand(len(fields), *h.shape) if h.ndim == 2 else h
    for layer in range(len(fields.spec.hidden)):
        z = torch.baddbmm(fields.biases[layer].unsqueeze(1), h, fields.weights[layer].transpose(1, 2))
        h = activate(z, fields.spec, layer)
        found.append(h)
    return found


def correlations(own: Tensor, wanted: Tensor) -> Tensor:
    """Correlation over points of units i with units j, 0 for constant ones: (N, B, H) twice -> (N, H_j, H_i)."""
    return torch.matmul(_standard(wanted).transpose(1, 2), _standard(own))


def _standard(h: Tensor) -> Tensor:
    """Activations less their means, of length 1; those of constant units are 0."""
    centred = h - h.mean(1, keepdim=True)
    size = centred.norm(dim=1, keepdim=True)
    # Rounding leaves of a constant about its size times the machine epsilon: no more than that is noise.
    noise = h.abs().amax(1, keepdim=True) * (h.shape[1] ** 0.5 * 16 * torch.finfo(h.dtype).eps)
    return torch.where(size > noise, centred / size.clamp_min(_TINY), 0.0)


def _match(
    fields: FieldBatch, reference: FieldBatch, wanted: list[Tensor], points: Tensor, moves: list[Moves]
) -> list[Parts]:
    parts: list[Parts] = []
    for layer, (own, goal, move) in enumerate(zip(activations(fields, points), wanted, moves, strict=True)):
        found = correlations(own, goal).expand(len(fields), -1, -1)
        turning = _turns(fields.spec, move)
        place = torch.arange(own.shape[2]).expand(len(fields), own.shape[2])
        if move.permutation:
            place = assignment(found.abs() if turning else found)
        chosen = found.gather(2, place.unsqueeze(2)).squeeze(2)
        turn = torch.where(chosen < 0, -1, 1) if turning else torch.ones_like(place)
        scale = torch.ones_like(chosen)
        if move.scale:
            ours, theirs = (x.square().mean(1).sqrt() for x in (own, goal))
            ours = ours.gather(1, place)
            scale = (theirs / ours.clamp_min(_TINY)).clamp(1 / _MOST_SCALE, _MOST_SCALE)
            scale = torch.where((ours > _TINY) & (theirs > _TINY), scale, 1.0)
        sign, turns = _nearest(fields, reference, layer, parts[-1] if parts else None, place, turn, move)
        parts.append((place, sign, turns, scale))
    return parts


def _turns(spec: FieldSpec, move: Moves) -> bool:
    """Whether the moves can turn an activation around, h -> -h."""
    return (move.sign and spec.activation not in EVEN) or move.phase


def _nearest(
    fields: FieldBatch,
    reference: FieldBatch,
    layer: int,
    before: Parts | None,
    place: Tensor,
    turn: Tensor,
    move: Moves,
) -> tuple[Tensor, Tensor]:
    """Sign and half periods of every new unit that turn its activation as asked, with weights next to the reference's.

    place: old unit of every new one; turn: +-1; both (N, H), as are the results.
    """
    w, b = fields.weights[layer], fields.biases[layer].gather(1, place)
    if before is not None:
        w = w.gather(2, before[0].unsqueeze(1).expand_as(w)) * outgoing_factor(fields.spec, before).unsqueeze(1)
    w = w.gather(1, place.unsqueeze(2).expand_as(w))
    product, big_b = (w * reference.weights[layer]).sum(2), reference.biases[layer]
    even = fields.spec.activation in EVEN
    best, least = (torch.ones_like(place), torch.zeros_like(place)), torch.full_like(product, torch.inf)
    for sign in (1, -1) if move.sign else (1,):
        turns, allowed = torch.zeros_like(place), torch.ones_like(place, dtype=torch.bool)
        if move.phase:
            odd = (turn * sign < 0).long()
            turns = 2 * (((big_b - sign * b) / move.half_period - odd) / 2).round().long() + odd
        elif move.sign and not even:
            allowed = turn == sign
        far = (sign * b + turns * move.half_period - big_b).square() - 2 * sign * product
        better = allowed & (far < least)
        best = (torch.where(better, sign, best[0]), torch.where(better, turns, best[1]))
        least = torch.where(better, far, least)
    return best
