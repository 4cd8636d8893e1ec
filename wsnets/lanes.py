"""Lanes: threads that take the pieces of a batch through a model side by side."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from wsnets.prefetch import ahead

# A GPU has no cache to keep to, and a step of few items leaves it waiting for launches.
_GPU_TIMES = 8
_MOST = 4  # more would mostly wait for Python's lock
_PARAMETERS = 1 << 22  # networks of more have products that keep all threads busy, and gradients too large to hold
_SWITCH_S = 1e-4  # between two threads that want that lock; by default fifty times as long, as a whole small piece


class Lanes:
    """So many threads, each with its share of torch's; if it is one, the thread that calls. A context manager.

    Gradients are added in the order of the pieces: they are the same, bit for bit, on any number of lanes that have one
    of torch's threads each.
    """

    def __init__(self, number: int) -> None:
        self.number, self._threads = number, torch.get_num_threads()
        self._pool = ThreadPoolExecutor(number, thread_name_prefix="lane") if number > 1 else None

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def add_gradients(self, parameters: Sequence[Tensor], losses: Iterable[Callable[[], Tensor]]) -> Tensor:
        """Add the gradients of the sum of all losses to `grad` of the parameters; return that sum."""
        total = torch.zeros((), device=parameters[0].device)
        if self._pool is None:
            for loss in losses:
                value = loss()
                value.backward()
                total += value.detach()
            return total
        for _, (value, gradients), _ in ahead(partial(_gradients, parameters), losses, self.number - 1, self._pool):
            total += value
            _add(parameters, gradients)
            del gradients  # not held while the next ones are waited for
        return total

    @contextmanager
    def divided(self) -> Iterator[None]:
        """Torch's threads divided among the lanes, for a whole step: what a thread has at its first operation it keeps.

        Small operations of the calling thread would wait for others to wake up, too.
        """
        if self.number == 1:
            yield
            return
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        torch.set_num_threads(max(1, self._threads // self.number))
        try:
            yield
        finally:
            torch.set_num_threads(self._threads)
            sys.setswitchinterval(interval)


def together(at_once: int, share: int, device: torch.device) -> int:
    """Items that go through a model together: at_once, which suits a processor's cache; share: a process's part of a
    batch, for at_once = 0, and never exceeded on a GPU, which takes eight times as many."""
    if device.type == "cuda" and at_once:
        return min(at_once * _GPU_TIMES, share)
    return at_once or share


def most(pieces: int, parameters: Sequence[Tensor]) -> int:
    """How many lanes serve so many pieces: one for each of torch's threads; one for large networks, and on a GPU."""
    if parameters[0].device.type != "cpu" or sum(p.numel() for p in parameters) > _PARAMETERS:
        return 1
    return max(1, min(_MOST, pieces, torch.get_num_threads()))


def _gradients(parameters: Sequence[Tensor], loss: Callable[[], Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    value = loss()
    return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)


def _add(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and parameter.grad is not None:
            parameter.grad += gradient
        elif gradient is not None:
            # Copied into place, because the fused optimizer needs gradients in the memory layout of their parameters.
            parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(gradient)
