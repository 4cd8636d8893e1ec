"""Evaluation of populations on the GPU: forward in one launch, all gradients in another, sums over points included.

Gradients that are to be differentiated again (create_graph=True), and those of many outputs at once (is_grads_batched),
are torch's, which computes the values once more.
"""

import contextlib
import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import forward_raw as torch_forward_raw
from neuralfields.kernels import evaluate_tiles
from neuralfields.kernels.evaluate_tiles import DEFAULT_PRECISION, PRECISIONS
from neuralfields.spec import FieldSpec

# One launch of the backward pass takes about so much device memory for gradients.
_BYTES = 2**30


def missing() -> str | None:
    """Why the CUDA kernels cannot be used, or None where they can: on a GPU, or in Triton's interpreter."""
    if find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if _interpreted():
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device that torch can use"
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        return f"the CUDA device has compute capability {capability[0]}.{capability[1]} (8.0 or newer is needed)"
    return None


def unsupported(spec: FieldSpec) -> str | None:
    """Why these kernels cannot evaluate such fields, or None when they can."""
    if missing() is not None:
        return missing()
    tiles = evaluate_tiles
    limits = (
        ("activation", repr(spec.activation), spec.activation in ("sine", "relu"), "it has sine and relu"),
        ("encoding", repr(spec.encoding), len(spec.shapes) == 2 * spec.num_layers, "it has dense layers only"),
        ("hidden width", max(spec.hidden), max(spec.hidden) <= tiles.MAX_WIDTH, f"it goes up to {tiles.MAX_WIDTH}"),
        ("hidden layers", len(spec.hidden), len(spec.hidden) <= tiles.MAX_DEPTH, f"it goes up to {tiles.MAX_DEPTH}"),
        ("encoded inputs", spec.dims[0], spec.dims[0] <= tiles.MAX_INPUTS, f"it goes up to {tiles.MAX_INPUTS}"),
        ("out_dim", spec.out_dim, spec.out_dim <= tiles.MAX_OUTPUTS, f"it goes up to {tiles.MAX_OUTPUTS}"),
    )
    return next((f"{name}={value} ({accepted})" for name, value, ok, accepted in limits if not ok), None)


def refused(fields: FieldBatch, coords: Tensor) -> str | None:
    """Why these kernels cannot evaluate these fields at coords (before encoding), or None where they can."""
    if torch.compiler.is_compiling():
        return "torch.compile traces plain torch only"
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return "torch.func and forward-mode differentiation need plain torch"
    wanted, where = _device_type(), coords.device
    if where.type != wanted:
        place = "a CUDA device" if wanted == "cuda" else "the CPU, where Triton's interpreter is"
        return missing() or f"coords are on {where} (expected {place})"
    for name, value in (*fields.parameters.items(), ("coords", coords)):
        if value.dtype != torch.float32 or value.device != where:
            return f"{name} is {value.dtype} on {value.device} (expected torch.float32 on {where}, as coords)"
    return unsupported(fields.spec)


def forward_raw(fields: FieldBatch, encoded: Tensor, precision: str = DEFAULT_PRECISION) -> Tensor:
    """Raw outputs of N fields, before scale and offset, differentiable in all parameters and in encoded.

    Shapes: encoded (B, E) shared, or (N, B, E) -> (N, B, O), float32, all on one CUDA device (or the CPU in Triton's
    interpreter). precision of products: "fp32", "tf32x3" (three products of halves, about as exact), "tf32", "bf16".
    A field's outputs and gradients are the same to the last bit in any batch; a gradient to shared inputs is summed
    over fields. Raises ValueError where `unsupported` says why, and for other shapes, types, devices or precisions.
    """
    spec = fields.spec
    if (reason := unsupported(spec)) is not None:
        raise ValueError(f"backend='triton' cannot evaluate these fields: {reason}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: expected one of {', '.join(PRECISIONS)}")
    expected = f"(B, {spec.dims[0]}) or ({len(fields)}, B, {spec.dims[0]})"
    if (
        encoded.ndim not in (2, 3)
        or encoded.shape[-1] != spec.dims[0]
        or encoded.shape[:-2] not in ((), (len(fields),))
    ):
        raise ValueError(f"encoded has shape {tuple(encoded.shape)}: expected {expected}")
    device = fields.weights[0].device
    for name, value in (*fields.parameters.items(), ("encoded", encoded)):
        if value.dtype != torch.float32 or value.device != device or device.type != _device_type():
            where = "a CUDA device" if device.type != _device_type() else f"{device}, as the fields"
            raise ValueError(f"{name} is {value.dtype} on {value.device}: expected torch.float32 on {where}")
    if len(fields) == 0 or encoded.shape[-2] == 0:
        return torch_forward_raw(fields, encoded)
    # Contiguous out here: a copy made inside would be saved in place of what gradients of gradients are asked for.
    return _Evaluate.apply(fields.flat(), encoded.contiguous(), spec, precision)  # type: ignore[no-any-return]


class _Evaluate(torch.autograd.Function):
    """(N, P) parameters, encoded points -> (N, B, O)."""

    @staticmethod
    def forward(ctx, flat: Tensor, encoded: Tensor, spec: FieldSpec, precision: str) -> Tensor:
        ctx.save_for_backward(flat, encoded)
        ctx.spec, ctx.precision = spec, precision
        return _values(flat, encoded, spec, precision)

    @staticmethod
    def backward(ctx, d_raw: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        flat, encoded = ctx.saved_tensors
        weights, inputs = ctx.needs_input_grad[:2]
        # Where what comes out is differentiated again, and where many d_raw come at once (is_grads_batched).
        if torch.is_grad_enabled() or _batched(d_raw):
            return *_torch_gradients(ctx, flat, encoded, d_raw), None, None
        d_raw = d_raw.contiguous()
        shared = encoded.ndim == 2
        tile = evaluate_tiles.backward_tile(ctx.spec)
        points, width = encoded.shape[-2:]
        chunk = evaluate_tiles.chunk(points, tile)
        chunks = -(-points // chunk)
        count = max(1, _BYTES // (4 * (chunks * flat.shape[1] * weights + points * width * inputs)))
        d_flat = torch.empty_like(flat) if weights else None
        d_encoded = torch.zeros_like(encoded) if inputs else None
        for part in (slice(first, first + count) for first in range(0, len(flat), count)):
            own = encoded if shared else encoded[part]
            partial, d_own = _gradients(ctx, flat[part], own, d_raw[part], chunk, chunks)
            if d_flat is not None:
                d_flat[part] = _summed(partial)
            if d_encoded is not None and shared:
                d_encoded += d_own.sum(0)
            elif d_encoded is not None:
                d_encoded[part] = d_own
        return d_flat, d_encoded, None, None


def _torch_gradients(ctx, flat: Tensor, encoded: Tensor, d_raw: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of what needs them, by torch: differentiable in flat, encoded and d_raw as often as one likes."""
    wanted = [value for value, needed in zip((flat, encoded), ctx.needs_input_grad[:2], strict=True) if needed]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        raw = torch_forward_raw(FieldBatch.from_flat(ctx.spec, flat), encoded)
        found = iter(torch.autograd.grad(raw, wanted, d_raw, create_graph=again))
    weights, inputs = (next(found) if needed else None for needed in ctx.needs_input_grad[:2])
    return weights, inputs


def _values(flat: Tensor, encoded: Tensor, spec: FieldSpec, precision: str) -> Tensor:
    """One launch: raw outputs (N, B, O)."""
    from neuralfields.kernels import triton_forward, triton_wide

    tile, points = evaluate_tiles.forward_tile(spec), encoded.shape[-2]
    raw = flat.new_empty(len(flat), points, spec.out_dim)
    items = len(flat) * -(-points // tile.points)
    options = {**evaluate_tiles.forward_constants(spec, precision), **_launch(tile)}
    kernel: Any
    with _on(flat.device):
        if tile.scratch:
            programs = min(items, _programs(flat.device))
            scratch = flat.new_empty(programs, evaluate_tiles.scratch(spec, tile, backward=False))
            kernel = triton_wide.evaluate_forward_wide
            kernel[(programs,)](flat, encoded, raw, scratch, points, items, 0, _stride(encoded), **options)
        else:
            kernel = triton_forward.evaluate_forward
            kernel[(items,)](flat, encoded, raw, points, _stride(encoded), **options)
    return raw


def _gradients(ctx, flat: Tensor, encoded: Tensor, d_raw: Tensor, chunk: int, chunks: int) -> tuple[Tensor, Tensor]:
    """One launch: gradients of parameters per chunk (N, chunks, P), and of inputs (N, B, E); empty where not needed."""
    from neuralfields.kernels import triton_wide

    kernel: Any = triton_wide.evaluate_backward
    spec, (weights, inputs) = ctx.spec, ctx.needs_input_grad[:2]
    points, items = encoded.shape[-2], len(flat) * chunks
    partial = flat.new_empty(len(flat), chunks, flat.shape[1] if weights else 0)
    d_encoded = flat.new_empty(len(flat), points if inputs else 0, encoded.shape[-1])
    tile = evaluate_tiles.backward_tile(spec)
    programs = min(items, _programs(flat.device))
    scratch = flat.new_empty(programs, evaluate_tiles.scratch(spec, tile, backward=True))
    constants = evaluate_tiles.backward_constants(spec, ctx.precision, weights, inputs)
    with _on(flat.device):
        kernel[(programs,)](
            flat, encoded, d_raw, partial, d_encoded, scratch, points, chunk, items, 0, _stride(encoded),
            **constants, **_launch(tile),
        )  # fmt: skip
    return partial, d_encoded


def _launch(tile: evaluate_tiles.Tile) -> dict[str, int]:
    return {"num_warps": tile.warps, "num_stages": tile.stages, "maxnreg": evaluate_tiles.REGISTERS}


def _summed(partial: Tensor) -> Tensor:
    """Sum (N, chunks, P) over chunks in an order that depends on their number alone, as torch's own sum does not."""
    while partial.shape[1] > 1:
        half = partial.shape[1] // 2
        folded = partial[:, :half] + partial[:, half : 2 * half]
        partial = folded if partial.shape[1] % 2 == 0 else torch.cat([folded, partial[:, -1:]], dim=1)
    return partial[:, 0]


def _stride(encoded: Tensor) -> int:
    """Floats from one field's points to the next one's."""
    return 0 if encoded.ndim == 2 else encoded.shape[1] * encoded.shape[2]


def _programs(device: torch.device) -> int:
    """How many programs take turns: what registers of a chip hold at once; two in the interpreter, so that they do."""
    return 2 if device.type == "cpu" else 2 * torch.cuda.get_device_properties(device).multi_processor_count


def _on(device: torch.device) -> contextlib.AbstractContextManager:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _device_type() -> str:
    return "cpu" if _interpreted() else "cuda"


def _batched(value: Tensor) -> bool:
    """Whether a tensor stands for many, as inside torch.func.vmap or with is_grads_batched: it then has no memory."""
    inside = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return inside.is_batchedtensor(value) or inside.is_legacy_batchedtensor(value)


def _interpreted() -> bool:
    if "TRITON_INTERPRET" not in os.environ:
        return False
    from triton import knobs

    return knobs.runtime.interpret
