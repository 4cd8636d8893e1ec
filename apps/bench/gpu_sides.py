"""The GPU fitting benchmark: the cases, and the ways to fit them that take turns in one run."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from apps.bench.rows import flop_per_point, parse_dims
from fitting.config import FitConfig
from fitting.kernels.task import StepTask
from fitting.schedule import learning_rates
from neuralfields import grids, inits
from neuralfields.batch import FieldBatch
from neuralfields.spec import SIREN, FieldSpec

CONFIG = FitConfig(lr=1e-4, init="random")


@dataclass(frozen=True)
class Case:
    """dims of a sine field; points: of every signal; batch: points drawn per step (0: all); fields and steps: of one
    call of ours, long enough that copies from and to the host are a small part of it; peers: fields of the others."""

    dims: str
    points: int
    batch: int
    fields: int
    steps: int
    peers: int

    @property
    def name(self) -> str:
        """'2-32-32-1 @784', '3-64-64-64-1 @2048 of 8192'."""
        return f"{self.dims} @{self.batch} of {self.points}" if self.batch else f"{self.dims} @{self.points}"

    @property
    def spec(self) -> FieldSpec:
        """The fields: sine, with the default frequencies."""
        dims = parse_dims(self.dims)
        return SIREN(dims[0], dims[-1], hidden=dims[1:-1])

    @property
    def flop(self) -> int:
        """Matrix work of one step of one field."""
        return flop_per_point(parse_dims(self.dims)) * (self.batch or self.points)


CASES = (
    Case("2-32-32-1", 784, 0, 16384, 200, 2048),
    Case("2-64-64-3", 1024, 0, 8192, 100, 1024),
    Case("3-64-64-64-1", 8192, 2048, 4096, 100, 512),
    Case("3-128-128-128-1", 8192, 2048, 1056, 60, 256),
)


class Side(Protocol):
    """One way to run a case: `advance` takes steps and returns when the device is done, or before."""

    fields: int

    def advance(self, steps: int) -> None: ...


@dataclass(frozen=True)
class Work:
    """What one side fits: spec; start (N fields, on the host); coords (M, I); targets (N, M, O)."""

    case: Case
    spec: FieldSpec
    start: FieldBatch
    coords: Tensor
    targets: Tensor


def build(case: Case, count: int) -> Work:
    """The case for so many fields: a square grid for full batches in two dimensions, else random points."""
    spec, dims = case.spec, case.spec.dims
    generator = torch.Generator().manual_seed(0)
    side = math.isqrt(case.points)
    if case.batch == 0 and dims[0] == 2 and side * side == case.points:
        coords = grids.image_coords(spec, (side, side))
    else:
        coords = torch.rand(case.points, dims[0], generator=generator) * 2 - 1
    targets = torch.rand(count, case.points, dims[-1], generator=generator)
    return Work(case, spec, inits.initial(spec, np.arange(count, dtype=np.uint32), "random"), coords, targets)


class Ours:
    """The Triton kernels behind their front door, host copies included; every `advance` is a whole fit."""

    def __init__(self, work: Work, precision: str, config: FitConfig = CONFIG) -> None:
        self.work, self.fields, self.precision, self.config = work, len(work.start), precision, config
        self.result: FieldBatch | None = None

    def advance(self, steps: int) -> None:
        """Fit from the start, so many steps."""
        from fitting.kernels import step_triton

        self.result = step_triton.run(self.task(steps, self.precision)).fields

    def task(self, steps: int, precision: str) -> StepTask:
        """So many steps from the start."""
        work = self.work
        settings = {"steps": steps, "batch": work.case.batch, "curve_every": steps, "precision": precision}
        config = replace(self.config, **settings)
        ids = np.arange(self.fields, dtype=np.uint32)
        return StepTask(work.start, work.coords, work.targets, ids, None, config, learning_rates(config))


class TorchFunc:
    """torch.func: vmap of the gradient of one field's loss, fused Adam on the stacked weights, all on the device."""

    def __init__(self, work: Work, compiled: bool = False, config: FitConfig = CONFIG, device: str = "cuda") -> None:
        self.work, self.fields = work, len(work.start)
        self.coords, self.targets = work.coords.to(device), work.targets.to(device)
        self.parameters = {n: v.to(device, copy=True) for n, v in work.start.parameters.items()}
        betas = (config.beta1, config.beta2)
        self.optimizer = torch.optim.Adam(
            list(self.parameters.values()), lr=config.lr, betas=betas, eps=config.eps, fused=True
        )
        inputs = (0, 0 if work.case.batch else None, 0)
        gradients = torch.func.vmap(torch.func.grad(_loss(work.spec)), in_dims=inputs)
        self._gradients: Callable = torch.compile(gradients) if compiled else gradients

    def advance(self, steps: int) -> None:
        """Take optimizer steps."""
        for _ in range(steps):
            coords, targets = self._points()
            gradients = self._gradients(self.parameters, coords, targets)
            for name, parameter in self.parameters.items():
                parameter.grad = gradients[name].contiguous()  # as fused Adam asks; compiled ones may lie otherwise
            self.optimizer.step()

    def _points(self) -> tuple[Tensor, Tensor]:
        case = self.work.case
        if case.batch == 0:
            return self.coords, self.targets
        drawn = torch.randint(case.points, (self.fields, case.batch), device=self.targets.device)
        rows = torch.arange(self.fields, device=self.targets.device).unsqueeze(1)
        return self.coords[drawn], self.targets[rows, drawn]


def _loss(spec: FieldSpec) -> Callable:
    def loss(parameters: dict[str, Tensor], coords: Tensor, target: Tensor) -> Tensor:
        h = coords
        for layer in range(spec.num_layers):
            h = torch.nn.functional.linear(h, parameters[f"weights.{layer}"], parameters[f"biases.{layer}"])
            h = torch.sin(spec.w0(layer) * h) if layer < spec.num_layers - 1 else h
        return ((h - target) ** 2).mean()

    return loss


class Jax:
    """jit of a loop over steps of the vmapped gradient and Adam: the steps of one call never leave the device."""

    def __init__(self, work: Work, config: FitConfig = CONFIG) -> None:
        import jax
        import jax.numpy as jnp

        self.fields = len(work.start)
        spec, case = work.spec, work.case
        self._fixed = (jnp.asarray(work.coords.numpy()), jnp.asarray(work.targets.numpy()))
        parameters: Any = {name: jnp.asarray(value.numpy()) for name, value in work.start.parameters.items()}
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        self._state = (parameters, zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.float32(0), jax.random.key(0))

        def loss(p: Any, coords: Any, target: Any) -> Any:
            h = coords
            for layer in range(spec.num_layers):
                h = h @ p[f"weights.{layer}"].T + p[f"biases.{layer}"]
                h = jnp.sin(spec.w0(layer) * h) if layer < spec.num_layers - 1 else h
            return ((h - target) ** 2).mean()

        gradients = jax.vmap(jax.grad(loss), in_axes=(0, 0 if case.batch else None, 0))

        def step(_: Any, carry: Any) -> Any:
            (p, m, v, t, key), (coords, targets) = carry
            x, y = coords, targets
            if case.batch:
                key, drawing = jax.random.split(key)
                drawn = jax.random.randint(drawing, (self.fields, case.batch), 0, case.points)
                x, y = coords[drawn], jnp.take_along_axis(targets, drawn[:, :, None], axis=1)
            g, t = gradients(p, x, y), t + 1
            m = jax.tree.map(lambda a, b: config.beta1 * a + (1 - config.beta1) * b, m, g)
            v = jax.tree.map(lambda a, b: config.beta2 * a + (1 - config.beta2) * b * b, v, g)
            rate, unbias = config.lr / (1 - config.beta1**t), 1 / jnp.sqrt(1 - config.beta2**t)
            p = jax.tree.map(lambda w, a, b: w - rate * a / (jnp.sqrt(b) * unbias + config.eps), p, m, v)
            return (p, m, v, t, key), (coords, targets)

        run = lambda steps, state, fixed: jax.lax.fori_loop(0, steps, step, (state, fixed))[0]  # noqa: E731
        self._run = jax.jit(run, donate_argnums=1)
        self._wait = jax.block_until_ready

    def advance(self, steps: int) -> None:
        """Take optimizer steps and wait for the last one."""
        self._state = self._wait(self._run(steps, self._state, self._fixed))

    def parameters(self) -> dict[str, Tensor]:
        """Weights as they are now."""
        return {name: torch.from_numpy(np.array(value)) for name, value in self._state[0].items()}
