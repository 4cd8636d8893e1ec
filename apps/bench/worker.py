"""The measuring process of `nf bench fit`: limits itself to its cores before any library starts its threads.

Started as `python -m apps.bench.worker JSON`; writes one JSON line per case. All sides of a case run in this one
process, one slice each per round, so that a busy moment of the machine hits every side alike.
"""

import importlib.util
import json
import math
import os
import sys
import time

# Long enough that starting a slice costs nothing, short enough that a round fits between two disturbances.
_SLICE_S = 0.6


def limit_cores(threads: int) -> bool:
    """Bind this process to its first `threads` cores; False where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    return True


def reason_missing(side: str) -> str | None:
    """Why a side cannot run here, or None."""
    needed = {"native": ["fitting.kernels._native"], "jax": ["jax", "optax"], "fit-a-nef": ["jax", "optax"]}
    missing = [name for name in needed.get(side, []) if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed" if missing else None


def main(request: dict) -> None:
    """Measure every case of a request and print one line of JSON for each."""
    limited = limit_cores(request["threads"])
    import torch

    torch.set_num_threads(request["threads"])
    for case in request["cases"]:
        result = measure(request["sides"], case, request["threads"], request["rounds"])
        print(json.dumps({**case, "limited": limited, "isa": _isa(), "sides": result}), flush=True)


def measure(names: list[str], case: dict, threads: int, rounds: int) -> dict[str, dict]:
    """Time the sides and sgemm on one case, interleaved.

    Returns side -> {"seconds": [per step, one number a round], "cores": CPU seconds / wall seconds}.
    """
    from apps.bench import problem, sides_torch

    work = problem.build(case["spec"], case["points"], case["fields"], threads)
    sides = {"sgemm": sides_torch.Sgemm()} | {name: make(name, work) for name in names}
    steps = {name: calibrate(side) for name, side in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    wall, busy = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0.0)
    order = list(sides)
    for _ in range(rounds):
        for name in order:
            cpu_start, start = time.process_time(), time.perf_counter()
            sides[name].advance(steps[name])
            elapsed = time.perf_counter() - start
            busy[name] += time.process_time() - cpu_start
            wall[name] += elapsed
            seconds[name].append(elapsed / steps[name])
        order = order[1:] + order[:1]
    return {name: {"seconds": seconds[name], "cores": busy[name] / wall[name]} for name in sides}


def _isa() -> str:
    from fitting.kernels import step_native

    return step_native.isa() if step_native.isas() else "no native module"


def make(name: str, work):
    """Build a side by name."""
    from apps.bench import sides_torch

    if name in sides_torch.SIDES:
        return sides_torch.SIDES[name](work)
    from apps.bench import sides_jax

    return sides_jax.SIDES[name](work)


def calibrate(side) -> int:
    """Warm a side up (compilation too) and return how many steps fill one slice."""
    side.advance(2)
    steps = 2
    while True:
        start = time.perf_counter()
        side.advance(steps)
        elapsed = time.perf_counter() - start
        if elapsed >= _SLICE_S / 4:
            return max(1, math.ceil(_SLICE_S / (elapsed / steps)))
        steps *= 4  # too short to say what a step costs: starting would count as work


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
