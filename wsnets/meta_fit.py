"""Fit N sine fields by a few gradient steps from one shared start, so that gradients flow through the fit itself.

Legend: N fields, K steps, B points of a signal, b of them used in a step, I in, O out, H hidden.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.autograd import Function

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec


def fit(
    start: FieldBatch,
    rates: Mapping[str, Tensor],
    coords: Tensor,
    targets: Tensor,
    samples: Tensor | None = None,
) -> FieldBatch:
    """Take K steps of plain gradient descent on the mean squared error of every field, differentiable in everything.

    p <- p - rates[p][k] * d/dp mean((f(x) - y)^2), k = 0 .. K - 1, elementwise in every parameter p that has rates; the
    others stay those of `start` and are shared by all fields.

    start: one field; rates: name -> (K, *shape); coords (B, I) in [-1, 1]; targets (N, B, O) in raw output space (see
    evaluate.normalise); samples (K, b) int64: the points that each step looks at, None for all. Returns N fields; their
    gradient (second order) reaches start, rates, coords and targets. Meta-SGD (Li et al., 2017) with rates for every
    step, as in Gielisse and van Gemert, CVPR 2025. Raises ValueError for fields that are not plain sine fields, for
    more than one start, for no or unknown rates, and for targets of another shape.
    """
    steps = _check(start, rates, coords, targets)
    count = len(targets)
    moving = {name: value.expand(count, *value.shape[1:]) for name, value in start.parameters.items()}
    # Units before points: every product is then a batched matrix product without a transposed copy.
    x, y = coords.mT.contiguous(), targets.mT
    for step in range(steps):
        at = slice(None) if samples is None else samples[step]
        slopes = _slopes(moving, start.spec, x[:, at], y[..., at], rates)
        for name, slope in slopes.items():
            moving[name] = torch.addcmul(moving[name], rates[name][step], slope, value=-1.0)
    return FieldBatch(start.spec, moving)


def squared_error(fields: FieldBatch, coords: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of every sine field in raw output space: coords (B, I), targets (N, B, O) -> (N,)."""
    waves, _ = _forward(fields.parameters, fields.spec, coords.mT.contiguous())
    return (_linear(fields.parameters, fields.spec.num_layers - 1, waves[-1]) - targets.mT).square().mean(dim=(1, 2))


def _check(start: FieldBatch, rates: Mapping[str, Tensor], coords: Tensor, targets: Tensor) -> int:
    """Number of steps K, after checking that everything fits together."""
    spec = start.spec
    spec.check_dense("meta_fit.fit")
    if spec.activation != "sine" or spec.encoding is not None:
        raise ValueError(f"start is {spec.describe()}: expected a sine field without an encoding")
    if len(start) != 1:
        raise ValueError(f"start has {len(start)} fields: expected 1, shared by all")
    unknown = sorted(set(rates) - set(spec.shapes))
    if unknown or not rates:
        raise ValueError(f"rates={list(rates)}: expected some of {list(spec.shapes)}")
    steps = {len(rate) for rate in rates.values()}
    if len(steps) != 1:
        raise ValueError(f"rates have {sorted(steps)} steps: expected as many for every parameter")
    if targets.ndim != 3 or tuple(targets.shape[1:]) != (len(coords), spec.out_dim):
        raise ValueError(f"targets has shape {tuple(targets.shape)}: expected (N, {len(coords)}, {spec.out_dim})")
    return steps.pop()


def _linear(parameters: Mapping[str, Tensor], layer: int, h: Tensor) -> Tensor:
    """W h + b: h (N, I, B) or (I, B) for all -> (N, O, B)."""
    weight, bias = parameters[f"weights.{layer}"], parameters[f"biases.{layer}"]
    if h.ndim == 2:  # the coordinates, shared by all fields: one product instead of N small ones
        return (weight.flatten(0, 1) @ h).unflatten(0, weight.shape[:2]) + bias.unsqueeze(-1)
    return torch.baddbmm(bias.unsqueeze(-1), weight, h)


def _forward(parameters: Mapping[str, Tensor], spec: FieldSpec, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs of all linear layers, x (I, B) and sines (N, H, B), and the cosines that belong to the sines."""
    waves, slopes = [x], []
    for layer in range(len(spec.hidden)):
        sine, cosine = _SineCosine.apply(_linear(parameters, layer, waves[-1]), spec.w0(layer))
        waves.append(sine)
        slopes.append(cosine)
    return waves, slopes


def _slopes(
    parameters: Mapping[str, Tensor], spec: FieldSpec, x: Tensor, y: Tensor, wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """d/dp mean((f(x) - y)^2) of the wanted parameters: x (I, b), y (N, O, b) -> name -> (N, *shape).

    Written out, since backpropagation as plain tensor code costs one autograd graph where autograd on autograd costs
    two.
    """
    waves, cosines = _forward(parameters, spec, x)
    last = spec.num_layers - 1
    error = (_linear(parameters, last, waves[-1]) - y) * (2.0 / (y.shape[1] * y.shape[2]))
    found = {}
    lowest = min(int(name.split(".")[1]) for name in wanted)
    for layer in range(last, lowest - 1, -1):
        if f"weights.{layer}" in wanted:
            found[f"weights.{layer}"] = error @ waves[layer].mT
        if f"biases.{layer}" in wanted:
            found[f"biases.{layer}"] = error.sum(dim=-1)
        if layer > lowest:
            back = torch.bmm(parameters[f"weights.{layer}"].mT, error)
            error = back * cosines[layer - 1]
    return found


class _SineCosine(Function):
    """z -> sin(w0 z), w0 cos(w0 z): each is what the other's derivative needs."""

    @staticmethod
    def forward(ctx, z: Tensor, w0: float) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        phase = z if w0 == 1.0 else z * w0
        sine, cosine = phase.sin(), phase.cos()
        if w0 != 1.0:
            cosine *= w0
        ctx.save_for_backward(sine, cosine)
        ctx.w0 = w0
        return sine, cosine

    @staticmethod
    def backward(ctx, from_sine: Tensor, from_cosine: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        sine, cosine = ctx.saved_tensors
        return torch.addcmul(from_sine * cosine, from_cosine, sine, value=-(ctx.w0**2)), None
