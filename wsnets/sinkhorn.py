"""Sinkhorn re-basin: units are matched by gradient descent through soft permutations, which harden at the end.

Legend: N fields, H hidden units of a layer, j a unit of the reference, i a unit of the field.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from neuralfields import optimizers, symmetry
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate
from neuralfields.symmetry import Element
from wsnets.align import align, lerp
from wsnets.loop import check
from wsnets.unit_moves import ODD, Soft, from_scores, normal_form, settle, soft_act

Loss = Literal["weights", "midpoint"]
_AT_ONCE = 64  # pairs that are descended together
_NEVER = -1e9  # logit of what may not be matched


@dataclass(frozen=True, kw_only=True)
class RebasinConfig:
    """How soft permutations are optimised, by Adam.

    steps; lr: of the logits; tau, tau_end: temperature, falling geometrically over the steps, both > 0; iterations: of
    Sinkhorn's algorithm; points: coordinates at which "midpoint" compares; seed: draws them. Raises ValueError for
    values outside these.
    """

    steps: int = 200
    lr: float = 0.03
    tau: float = 1.0
    tau_end: float = 0.1
    iterations: int = 20
    points: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "iterations", "points"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "a whole number from 1")
        for name in ("lr", "tau", "tau_end"):
            check(name, getattr(self, name), getattr(self, name) > 0, "a positive number")


def sinkhorn(logits: Tensor, tau: float = 1.0, iterations: int = 20, log: bool = False) -> Tensor:
    """The doubly stochastic matrix near exp(X / tau): rows, then columns are divided by their sums, again and again.

    P = diag(r) exp(X / tau) diag(c),   P 1 = 1,   P^T 1 = 1

    X: (..., H, H) -> P (..., H, H), or log P. In logarithms, so that nothing underflows. Columns sum to 1 up to
    rounding, rows as nearly as the iterations got. As tau falls, P goes to the permutation of largest trace(P^T X),
    where that is unique. Gradients go through the iterations: the implicit ones need to solve with 1 - P^T P, which is
    singular at just the permutations where one wants to end. Sinkhorn, "A relationship between arbitrary positive
    matrices and doubly stochastic matrices", 1964; Mena et al., "Learning latent permutations with Gumbel-Sinkhorn
    networks", ICLR 2018. Raises ValueError for matrices that are not square, and tau or iterations not positive.
    """
    if logits.ndim < 2 or logits.shape[-1] != logits.shape[-2]:
        raise ValueError(f"logits has shape {tuple(logits.shape)}: expected (..., H, H)")
    check("tau", tau, tau > 0, "a positive number")
    check("iterations", iterations, iterations >= 1, "a whole number from 1")
    x = logits / tau
    for _ in range(iterations):
        x = x - x.logsumexp(dim=-1, keepdim=True)
        x = x - x.logsumexp(dim=-2, keepdim=True)
    return x if log else x.exp()


def soft_moves(logits: Tensor, odd: bool, tau: float, iterations: int) -> Soft:
    """Soft moves of one layer from logits of every unit as it is and with its sign changed: (N, S, H, H), S 1 or 2.

    P = Sinkhorn(log(exp X+ + exp X-)), signs tanh((X+ - X-) / 2), all X over tau: a softmax over both. odd: signs reach
    the outgoing weights.
    """
    x = logits / tau
    soft = sinkhorn(x.logsumexp(dim=1), 1.0, iterations)
    if x.shape[1] == 1:
        return Soft(soft, soft)
    signed = soft * ((x[:, 0] - x[:, 1]) / 2).tanh()
    return Soft(signed, signed if odd else soft)


def rebasin(
    fields: FieldBatch,
    reference: FieldBatch,
    loss: str | Callable[[FieldBatch], Tensor] = "weights",
    kinds: Sequence[str] | None = None,
    config: RebasinConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Element:
    """The element that brings fields next to the reference, found by gradient descent through soft permutations.

    "weights": squared distance of all parameters; "midpoint": mean squared difference between the values of (moved +
    reference) / 2 and the mean of the values of both, at random points; or any loss of that midpoint, fields -> (N,).
    Every unit may come with either sign. Phases and scales are taken out of both sides before (`normal_form`), and once
    permutations and signs are hard, weight matching over these kinds alone has the last word on them. reference: N
    fields or one; kinds: None for all that the activation has; progress: called with the steps done and all steps. A
    moved copy comes back; of unlike fields the end is a start for weight matching, which still finds better ones.

    Pena et al., "Re-basin via implicit Sinkhorn differentiation", CVPR 2023; here through the iterations, see
    `sinkhorn`, at a falling temperature. Raises ValueError for another spec, count, kind or loss.
    """
    if isinstance(loss, str):
        check("loss", loss, loss in get_args(Loss), f"{' or '.join(get_args(Loss))}, or a function of fields")
    align(fields, reference, kinds, max_rounds=0, starts=("identity",))  # says what does not fit
    config, own = config or RebasinConfig(), tuple(symmetry.groups_of(fields.spec) if kinds is None else kinds)
    rest = tuple(kind for kind in own if kind in ("phase", "scale"))
    others = reference[[0] * len(fields)] if len(reference) == 1 else reference
    to_normal, from_normal = normal_form(fields, rest), symmetry.inverse(normal_form(others, rest))
    far, near = symmetry.act(to_normal, fields), symmetry.act(symmetry.inverse(from_normal), others)
    units = symmetry.identity(fields.spec, len(fields))
    if len(fields) and {"permutation", "sign"} & set(own):
        units = _descend(far, near, loss, own, config, progress)
    element = symmetry.compose(from_normal, symmetry.compose(units, to_normal))
    return settle(element, fields, others, rest)


def _descend(
    fields: FieldBatch,
    reference: FieldBatch,
    loss: str | Callable[[FieldBatch], Tensor],
    kinds: tuple[str, ...],
    config: RebasinConfig,
    progress: Callable[[int, int], None] | None,
) -> Element:
    """Permutations and signs of all fields, some at a time; no field's descent depends on the others."""
    found, pieces, odd = [], -(-len(fields) // _AT_ONCE), fields.spec.activation in ODD
    for piece in range(pieces):
        part = slice(piece * _AT_ONCE, (piece + 1) * _AT_ONCE)
        logits = [_start(fields[part], width, kinds) for width in fields.spec.hidden]
        optimizer = optimizers.Adam(logits, lr=config.lr)
        for step in range(config.steps):
            tau = config.tau * (config.tau_end / config.tau) ** (step / max(1, config.steps - 1))
            soft = [soft_moves(x, odd, tau, config.iterations) for x in _masked(logits, kinds)]
            value = _measure(soft_act(soft, fields[part]), fields[part], reference[part], loss, config)
            for x, gradient in zip(logits, torch.autograd.grad(value.sum(), logits), strict=True):
                x.grad = gradient
            optimizer.step()
            if progress is not None:
                progress(piece * config.steps + step + 1, pieces * config.steps)
        found.append([x.detach() for x in _masked(logits, kinds)])
    every = [torch.cat(layer) for layer in zip(*found, strict=True)]
    signs = [x[:, 0] - x[:, 1] if x.shape[1] == 2 else None for x in every]
    return from_scores([x.amax(1) for x in every], signs)


def _start(fields: FieldBatch, width: int, kinds: tuple[str, ...]) -> Tensor:
    signs = 2 if "sign" in kinds else 1
    return fields.biases[0].detach().new_zeros(len(fields), signs, width, width).requires_grad_()


def _masked(logits: list[Tensor], kinds: tuple[str, ...]) -> list[Tensor]:
    """Logits, those of other places far down where units may not change places."""
    if "permutation" in kinds:
        return logits
    return [x.masked_fill(~torch.eye(x.shape[-1], dtype=torch.bool, device=x.device), _NEVER) for x in logits]


def _measure(
    moved: FieldBatch,
    fields: FieldBatch,
    reference: FieldBatch,
    loss: str | Callable[[FieldBatch], Tensor],
    config: RebasinConfig,
) -> Tensor:
    """The loss of every pair: (N,)."""
    if loss == "weights":
        return weight_loss(moved, reference)
    middle = lerp(moved, reference, 0.5)
    if not isinstance(loss, str):
        return loss(middle)
    draws = Generator().manual_seed(config.seed)
    coords = 2 * torch.rand(config.points, fields.spec.in_dim, generator=draws, dtype=torch.float64) - 1
    return midpoint_loss(middle, fields, reference, coords.to(fields.biases[0]))


def weight_loss(moved: FieldBatch, reference: FieldBatch) -> Tensor:
    """Squared distance of all parameters, in their dtype: (N,)."""
    pairs = zip(moved.parameters.values(), reference.parameters.values(), strict=True)
    return torch.stack([(a - b).flatten(1).square().sum(1) for a, b in pairs]).sum(0)


def midpoint_loss(middle: FieldBatch, fields: FieldBatch, reference: FieldBatch, coords: Tensor) -> Tensor:
    """Mean squared difference between the middle's values and the mean of those of both ends at (B, I): (N,)."""
    with torch.no_grad():
        wanted = (evaluate(fields, coords) + evaluate(reference, coords)) / 2
    return (evaluate(middle, coords) - wanted).square().mean(dim=(1, 2))
