"""Sides of the fitting benchmark that run in JAX: a plain vmap + jit fit, and the training step of fit-a-nef.

JAX sizes its thread pool when it is imported: the process must already be limited to its cores.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import Tensor

from apps.bench.problem import BETAS, EPSILON, LEARNING_RATE, Problem, Side
from neuralfields.spec import FieldSpec


def _forward(spec: FieldSpec, parameters: dict[str, Any], coords: Any) -> Any:
    h = coords  # weights are (in, out) here, as in flax
    for layer in range(spec.num_layers):
        h = h @ parameters[f"weights.{layer}"] + parameters[f"biases.{layer}"]
        h = jnp.sin(spec.w0(layer) * h) if layer < spec.num_layers - 1 else h
    return h


def _swap(tensor: Tensor) -> Tensor:
    """(N, out, in) to (N, in, out) and back; biases (N, out) stay."""
    return tensor.transpose(1, 2).contiguous() if tensor.ndim == 3 else tensor


class Jax:
    """jit of the vmapped value and gradient and of optax.adam, buffers donated."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._coords = jnp.asarray(problem.coords.numpy())
        self._targets = jnp.asarray(problem.targets.numpy())
        self._parameters = {n: jnp.asarray(_swap(v).numpy()) for n, v in problem.start.parameters.items()}
        self._optimizer = self._make_optimizer()
        self._state = self._optimizer.init(self._parameters)
        self._key = jax.random.PRNGKey(0)
        self._step = jax.jit(self._make_step(), donate_argnums=(0, 1))

    def _make_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(LEARNING_RATE, b1=BETAS[0], b2=BETAS[1], eps=EPSILON)

    def _losses(self) -> Any:
        spec = self._problem.start.spec

        def loss(parameters: Any, coords: Any, target: Any) -> Any:
            return ((target - _forward(spec, parameters, coords)) ** 2).mean()

        return jax.vmap(loss, in_axes=(0, None, 0))

    def _make_step(self) -> Any:
        losses, optimizer = self._losses(), self._optimizer

        def step(parameters: Any, state: Any, key: Any, coords: Any, targets: Any) -> Any:
            _, gradients = jax.value_and_grad(lambda p: losses(p, coords, targets).sum())(parameters)
            updates, state = optimizer.update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state, key

        return step

    def advance(self, steps: int) -> None:
        """Take optimizer steps and wait for the last one."""
        for _ in range(steps):
            self._parameters, self._state, self._key = self._step(
                self._parameters, self._state, self._key, self._coords, self._targets
            )
        jax.block_until_ready(self._parameters)

    def flat(self) -> Tensor:
        """Weights (N, P)."""
        count = len(self._problem.start)
        rows = [_swap(torch.from_numpy(np.array(self._parameters[name]))) for name in self._problem.start.spec.shapes]
        return torch.cat([row.reshape(count, -1) for row in rows], dim=1)


class FitANef(Jax):
    """What one step of fit-a-nef computes, with its defaults: the points are shuffled and gathered anew in every step
    (masked_portion = 1), the summed loss of all fields is differentiated, optax.adamw with weight decay 1e-3 updates.

    Papa et al., "How to train neural field representations", CVPR 2024, arXiv 2312.10531, and its code.
    """

    def _make_optimizer(self) -> optax.GradientTransformation:
        schedule = optax.constant_schedule(LEARNING_RATE)
        return optax.adamw(schedule, b1=BETAS[0], b2=BETAS[1], eps=EPSILON, eps_root=0.0, weight_decay=1e-3)

    def _make_step(self) -> Any:
        losses, optimizer = self._losses(), self._optimizer

        def step(parameters: Any, state: Any, key: Any, coords: Any, targets: Any) -> Any:
            key, shuffle_key = jax.random.split(key)
            order = jax.random.permutation(shuffle_key, coords.shape[0])
            shuffled, values = coords[order], targets[:, order]
            _, gradients = jax.value_and_grad(lambda p: losses(p, shuffled, values).sum())(parameters)
            updates, state = optimizer.update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state, key

        return step


SIDES: dict[str, type[Side]] = {"jax": Jax, "fit-a-nef": FitANef}
