"""Time on the device, and what its matrix products reach."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from apps.bench.gpu_rows import GpuRow
from apps.bench.rows import quantile

_SIZE = 8192
# The product that a precision is held against: three of tf32 make one of tf32x3.
_MATMUL = {"fp32": "fp32", "tf32": "tf32", "tf32x3": "tf32", "mixed": "bf16", "bf16": "bf16"}


def event_seconds(action: Callable) -> float:
    """Run an action and all it queues on the device; seconds between two events of the device around them."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    action()
    torch.cuda.synchronize()  # streams of an action's own, too
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def wall_seconds(action: Callable) -> float:
    """The same on the CPU, by the clock."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def fill(action: Callable, timed: Callable[[Callable], float], seconds: float, least: int = 1) -> int:
    """Warm an action up, and return how often it fills so many seconds."""
    action()
    return max(least, math.ceil(seconds / max(timed(action), 1e-6)))


def matmul_rates(rounds: int, size: int = _SIZE, device: str = "cuda", timed=event_seconds) -> dict[str, float]:
    """Matrix work per second of a square product of torch, by precision: fp32, tf32, bf16."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device) for _ in range(2))
    rates = {}
    before = torch.get_float32_matmul_precision()
    for name, setting, dtype in (
        ("fp32", "highest", torch.float32),
        ("tf32", "high", torch.float32),
        ("bf16", "high", torch.bfloat16),
    ):
        torch.set_float32_matmul_precision(setting)
        x, y = a.to(dtype), b.to(dtype)
        out = torch.empty_like(x)
        seconds = [timed(lambda x=x, y=y, out=out: torch.mm(x, y, out=out)) for _ in range(rounds + 2)][2:]
        rates[name] = 2 * size**3 / quantile(seconds, 0.5)
    torch.set_float32_matmul_precision(before)
    return rates


def matmul_of(row: GpuRow, rates: dict[str, float], precision: str | None = None) -> GpuRow:
    """The row with its share of the matmul rate; as it is where that was not measured."""
    rate = rates.get(_MATMUL.get(precision or row.precision, ""))
    return row if rate is None or row.tflops is None else replace(row, share=row.tflops * 1e12 / rate)
