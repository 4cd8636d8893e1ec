"""Alignment: bring fields next to a reference without changing their functions, one by one or as a whole population.

What the symmetries let fields of equal functions differ by is taken away, as far as a search finds it: then weight
number p means about the same in every field, fields can be mixed and averaged, and a reader without any symmetry reads
them. Legend: N fields, H hidden units, T points of a path.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from neuralfields import symmetry
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Element, Kind
from wsnets.weight_matching import Moves, Parts, match_layer

Start = Literal["incoming", "identity"]
_CHUNK_BYTES = 1 << 18  # of one matrix of costs, float64: stays in cache, and below what torch splits over threads
_SAME_SCALE = 1e-3  # relative: what it still could lower the distance by goes with the square
_REFERENCE_ROUNDS = (200,) * 5 + (1000,) * 5  # fields that the reference is averaged over, round by round


def align(
    fields: FieldBatch,
    reference: FieldBatch,
    kinds: Sequence[str] | None = None,
    max_rounds: int = 100,
    starts: Sequence[Start] = ("incoming", "identity"),
) -> Element:
    """The element whose act(element, fields) is closest to the reference, as found by weight matching.

    Closest in the sum of squared differences of all parameters (`distance`). reference: N fields, one for each, or one
    for all. kinds: None for all that the activation has. From each start the layers are solved in turn, each exactly
    (weight_matching.py), until none changes or for max_rounds rounds; per field the best end is kept. A start
    "identity" never lets the distance grow, and suits fields of one init. "incoming" solves the layers first to last
    by their incoming weights and biases alone; that finds the element of any moved copy of the reference, and with
    ("incoming",) alone the aligned field does not depend on how the given field was moved (up to rounding, for
    generic weights). The search is for a local optimum: the best element is out of reach in general.

    Ainsworth, Hayase and Srinivasa, "Git Re-Basin: merging models modulo permutation symmetries", ICLR 2023. Raises
    ValueError for another spec, count of references, kind or start, and for weights that are not finite.
    """
    kinds = _checked(fields, reference, kinds, starts)
    if not starts:
        raise ValueError(f"starts=(): expected some of {', '.join(get_args(Start))}")
    if max_rounds < 0:
        raise ValueError(f"max_rounds={max_rounds}: expected zero or more")
    count = max(1, _CHUNK_BYTES // (8 * max(fields.spec.hidden) ** 2))
    pieces = []
    with torch.no_grad():
        for at in range(0, len(fields), count):
            own = reference if len(reference) == 1 else reference[at : at + count]
            some, own = fields[at : at + count].to("cpu", torch.float64), own.to("cpu", torch.float64)
            pieces.append(_align_chunk(some, own, kinds, max_rounds, starts))
    if not pieces:
        return symmetry.identity(fields.spec, 0)
    return _element([_each(lambda *parts: torch.cat(parts), *layers) for layers in zip(*pieces, strict=True)])


def aligned(fields: FieldBatch, reference: FieldBatch, kinds: Sequence[str] | None = None, **options) -> FieldBatch:
    """The fields brought to the reference: act(align(fields, reference, kinds), fields); the options are align's."""
    return symmetry.act(align(fields, reference, kinds, **options), fields)


def distance(fields: FieldBatch, reference: FieldBatch) -> Tensor:
    """Squared distance of all parameters, float64 (N,); reference: N fields or one."""
    pairs = zip(fields.parameters.values(), reference.parameters.values(), strict=True)
    return torch.stack([(a.double() - b.double()).square().flatten(1).sum(1) for a, b in pairs]).sum(0)


@dataclass(frozen=True, eq=False)
class Aligner:
    """Brings every field to one reference, by the moves of `kinds`, whatever moves it had been given before.

    aligner(act(g, f)) = aligner(f) for any g of these kinds, up to rounding and for generic weights: so a reader behind
    it is invariant. reference: one field. Raises ValueError for more and for a kind that its activation lacks.
    """

    reference: FieldBatch
    kinds: tuple[Kind, ...]

    def __post_init__(self) -> None:
        if len(self.reference) != 1:
            raise ValueError(f"reference holds {len(self.reference)} fields: expected one")
        _checked(self.reference, self.reference, self.kinds, ())

    def __call__(self, fields: FieldBatch) -> FieldBatch:
        """Aligned fields, in their dtype and on their device."""
        return aligned(fields, self.reference, self.kinds, starts=("incoming",))

    @classmethod
    def fit(cls, batches: Iterable[FieldBatch], kinds: Sequence[str] | None = None) -> "Aligner":
        """Choose the reference: the mean of the first 1,000 fields, each aligned to the reference before.

        The first reference is the first field; ten rounds of aligning and averaging follow, five of them over 200
        fields, as in generalised Procrustes analysis (Gower, "Generalized Procrustes analysis", Psychometrika 1975). A
        mean is nearer to all fields than any of them, and what differs between them does not disturb the matching.
        Batches after the first 1,000 fields are not read. Raises ValueError without any field.
        """
        sample, missing = [], max(_REFERENCE_ROUNDS)
        for batch in batches:
            sample.append(batch[:missing])
            missing -= len(sample[-1])
            if missing == 0:
                break
        if missing == max(_REFERENCE_ROUNDS):
            raise ValueError("batches is empty: expected at least one field to align to")
        fields = FieldBatch.cat(sample).to("cpu", torch.float64)
        aligner = cls(fields[0], symmetry.groups_of(fields.spec) if kinds is None else tuple(kinds))  # type: ignore[arg-type]
        for count in _REFERENCE_ROUNDS:
            near = aligner(fields[:count])
            mean = {name: value.mean(0, keepdim=True) for name, value in near.parameters.items()}
            aligner = cls(FieldBatch(fields.spec, mean), aligner.kinds)
        return aligner

    def state(self) -> dict[str, Tensor]:
        """The reference as named tensors, for a file."""
        return {name: value[0] for name, value in self.reference.parameters.items()}

    @classmethod
    def from_state(cls, spec: FieldSpec, kinds: Sequence[str], state: dict[str, Tensor]) -> "Aligner":
        """Inverse of `state`."""
        parameters = {name: state[name].unsqueeze(0) for name in spec.shapes}
        return cls(FieldBatch(spec, parameters), tuple(kinds))  # type: ignore[arg-type]


def barrier(
    a: FieldBatch, b: FieldBatch, loss: Callable[[FieldBatch], Tensor], num_points: int = 11
) -> tuple[Tensor, Tensor]:
    """Loss along the straight line from a to b, less what the line between the losses of its ends has there.

    path_t = loss((1 - t) a + t b) - (1 - t) loss(a) - t loss(b), t = 0 .. 1; barrier = max over t: 0 at least, as the
    ends are on the path. loss: N fields -> (N,). Returns path (N, T) and barrier (N,). Frankle et al., "Linear mode
    connectivity and the lottery ticket hypothesis", ICML 2020. Raises ValueError for different specs or counts, or
    fewer than 2 points.
    """
    if a.spec != b.spec or len(a) != len(b):
        raise ValueError(f"b is {len(b)} fields of {b.spec.describe()}: expected {len(a)} of {a.spec.describe()}")
    if num_points < 2:
        raise ValueError(f"num_points={num_points}: expected at least 2")
    shares = torch.linspace(0.0, 1.0, num_points, dtype=torch.float64).tolist()
    losses = torch.stack([loss(lerp(a, b, share)) for share in shares], dim=1)
    t = losses.new_tensor(shares)
    path = losses - (losses[:, :1] * (1 - t) + losses[:, -1:] * t)
    return path, path.amax(1)


def lerp(a: FieldBatch, b: FieldBatch, share: float | Tensor) -> FieldBatch:
    """Fields (1 - share) a + share b, parameter by parameter; share: a number or (N,); exactly a at 0 and b at 1."""
    shares = torch.as_tensor(share, dtype=torch.float64).expand(len(a))

    def mix(x: Tensor, y: Tensor) -> Tensor:
        t = shares.to(x).view(-1, *(1,) * (x.ndim - 1))
        return x * (1 - t) + y * t

    return FieldBatch(a.spec, {name: mix(value, b.parameters[name]) for name, value in a.parameters.items()})


def _checked(
    fields: FieldBatch, reference: FieldBatch, kinds: Sequence[str] | None, starts: Sequence[str]
) -> tuple[str, ...]:
    """The kinds asked for, or all that the spec has."""
    has = symmetry.groups_of(fields.spec)
    if reference.spec != fields.spec:
        raise ValueError(f"reference is {reference.spec.describe()}: expected the spec of the fields")
    if len(reference) not in (1, len(fields)):
        raise ValueError(f"reference holds {len(reference)} fields: expected 1 or {len(fields)}")
    for batch in (fields, reference):
        if not bool(batch.flat().isfinite().all()):
            raise ValueError("fields hold NaN or infinite weights: expected finite ones")
    for name in kinds or ():
        if name not in has:
            raise ValueError(
                f"kinds has {name!r}: expected some of {', '.join(has)} for {fields.spec.activation} fields"
            )
    for name in starts:
        if name not in get_args(Start):
            raise ValueError(f"starts has {name!r}: expected some of {', '.join(get_args(Start))}")
    return has if kinds is None else tuple(kinds)


def _align_chunk(
    fields: FieldBatch, reference: FieldBatch, kinds: tuple[str, ...], max_rounds: int, starts: Sequence[Start]
) -> list[Parts]:
    moves = [Moves.of(fields.spec, layer, kinds) for layer in range(len(fields.spec.hidden))]
    unmoved = list(symmetry.identity(fields.spec, len(fields)).layers())
    best, least = unmoved, torch.full((len(fields),), torch.inf, dtype=torch.float64)
    if "identity" in starts:
        least = distance(fields, reference)  # Newton steps are not exact: what is not better must not replace it
    for start in starts:
        parts = unmoved
        if start == "incoming":
            for layer, move in enumerate(moves):
                here = match_layer(fields, reference, layer, parts, move, incoming_only=True)
                parts = [*parts[:layer], here, *parts[layer + 1 :]]
        parts = _descend(fields, reference, parts, moves, max_rounds)
        far = distance(symmetry.act(_element(parts), fields), reference)
        better = (far < least).unsqueeze(1)
        best = [_each(partial(torch.where, better), *pair) for pair in zip(parts, best, strict=True)]
        least = torch.minimum(far, least)
    return best


def _descend(
    fields: FieldBatch, reference: FieldBatch, parts: list[Parts], moves: list[Moves], max_rounds: int
) -> list[Parts]:
    """Solve layer after layer; a layer of a field is solved again only when one of its neighbours has changed."""
    due = torch.ones(len(moves) + 2, len(fields), dtype=torch.bool)  # layer l is row l + 1: the ends need no exception
    due[0] = due[-1] = False
    parts = [_each(Tensor.clone, layer) for layer in parts]
    for _ in range(max_rounds):
        if not due[1:-1].any():
            break
        for layer, move in enumerate(moves):
            at = due[layer + 1].nonzero().squeeze(1)
            if len(at) == 0:
                continue
            old = [_each(partial(torch.index_select, dim=0, index=at), each) for each in parts]
            own = reference if len(reference) == 1 else reference[at]
            new = match_layer(fields[at], own, layer, old, move, incoming_only=False)
            changed = _changed(new, old[layer])
            due[layer + 1, at] = False
            due[layer, at] |= changed
            due[layer + 2, at] |= changed
            for kept, part in zip(parts[layer], new, strict=True):
                kept[at] = part
    return parts


def _changed(new: Parts, old: Parts) -> Tensor:
    discrete = [(a != b).any(1) for a, b in zip(new[:3], old[:3], strict=True)]
    return torch.stack([*discrete, ((new[3] / old[3] - 1).abs() > _SAME_SCALE).any(1)]).any(0)


def _each(function: Callable[..., Tensor], *layers: Parts) -> Parts:
    """Apply a function to the permutations of all given layers, to their signs, half periods and scales."""
    permutation, sign, half_periods, scale = (function(*parts) for parts in zip(*layers, strict=True))
    return permutation, sign, half_periods, scale


def _element(parts: Iterable[Parts]) -> Element:
    permutation, sign, half_periods, scale = zip(*parts, strict=True)
    return Element(permutation, sign, half_periods, scale)
