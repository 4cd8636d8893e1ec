"""Symmetries of fields: group elements that change a field's weights and leave its function as it is.

Per hidden unit with incoming weights w, bias b and outgoing weights u, and per layer a permutation of its units:

permutation   any activation              the units of one hidden layer in another order
sign          odd (sine, tanh, finer)     (w, b, u) -> (-w, -b, -u)
              even (gauss, gabor)         (w, b, u) -> (-w, -b,  u)
phase         sine                        (w, b, u) -> (w, b + k pi / w0, (-1)^k u), k half periods, w0 of the layer
scale         relu                        (w, b, u) -> (s w, s b, u / s), s > 0

For sine the three generate S_H wr D_inf per layer, D_inf being the symmetries of the integers; phase acts affinely on
the weights, the others linearly. Legend: N fields, H hidden units of a layer.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec

Kind = Literal["permutation", "sign", "phase", "scale"]
_GROUPS: dict[str, tuple[Kind, ...]] = {
    "sine": ("permutation", "sign", "phase"),
    "relu": ("permutation", "scale"),
    "tanh": ("permutation", "sign"),
    "gauss": ("permutation", "sign"),
    "gabor": ("permutation", "sign"),
    "finer": ("permutation", "sign"),
}
_EVEN = ("gauss", "gabor")
# Half periods and logarithms of scales of far elements are drawn from +- these.
_MAX_HALF_PERIODS = 3
_MAX_LOG_SCALE = math.log(4.0)
_NEAR_LOG_SCALE = 1e-3


@dataclass(frozen=True, eq=False)
class Element:
    """One group element per field, a tensor (N, H) per hidden layer in each of four tuples.

    New unit j is old unit permutation[j], then changed by sign[j], scale[j] and half_periods[j]:
    w_j' = sign_j scale_j w_p(j), b_j' = sign_j scale_j b_p(j) + half_periods_j pi / w0.
    permutation: int64, each row one of 0 .. H-1; sign: int64 in {-1, +1}; half_periods: int64; scale: float64 > 0.
    Raises ValueError for anything else, and for one that has both phase and scale, which no activation has.
    """

    permutation: tuple[Tensor, ...]
    sign: tuple[Tensor, ...]
    half_periods: tuple[Tensor, ...]
    scale: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        for layer, (p, sign, k, scale) in enumerate(self.layers()):
            if p.ndim != 2 or any(part.shape != p.shape for part in (sign, k, scale)):
                shapes = [tuple(part.shape) for part in (p, sign, k, scale)]
                raise ValueError(f"element has shapes {shapes} in layer {layer}: expected four times one (N, H)")
            if p.dtype != torch.int64 or k.dtype != torch.int64:
                raise ValueError(f"permutation is {p.dtype}, half_periods {k.dtype} in layer {layer}: expected int64")
            if not torch.equal(p.sort(dim=1).values, torch.arange(p.shape[1], device=p.device).expand_as(p)):
                raise ValueError(f"permutation of layer {layer}: expected every row to hold 0 .. {p.shape[1] - 1} once")
            if not bool((sign.abs() == 1).all()):
                raise ValueError(f"sign of layer {layer}: expected only -1 and +1")
            if not bool(((scale > 0) & scale.isfinite()).all()):
                raise ValueError(f"scale of layer {layer}: expected positive finite numbers")
            if bool((k != 0).any()) and bool((scale != 1).any()):
                raise ValueError(f"element has half_periods and scale in layer {layer}: expected one of them")

    def layers(self) -> Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Iterate over hidden layers: (permutation, sign, half_periods, scale), each (N, H)."""
        return zip(self.permutation, self.sign, self.half_periods, self.scale, strict=True)


def groups_of(spec: FieldSpec) -> tuple[Kind, ...]:
    """The kinds of symmetry that the spec's activation has, permutation first.

    Raises ValueError for a spec with other parameters than dense layers.
    """
    spec.check_dense("symmetry")
    return _GROUPS[spec.activation]


def identity(spec: FieldSpec, n: int) -> Element:
    """The element that changes nothing, for n fields."""
    return _from_layers(_identity_layer(n, width) for width in spec.hidden)


def sample(
    spec: FieldSpec,
    n: int,
    generator: torch.Generator,
    kinds: Sequence[str] | None = None,
    near: bool = False,
) -> Element:
    """Draw a random element for each of n fields, on the generator's device.

    Uniform permutations and signs, half periods uniform in -3 .. 3, scales log-uniform in [1/4, 4]. near=True stays
    next to the identity: per layer one transposition, one unit with a sign and +-1 half period, scales within 0.1
    percent of 1. kinds:
    None for all that the spec has. Raises ValueError for a kind that the spec's activation does not have.
    """
    kinds = _checked(spec, kinds)
    layers = []
    for width in spec.hidden:
        p, sign, k, scale = _identity_layer(n, width, generator.device)
        draw = torch.rand((4, n, width), generator=generator, dtype=torch.float64, device=generator.device)
        # Of a near element only the first unit in a random order changes, and trades places with the second.
        order = draw[0].argsort(dim=1)
        changed = torch.ones_like(p, dtype=torch.bool)
        if near:
            changed = torch.zeros_like(changed).scatter(1, order[:, :1], True)
            order = p.scatter(1, order[:, :2], order[:, :2].flip(1))
        limit = _NEAR_LOG_SCALE if near else _MAX_LOG_SCALE
        jump = torch.where(draw[2] < 0.5, -1, 1) if near else (draw[2] * (2 * _MAX_HALF_PERIODS + 1)).floor().long()
        if "permutation" in kinds:
            p = order
        if "sign" in kinds:
            sign = torch.where(changed & ((draw[1] < 0.5) | near), -1, 1)
        if "phase" in kinds:
            k = torch.where(changed, jump if near else jump - _MAX_HALF_PERIODS, 0)
        if "scale" in kinds:
            scale = ((draw[3] * 2 - 1) * limit).exp()
        layers.append((p, sign, k, scale))
    return _from_layers(layers)


def compose(g: Element, h: Element) -> Element:
    """The element that does h, then g: act(compose(g, h), f) = act(g, act(h, f)).

    permutation = h.permutation[g.permutation], sign and scale multiply, half_periods = g.half_periods + g.sign *
    h.half_periods, all of h taken at g's permutation. Raises ValueError when one has phase and the other scale.
    """
    layers = []
    for (pg, sign_g, kg, scale_g), (ph, sign_h, kh, scale_h) in zip(g.layers(), h.layers(), strict=True):
        moved = (sign_g * sign_h.gather(1, pg), kg + sign_g * kh.gather(1, pg), scale_g * scale_h.gather(1, pg))
        layers.append((ph.gather(1, pg), *moved))
    return _from_layers(layers)


def inverse(g: Element) -> Element:
    """The element that undoes g: compose(inverse(g), g) and compose(g, inverse(g)) are the identity."""
    layers = []
    for p, sign, k, scale in g.layers():
        back = p.argsort(dim=1)
        sign = sign.gather(1, back)
        layers.append((back, sign, -sign * k.gather(1, back), 1.0 / scale.gather(1, back)))
    return _from_layers(layers)


def act(g: Element, fields: FieldBatch) -> FieldBatch:
    """Apply element n to field n; differentiable in the weights, in their dtype and on their device.

    The function of every field stays the same when g has only kinds of `groups_of(fields.spec)`, which is what
    `sample` draws; any other element is applied as well and changes it (a test of a tester needs one). Raises
    ValueError when the element was made for another number of fields or other widths.
    """
    expected = [(len(fields), width) for width in fields.spec.hidden]
    if [tuple(p.shape) for p in g.permutation] != expected:
        raise ValueError(f"g has shapes {[tuple(p.shape) for p in g.permutation]}: expected {expected}")
    weights, biases = fields.weights, fields.biases
    for layer, parts in enumerate(g.layers()):
        _act_layer(fields.spec, layer, parts, weights, biases)
    return FieldBatch.from_layers(fields.spec, weights, biases)


def canonicalise(fields: FieldBatch, kinds: Sequence[str] | None = None) -> FieldBatch:
    """Move every field to one representative of its orbit: canonicalise(act(g, f)) = canonicalise(f).

    Layer by layer: phase brings w0 b into [-pi/2, pi/2], sign makes b positive (w0 b in [0, pi/2]; where b = 0, the
    first incoming weight), scale gives (w, b) of each unit norm 1, permutation sorts units by b, then by the first
    incoming weight. The function stays the same, twice is once, and the equation holds up to rounding for generic
    weights: not where w0 b is a multiple of pi/2 within rounding while g has phase, and not where two units have the
    same b and first weight or one has w = 0, b = 0. kinds: None for all that the spec has, or some of them (without
    "permutation" the order of units stays). Raises ValueError for a kind that the activation does not have.
    """
    kinds = _checked(fields.spec, kinds)
    weights, biases = fields.weights, fields.biases
    for layer, width in enumerate(fields.spec.hidden):
        p, sign, k, scale = _identity_layer(len(fields), width, biases[layer].device)
        b, first = biases[layer].double(), weights[layer][:, :, 0].double()
        if "phase" in kinds:
            half_period = math.pi / fields.spec.w0(layer)
            turns = (b / half_period).round()
            k, b = -turns.long(), b - turns * half_period
        if "sign" in kinds:
            sign = torch.where(torch.where(b == 0, first, b) < 0, -1, 1)
            k = k * sign  # the sign is applied first, so the same shift is needed with its sign
        if "scale" in kinds:
            norm = torch.cat([weights[layer].double(), b.unsqueeze(2)], dim=2).norm(dim=2)
            scale = torch.where(norm > 0, 1.0 / norm.clamp_min(1e-300), 1.0)
        _act_layer(fields.spec, layer, (p, sign, k, scale), weights, biases)
        if "permutation" in kinds:
            by_weight = weights[layer][:, :, 0].argsort(dim=1, stable=True)
            order = by_weight.gather(1, biases[layer].gather(1, by_weight).argsort(dim=1, stable=True))
            unchanged = _identity_layer(len(fields), width, order.device)[1:]
            _act_layer(fields.spec, layer, (order, *unchanged), weights, biases)
    return FieldBatch.from_layers(fields.spec, weights, biases)


def _checked(spec: FieldSpec, kinds: Sequence[str] | None) -> tuple[str, ...]:
    """The kinds asked for, or all that the spec has."""
    if kinds is None:
        return groups_of(spec)
    for kind in kinds:
        if kind not in groups_of(spec):
            known = f"{', '.join(groups_of(spec))}" if kind in get_args(Kind) else f"{', '.join(get_args(Kind))}"
            raise ValueError(f"kinds has {kind!r}: expected some of {known} for {spec.activation} fields")
    return tuple(kinds)


def _act_layer(
    spec: FieldSpec,
    layer: int,
    parts: tuple[Tensor, Tensor, Tensor, Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
) -> None:
    """Apply one hidden layer's part of an element, replacing the entries of the two lists that it touches."""
    w, b, u = weights[layer], biases[layer], weights[layer + 1]
    p, sign, k, scale = (part.to(b.device) for part in parts)
    incoming = (sign * scale).to(b.dtype)
    parity = (1 - 2 * (k % 2)) * (1 if spec.activation in _EVEN else sign)
    outgoing = (parity / scale).to(b.dtype)
    # In float64 first: pi / w0 rounded to float32 would cost accuracy that grows with k.
    shift = (k.double() * (math.pi / spec.w0(layer))).to(b.dtype)
    weights[layer] = w.gather(1, p.unsqueeze(2).expand_as(w)) * incoming.unsqueeze(2)
    biases[layer] = b.gather(1, p) * incoming + shift
    weights[layer + 1] = u.gather(2, p.unsqueeze(1).expand_as(u)) * outgoing.unsqueeze(1)


def _identity_layer(n: int, width: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    p = torch.arange(width, device=device).expand(n, width).clone()
    return p, torch.ones_like(p), torch.zeros_like(p), torch.ones_like(p, dtype=torch.float64)


def _from_layers(layers: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Element:
    permutation, sign, half_periods, scale = zip(*layers, strict=True)
    return Element(permutation, sign, half_periods, scale)
