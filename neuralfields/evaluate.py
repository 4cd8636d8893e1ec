"""Evaluate populations of fields: the public door, and the plain torch definition of what a field is."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from neuralfields.backend import choose
from neuralfields.batch import FieldBatch
from neuralfields.encodings import TRAINED
from neuralfields.spec import FieldSpec
from neuralfields.view_head import density_of

MEMORY_MB = 256  # of intermediate results of one chunk, unless asked otherwise
CACHE_MB = 4  # the same where nothing is kept for autograd: on a processor they then stay in its cache


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
    """Return raw outputs, before scale and offset: encoded (B, E) or (N, B, E) -> (N, B, O).

    With a view head these are the trunk's: raw density and geometry features, (N, B, 1 + G).
    """
    h = encoded.expand(len(fields), *encoded.shape) if encoded.ndim == 2 else encoded
    layers = list(zip(fields.weights, fields.biases, strict=True))
    for layer, (weight, bias) in enumerate(layers):
        h = torch.baddbmm(bias.unsqueeze(1), h, weight.transpose(1, 2))
        if layer < len(layers) - 1:
            h = activate(h, fields.spec, layer)
    return h


def encode(fields: FieldBatch | FieldSpec, coords: Tensor) -> Tensor:
    """Apply the coordinate encoding, if there is one: coords (..., I) -> (..., E), I being 3 with a view head.

    A spec is enough where the encoding has no parameters. A trained encoding needs the fields, and takes (B, I) or (N,
    B, I) to (N, B, E). Raises ValueError when it is given only a spec.
    """
    spec = fields if isinstance(fields, FieldSpec) else fields.spec
    if spec.encoding is None:
        return coords
    if not isinstance(spec.encoding, TRAINED):
        return spec.encoding(coords)
    if isinstance(fields, FieldSpec):
        raise ValueError(f"fields is a spec, {spec.describe()}: expected fields, whose encoding is trained")
    return spec.encoding(coords, *(fields.parameters[name] for name in spec.encoding.shapes(spec.encoded_dim)))


def evaluate(fields: FieldBatch, coords: Tensor, memory_mb: int | None = None, backend: str = "auto") -> Tensor:
    """Evaluate N fields at shared or per-field coordinates, differentiable in parameters and coordinates.

    value = scale * f(x) + offset. Shapes: coords (B, I) or (N, B, I), in [-1, 1] -> values (N, B, O). With a view head
    coords are (position, unit direction), I = 6, and values (r, g, b in [0, 1], sigma >= 0 in 1 / length). Intermediate
    results of one chunk of fields and points stay below `memory_mb` megabytes, by default 256, or 4 on a processor
    without autograd (chunks run one after another; what autograd keeps comes on top). backend: as in `choose_backend`.
    Raises ValueError when coords do not fit the fields, and for a backend that cannot evaluate them.
    """
    spec = fields.spec
    if choose_backend(fields, coords, backend) == "triton":
        own = spec.dims[0] + spec.out_dim  # nothing of the layers between is ever in memory
        return denormalise(spec, _chunked(fields, coords, memory_mb, spec.in_dim, _raw_in_kernel, own))
    if spec.view is None:
        return denormalise(spec, _chunked(fields, coords, memory_mb, spec.in_dim, _raw))
    return _chunked(fields, coords, memory_mb, spec.in_dim, _radiance)


def choose_backend(fields: FieldBatch, coords: Tensor, requested: str = "auto") -> str:
    """Name of the backend that `evaluate` takes: "torch", or "triton", whose kernels keep all layers on the chip.

    "auto" is triton for float32 fields on a CUDA device wherever it can evaluate them, else torch; inside torch.func,
    forward-mode differentiation and torch.compile it is torch. Through triton's values gradients of gradients are
    right too, but are torch's, which then computes the values once more: a loss that needs them in every step does
    better with "torch". Raises ValueError, with the reason, for a request that cannot be met.
    """
    on_gpu = coords.device.type == "cuda"
    if requested == "torch" or (requested == "auto" and not on_gpu):  # Triton's interpreter is there for tests only
        return "torch"
    from neuralfields.kernels import evaluate_triton

    return choose(requested, {"triton": evaluate_triton.refused(fields, coords), "torch": None})


def density(fields: FieldBatch, positions: Tensor, memory_mb: int | None = None) -> Tensor:
    """Density of N radiance fields: positions (B, 3) or (N, B, 3), in [-1, 1] -> sigma (N, B) >= 0 in 1 / length.

    Runs the trunk only. Differentiable and chunked as `evaluate`. Raises ValueError for fields without a view head and
    for positions that do not fit.
    """
    if fields.spec.view is None:
        raise ValueError(f"fields are {fields.spec.describe()}: expected radiance fields (with a view head)")
    return density_of(_chunked(fields, positions, memory_mb, 3, lambda part, at: _raw(part, at)[..., :1])).squeeze(-1)


def _raw(fields: FieldBatch, coords: Tensor) -> Tensor:
    return forward_raw(fields, encode(fields, coords))


def _raw_in_kernel(fields: FieldBatch, coords: Tensor) -> Tensor:
    from neuralfields.kernels import evaluate_triton

    return evaluate_triton.forward_raw(fields, encode(fields, coords))


def _radiance(fields: FieldBatch, coords: Tensor) -> Tensor:
    """(B, 6) or (N, B, 6) -> (N, B, 4): r, g, b, sigma."""
    view = fields.spec.view
    assert view is not None
    raw = _raw(fields, coords[..., :3])
    head = [fields.parameters[name] for name in view.shapes]
    return torch.cat([view.colour(head, raw[..., 1:], coords[..., 3:]), density_of(raw[..., :1])], dim=-1)


def _chunked(
    fields: FieldBatch,
    coords: Tensor,
    memory_mb: int | None,
    in_dim: int,
    function: Callable[[FieldBatch, Tensor], Tensor],
    floats: int | None = None,
) -> Tensor:
    """Apply function(some fields, some of their coordinates) -> (n, b, O) chunk by chunk, after checking coords.

    floats: what it holds at once for one point of one field (None: what torch does).
    """
    spec = fields.spec
    if coords.ndim not in (2, 3) or coords.shape[-1] != in_dim:
        raise ValueError(f"coords has shape {tuple(coords.shape)}: expected (B, {in_dim}) or (N, B, {in_dim})")
    if coords.ndim == 3 and coords.shape[0] != len(fields):
        raise ValueError(f"coords has shape {tuple(coords.shape)}: expected {len(fields)} sets, one per field")
    if coords.dtype != fields.weights[0].dtype:
        raise ValueError(f"coords is {coords.dtype}: expected {fields.weights[0].dtype}, as the fields are")
    num_points = coords.shape[-2]
    if memory_mb is None:
        memory_mb = CACHE_MB if coords.device.type == "cpu" and not torch.is_grad_enabled() else MEMORY_MB
    budget = memory_mb * 2**20 / ((floats or floats_per_point(spec)) * coords.element_size())
    points = max(1, min(num_points, int(budget)))
    count = max(1, int(budget) // points)
    rows = []
    for start in range(0, max(1, len(fields)), count):  # once without fields, for the shape
        part = fields[start : start + count]
        own = coords if coords.ndim == 2 else coords[start : start + count]
        pieces = [function(part, piece) for piece in own.split(points, dim=-2)]
        rows.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1))
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def floats_per_point(spec: FieldSpec) -> int:
    """Numbers of 4 bytes that evaluation holds at once for one point of one field, without what autograd keeps."""
    widest = 2 * max(spec.dims + (spec.view.dims if spec.view is not None else ()))
    if not isinstance(spec.encoding, TRAINED):
        return widest
    return widest + spec.encoding.scratch(spec.encoded_dim)


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
