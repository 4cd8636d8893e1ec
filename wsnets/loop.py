"""The one training loop: any task that gives a loss and a validation score, any model; interrupted runs resume exactly.

All randomness is a function of (seed, epoch or step), so that a resumed run continues with the very numbers that an
uninterrupted one would have drawn, and the global generators of torch and numpy stay untouched.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields import optimizers, philox
from wsnets import checkpoint
from wsnets.allocator import keep_freed_memory
from wsnets.lanes import Lanes, most, together
from wsnets.prefetch import ahead
from wsnets.processes import Processes

Schedule = Literal["cosine", "constant"]
Optimizer = Literal["adamw", "adam"]
Precision = Literal["fp32", "bf16"]
STREAM_MODEL, STREAM_EPOCH, STREAM_STEP = 17, 18, 19
# Parts of a time budget that the learning rate distinguishes.
_PARTS = 10_000


class Task(Protocol):
    """What is learned: `num_items` training items, a loss over some of them, and a validation of the averaged model."""

    @property
    def num_items(self) -> int:
        """Number of training items."""
        ...

    def fetch(self, positions: Tensor) -> Any:
        """What `loss` needs of the training items at positions (B,) int64; called in a thread, ahead of its use."""
        ...

    def loss(self, model: nn.Module, batch: Any, generator: Generator) -> Tensor:
        """Mean loss of the items of one `fetch`."""
        ...

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures of one epoch; the loop keeps the epoch with the largest "score"; {} where nothing is held out."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a model is trained with AdamW (Loshchilov and Hutter, ICLR 2019) or Adam (Kingma and Ba, ICLR 2015).

    epochs: passes over the data; minutes: time budget instead of epochs (0: none), validation included, the schedule
    then follows the time; epoch_items: items between two validations and checkpoints (0: all of them, one pass);
    batch: items per step (a pass's incomplete last batch is left out); lr: peak learning rate; optimizer, amsgrad
    (Reddi et al., ICLR 2018); weight_decay: on matrices only, decoupled with adamw; warmup: share of all steps with a
    linear rise, in [0, 1); schedule: "cosine" to zero or "constant" afterwards; clip: largest gradient norm (0: none);
    ema: weight of the past in the average of the weights that is validated and kept (0: the last weights themselves);
    patience: epochs without a better score after which training ends (0: never); precision: "bf16" computes under
    autocast; device: "auto", "cpu", "cuda" or "cuda:1"; seed: source of all randomness, in [0, 2^32). Raises
    ValueError for values outside these.
    """

    epochs: int = 50
    minutes: float = 0.0
    epoch_items: int = 0
    batch: int = 128
    lr: float = 1e-3
    optimizer: Optimizer = "adamw"
    amsgrad: bool = False
    weight_decay: float = 1e-2
    warmup: float = 0.05
    schedule: Schedule = "cosine"
    clip: float = 1.0
    ema: float = 0.99
    patience: int = 0
    precision: Precision = "fp32"
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check("epochs", self.epochs, self.epochs >= 1, "a whole number from 1")
        check("batch", self.batch, self.batch >= 2, "a whole number from 2")
        check("lr", self.lr, 0 < self.lr < math.inf, "a positive, finite number")
        for name in ("weight_decay", "clip", "minutes", "epoch_items", "patience"):
            check(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "zero or more, and finite")
        for name in ("warmup", "ema"):
            check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        for name, allowed in (("schedule", Schedule), ("optimizer", Optimizer), ("precision", Precision)):
            known = get_args(allowed)
            check(name, getattr(self, name), getattr(self, name) in known, f"one of {', '.join(known)}")
        check("seed", self.seed, 0 <= self.seed < 2**32, "a whole number in [0, 2^32)")


def check(name: str, value: object, ok: bool, accepted: str) -> None:
    """Raise ValueError naming the setting, its value and what would be accepted, unless ok."""
    if not ok:
        raise ValueError(f"{name}={value!r}: expected {accepted}")


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto": a GPU where there is one. Raises ValueError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    ok = device is not None and (device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_available()))
    check("device", name, ok, "auto, cpu" + (" or cuda" if torch.cuda.is_available() else "; no GPU was found"))
    assert device is not None
    return device


@dataclass
class RunState:
    """Everything that a checkpoint holds: weights, their average, the best average, optimizer moments, history.

    seconds: of training so far; times: the same at the end of every epoch; waited: seconds of it spent on data;
    samples: items trained on so far, each as often as it was seen.
    """

    model: nn.Module
    average: nn.Module
    best: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    best_epoch: int = 0
    best_score: float | None = None
    seconds: float = 0.0
    waited: float = 0.0
    samples: int = 0
    times: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)


def generator(seed: int, stream: int, index: int, lane: int = 0, device: torch.device | str = "cpu") -> Generator:
    """A generator for draw number (`index`, `lane`) of a stream: its seed is a Philox word of all four numbers."""
    word = philox.words(seed, np.array([lane], np.uint32), stream, index, 1)
    return Generator(device).manual_seed(int(word[0, 0]))


def run(
    model: nn.Module,
    task: Task,
    config: LoopConfig,
    file: Path,
    identity: dict,
    progress: Callable[[RunState], None] | None = None,
    tick: Callable[[float, float], None] | None = None,
    at_once: int = 0,
    processes: Processes | None = None,
) -> RunState:
    """Train `model` on `task`, or go on from the checkpoint `file`; return the state, `best` holding the result.

    identity: JSON values that say what this run is; a checkpoint of another run raises ValueError naming the first
    difference, as does a loss or a figure of validation that is not finite. progress: called after every epoch; tick:
    after every step, with the share of the training that is done and the step's loss. at_once: items that go through
    the model together, see `together`; a batch is cut into such pieces and their gradients added (0: the whole batch).
    With several processes each takes its pieces of every batch, and where these are the same the result is that of one
    up to the order of sums.
    """
    keep_freed_memory()
    model = model.to(choose_device(config.device))
    loop = _Loop(model, task, config, file, at_once, processes or Processes())
    if file.is_file():
        _restore(loop.state, file, identity)
    with loop.lanes:
        while not loop.finished():
            loop.epoch(tick)
            if loop.processes.lead:
                _save(loop.state, file, identity)
            if progress is not None:
                progress(loop.state)
    return loop.state


def learning_rate(config: LoopConfig, step: int, steps: int) -> float:
    """Linear rise over warmup * steps, then cosine to 0 (Loshchilov and Hutter, ICLR 2017) or constant."""
    rise = int(config.warmup * steps)
    if step < rise:
        return config.lr * (step + 1) / rise
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


class _Loop:
    """One run: where it stands, and what makes a step and an epoch of it."""

    def __init__(
        self, model: nn.Module, task: Task, config: LoopConfig, file: Path, at_once: int, processes: Processes
    ) -> None:
        self.task, self.config, self.file, self.processes = task, config, file, processes
        self.state = RunState(model, copy.deepcopy(model), copy.deepcopy(model.state_dict()), _optimizer(model, config))
        self.device = next(model.parameters()).device
        self.batch = min(config.batch, task.num_items)
        self.per_pass = task.num_items // self.batch
        self.per_epoch = max(1, config.epoch_items // self.batch) if config.epoch_items else self.per_pass
        self.steps = self.per_pass * config.epochs
        self.at_once = together(at_once, -(-self.batch // processes.world), self.device)
        pieces, world = -(-self.batch // self.at_once), processes.world
        enough = f"at least {self.at_once * (world - 1) + 1}, so that each of {world} processes has a piece"
        check("batch", self.batch, pieces >= world, enough)
        self.order = (-1, torch.empty(0))
        groups = self.state.optimizer.param_groups
        self.learned = [p for group in groups for p in group["params"] if p.requires_grad]
        self.lanes = Lanes(most(self._count(), self.learned))

    def finished(self) -> bool:
        """Whether all steps, the time budget or the patience are used up."""
        state, config = self.state, self.config
        if config.patience and state.epoch - state.best_epoch >= config.patience:
            return True
        if config.minutes:
            return self.processes.agree(state.seconds) >= 60 * config.minutes
        return state.epoch * self.per_epoch >= self.steps

    def epoch(self, tick: Callable[[float, float], None] | None) -> None:
        """Train until the next validation, and validate."""
        state, total, done = self.state, torch.zeros((), dtype=torch.float64), 0
        started, before = time.perf_counter(), state.seconds
        first = state.epoch * self.per_epoch
        last = first + self.per_epoch if self.config.minutes else min(first + self.per_epoch, self.steps)
        pieces = ((step, piece) for step in range(first, last) for piece in self._pieces(step))
        fetched = ahead(lambda item: self.task.fetch(item[1][1]), pieces)
        for step in range(first, last):
            share = self._share(step)
            if share >= 1.0:
                break
            with self.lanes.divided():
                total += self._step(step, share, fetched)
            done += 1
            state.samples += self.batch
            state.seconds = before + time.perf_counter() - started
            if tick is not None:
                tick(share, total.item() / done)
        fetched.close()
        self._finish_epoch(total.item() / max(1, done))
        state.seconds = before + time.perf_counter() - started
        state.times.append(state.seconds)

    def _share(self, step: int) -> float:
        if self.config.minutes:
            return self.processes.agree(self.state.seconds / (60 * self.config.minutes))
        return step / self.steps

    def _pieces(self, step: int) -> list[tuple[int, Tensor]]:
        """This process's pieces of a step's batch: (number of the piece, positions)."""
        number, place = divmod(step, self.per_pass)
        if number != self.order[0]:
            draws = generator(self.config.seed, STREAM_EPOCH, number)
            self.order = number, torch.randperm(self.task.num_items, generator=draws)
        items = self.order[1][place * self.batch : (place + 1) * self.batch]
        pieces = list(enumerate(items.split(self.at_once)))
        return pieces[self.processes.rank :: self.processes.world]

    def _step(self, step: int, share: float, fetched: Iterator) -> float:
        state, config = self.state, self.config
        timed = config.minutes > 0
        rate = learning_rate(config, *((int(share * _PARTS), _PARTS) if timed else (step, self.steps)))
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.model.train()
        state.optimizer.zero_grad(set_to_none=True)
        total = self.lanes.add_gradients(self.learned, self._losses(step, fetched))
        total = self.processes.sum_gradients(state.model, total)
        if not math.isfinite(total.item()):
            raise ValueError(self._diverged("loss", total.item(), f"at step {step}"))
        if config.clip > 0:
            optimizers.clip_gradients(self.learned, config.clip)
        state.optimizer.step()
        self._average(step)
        return total.item()

    def _losses(self, step: int, fetched: Iterator) -> Iterator[Callable[[], Tensor]]:
        """What gives the share of a step's loss of each of this process's pieces."""
        for _ in range(self._count()):
            (_, (number, positions)), batch, waited = next(fetched)
            self.state.waited += waited
            yield partial(self._loss, step, number, len(positions) / self.batch, batch)

    def _loss(self, step: int, number: int, share: float, batch: Any) -> Tensor:
        draws = generator(self.config.seed, STREAM_STEP, step, number, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.task.loss(self.state.model, batch, draws) * share

    def _diverged(self, name: str, value: float, where: str) -> str:
        kept = f"{self.file} holds the run up to epoch {self.state.epoch}" if self.state.epoch else "no epoch is kept"
        return f"{name} is {value} {where}: expected a finite number; {kept}; try a smaller lr"

    def _count(self) -> int:
        pieces = -(-self.batch // self.at_once)
        return len(range(self.processes.rank, pieces, self.processes.world))

    def _average(self, step: int) -> None:
        # The average forgets faster at first, so that it does not stay near the initial weights.
        keep = min(self.config.ema, (1 + step) / (10 + step))
        new = self.state.model.state_dict()
        pairs = [(value, new[name]) for name, value in self.state.average.state_dict().items()]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        with torch.no_grad():
            # All in one launch, where that is what counts: a network may have a thousand tensors.
            old_ones, new_ones = [old for old, _ in floats], [value for _, value in floats]
            torch._foreach_lerp_(old_ones, new_ones, 1.0 - keep)  # pyright: ignore[reportPrivateImportUsage]
            for old, value in pairs:
                if not old.is_floating_point():
                    old.copy_(value)

    def _finish_epoch(self, loss: float) -> None:
        state = self.state
        state.average.eval()
        figures: dict[str, float] = {}
        if self.processes.lead:
            with torch.no_grad():
                figures = self.task.validate(state.average)
        figures = self.processes.agree(figures)
        for name, value in figures.items():  # the last epoch's checkpoint stays as it is
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(self._diverged(name, value, f"on validation after epoch {state.epoch + 1}"))
        state.epoch += 1
        state.history.append({"epoch": state.epoch, "loss": loss, **figures})
        score = figures.get("score")
        if score is None or state.best_score is None or score > state.best_score:
            state.best, state.best_epoch = copy.deepcopy(state.average.state_dict()), state.epoch
            state.best_score = score


def _optimizer(model: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    kind = optimizers.AdamW if config.optimizer == "adamw" else optimizers.Adam
    return kind(groups, lr=config.lr, weight_decay=config.weight_decay, amsgrad=config.amsgrad, fused=True)


_SAVED = ("epoch", "best_epoch", "best_score", "seconds", "waited", "samples", "times", "history")


def _save(state: RunState, file: Path, identity: dict) -> None:
    tensors = {
        **checkpoint.under("model", state.model.state_dict()),
        **checkpoint.under("average", state.average.state_dict()),
        **checkpoint.under("best", state.best),
    }
    for name, parameter in state.model.named_parameters():
        tensors.update(checkpoint.under(f"optimizer.{name}", state.optimizer.state[parameter]))
    checkpoint.write(file, tensors, {"identity": identity, **{name: getattr(state, name) for name in _SAVED}})


def _restore(state: RunState, file: Path, identity: dict) -> None:
    tensors, data = checkpoint.read(file)
    difference = first_difference(data["identity"], identity)
    if difference is not None:
        raise ValueError(f"{file.parent} holds another run: {difference}; choose another folder or remove it")
    try:
        state.model.load_state_dict(checkpoint.pick(tensors, "model"))
        state.average.load_state_dict(checkpoint.pick(tensors, "average"))
    except RuntimeError as error:
        which = "its tensors are not those of this network, whose layout may have changed since"
        raise ValueError(f"{file}: {which}; choose another folder or remove it") from error
    state.best = checkpoint.pick(tensors, "best")
    for name, parameter in state.model.named_parameters():
        moments = checkpoint.pick(tensors, f"optimizer.{name}")
        state.optimizer.state[parameter] = {kind: _laid_out(value, parameter) for kind, value in moments.items()}
    for name in _SAVED:
        setattr(state, name, data[name])


def _laid_out(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """A moment in the memory layout of its parameter: the fused optimizer walks both by address, not by index."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


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
