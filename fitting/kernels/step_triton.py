"""The CUDA fitting kernels: one field per program, signals streamed from the host part by part, over all devices."""

import os
from importlib.util import find_spec

import numpy as np
import torch

from fitting.config import FitConfig
from fitting.kernels import halves_tiles, triton_tiles
from fitting.kernels.task import OnProgress, StepResult, StepTask
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec

# One launch fits at least so many fields (several waves on the largest chip) and takes about so much device memory.
_FIELDS = 2048
_BYTES = 2**30
MAX_WIDTH = 256
PRECISIONS = ("fp32", "tf32x3", "tf32", "mixed", "bf16")


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


def unsupported(spec: FieldSpec, config: FitConfig) -> str | None:
    """Why this backend cannot run such a fit, or None when it can."""
    if missing() is not None:
        return missing()
    precision = config.precision
    halves = precision != "mixed" or halves_tiles.tile(spec, "mixed") is not None
    limits = (
        ("activation", repr(spec.activation), spec.activation in ("sine", "relu"), "it has sine and relu"),
        ("encoding", repr(spec.encoding), len(spec.shapes) == 2 * spec.num_layers, "it trains dense layers only"),
        ("hidden width", max(spec.hidden), max(spec.hidden) <= MAX_WIDTH, f"it goes up to {MAX_WIDTH}"),
        ("hidden layers", len(spec.hidden), len(spec.hidden) <= triton_tiles.MAX_DEPTH, "it goes up to 5"),
        ("encoded inputs", spec.dims[0], spec.dims[0] <= triton_tiles.MAX_INPUTS, "it goes up to 64"),
        ("out_dim", spec.out_dim, spec.out_dim <= triton_tiles.MAX_OUTPUTS, "it goes up to 4"),
        ("dtype", repr(config.dtype), config.dtype == "float32", "it has float32"),
        ("eikonal, normals", (config.eikonal, config.normals), not config.needs_gradient, "the torch backend has them"),
        ("precision", repr(precision), precision in ("auto", *PRECISIONS), f"it has auto, {', '.join(PRECISIONS)}"),
        ("precision", repr(precision), halves, halves_tiles.ACCEPTED),
    )
    return next((f"{name}={value} ({accepted})" for name, value, ok, accepted in limits if not ok), None)


def run(task: StepTask, on_progress: OnProgress | None = None) -> StepResult:
    """Fit all fields; the contract is that of StepTask and StepResult. Raises ValueError where `unsupported` says why.

    encoded may also be (N, M, E), points of each field's own. Parts of the population go round two lanes per device, so
    that the signals of one part travel while another is fitted.
    """
    from fitting.kernels.triton_lanes import Lane

    spec, config, count = task.start.spec, task.config, len(task.ids)
    reason = unsupported(spec, config)
    if reason is not None:
        raise ValueError(f"backend='triton' cannot run this: {reason}")
    flat = task.start.flat().detach().to(torch.float32, copy=True)
    steps = np.zeros(count, np.int32)
    curves = np.full((count, -(-config.steps // config.curve_every)), np.nan, np.float32)
    devices = _devices()
    # In this order few parts go to as many devices as there are.
    lanes = [Lane(task, device, one) for one in range(1 if devices[0].type == "cpu" else 2) for device in devices]
    done = 0

    def collect(lane: Lane) -> None:
        nonlocal done
        part, mse = lane.collect(flat, steps, curves)
        done += part.stop - part.start
        if on_progress is not None:
            on_progress(done * config.steps, done, mse)

    size = _part_size(task, len(lanes))
    parts = [slice(first, min(first + size, count)) for first in range(0, count, size)]
    for number, part in enumerate(parts):
        lane = lanes[number % len(lanes)]
        if lane.part is not None:
            collect(lane)
        lane.start(part, flat)
    for number in range(len(parts), len(parts) + len(lanes)):
        lane = lanes[number % len(lanes)]
        if lane.part is not None:
            collect(lane)
    return StepResult(FieldBatch.from_flat(spec, flat), steps, curves)


def _devices() -> list[torch.device]:
    if _interpreted():
        return [torch.device("cpu")]
    # Tiles are chosen for the first one's architecture: devices of another take no part.
    like = torch.cuda.get_device_capability(0)
    indices = [i for i in range(torch.cuda.device_count()) if torch.cuda.get_device_capability(i) == like]
    return [torch.device("cuda", index) for index in indices]


def _part_size(task: StepTask, lanes: int) -> int:
    """Fields per launch: an even share of every lane, but several waves of programs and a bounded piece of memory."""
    from fitting.kernels.triton_lanes import tier

    chosen = tier(task.start.spec, task.config)
    scratch = chosen.scratch + chosen.copies // 2 + (task.config.batch if chosen.copies else 0)
    own_points = task.encoded[0].numel() if task.encoded.ndim == 3 else 0
    if own_points and chosen.copies:
        row = chosen.constants["COLUMNS"] + chosen.constants["NARROW"]
        own_points += task.encoded.shape[1] * row * 3 // 2
    floats = 3 * task.start.spec.num_params + task.targets[0].numel() + own_points + scratch
    return max(1, min(max(_FIELDS, -(-len(task.ids) // lanes)), _BYTES // (4 * floats)))


def _interpreted() -> bool:
    if "TRITON_INTERPRET" not in os.environ:
        return False
    from triton import knobs

    return knobs.runtime.interpret
