"""Evaluate populations of fields: the public door, and the plain torch definition of what a field is."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec


def activate(z: Tensor, spec: FieldSpec, layer: int) -> Tensor:
    """Apply the activation of hidden layer `layer` to z = W h + b.

    sine: sin(w0 z). relu: max(z, 0). tanh: tanh(z). gauss: exp(-(s z)^2) (Ramasinghe and Lucey, "Beyond
    periodicity", ECCV 2022). gabor: cos(w0 z) exp(-(s z)^2), the real part of the wavelet of WIRE (Saragadam et al.,
    CVPR 2023). finer: sin(w0 (|z| + 1) z) (Liu et al., "FINER", CVPR 2024). w0 = spec.w0(layer), s = spec.width.
    """
    w0 = spec.w0(layer)
    formulas: dict[str, Callable[[], Tensor]] = {
        "sine": lambda: (w0 * z).sin(),
        "relu": lambda: z.relu(),
        "tanh": lambda: z.tanh(),
        "gauss": lambda: (-((spec.width * z) ** 2)).exp(),
        "gabor": lambda: (w0 * z).cos() * (-((spec.width * z) ** 2)).exp(),
        "finer": lambda: (w0 * (z.abs() + 1.0) * z).sin(),
    }
    return formulas[spec.activation]()


def forward_raw(fields: FieldBatch, encoded: Tensor) -> Tensor:
    """Return raw outputs, before scale and offset: encoded (B, E) or (N, B, E) -> (N, B, O)."""
    h = encoded.expand(len(fields), *encoded.shape) if encoded.ndim == 2 else encoded
    layers = list(zip(fields.weights, fields.biases, strict=True))
    for layer, (weight, bias) in enumerate(layers):
        h = torch.baddbmm(bias.unsqueeze(1), h, weight.transpose(1, 2))
        if layer < len(layers) - 1:
            h = activate(h, fields.spec, layer)
    return h


def encode(spec: FieldSpec, coords: Tensor) -> Tensor:
    """Apply the spec's coordinate encoding, if it has one: (..., I) -> (..., E)."""
    return coords if spec.encoding is None else spec.encoding(coords)


def evaluate(fields: FieldBatch, coords: Tensor, memory_mb: int = 256) -> Tensor:
    """Evaluate N fields at shared or per-field coordinates, differentiable in weights and coordinates.

    value = scale * f(x) + offset. Shapes: coords (B, I) or (N, B, I), in [-1, 1] -> values (N, B, O). Intermediate
    results of one chunk of fields and points stay below `memory_mb` megabytes (chunks run one after another; what
    autograd keeps comes on top). Raises ValueError when coords do not fit the fields.
    """
    spec = fields.spec
    if coords.ndim not in (2, 3) or coords.shape[-1] != spec.in_dim:
        raise ValueError(
            f"coords has shape {tuple(coords.shape)}: expected (B, {spec.in_dim}) or (N, B, {spec.in_dim})"
        )
    if coords.ndim == 3 and coords.shape[0] != len(fields):
        raise ValueError(f"coords has shape {tuple(coords.shape)}: expected {len(fields)} sets, one per field")
    if coords.dtype != fields.weights[0].dtype:
        raise ValueError(f"coords is {coords.dtype}: expected {fields.weights[0].dtype}, as the fields are")
    num_points = coords.shape[-2]
    budget = memory_mb * 2**20 / (2 * max(spec.dims) * coords.element_size())
    points = max(1, min(num_points, int(budget)))
    count = max(1, int(budget) // points)
    rows = []
    for start in range(0, len(fields), count):
        part = fields[start : start + count]
        own = coords if coords.ndim == 2 else coords[start : start + count]
        pieces = [forward_raw(part, encode(spec, piece)) for piece in own.split(points, dim=-2)]
        rows.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1))
    if not rows or num_points == 0:
        return coords.new_zeros(len(fields), num_points, spec.out_dim)
    raw = rows[0] if len(rows) == 1 else torch.cat(rows)
    return denormalise(spec, raw)


def denormalise(spec: FieldSpec, raw: Tensor) -> Tensor:
    """Map raw outputs (..., O) to values: scale * raw + offset; the identity costs nothing."""
    if all(s == 1.0 for s in spec.scale) and all(o == 0.0 for o in spec.offset):
        return raw
    return raw * raw.new_tensor(spec.scale) + raw.new_tensor(spec.offset)


def normalise(spec: FieldSpec, values: Tensor) -> Tensor:
    """Map values (..., O) to the raw outputs that stand for them: (value - offset) / scale."""
    if any(s == 0.0 or not math.isfinite(s) for s in spec.scale):
        raise ValueError(f"scale={spec.scale}: expected non-zero numbers")
    if all(s == 1.0 for s in spec.scale) and all(o == 0.0 for o in spec.offset):
        return values
    return (values - values.new_tensor(spec.offset)) / values.new_tensor(spec.scale)
