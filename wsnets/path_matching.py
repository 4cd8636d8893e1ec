"""Path matching: units of the last hidden layer are paired so that the straight path between two fields loses little.

minimise over g   sum_t  |f((1 - t) r + t g a) - (f(r) + f(a)) / 2|^2

With the layers before held, the value of a path is a sum over units of the last hidden layer, each of which depends on
the pair (j, i) and the move that brings i onto j alone:  f_t(x) = sum_j c_j,i(j),m(j)(t, x) + constant. So the loss of
every swap of two units and of every other move of one is known exactly from inner products of these columns, and the
best one is taken until none lowers the loss. Unlike weight and activation matching this looks at the very loss that
barriers are measured by; at small widths it finds far lower paths, among elements that bring the weights less near.
Legend: N fields, H hidden units of the last layer, M moves of a unit, T points of a path, B points, O out, L = T B O.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralfields import symmetry
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import activate, encode, evaluate
from neuralfields.symmetry import Element
from wsnets.activation_matching import activations
from wsnets.align import align, lerp
from wsnets.weight_matching import Moves, outgoing_factor

SHARES = (0.25, 0.5, 0.75)
COLUMN_MB = 256  # of all columns c of one pair, float32
_LEAST_GAIN = 1e-6  # relative to the loss and to the columns' size: below, rounding decides


def match_paths(
    fields: FieldBatch,
    reference: FieldBatch,
    coords: Tensor,
    kinds: Sequence[str] | None = None,
    shares: Sequence[float] = SHARES,
    max_steps: int = 500,
    progress: Callable[[int, int], None] | None = None,
) -> Element:
    """The element of weight matching, its last hidden layer searched anew for the path of least loss.

    The loss is the mean over shares t, coords and channels of the squared difference between the field on the path and
    the mean of what both ends show; it is never larger than that of weight matching (`path_loss`). A local optimum: no
    swap of two units and no other move of one lowers it. reference: N fields, one for each, or one for all; coords:
    (B, I); kinds: None for all that the activation has; progress: called with the pairs done and all pairs. Raises
    ValueError as `align`, for shares outside (0, 1), and for more coords than `most_points`.
    """
    spec = fields.spec
    start = align(fields, reference, kinds)
    if not shares or any(not 0.0 < share < 1.0 for share in shares):
        raise ValueError(f"shares={tuple(shares)}: expected some numbers between 0 and 1")
    most = most_points(fields, kinds, shares)
    if coords.ndim != 2 or coords.shape[1] != spec.in_dim or not 1 <= len(coords) <= most:
        raise ValueError(f"coords has shape {tuple(coords.shape)}: expected (B, {spec.in_dim}), B from 1 to {most}")
    own = symmetry.groups_of(spec) if kinds is None else tuple(kinds)
    move = Moves.of(spec, len(spec.hidden) - 1, own)
    points, rows = coords.to("cpu", torch.float64), []
    with torch.no_grad():
        for n in range(len(fields)):
            field, near = (x[n if len(x) > 1 else 0].to("cpu", torch.float64) for x in (fields, reference))
            rows.append(_search_pair(field, near, _of(start, n), points, move, shares, max_steps))
            if progress is not None:
                progress(n + 1, len(fields))
    if not rows:
        return start
    last = [torch.cat(parts) for parts in zip(*rows, strict=True)]
    before = (start.permutation, start.sign, start.half_periods, start.scale)
    permutation, sign, half_periods, scale = ((*x[:-1], new) for x, new in zip(before, last, strict=True))
    found = Element(permutation, sign, half_periods, scale)
    return _better(fields, reference, found, start, coords, shares)


def most_points(fields: FieldBatch, kinds: Sequence[str] | None = None, shares: Sequence[float] = SHARES) -> int:
    """Number of coordinates at which the columns of one pair fit into memory."""
    own = symmetry.groups_of(fields.spec) if kinds is None else tuple(kinds)
    moves = (2 if "sign" in own else 1) * (2 if "phase" in own else 1)
    floats = fields.spec.hidden[-1] ** 2 * moves * len(shares) * fields.spec.out_dim
    return max(1, COLUMN_MB * 2**20 // (4 * floats))


def path_loss(a: FieldBatch, b: FieldBatch, coords: Tensor, shares: Sequence[float] = SHARES) -> Tensor:
    """Mean squared difference of fields on the straight path from a to b, and the mean of what both show: (N,)."""
    wanted = (evaluate(a, coords) + evaluate(b, coords)) / 2
    losses = [(evaluate(lerp(a, b, share), coords) - wanted).square().mean((1, 2)) for share in shares]
    return torch.stack(losses).mean(0)


def _better(
    fields: FieldBatch, reference: FieldBatch, found: Element, start: Element, coords: Tensor, shares: Sequence[float]
) -> Element:
    """Per field the element of lower loss: scales of the search are not those of weight matching."""
    both, points = fields.to("cpu", torch.float64), coords.to("cpu", torch.float64)
    near = (reference[[0] * len(fields)] if len(reference) == 1 else reference).to("cpu", torch.float64)
    with torch.no_grad():
        losses = [path_loss(near, symmetry.act(g, both), points, shares) for g in (found, start)]
    lower = (losses[0] <= losses[1]).unsqueeze(1)
    kept = [
        tuple(torch.where(lower, x, y) for x, y in zip(*layer, strict=True))
        for layer in zip(found.layers(), start.layers(), strict=True)
    ]
    permutation, sign, half_periods, scale = zip(*kept, strict=True)
    return Element(permutation, sign, half_periods, scale)


def _of(element: Element, n: int) -> Element:
    permutation, sign, half_periods, scale = zip(*([x[n : n + 1] for x in y] for y in element.layers()), strict=True)
    return Element(permutation, sign, half_periods, scale)


@dataclass(frozen=True)
class _Columns:
    """What every pair of units and move adds to the path: values (H_j, H_i, M, L); the moves: (H_j, H_i, M) each."""

    values: Tensor
    sign: Tensor
    half_periods: Tensor
    scale: Tensor


def _search_pair(
    field: FieldBatch,
    reference: FieldBatch,
    start: Element,
    coords: Tensor,
    move: Moves,
    shares: Sequence[float],
    max_steps: int,
) -> tuple[Tensor, ...]:
    """The part of the element in the last hidden layer, (1, H) each."""
    *_, last = start.layers()
    unmoved = symmetry.identity(field.spec, 1)
    layers = [*list(start.layers())[:-1], list(unmoved.layers())[-1]]
    before = Element(*zip(*layers, strict=True))
    moved = symmetry.act(before, field)
    columns, constant = _columns(moved, reference, coords, move, shares)
    shown = (evaluate(field, coords) + evaluate(reference, coords)) / 2
    wanted = (constant - shown).flatten().float()
    place, sign, turns, _ = (x[0] for x in last)
    rows = torch.arange(len(place))
    same = (columns.sign[rows, place] == sign[:, None]) & (columns.half_periods[rows, place] == turns[:, None])
    place, chosen = _descend(columns.values, wanted, place, same.int().argmax(1), move.permutation, max_steps)
    found = (x[rows, place, chosen] for x in (columns.sign, columns.half_periods, columns.scale))
    return tuple(x.unsqueeze(0) for x in (place, *found))


def _columns(
    moved: FieldBatch, reference: FieldBatch, coords: Tensor, move: Moves, shares: Sequence[float]
) -> tuple[_Columns, Tensor]:
    """Columns of all pairs and moves, and what the output bias adds: (T, B, O)."""
    spec, layer = moved.spec, len(moved.spec.hidden) - 1
    sign, turns, scale = _candidates(moved, reference, move)
    (w, b, u), (big_w, big_b, big_u) = (
        (x.weights[layer][0], x.biases[layer][0], x.weights[layer + 1][0]) for x in (moved, reference)
    )
    place = torch.zeros_like(sign)
    out = outgoing_factor(spec, (place, sign, turns, scale.double()))
    values, constants = [], []
    factor, offset = (coords.new_tensor(x) for x in (spec.scale, spec.offset))
    for share in shares:
        between = lerp(reference, moved, share)
        h = (activations(between, coords)[layer - 1] if layer else encode(between, coords)).view(len(coords), -1)
        theirs = (h @ big_w.T + big_b).T * (1 - share)
        ours = (h @ w.T + b).T * share
        stretch = (sign * scale).unsqueeze(3) * ours[None, :, None]
        shift = (turns * (move.half_period * share)).unsqueeze(3)
        z = theirs[:, None, None].float() + stretch.float() + shift.float()
        v = ((1 - share) * big_u.T[:, None, None] + share * out.unsqueeze(3) * u.T[None, :, None]) * factor
        values.append(activate(z, spec, layer).unsqueeze(4) * v.float().unsqueeze(3))
        bias = (1 - share) * reference.biases[-1][0] + share * moved.biases[-1][0]
        constants.append((bias * factor + offset).expand(len(coords), -1))
    return _Columns(torch.stack(values, 3).flatten(3), sign, turns, scale), torch.stack(constants)


def _candidates(moved: FieldBatch, reference: FieldBatch, move: Moves) -> tuple[Tensor, Tensor, Tensor]:
    """Signs, half periods and scales that are tried for every pair of units: (H_j, H_i, M) each."""
    layer = len(moved.spec.hidden) - 1
    b, big_b = moved.biases[layer][0], reference.biases[layer][0]
    signs = torch.tensor([1, -1] if move.sign else [1])
    steps = torch.tensor([0, 1] if move.phase else [0])
    sign = signs.repeat_interleave(len(steps)).expand(len(b), len(b), -1).contiguous()
    turns = torch.zeros_like(sign)
    if move.phase:  # the nearest number of half periods on either side of the reference's bias
        gap = (big_b[:, None, None] - sign * b[None, :, None]) / move.half_period
        turns = gap.floor().long() + steps.repeat(len(signs))
    scale = torch.ones(sign.shape, dtype=torch.float64)
    if move.scale:
        size, big_size = (
            torch.cat([x.weights[layer][0], x.biases[layer][0][:, None]], 1).norm(dim=1).clamp_min(1e-12)
            for x in (moved, reference)
        )
        scale = (big_size[:, None] / size).unsqueeze(2).expand(sign.shape).contiguous()
    return sign, turns, scale


def _descend(
    columns: Tensor, constant: Tensor, place: Tensor, chosen: Tensor, swaps: bool, max_steps: int
) -> tuple[Tensor, Tensor]:
    """Take the change that lowers |sum_j c_j + constant|^2 most, until none does: old units and moves, (H,) each.

    columns: (H_j, H_i, M, L); constant: (L,) what is left of the target.
    """
    width = len(place)
    rows, norms = torch.arange(width), columns.square().sum(3)
    first, second = torch.triu_indices(width, width, 1)
    place, chosen = place.clone(), chosen.clone()
    current = columns[rows, place, chosen]
    inner = torch.einsum("jiml,jl->jim", columns, current)
    cross = _cross(columns, current, place, first, second) if swaps else None
    left = current.sum(0) + constant
    loss = float(left @ left)
    for _ in range(max_steps):
        pull = columns @ left
        size = norms[rows, place, chosen]
        alone = 2 * (pull - pull[rows, place, chosen, None, None]) + norms - 2 * inner + size[:, None, None]
        own = alone[rows, place]
        gain, at, changed = float(own.min()), int(own.argmin()), torch.empty(0, dtype=torch.int64)
        swapped = None
        if cross is not None and len(first):
            both = alone[first, place[second]].unsqueeze(2) + alone[second, place[first]].unsqueeze(1) + 2 * cross
            if float(both.min()) < gain:
                gain, swapped = float(both.min()), int(both.argmin())
        if gain >= -_LEAST_GAIN * (loss + float(current.square().sum())):
            break
        if swapped is None:
            changed = torch.tensor([at // own.shape[1]])
            chosen[changed] = at % own.shape[1]
        else:
            moves = own.shape[1]
            pair, of_first, of_second = swapped // moves**2, swapped // moves % moves, swapped % moves
            changed = torch.stack([first[pair], second[pair]])
            place[changed] = place[changed.flip(0)]
            chosen[changed] = torch.tensor([of_first, of_second])
        current[changed] = columns[changed, place[changed], chosen[changed]]
        inner[changed] = torch.einsum("jiml,jl->jim", columns[changed], current[changed])
        if cross is not None:
            due = (torch.isin(first, changed) | torch.isin(second, changed)).nonzero().squeeze(1)
            cross[due] = _cross(columns, current, place, first[due], second[due])
        left = current.sum(0) + constant
        loss = float(left @ left)
    return place, chosen


def _cross(columns: Tensor, current: Tensor, place: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Inner products of the changes of both units in every swap, for all moves of both: (pairs, M, M)."""
    one = columns[first, place[second]] - current[first].unsqueeze(1)
    other = columns[second, place[first]] - current[second].unsqueeze(1)
    return one @ other.transpose(1, 2)
