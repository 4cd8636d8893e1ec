"""`nf bench fit`: how fast fields are fitted, beside the public ways to fit many fields at once."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from apps.bench import rows as table
from apps.bench.rows import Row
from apps.bench.worker import reason_missing
from apps.options import SHOWN, OutPath, Shown
from apps.output import Output

# spec -> (points, fields): as many fields as the batched peers like best, so that the ratio flatters no one.
CASES = {
    "2-32-32-1": (784, 16),
    "2-64-64-3": (1024, 16),
    "2-128-128-1": (1024, 8),
    "2-256-256-256-3": (4096, 2),
}
SIDES = ("native", "torch.func", "torch-bmm", "jax", "fit-a-nef")
_PACKAGES = ("torch", "jax", "optax", "numpy", "neuralfields")

_PREFACE = """# Fitting speed

Written by `nf bench fit --save`; every row ever taken is in `fit.csv`.

Microseconds of wall time per field and optimizer step (median over rounds; 20 % to 80 % quantiles), full batch,
float32, Adam. Ratio: the side's time / the native kernel's, median over rounds. GFLOP/s counts matrix work only; of
sgemm: the share of what a 2048 x 2048 float32 matrix product reaches on the same cores in the same rounds; cores: CPU
seconds / wall seconds while timed. All sides take turns in one process, bound to as many cores as `threads` says.

"""


@dataclass(frozen=True, kw_only=True)
class BenchFit:
    """Time fitting, every side interleaved with the others: full batch, float32, Adam."""

    spec: tuple[str, ...] = tuple(CASES)
    """Widths of the sine fields, one or more of such as 2-32-32-1."""
    points: Annotated[tuple[int, ...], arg(help_behavior_hint="(default: by spec, else 1024)")] = ()
    """Points per field, one number for each spec: a square, such as 784 for 28 x 28."""
    fields: Annotated[int, arg(help_behavior_hint="(default: by spec, else 16)")] = 0
    """Fields fitted together."""
    threads: tuple[int, ...] = tuple(range(1, min(2, table.usable_cores()) + 1))
    """Numbers of cores to time with."""
    rounds: int = 7
    """Rounds; each times every side once."""
    sides: tuple[str, ...] = SIDES
    """Some of native, torch.func, torch-bmm, torch-loop, jax, fit-a-nef; those not installed are left out."""
    memory: bool = False
    """Measure instead the peak memory of fitting 10,000 fields for 50 and for 500 steps."""
    save: bool = False
    """Append the rows to fit.csv in the folder `out`, and write fit.md there."""
    out: OutPath = "benchmarks"
    """Folder for --save."""
    output: Shown = SHOWN


def run(options: BenchFit) -> list[dict]:
    """Measure, print a table, save where asked, and return the rows as plain JSON values."""
    output, folder = Output(quiet=options.output.quiet), Path(options.out) if options.save else None
    _check_threads(options.threads)
    if options.memory:
        from apps.bench import memory

        return memory.run(output, max(options.threads), folder)
    cases = _cases(options)
    if folder is not None:
        table.check_appendable(folder / "fit.csv", table.columns(Row))
    sides = [name for name in options.sides if _usable(name, output)]
    if not sides:
        raise ValueError(f"sides={options.sides}: expected at least one that is installed")
    measured: list[Row] = []
    output.say(f"{table.cpu_name()}; {options.rounds} round(s), all sides in each; ratio = time / native time")
    for threads in options.threads:
        for result in _results(sides, cases, threads, options.rounds):
            new = make_rows(result, threads, options.rounds)
            output.table(table.HEADER, [table.cells(row) for row in new])
            output.say(f"  sgemm in the same rounds: {new[0].sgemm_gflops:.0f} GFLOP/s\n")
            if not result["limited"]:
                output.say("  this system cannot bind a process to cores: jax and fit-a-nef took what they found")
            measured += new
            if folder is not None:  # at once: what comes next may die
                save(folder, new)
    if folder is not None:
        output.say(f"saved in {folder / 'fit.csv'} and fit.md")
    return [row.to_json() for row in measured]


def make_rows(result: dict, threads: int, rounds: int) -> list[Row]:
    """Turn a worker's result into rows, native first."""
    sgemm_s = result["sides"]["sgemm"]["seconds"]
    sgemm_flop = 2 * 2048**3
    flop = table.flop_per_point(table.parse_dims(result["spec"])) * result["points"]
    native = result["sides"].get("native", {}).get("seconds")
    found = []
    for name, side in result["sides"].items():
        if name == "sgemm":
            continue
        each = [seconds / result["fields"] * 1e6 for seconds in side["seconds"]]
        median = table.quantile(each, 0.5)
        ratios = [a / b for a, b in zip(side["seconds"], native, strict=True)] if native else None
        shares = [flop * result["fields"] / a * b / sgemm_flop for a, b in zip(side["seconds"], sgemm_s, strict=True)]
        found.append(
            Row(
                spec=result["spec"],
                points=result["points"],
                threads=threads,
                side=name,
                us_per_field_step=round(median, 3),
                p20=round(table.quantile(each, 0.2), 3),
                p80=round(table.quantile(each, 0.8), 3),
                ratio=round(table.quantile(ratios, 0.5), 3) if ratios else None,
                gflops=float(f"{flop / median / 1e3:.5g}"),  # a slow side has a rate, too
                sgemm_gflops=round(sgemm_flop / table.quantile(sgemm_s, 0.5) / 1e9, 2),
                share=round(table.quantile(shares, 0.5), 4),
                cores=round(side["cores"], 3),
                fields=result["fields"],
                rounds=rounds,
                date=table.now(),
                cpu=table.cpu_name(),
                versions=f"{table.versions(*_PACKAGES)}, isa {result['isa']}",
            )
        )
    return found


def save(folder: Path, measured: Sequence[Row]) -> None:
    """Append rows to fit.csv in a folder and write fit.md: the latest row of every spec, thread count and side."""
    path = folder / "fit.csv"
    table.append_csv(path, measured)
    newest = table.latest(table.read_csv(path))
    machines = sorted({f"- {row.date[:10]}: {row.cpu}; {row.versions}" for row in newest})
    (folder / "fit.md").write_text(
        _PREFACE + table.markdown(newest) + "\n" + "\n".join(machines) + "\n", encoding="utf-8"
    )


def _check_threads(threads: Sequence[int]) -> None:
    most = table.usable_cores()
    if not threads or any(not 1 <= count <= most for count in threads):
        raise ValueError(f"threads={threads}: expected one or more numbers from 1 to {most}, the cores here")


def _cases(options: BenchFit) -> list[dict]:
    if not options.spec:
        raise ValueError("spec=(): expected one at least, such as 2-32-32-1")
    if options.points and len(options.points) != len(options.spec):
        raise ValueError(f"points={options.points}: expected {len(options.spec)} numbers, one for each spec")
    if options.rounds < 1 or options.fields < 0:
        raise ValueError(f"rounds={options.rounds}, fields={options.fields}: expected positive numbers")
    cases = []
    for index, spec in enumerate(options.spec):
        points, count = CASES.get(spec, (1024, 16))
        points = options.points[index] if options.points else points
        table.parse_case(spec, points)
        cases.append({"spec": spec, "points": points, "fields": options.fields or count})
    return cases


def _usable(side: str, output: Output) -> bool:
    if side not in (*SIDES, "torch-loop"):
        raise ValueError(f"sides={side!r}: expected some of {', '.join((*SIDES, 'torch-loop'))}")
    reason = reason_missing(side)
    if reason is not None:
        output.say(f"{side} is left out: {reason}")
    return reason is None


def _results(sides: list[str], cases: list[dict], threads: int, rounds: int) -> Iterator[dict]:
    """Run one worker process and yield its result for every case. Raises RuntimeError when it dies."""
    request = {"sides": sides, "cases": cases, "threads": threads, "rounds": rounds}
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, "-m", "apps.bench.worker", json.dumps(request)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **limits}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode != 0:
        raise RuntimeError(f"the measuring process ended with exit code {process.returncode}")
