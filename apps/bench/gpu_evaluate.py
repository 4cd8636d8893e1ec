"""Evaluating a population on the GPU: the Triton kernel beside the products that torch makes of it."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from apps.bench.gpu_rows import GpuRow, measured
from apps.bench.gpu_sides import Case, Work, build
from apps.bench.gpu_time import fill, matmul_of
from apps.bench.rows import parse_dims, quantile
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import forward_raw
from neuralfields.kernels import evaluate_triton

CASES = (
    Case("2-32-32-1", 4096, 0, 4096, 1, 4096),
    Case("2-64-64-3", 4096, 0, 2048, 1, 2048),
    Case("3-128-128-128-1", 4096, 0, 512, 1, 512),
)
WHAT = ("values", "gradients")


def sides() -> list[tuple[str, str]]:
    """(side, precision) of all that take turns, ours first; torch multiplies in float32 and in tf32."""
    return [("triton", evaluate_triton.DEFAULT_PRECISION), ("torch bmm", "fp32"), ("torch bmm", "tf32")]


def name_of(case: Case, what: str) -> str:
    """'2-32-32-1 @4096, values'."""
    return f"{case.dims} @{case.points}, {what}"


class Evaluation:
    """N fields at shared points (B, I): forward, or forward and all gradients, by "triton" or "torch"."""

    def __init__(self, work: Work, side: str, device: str | None = None) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if side == "triton" and (reason := evaluate_triton.unsupported(work.spec)) is not None:
            raise ValueError(f"side='triton' cannot run: {reason}")
        self.coords = work.coords.to(device).requires_grad_()
        parameters = {n: v.to(device, copy=True).requires_grad_() for n, v in work.start.parameters.items()}
        self.fields = FieldBatch(work.spec, parameters)
        self._forward: Callable[[FieldBatch, Tensor], Tensor] = (
            evaluate_triton.forward_raw if side == "triton" else forward_raw
        )

    def values(self) -> Tensor:
        """Raw outputs (N, B, O), without gradients."""
        with torch.no_grad():
            return self._forward(self.fields, self.coords)

    def gradients(self) -> list[Tensor]:
        """Gradients of the summed outputs: of every parameter (N, ...), then of the coordinates (B, I)."""
        inputs = [*self.fields.parameters.values(), self.coords]
        return list(torch.autograd.grad(self._forward(self.fields, self.coords).sum(), inputs))


def measure(
    matmul: dict[str, float], rounds: int, timed: Callable[[Callable], float], device: str | None = None,
    cases: tuple[Case, ...] = CASES,
) -> list[GpuRow]:  # fmt: skip
    """Points per second of both sides, forward alone and with all gradients, in turns.

    timed: runs an action and returns its seconds on the device.
    """
    rows: list[GpuRow] = []
    for case in cases:
        work = build(case, case.fields)
        ours, torchs = Evaluation(work, "triton", device), Evaluation(work, "torch", device)
        for what in WHAT:
            settings = ("highest", "highest", "high")  # what torch multiplies in, which ours does not ask
            actions = [getattr(one, what) for one in (ours, torchs, torchs)]
            actions = [_with_precision(name, action) for name, action in zip(settings, actions, strict=True)]
            rows += _rows(case, what, actions, matmul, rounds, timed)
    return rows


def _rows(
    case: Case, what: str, actions: list[Callable], matmul: dict[str, float], rounds: int, timed: Callable
) -> list[GpuRow]:
    points = case.points * case.fields
    flop = 2 * sum(a * b for a, b in pairwise(parse_dims(case.dims))) * (3 if what == "gradients" else 1)
    repeats = [fill(action, timed, 0.1) for action in actions]
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for index, (action, count) in enumerate(zip(actions, repeats, strict=True)):
            seconds[index].append(timed(lambda a=action, n=count: [a() for _ in range(n)]) / count)
    found = []
    for (side, precision), each in zip(sides(), seconds, strict=True):
        row = measured(
            each, points, flop * points, part="evaluate", case=name_of(case, what), side=side,
            precision=precision, fields=case.fields, steps=0, unit="points",
            ratio=quantile([a / b for a, b in zip(each, seconds[0], strict=True)], 0.5),
        )  # fmt: skip
        found.append(matmul_of(row, matmul))
    return found


def _with_precision(name: str, action: Callable) -> Callable:
    def run() -> object:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(name)
        try:
            return action()
        finally:
            torch.set_float32_matmul_precision(before)

    return run
