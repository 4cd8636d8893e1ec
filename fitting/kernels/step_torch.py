"""The reference fitting kernel in plain torch: any spec, any loss; the definition of right."""

import numpy as np
import torch
from torch import Tensor

from fitting.kernels.task import OnProgress, StepResult, StepTask
from fitting.losses import per_field, psnr_to_mse, value_mse
from neuralfields import philox
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import forward_raw

# Activations of one group of fields stay near this size, so that memory does not grow with the population.
_GROUP_BYTES = 64 * 2**20


def unsupported(task: StepTask) -> str | None:
    """Why this backend cannot run the task: it can run every one."""
    return None


def run(task: StepTask, on_progress: OnProgress | None = None) -> StepResult:
    """Fit all fields with autograd on stacked weights; the contract is that of StepTask and StepResult."""
    points = task.config.batch or task.encoded.shape[-2]
    floats = points * sum(task.start.spec.dims) * 4
    group = max(1, _GROUP_BYTES // (4 * floats))
    results = []
    for first in range(0, len(task.ids), group):
        part = slice(first, first + group)
        results.append(_run_group(task, part, on_progress))
    return StepResult(
        FieldBatch.cat([r.fields for r in results]),
        np.concatenate([r.steps for r in results]),
        np.concatenate([r.curves for r in results]),
    )


def _run_group(task: StepTask, part: slice, on_progress: OnProgress | None) -> StepResult:
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
        encoded, target = draw_points(task, ids, coords, targets, step)
        raw = forward_raw(FieldBatch(fields.spec, parameters), encoded)
        losses = per_field(config.loss, raw, target)
        mse = value_mse(raw.detach(), target, fields.spec.scale)
        if step % config.curve_every == 0:
            curves[active.numpy(), step // config.curve_every] = losses.detach()[active].float().numpy()
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
            value.copy_(torch.where(active.view(-1, *[1] * (value.ndim - 1)), value, old))


def make_optimizer(parameters: list[Tensor], config) -> torch.optim.Optimizer:
    """Adam (L2) or AdamW (decoupled) as the config says."""
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(
        parameters,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def draw_points(task: StepTask, ids: np.ndarray, coords: Tensor, targets: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Coordinates and targets of one step: all points, or `batch` of them drawn per field from (seed, id, step)."""
    if task.config.batch == 0:
        return coords, targets
    chosen = philox.indices(task.config.seed, ids, step, task.config.batch, coords.shape[-2])
    index = torch.from_numpy(chosen)
    rows = torch.arange(len(ids)).unsqueeze(1)
    return coords[index] if coords.ndim == 2 else coords[rows, index], targets[rows, index]
