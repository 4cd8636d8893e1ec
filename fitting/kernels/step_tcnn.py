"""The torch fitting kernel on a GPU with tiny-cuda-nn's hash grid: for one large field, where it is asked for."""

from dataclasses import replace

import torch

from fitting.config import FitConfig
from fitting.kernels import step_torch
from fitting.kernels.task import OnProgress, StepResult, StepTask
from neuralfields.kernels import evaluate_tcnn
from neuralfields.spec import FieldSpec


def unsupported(spec: FieldSpec, config: FitConfig, count: int = 1) -> str | None:
    """Why this backend cannot run such a fit of `count` fields, or None when it can."""
    if config.dtype != "float32":
        return f"dtype={config.dtype!r} (it has float32)"
    if config.needs_gradient:
        return f"eikonal={config.eikonal}, normals={config.normals} (the torch backend has them)"
    return evaluate_tcnn.unsupported(spec, count) or step_torch.unsupported(spec, config)


def run(
    task: StepTask, on_progress: OnProgress | None = None, encoder: step_torch.Encoder = evaluate_tcnn.encode
) -> StepResult:
    """Fit one field; the contract is that of StepTask and StepResult. Raises ValueError where `unsupported` says why.

    encoder: as of step_torch; it decides the device together with what torch has.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # One set of coordinates, as tiny-cuda-nn takes it: a field alone has no others.
    shared = replace(
        task,
        start=task.start.to(device),
        encoded=(task.encoded if task.encoded.ndim == 2 else task.encoded[0]).to(device),
        targets=task.targets.to(device),
    )

    def one(fields, coords):
        return encoder(fields, coords if coords.ndim == 2 else coords[0])

    done = step_torch.run(shared, on_progress, one)
    return StepResult(done.fields.to(task.targets.device), done.steps, done.curves)
