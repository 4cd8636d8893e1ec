"""Sides of the fitting benchmark that run in torch, and the native kernel."""

import numpy as np
import torch
from torch import Tensor

from apps.bench.problem import BETAS, EPSILON, LEARNING_RATE, Problem, Side
from fitting.config import FitConfig
from fitting.kernels.task import StepTask
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import forward_raw

_SGEMM_SIZE = 2048


class Native:
    """The native kernel, whole fits at a time; every `advance` starts from the initial weights."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._done = problem.start

    def advance(self, steps: int) -> None:
        """Run one whole fit of so many steps."""
        from fitting.kernels import step_native

        p = self._problem
        config = FitConfig(
            steps=steps, lr=LEARNING_RATE, curve_every=max(1, steps), threads=p.threads, backend="native"
        )
        rows = round(len(p.coords) ** 0.5)
        ids = np.arange(len(p.start), dtype=np.uint32)
        lr = np.full(steps, LEARNING_RATE, np.float32)
        task = StepTask(p.start, p.coords, p.targets, ids, (rows, rows), config, lr)
        self._done = step_native.run(task).fields

    def flat(self) -> Tensor:
        """Weights (N, P)."""
        return self._done.flat()


class TorchBmm:
    """Stacked weights, one batched matrix product a layer, autograd, fused Adam."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._parameters = {n: v.clone().requires_grad_() for n, v in problem.start.parameters.items()}
        self._optimizer = _adam(list(self._parameters.values()))

    def advance(self, steps: int) -> None:
        """Take optimizer steps."""
        p = self._problem
        for _ in range(steps):
            raw = forward_raw(FieldBatch(p.start.spec, self._parameters), p.coords)
            loss = ((raw - p.targets) ** 2).mean(dim=(1, 2)).sum()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()

    def flat(self) -> Tensor:
        """Weights (N, P)."""
        return FieldBatch(self._problem.start.spec, self._parameters).flat().detach()


class TorchFunc:
    """torch.func: vmap of the gradient of one field's loss, fused Adam on the stacked weights."""

    def __init__(self, problem: Problem) -> None:
        spec, coords = problem.start.spec, problem.coords
        self._problem = problem
        self._parameters = {n: v.clone() for n, v in problem.start.parameters.items()}
        self._optimizer = _adam(list(self._parameters.values()))

        def loss(parameters: dict[str, Tensor], target: Tensor) -> Tensor:
            h = coords
            for layer in range(spec.num_layers):
                h = torch.nn.functional.linear(h, parameters[f"weights.{layer}"], parameters[f"biases.{layer}"])
                h = torch.sin(spec.w0(layer) * h) if layer < spec.num_layers - 1 else h
            return ((h - target) ** 2).mean()

        self._gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(0, 0))

    def advance(self, steps: int) -> None:
        """Take optimizer steps."""
        for _ in range(steps):
            gradients = self._gradients(self._parameters, self._problem.targets)
            for name, parameter in self._parameters.items():
                parameter.grad = gradients[name]
            self._optimizer.step()

    def flat(self) -> Tensor:
        """Weights (N, P)."""
        return FieldBatch(self._problem.start.spec, self._parameters).flat()


class TorchLoop:
    """One nn.Module and one Adam per field, one after another: what a first script does."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        spec = problem.start.spec
        self._modules = [problem.start.module(i) for i in range(len(problem.start))]
        self._optimizers = [_adam(list(module.parameters())) for module in self._modules]
        self._names = [name.replace(".", "_") for name in spec.shapes]

    def advance(self, steps: int) -> None:
        """Take optimizer steps."""
        p = self._problem
        for module, optimizer, target in zip(self._modules, self._optimizers, p.targets, strict=True):
            for _ in range(steps):
                loss = ((module(p.coords) - target) ** 2).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    def flat(self) -> Tensor:
        """Weights (N, P)."""
        rows = [torch.cat([getattr(m, name).detach().flatten() for name in self._names]) for m in self._modules]
        return torch.stack(rows)


class Sgemm:
    """A 2048 x 2048 float32 matrix product: what the machine can do in these rounds."""

    flop = 2 * _SGEMM_SIZE**3

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._a, self._b = (torch.randn(_SGEMM_SIZE, _SGEMM_SIZE, generator=generator) for _ in range(2))
        self._out = torch.empty(_SGEMM_SIZE, _SGEMM_SIZE)

    def advance(self, steps: int) -> None:
        """Multiply so many times."""
        for _ in range(steps):
            torch.mm(self._a, self._b, out=self._out)

    def flat(self) -> Tensor:
        """The product."""
        return self._out


SIDES: dict[str, type[Side]] = {
    "native": Native,
    "torch.func": TorchFunc,
    "torch-bmm": TorchBmm,
    "torch-loop": TorchLoop,
}


def _adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, fused=True)
