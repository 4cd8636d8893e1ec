"""`nf bench fit --memory`: peak memory of fitting a large population, which must not grow with the number of steps.

Run as `python -m apps.bench.memory FIELDS STEPS THREADS`, it is the measured process: a fresh one for every figure.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from apps.bench import rows as table
from apps.output import Output

FIELDS = 10_000
STEPS = (50, 500)
COLUMNS = ["spec", "points", "threads", "side", "fields", "steps", "peak_rss_mb", "before_mb", "seconds", "date", "cpu"]
COLUMNS += ["versions"]
_SPEC = "2-32-32-1"
_SIDE = 28


def run(output: Output, threads: int, folder: Path | None) -> list[dict]:
    """Measure every number of steps in a process of its own; append to memory.csv in a folder, if one is given.

    Raises ValueError for a folder that they cannot be saved in, and RuntimeError when a fit dies.
    """
    found = []
    if folder is not None:
        table.check_appendable(folder / "memory.csv", COLUMNS)
    for steps in STEPS:
        command = [sys.executable, "-m", "apps.bench.memory", str(FIELDS), str(steps), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"fitting {FIELDS} fields for {steps} steps failed: {done.stderr.strip()[-500:]}")
        measured = json.loads(done.stdout.splitlines()[-1])
        row = {"spec": _SPEC, "points": _SIDE**2, "threads": threads, "side": "memory", "fields": FIELDS}
        row |= {"steps": steps, **measured, "date": table.now(), "cpu": table.cpu_name()}
        row["versions"] = table.versions("torch", "numpy", "pyarrow", "neuralfields")
        found.append(row)
        if folder is not None:  # at once: the next fit takes longer
            table.append_records(folder / "memory.csv", COLUMNS, [row])
        output.say(
            f"  {FIELDS:,} fields {_SPEC}, {steps} steps: peak {row['peak_rss_mb']:,.0f} MB"
            f" ({row['before_mb']:,.0f} MB before the fit), {row['seconds']:.1f} s"
        )
    if folder is not None:
        output.say(f"saved in {folder / 'memory.csv'}")
    return found


def peak_mb() -> float:
    """The most memory this process has had resident so far, in units of 10^6 bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def measure(count: int, steps: int, threads: int) -> dict[str, float]:
    """Fit `count` random 28 x 28 pictures in this process and return its peak memory before and after, and seconds."""
    import time

    import numpy as np

    import fitting
    import neuralfields as nf

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "random.npz"
        pixels = np.random.default_rng(0).integers(0, 256, (count, _SIDE, _SIDE), dtype=np.uint8)
        np.savez(source, x=pixels)
        signals = fitting.images.load(source)
        before, start = peak_mb(), time.perf_counter()
        spec = nf.SIREN(2, 1, hidden=table.parse_dims(_SPEC)[1:-1])
        fitting.fit(signals, spec, out=Path(folder) / "store", steps=steps, threads=threads)
        return {"peak_rss_mb": peak_mb(), "before_mb": before, "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    print(json.dumps(measure(*(int(word) for word in sys.argv[1:4]))))
