"""The one training loop: any task that gives a loss and a validation score, any model; interrupted runs resume exactly.

All randomness is a function of (seed, epoch or step), so that a resumed run continues with the very numbers that an
uninterrupted one would have drawn, and the global generators of torch and numpy stay untouched.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields import philox
from wsnets import checkpoint

Schedule = Literal["cosine", "constant"]
STREAM_MODEL, STREAM_EPOCH, STREAM_STEP = 17, 18, 19


class Task(Protocol):
    """What is learned: `num_items` training items, a loss over some of them, and a validation of the averaged model."""

    @property
    def num_items(self) -> int:
        """Number of training items."""
        ...

    def loss(self, model: nn.Module, positions: Tensor, generator: Generator) -> Tensor:
        """Mean loss of the training items at positions (B,) int64."""
        ...

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures of one epoch; the loop keeps the epoch with the largest "score"; {} where nothing is held out."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a model is trained with AdamW (Loshchilov and Hutter, ICLR 2019).

    epochs: passes over the data; batch: items per step (an epoch's incomplete last batch is left out); lr: peak
    learning rate; weight_decay: decoupled, on matrices only; warmup: share of all steps with a linear rise, in [0, 1);
    schedule: "cosine" to zero or "constant" afterwards; clip: largest gradient norm (0: none); ema: weight of the past
    in the average of the weights that is validated and kept (0: the last weights themselves); seed: source of all
    randomness, in [0, 2^32). Raises ValueError for values outside these.
    """

    epochs: int = 50
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.05
    schedule: Schedule = "cosine"
    clip: float = 1.0
    ema: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        check("epochs", self.epochs, self.epochs >= 1, "a whole number from 1")
        check("batch", self.batch, self.batch >= 2, "a whole number from 2")
        check("lr", self.lr, self.lr > 0, "a positive number")
        for name in ("weight_decay", "clip"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "zero or more")
        for name in ("warmup", "ema"):
            check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        check("schedule", self.schedule, self.schedule in get_args(Schedule), f"one of {', '.join(get_args(Schedule))}")
        check("seed", self.seed, 0 <= self.seed < 2**32, "a whole number in [0, 2^32)")


def check(name: str, value: object, ok: bool, accepted: str) -> None:
    """Raise ValueError naming the setting, its value and what would be accepted, unless ok."""
    if not ok:
        raise ValueError(f"{name}={value!r}: expected {accepted}")


@dataclass
class RunState:
    """Everything that a checkpoint holds: weights, their average, the best average, optimizer moments, history."""

    model: nn.Module
    average: nn.Module
    best: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    epoch: int = 0
    best_epoch: int = 0
    best_score: float | None = None
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def generator(seed: int, stream: int, index: int) -> Generator:
    """A generator for draw number `index` of a stream: its seed is a Philox word of (seed, stream, index)."""
    word = philox.words(seed, np.array([0], np.uint32), stream, index, 1)
    return Generator().manual_seed(int(word[0, 0]))


def run(
    model: nn.Module,
    task: Task,
    config: LoopConfig,
    file: Path,
    identity: dict,
    progress: Callable[[RunState], None] | None = None,
) -> RunState:
    """Train `model` on `task`, or go on from the checkpoint `file`; return the state, `best` holding the result.

    identity: JSON values that say what this run is; a checkpoint of another run raises ValueError naming the first
    difference, as does a loss that is not finite.
    """
    state = _start(model, config)
    if file.is_file():
        _restore(state, file, identity)
    batch = min(config.batch, task.num_items)
    per_epoch = task.num_items // batch
    while state.epoch < config.epochs:
        started = time.perf_counter()
        order = torch.randperm(task.num_items, generator=generator(config.seed, STREAM_EPOCH, state.epoch))
        total = 0.0
        for position in range(per_epoch):
            step = state.epoch * per_epoch + position
            items = order[position * batch : (position + 1) * batch]
            total += _step(state, task, items, config, step, per_epoch * config.epochs)
        _finish_epoch(state, task, total / per_epoch)
        state.seconds += time.perf_counter() - started
        _save(state, file, identity)
        if progress is not None:
            progress(state)
    return state


def learning_rate(config: LoopConfig, step: int, steps: int) -> float:
    """Linear rise over warmup * steps, then cosine to 0 (Loshchilov and Hutter, ICLR 2017) or constant."""
    rise = int(config.warmup * steps)
    if step < rise:
        return config.lr * (step + 1) / rise
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _start(model: nn.Module, config: LoopConfig) -> RunState:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return RunState(model, copy.deepcopy(model), copy.deepcopy(model.state_dict()), optimizer)


def _step(state: RunState, task: Task, items: Tensor, config: LoopConfig, step: int, steps: int) -> float:
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, step, steps)
    state.model.train()
    state.optimizer.zero_grad(set_to_none=True)
    loss = task.loss(state.model, items, generator(config.seed, STREAM_STEP, step))
    if not math.isfinite(loss.item()):
        raise ValueError(f"loss is {loss.item()} at step {step}: expected a finite number; try a smaller lr")
    loss.backward()
    if config.clip > 0:
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
    state.optimizer.step()
    # The average forgets faster at first, so that it does not stay near the initial weights.
    keep = min(config.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        new = state.model.state_dict()
        for name, value in state.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(new[name], 1.0 - keep)
            else:
                value.copy_(new[name])
    return loss.item()


def _finish_epoch(state: RunState, task: Task, loss: float) -> None:
    state.average.eval()
    with torch.no_grad():
        figures = task.validate(state.average)
    state.epoch += 1
    state.history.append({"epoch": state.epoch, "loss": loss, **figures})
    score = figures.get("score")
    if score is None or state.best_score is None or score > state.best_score:
        state.best, state.best_epoch = copy.deepcopy(state.average.state_dict()), state.epoch
        state.best_score = score


def _save(state: RunState, file: Path, identity: dict) -> None:
    tensors = {
        **checkpoint.under("model", state.model.state_dict()),
        **checkpoint.under("average", state.average.state_dict()),
        **checkpoint.under("best", state.best),
    }
    for name, parameter in state.model.named_parameters():
        tensors.update(checkpoint.under(f"optimizer.{name}", state.optimizer.state[parameter]))
    names = ("epoch", "best_epoch", "best_score", "seconds", "history")
    checkpoint.write(file, tensors, {"identity": identity, **{name: getattr(state, name) for name in names}})


def _restore(state: RunState, file: Path, identity: dict) -> None:
    tensors, data = checkpoint.read(file)
    difference = first_difference(data["identity"], identity)
    if difference is not None:
        raise ValueError(f"{file.parent} holds another run: {difference}; choose another folder or remove it")
    state.model.load_state_dict(checkpoint.pick(tensors, "model"))
    state.average.load_state_dict(checkpoint.pick(tensors, "average"))
    state.best = checkpoint.pick(tensors, "best")
    for name, parameter in state.model.named_parameters():
        state.optimizer.state[parameter] = checkpoint.pick(tensors, f"optimizer.{name}")
    for name in ("epoch", "best_epoch", "best_score", "seconds", "history"):
        setattr(state, name, data[name])


def first_difference(there: dict, here: dict, path: str = "") -> str | None:
    """Say in words where two JSON objects differ first; None when they are equal."""
    for name in sorted(set(there) | set(here)):
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = first_difference(old, new, f"{path}{name}.")
            if inner is not None:
                return inner
        elif old != new:
            return f"{path}{name} is {old!r} there, {new!r} here"
    return None
