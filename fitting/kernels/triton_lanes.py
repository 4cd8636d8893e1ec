"""A lane of the CUDA fit: one stream of one device, on which parts of the population are fitted one after another."""

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitting.config import FitConfig
from fitting.kernels import halves_tiles, triton_streamed, triton_tiles
from fitting.kernels.task import StepTask
from fitting.kernels.triton_halves import fit_halves
from fitting.kernels.triton_resident import fit_resident
from fitting.kernels.triton_streamed import fit_streamed
from fitting.losses import psnr_to_mse
from neuralfields.spec import FieldSpec


@dataclass(frozen=True)
class Tier:
    """The kernel that fits such fields: its compile-time arguments and those of its launch.

    scratch: floats a field; copies: bfloat16 numbers a field, where the kernel takes its inputs and weights in parts,
    and draws a step's points before it goes through them.
    """

    kernel: Any
    constants: dict[str, Any]
    scratch: int
    num_warps: int
    num_stages: int
    maxnreg: int | None = None
    copies: int = 0


def tier(spec: FieldSpec, config: FitConfig) -> Tier:
    """In bfloat16 parts where the precision allows it, else resident where fields fit in registers, or streamed."""
    name = halves_tiles.precision(spec, config)
    halves = halves_tiles.tile(spec, name)
    if halves is not None:
        constants = halves_tiles.constants(spec, config, name)
        scratch, copies = constants["SCRATCH"], constants["COPIES"]
        return Tier(fit_halves, constants, scratch, halves.warps, 1, halves.registers, copies)
    tile = triton_tiles.resident(spec, triton_tiles.precision(config))
    if tile is not None:
        constants, scratch = triton_tiles.constants(spec, config), triton_tiles.scratch(spec, tile)
        return Tier(fit_resident, constants, scratch, tile.warps, tile.stages)
    wide = triton_streamed.tile(spec, config)
    constants, scratch = triton_streamed.constants(spec, config), triton_streamed.scratch(spec, config)
    return Tier(fit_streamed, constants, scratch, wide.warps, wide.stages, triton_streamed.MAX_REGISTERS)


class Lane:
    """Fits parts of one task: `start` queues a part and returns, `collect` waits for it and takes the results out.

    number: which of the device's lanes; part: what is in work, or None. On the CPU (Triton's interpreter) `start` does
    all the work.
    """

    def __init__(self, task: StepTask, device: torch.device, number: int = 0) -> None:
        self.task, self.device = task, device
        self.part: slice | None = None
        self.gpu = device.type == "cuda"
        self.stream = _stream(device, number) if self.gpu else None
        self.staging: dict[str, Tensor] = {}
        self.results: dict[str, Tensor] = {}
        self.tier = tier(task.start.spec, task.config)
        with torch.cuda.stream(self.stream):
            spec = task.start.spec
            self.rates = torch.from_numpy(rates(task)).to(device)
            self.channels = torch.tensor(spec.scale, dtype=torch.float32, device=device).square()
            self.shared = None if task.encoded.ndim == 3 else self._inputs(task.encoded)

    def start(self, part: slice, flat: Tensor) -> None:
        """Queue the fit of the fields in `part` from their weights in flat (N, P)."""
        task, self.part = self.task, part
        with torch.cuda.stream(self.stream):
            weights = self._send("weights", flat[part])
            ids = self._send("ids", torch.from_numpy(np.ascontiguousarray(task.ids[part], np.uint32).view(np.int32)))
            encoded = self._inputs(task.encoded[part]) if self.shared is None else self.shared
            results = self._fit(weights, encoded, self._send("targets", task.targets[part]), ids)
            self.results = {name: self._fetch(name, value) for name, value in results.items()}

    def collect(self, flat: Tensor, steps: np.ndarray, curves: np.ndarray) -> tuple[slice, float]:
        """Wait for the part in work and write its results; return the part and its last mean squared error."""
        part, self.part = self.part, None
        if part is None:
            raise ValueError("collect: expected a part in work")
        while self.stream is not None and not self.stream.query():
            time.sleep(0.001)  # and not in the driver, so that Ctrl-C is heard
        flat[part] = self.results["weights"]
        steps[part] = self.results["taken"].numpy()
        curves[part] = self.results["curves"].numpy()
        return part, float(self.results["final"].mean())

    def _fit(self, weights: Tensor, encoded: Tensor, targets: Tensor, ids: Tensor) -> dict[str, Tensor]:
        config = self.task.config
        fields, points, inputs = len(weights), encoded.shape[-2], encoded.shape[-1]
        columns = -(-config.steps // config.curve_every)
        curves = torch.full((fields, columns), float("nan"), device=self.device)
        taken = torch.zeros(fields, dtype=torch.int32, device=self.device)
        final = torch.empty(fields, device=self.device)
        chosen = self.tier
        scratch = torch.zeros(fields * chosen.scratch, device=self.device)
        zero = torch.zeros(1, dtype=torch.int32, device=self.device)
        own = []
        if chosen.copies:
            own.append(torch.empty(fields * chosen.copies, dtype=encoded.dtype, device=self.device))
            own.append(torch.empty(fields * max(1, config.batch), dtype=torch.int32, device=self.device))
        chosen.kernel[(fields,)](
            weights, torch.zeros_like(weights), torch.zeros_like(weights), encoded, targets, ids,
            self.rates, self.channels, taken, curves, final, scratch, *own, zero,
            num_points=points,
            count=config.batch or points,
            coords_stride=0 if self.shared is not None else points * inputs,
            steps=config.steps,
            seed=config.seed - 2**32 if config.seed >= 2**31 else config.seed,
            min_steps=config.min_steps,
            curve_every=config.curve_every,
            num_curves=columns,
            target_mse=psnr_to_mse(config.target_psnr) or -1.0,
            beta2=config.beta2,
            keep1=1.0 - config.beta1,
            keep2=1.0 - config.beta2,
            eps=config.eps,
            l2=0.0 if config.optimizer == "adamw" else config.weight_decay,
            **chosen.constants,
            num_warps=chosen.num_warps,
            num_stages=chosen.num_stages,
            maxnreg=chosen.maxnreg,
        )  # fmt: skip
        return {"weights": weights, "taken": taken, "curves": curves, "final": final}

    def _inputs(self, encoded: Tensor) -> Tensor:
        """Inputs as the kernel takes them, on the device."""
        sent = self._send("encoded", encoded)
        if not self.tier.copies:
            return sent
        # Triton's interpreter, on the CPU, has no bfloat16: it takes bfloat16 values as float32.
        rows = halves_tiles.spread(sent, self.tier.constants["NARROW"])
        return rows.to(torch.bfloat16 if self.gpu else torch.float32)

    def _send(self, name: str, value: Tensor) -> Tensor:
        """A copy on the device, by way of pinned memory."""
        value = value.detach()
        if value.dtype.is_floating_point:
            value = value.to(torch.float32)
        if not self.gpu:
            return value.clone(memory_format=torch.contiguous_format)
        return self._pinned("to " + name, value).copy_(value).to(self.device, non_blocking=True)

    def _fetch(self, name: str, value: Tensor) -> Tensor:
        """A copy in pinned memory, there once the stream is done."""
        return self._pinned("from " + name, value).copy_(value, non_blocking=True) if self.gpu else value

    def _pinned(self, name: str, value: Tensor) -> Tensor:
        """Pinned memory of this shape, the same every time: nothing of the lane is in flight when it is asked for."""
        have = self.staging.get(name)
        if have is None or have.numel() < value.numel():
            have = self.staging[name] = torch.empty(value.numel(), dtype=value.dtype, pin_memory=True)
        return have[: value.numel()].view(value.shape)


@cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """The stream of a lane, the same for every fit: torch keeps freed memory apart for each stream."""
    return torch.cuda.Stream(device)


def rates(task: StepTask) -> np.ndarray:
    """What Adam needs to know of every step: (S, 3) lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), 1 - lr * decay."""
    config, lr = task.config, task.lr.astype(np.float64)
    t = np.arange(1, len(lr) + 1)
    decay = config.weight_decay if config.optimizer == "adamw" else 0.0
    columns = (lr / (1.0 - config.beta1**t), 1.0 / np.sqrt(1.0 - config.beta2**t), 1.0 - lr * decay)
    return np.ascontiguousarray(np.stack(columns, axis=1), np.float32)
