"""Transport fusion: fields averaged unit by unit after optimal transport of their units onto those of a reference.

Legend: N fields, H units of a layer of the field, K units of that layer of the reference, i one of H, j one of K,
B points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from neuralfields import symmetry
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import activate, encode
from neuralfields.spec import FieldSpec
from wsnets.align import lerp
from wsnets.loop import check
from wsnets.unit_moves import ODD, assignment

Ground = Literal["weights", "activations"]
_TIE = 1e-12  # weight of differences in weights where units are compared by what they answer
_TINY = 1e-30


def fuse(
    fields: FieldBatch,
    reference: FieldBatch,
    eta: float = 0.5,
    ground: Ground = "weights",
    kinds: Sequence[str] | None = None,
    coords: Tensor | None = None,
) -> FieldBatch:
    """(1 - eta) transported(fields) + eta reference: N fields of the reference's spec; the arguments are those there.

    eta in [0, 1]: exactly the reference at 1. Singh and Jaggi, "Model fusion via optimal transport", NeurIPS 2020.
    """
    check("eta", eta, 0 <= eta <= 1, "a number in [0, 1]")
    moved = transported(fields, reference, ground, kinds, coords)
    return lerp(moved, reference[[0] * len(fields)] if len(reference) == 1 else reference, eta)


def transported(
    fields: FieldBatch,
    reference: FieldBatch,
    ground: Ground = "weights",
    kinds: Sequence[str] | None = None,
    coords: Tensor | None = None,
) -> FieldBatch:
    """Every field rebuilt on the units of its reference, layer after layer, by transport of units of equal mass.

    T = argmin sum_ij T_ij c_ij,   T 1 = 1 / H,   T^T 1 = 1 / K
    w'_j = K sum_i T_ij m_ij(w_i, b_i),   u'_j = H sum_i T_ij m_ij(u_i)

    c_ij: squared distance of incoming weights and bias, of the layer below as already moved ("weights"), or of what
    both units answer at coords ("activations", per point); m_ij: the sign, half periods or scale among `kinds` that
    brings unit i nearest to j by itself. Incoming weights are averaged over what comes to one place while outgoing ones
    are added up, so that a field whose units are doubled and their outgoing weights halved comes back exactly; the
    published code averages both, which is the same for equal widths alone. Plans are exact: an assignment for equal
    widths, else a linear program. An entropic plan is not sharp and depends on a temperature, and with at most some
    hundred units a side the program takes milliseconds.

    fields, reference: N each (or one reference) of specs that differ in hidden widths at most; coords: (B, I) for
    "activations"; kinds: None for all that the activation has. Where permutation is left out, units stay, for equal
    widths only. Returns N fields of the reference's spec. Raises ValueError for what does not fit.
    """
    own = _checked(fields, reference, ground, kinds, coords)
    others = reference[[0] * len(fields)] if len(reference) == 1 else reference
    dtype = fields.biases[0].dtype
    moved, near = fields.to("cpu", torch.float64), others.to("cpu", torch.float64)
    weights, biases = moved.weights, moved.biases
    answers: list[tuple[Tensor, Tensor]] | None = None
    if ground == "activations" and coords is not None:
        at = coords.to("cpu", torch.float64)
        answers = list(zip(_answers(moved, at), _answers(near, at), strict=True))
    for layer in range(len(fields.spec.hidden)):
        pairs = _pairs(
            fields.spec, layer, (weights[layer], biases[layer]), near, own, answers[layer] if answers else None
        )
        plan = _plans(pairs.cost, "permutation" in own)  # (N, K, H), rows sum to 1
        incoming = plan * pairs.incoming
        biases[layer] = torch.einsum("nji,ni->nj", incoming, biases[layer]) + (plan * pairs.shift).sum(2)
        weights[layer] = torch.matmul(incoming, weights[layer])
        share = plan.shape[2] / plan.shape[1]  # columns of the plan sum to K / H; those of what is handed on, to 1
        weights[layer + 1] = torch.matmul(weights[layer + 1], (plan * pairs.outgoing).transpose(1, 2) * share)
    return FieldBatch.from_layers(reference.spec, weights, biases).to(dtype)


@dataclass(frozen=True)
class _Pairs:
    """For all pairs (N, K, H): the cost of bringing i to j, and the move that does it best by itself.

    incoming, outgoing: factors of a unit's weights; shift: added to the bias.
    """

    cost: Tensor
    incoming: Tensor
    outgoing: Tensor
    shift: Tensor


def _pairs(
    spec: FieldSpec,
    layer: int,
    own: tuple[Tensor, Tensor],
    reference: FieldBatch,
    kinds: tuple[str, ...],
    answers: tuple[Tensor, Tensor] | None,
) -> _Pairs:
    (w, b), (big_w, big_b) = own, (reference.weights[layer], reference.biases[layer])
    products = torch.matmul(big_w, w.transpose(1, 2))
    sizes = big_w.square().sum(2).unsqueeze(2) + w.square().sum(2).unsqueeze(1)
    b, big_b, even = b.unsqueeze(1), big_b.unsqueeze(2), spec.activation not in ODD
    if "scale" in kinds:
        size = (w.square().sum(2).unsqueeze(1) + b.square()).clamp_min(_TINY)
        scale = ((big_w.square().sum(2).unsqueeze(2) + big_b.square()) / size).clamp_min(_TINY).sqrt()
        cost = scale.square() * size + (scale.square() * size) - 2 * scale * (products + b * big_b)
        found = _Pairs(cost, scale, 1.0 / scale, torch.zeros_like(scale))
        return found if answers is None else _Pairs(_difference(*answers), scale, 1.0 / scale, found.shift)
    best = None
    for sign in (1, -1) if "sign" in kinds else (1,):
        for odd_turns in (False, True) if "phase" in kinds else (False,):
            half = math.pi / spec.w0(layer)
            turns = torch.zeros_like(products)
            if "phase" in kinds:
                turns = 2 * ((big_b - sign * b) / (2 * half) - 0.5 * odd_turns).round() + odd_turns
            cost = sizes - 2 * sign * products + (big_b - sign * b - turns * half).square()
            parity = (-1 if odd_turns else 1) * (1 if even else sign)
            if answers is not None:
                # What units answer tells the parity alone; which of the moves of that parity it is, weights tell.
                cost = _TIE * cost + _difference(answers[0] * parity, answers[1])
            here = _Pairs(cost, torch.full_like(cost, sign), torch.full_like(cost, parity), turns * half)
            best = here if best is None else _better(here, best)
    assert best is not None
    return best


def _better(a: _Pairs, b: _Pairs) -> _Pairs:
    chosen = a.cost < b.cost
    return _Pairs(*(torch.where(chosen, x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)))


def _difference(own: Tensor, reference: Tensor) -> Tensor:
    """Mean squared difference of answers (N, H, B) and (N, K, B): (N, K, H)."""
    return torch.cdist(reference, own, compute_mode="donot_use_mm_for_euclid_dist").square() / own.shape[2]


def _answers(fields: FieldBatch, coords: Tensor) -> list[Tensor]:
    """What the units of every hidden layer answer at coords (B, I): (N, H, B) each."""
    h = encode(fields.spec, coords).T.expand(len(fields), -1, -1)
    found = []
    for layer in range(len(fields.spec.hidden)):
        h = activate(torch.baddbmm(fields.biases[layer].unsqueeze(2), fields.weights[layer], h), fields.spec, layer)
        found.append(h)
    return found


def _plans(cost: Tensor, permuted: bool) -> Tensor:
    """K T^T for the cheapest plan of every field: (N, K, H) -> (N, K, H), rows sum to 1, columns to K / H."""
    if not permuted:
        return torch.eye(cost.shape[2], dtype=cost.dtype).expand_as(cost)
    if cost.shape[1] == cost.shape[2]:
        return torch.nn.functional.one_hot(assignment(-cost), cost.shape[2]).to(cost)
    return torch.from_numpy(np.stack([_program(matrix) for matrix in cost.numpy()]))


def _program(cost: np.ndarray) -> np.ndarray:
    """The cheapest plan from H units onto K as a linear program: (K, H), rows sum to 1, columns to K / H."""
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    to, own = cost.shape
    rows = kron(eye_array(to), np.ones((1, own)))
    columns = kron(np.ones((1, to)), eye_array(own))
    sums = np.concatenate([np.ones(to), np.full(own, to / own)])
    size = max(float(np.abs(cost).max()), _TINY)
    found = linprog(cost.ravel() / size, A_eq=vstack([rows, columns]).tocsr(), b_eq=sums, bounds=(0, None))
    if found.x is None:
        raise ValueError(f"cost: no transport plan of {own} units onto {to} was found: {found.message}")
    return found.x.reshape(to, own)


def _checked(
    fields: FieldBatch, reference: FieldBatch, ground: str, kinds: Sequence[str] | None, coords: Tensor | None
) -> tuple[str, ...]:
    check("ground", ground, ground in get_args(Ground), f"one of {', '.join(get_args(Ground))}")
    own, other = ({**spec.to_json(), "hidden": len(spec.hidden)} for spec in (fields.spec, reference.spec))
    has = symmetry.groups_of(fields.spec)
    if own != other:
        said = (
            f"fields of {reference.spec.describe()}: expected the spec of {fields.spec.describe()} but for its widths"
        )
        raise ValueError(f"reference holds {said}")
    if len(reference) not in (1, len(fields)):
        raise ValueError(f"reference holds {len(reference)} fields: expected 1 or {len(fields)}")
    for name in kinds or ():
        check("kinds", name, name in has, f"some of {', '.join(has)}")
    chosen = has if kinds is None else tuple(kinds)
    if "permutation" not in chosen and fields.spec.hidden != reference.spec.hidden:
        raise ValueError(f"kinds={chosen}: expected permutation among them for widths that differ")
    if (coords is None) == (ground == "activations"):
        raise ValueError(f"coords={'None' if coords is None else 'given'}: expected them for ground='activations' only")
    for batch in (fields, reference):
        if not bool(batch.flat().isfinite().all()):
            raise ValueError("fields hold NaN or infinite weights: expected finite ones")
    return chosen
