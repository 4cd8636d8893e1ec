"""The reference fitting kernel in plain torch: any spec, any loss; the definition of right."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fitting.config import FitConfig
from fitting.kernels.task import OnProgress, StepResult, StepTask
from fitting.losses import per_field, psnr_to_mse, surface_terms, value_mse
from neuralfields import optimizers, philox
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import encode, floats_per_point, forward_raw
from neuralfields.spec import FieldSpec

# (fields, coordinates (N, B, I) or (B, I)) -> (N, B, E)
Encoder = Callable[[FieldBatch, Tensor], Tensor]

# Activations of one group of fields stay near this size, so that memory does not grow with the population.
_GROUP_BYTES = 64 * 2**20


def unsupported(spec: FieldSpec, config: FitConfig) -> str | None:
    """Why this backend cannot run such a fit, or None when it can: every spec without a view head, in fp32."""
    if spec.view is not None:
        return "the spec has a view head (fit_views fits those to posed views)"
    if config.precision not in ("auto", "fp32"):
        return f"precision={config.precision!r} (it has fp32)"
    return None


def run(task: StepTask, on_progress: OnProgress | None = None, encoder: Encoder = encode) -> StepResult:
    """Fit all fields with autograd on stacked weights; the contract is that of StepTask and StepResult.

    encoder: applies a trained encoding; results come back to where the task's tensors are.
    """
    points, trained = task.config.batch or task.encoded.shape[-2], task.start.spec.trained_encoding
    floats = points * (sum(task.start.spec.dims) * 4 + (floats_per_point(task.start.spec) if trained else 0))
    group = max(1, _GROUP_BYTES // (4 * floats))
    results = []
    for first in range(0, len(task.ids), group):
        part = slice(first, first + group)
        results.append(_run_group(task, part, on_progress, encoder))
    return StepResult(
        FieldBatch.cat([r.fields for r in results]),
        np.concatenate([r.steps for r in results]),
        np.concatenate([r.curves for r in results]),
    )


def _run_group(task: StepTask, part: slice, on_progress: OnProgress | None, encoder: Encoder) -> StepResult:
    config = task.config
    ids = task.ids[part]
    targets = task.targets[part]
    coords = task.encoded if task.encoded.ndim == 2 else task.encoded[part]
    fields = task.start[part]
    parameters = {name: value.detach().clone().requires_grad_() for name, value in fields.parameters.items()}
    optimizer = make_optimizer(list(parameters.values()), config)
    target_mse = psnr_to_mse(config.target_psnr)
    steps = np.full(len(ids), config.steps, np.int32)
    curves = np.full((len(ids), -(-config.steps // config.curve_every)), np.nan, np.float32)
    active = torch.ones(len(ids), dtype=torch.bool)
    for step in range(config.steps):
        index = draw_index(task, ids, coords.shape[-2], step)
        encoded, target = at(coords, index), at(targets, index)
        current = FieldBatch(fields.spec, parameters)
        if config.needs_gradient:
            raw, extra = with_surface(task, part, current, index, target)
        else:
            raw = forward_raw(current, encoder(current, encoded) if fields.spec.trained_encoding else encoded)
            extra = 0.0
        losses = per_field(config.loss, raw, target) + extra
        mse = value_mse(raw.detach(), target, fields.spec.scale).cpu()
        if step % config.curve_every == 0:
            curves[active.numpy(), step // config.curve_every] = losses.detach().cpu()[active].float().numpy()
        if target_mse > 0 and step >= config.min_steps:
            steps[(active & (mse <= target_mse)).numpy()] = step
            active &= ~(mse <= target_mse)
            if not active.any():
                break
        _update(parameters, optimizer, losses, active, float(task.lr[step]))
        if on_progress is not None:
            on_progress(part.start * config.steps + (step + 1) * len(ids), part.start, float(mse.mean()))
    done = FieldBatch(fields.spec, {name: value.detach() for name, value in parameters.items()})
    return StepResult(done, steps, curves)


def _update(
    parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer, losses: Tensor, active: Tensor, lr: float
) -> None:
    """One optimizer step for the active fields; the others stay as they are."""
    before = None if active.all() else [p.detach().clone() for p in parameters.values()]
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    losses.sum().backward()
    optimizer.step()
    if before is None:
        return
    with torch.no_grad():
        for value, old in zip(parameters.values(), before, strict=True):
            kept = active.to(value.device).view(-1, *[1] * (value.ndim - 1))
            value.copy_(torch.where(kept, value, old))


def make_optimizer(parameters: list[Tensor], config) -> torch.optim.Optimizer:
    """Adam (L2) or AdamW (decoupled) as the config says."""
    kind = optimizers.AdamW if config.optimizer == "adamw" else optimizers.Adam
    return kind(
        parameters,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def draw_index(task: StepTask, ids: np.ndarray, count: int, step: int) -> Tensor | None:
    """Positions (N, B) of the points of one step, drawn per field from (seed, id, step); None: all of them."""
    if task.config.batch == 0:
        return None
    return torch.from_numpy(philox.indices(task.config.seed, ids, step, task.config.batch, count))


def at(values: Tensor, index: Tensor | None) -> Tensor:
    """Rows of values (M, C) or (N, M, C) at positions (N, B): (N, B, C); all of them as they are without an index."""
    if index is None:
        return values
    return values[index] if values.ndim == 2 else values[torch.arange(len(index)).unsqueeze(1), index]


def with_surface(
    task: StepTask, part: slice, fields: FieldBatch, index: Tensor | None, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Raw outputs (N, B, O) and the weighted losses of the gradient of the first value, (N,)."""
    assert task.coords is not None
    config, scale = task.config, fields.spec.scale[0]
    coords = at(task.coords[part], index).detach().requires_grad_()
    raw = forward_raw(fields, encode(fields, coords))
    (gradient,) = torch.autograd.grad(raw[..., 0].sum(), coords, create_graph=True)
    place = torch.arange(coords.shape[1]).expand(coords.shape[:2]) if index is None else index
    known = torch.zeros_like(coords[:, :1]) if task.normals is None else task.normals[part]
    on_surface = place < (0 if task.normals is None else known.shape[1])
    normals = at(known, torch.where(on_surface, place, 0))
    clipped = target[..., 0].abs() >= task.bound * (1 - 1e-6)
    eikonal, direction = surface_terms(gradient * scale, clipped, normals, on_surface)
    return raw, config.eikonal * eikonal + config.normals * direction
