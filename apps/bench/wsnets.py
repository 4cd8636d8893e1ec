"""`nf bench wsnets`: training steps of weight-space networks, beside the public code of the same papers."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from apps.bench import rows as table
from apps.bench.wsnets_worker import PUBLIC
from apps.options import SHOWN, OutPath, Shown
from apps.output import Output
from apps.training import MODELS

_PACKAGES = ("torch", "torch_geometric", "neuralfields")
_KEPT = {"MALLOC_TRIM_THRESHOLD_": "20000000000"}  # bytes that no side gives back: more than training can ask for


@dataclass(frozen=True, kw_only=True)
class BenchWsnets:
    """Time one training step of networks on fields at their published settings, in turns with the public code.

    Both sides get the same fields, threads and allocator settings; each runs in a process of its own.
    """

    models: tuple[str, ...] = tuple(PUBLIC)
    """Which networks."""
    public: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="(default: ours alone)")] = None
    """Folder that holds clones of the public repositories: DWSNets, nfn, neural-graphs, scalegmn."""
    batch: int = 128
    """Fields per step."""
    threads: int = min(2, table.usable_cores())
    """Threads of torch."""
    rounds: int = 5
    """Rounds; each makes one step of both sides, after one that is not counted."""
    save: bool = False
    """Append the rows to wsnets.csv in the folder `out`."""
    out: OutPath = "benchmarks"
    """Folder for --save."""
    output: Shown = SHOWN


@dataclass(frozen=True, kw_only=True)
class WsnetsRow:
    """One side of one network.

    seconds: median over rounds of one step, best the smallest; samples_per_s = batch / median; ratio: median over
    rounds of this side's time / our time; peak_mib: largest resident memory of the whole process; gflop_per_sample:
    matrix products and attention, forward and backward; share: of the rate of a 2048 x 2048 float32 matrix product.
    """

    model: str
    side: str
    batch: int
    threads: int
    seconds: float
    best: float
    samples_per_s: float
    ratio: float
    peak_mib: float
    gflop_per_sample: float
    share: float
    sgemm_gflops: float
    rounds: int
    date: str
    cpu: str
    versions: str


class Side:
    """A measuring process."""

    def __init__(self, model: str, public: str | None, options: BenchWsnets) -> None:
        request = {"model": model, "public": public, "batch": options.batch, "threads": options.threads}
        self.seconds: list[float] = []
        self.about = self._start({**request, "count": True})
        if "missing" not in self.about:
            self._process.communicate()
            self._start({**request, "count": False})

    def _start(self, request: dict) -> dict:
        """Start a process; return what it says first."""
        from wsnets.allocator import ENVIRONMENT

        # The same for both sides, as our training sets it: else most of the time goes into page faults.
        environment = {**os.environ, **ENVIRONMENT, **_KEPT, "OMP_NUM_THREADS": str(request["threads"])}
        command = [sys.executable, "-m", "apps.bench.wsnets_worker", json.dumps(request)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self._line()

    def step(self) -> float:
        """Make one step; return its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self._line()["seconds"]

    def close(self) -> float:
        """End the process; return its peak memory in MiB, 0 for a side that is missing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        peak = 0.0 if "missing" in self.about else self._line()["peak_mib"]
        self._process.stdout.close()
        self._process.wait()
        return peak

    def _line(self) -> dict:
        assert self._process.stdout is not None
        # What a library prints for itself is passed over.
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        code = self._process.wait()
        raise ValueError(
            f"a measuring process ended with code {code} ({'out of memory?' if code == -9 else 'see above'})"
        )


def run(options: BenchWsnets) -> list[dict]:
    """Measure, print a table, save where asked, and return the rows as plain JSON values.

    Raises ValueError for an unknown model, numbers out of range, rows that cannot be saved, and a side that dies.
    """
    unknown = [name for name in options.models if name not in MODELS]
    if unknown or not options.models:
        raise ValueError(f"models={unknown}: expected some of {', '.join(MODELS)}")
    for argument in ("batch", "rounds", "threads"):
        if getattr(options, argument) < 1:
            raise ValueError(f"{argument}={getattr(options, argument)}: expected a positive number")
    output, measured, path = Output(quiet=options.output.quiet), [], Path(options.out) / "wsnets.csv"
    if options.save:
        table.check_appendable(path, table.columns(WsnetsRow))
    output.say(f"{table.cpu_name()}; {options.rounds} rounds; one step = forward, loss, backward, clip, optimizer")
    for name in options.models:
        found = list(_measure(name, options, output))
        output.table(HEADER, [cells(row) for row in found])
        measured += found
        if options.save:  # at once: what comes next may not fit the machine
            append(path, found)
    if options.save:
        output.say(f"saved in {path}")
    return [asdict(row) for row in measured]


def _measure(name: str, options: BenchWsnets, output: Output) -> Iterator[WsnetsRow]:
    sides = {"ours": Side(name, None, options)}
    if options.public is not None and name in PUBLIC:
        side = Side(name, options.public, options)
        if "missing" in side.about:
            output.say(f"{name}: the public code is left out: {side.about['missing']}")
            side.close()
        else:
            sides["public"] = side
    for number in range(options.rounds + 1):
        for side in sides.values():
            seconds = side.step()
            if number > 0:
                side.seconds.append(seconds)
    peaks, rate = {key: side.close() for key, side in sides.items()}, sgemm(options.threads)
    for key, side in sides.items():
        median, flop = statistics.median(side.seconds), side.about["gflop_per_sample"]
        pairs = zip(side.seconds, sides["ours"].seconds, strict=True)
        yield WsnetsRow(
            model=name,
            side=key,
            batch=options.batch,
            threads=options.threads,
            seconds=median,
            best=min(side.seconds),
            samples_per_s=options.batch / median,
            ratio=statistics.median(a / b for a, b in pairs),
            peak_mib=peaks[key],
            gflop_per_sample=flop,
            share=flop * options.batch / median / rate,
            sgemm_gflops=rate,
            rounds=options.rounds,
            date=table.now(),
            cpu=table.cpu_name(),
            versions=table.versions(*_PACKAGES),
        )


def sgemm(threads: int) -> float:
    """GFLOP/s of a 2048 x 2048 float32 matrix product, best of five."""
    import time

    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a = torch.ones(2048, 2048)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, a)
        taken.append(time.perf_counter() - started)
    torch.set_num_threads(before)
    return 2 * 2048**3 / min(taken) / 1e9


HEADER = ("model", "side", "samples/s", "ms/step", "best", "ratio", "peak MiB", "GFLOP/sample", "of sgemm")


def cells(row: WsnetsRow) -> tuple[str, ...]:
    """One row as text, in the order of HEADER."""
    return (
        row.model,
        row.side,
        f"{row.samples_per_s:,.1f}",
        f"{1000 * row.seconds:,.0f}",
        f"{1000 * row.best:,.0f}",
        f"{row.ratio:.2f}",
        f"{row.peak_mib:,.0f}",
        f"{row.gflop_per_sample:.3f}",
        f"{row.share:.0%}",
    )


def append(path: Path, measured: list[WsnetsRow]) -> None:
    """Append rows, with a header if the file is new. Raises ValueError when the file has other columns."""
    table.append_records(path, table.columns(WsnetsRow), [asdict(row) for row in measured])
