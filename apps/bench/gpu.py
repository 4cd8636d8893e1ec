"""`python -m apps.bench.gpu`: everything that only a GPU can show, in one command (`make gpu-check`).

The laws of the kernels on the hardware, compute-sanitizer, speed beside the public ways, whole populations from disk to
store. Needs torch, triton, numpy, safetensors, pyarrow and imageio. Exit status: 0 when all checks hold, 1 when one
does not or a part broke, 2 where there is no GPU.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from apps.bench import gpu_rows
from apps.bench.gpu_rows import GpuRow
from apps.bench.gpu_worker import Broken, Worker
from apps.bench.rows import now, versions

ROOT = Path(__file__).resolve().parents[2]
_LOSS_S = 10  # what ending a part and its process takes, and starting another
_CHECKS_S = 180  # no more, so that what is measured has its time
_NEEDED = ("torch", "triton", "numpy", "safetensors", "pyarrow", "imageio")
_PACKAGES = ("torch", "triton", "jax", "numpy", "neuralfields")
_PREFACE = """# On a GPU

Written by `make gpu-check`; every row ever taken is in `gpu.csv`. "not measured" means that it was not.

Seconds: median over rounds between events of the device (20 % to 80 % quantiles), all sides of a case in turns in one
run. TFLOP/s counts matrix work only; of matmul: the share of what an 8192 x 8192 product of that precision reaches in
the same run (tf32x3 against tf32). Ratio: the side's time per field-step or point / that of our default precision.
Full batch unless the case says how many points a step draws. float32 data and Adam; the others multiply in tf32.

"""


class Passed(BaseException):
    """Raised in a part that is at work when its time has passed; no `except Exception` on the way may keep it."""


@dataclass(frozen=True)
class Outcome:
    """What a part found: rows, lines to tell, and failures, one line each."""

    rows: tuple[GpuRow, ...] = ()
    lines: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One part of the check. seconds: what it takes at most on an H100; run: takes the seconds that are left."""

    name: str
    seconds: float
    run: Callable[[float], Outcome]


@dataclass(frozen=True)
class Report:
    """All that was found: rows, failures, and what was left out, one line each."""

    rows: tuple[GpuRow, ...]
    failures: tuple[str, ...]
    left_out: tuple[str, ...]


def run_parts(
    parts: Sequence[Part],
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = print,
    keep: Callable[[Sequence[GpuRow]], None] = lambda rows: None,
) -> Report:
    """Run parts in order within `deadline` seconds; one that would not fit is left out, and later ones may still fit.

    A part that raises is a failure of its own, and the others go on; so is one that is ended because it eats into the
    seconds that later ones are said to take. keep: called with the rows of every part as soon as it is done, so that a
    later one cannot lose them.
    """
    begin = clock()
    rows: list[GpuRow] = []
    failures: list[str] = []
    left_out: list[str] = []
    for place, part in enumerate(parts):
        left = deadline - (clock() - begin)
        if part.seconds > left:
            left_out.append(f"{part.name}: left out, it takes up to {part.seconds:.0f} s and {left:.0f} s were left")
            say(left_out[-1])
            continue
        later = sum(other.seconds for other in parts[place + 1 :])
        left = max(part.seconds, left - later - _LOSS_S if later else left)
        try:
            with alarm(left):
                outcome = part.run(left)
        except Passed:
            outcome = Outcome(failures=(f"{part.name}: ended after {left:.0f} s, before it was done",))
        except Broken as error:
            outcome = Outcome(failures=(f"{part.name}: {error}",))
        except Exception as error:
            traceback.print_exc()
            first = (str(error).splitlines() or [""])[0]
            outcome = Outcome(failures=(f"{part.name}: {type(error).__name__}: {first}",))
        rows += outcome.rows
        failures += outcome.failures
        for line in (*outcome.lines, *outcome.failures):
            say(line)
        if outcome.rows:
            keep(outcome.rows)
            say(gpu_rows.text_table(outcome.rows))
        say(f"{part.name}: {clock() - begin:.0f} s since the start\n")
    return Report(tuple(rows), tuple(failures), tuple(left_out))


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise Passed in the main thread so many seconds from now, unless this ends before."""

    def passed(*_: object) -> None:
        raise Passed

    before = signal.signal(signal.SIGALRM, passed)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def make_parts(shares: int, worker: Worker) -> list[Part]:
    """The whole check, in the order of what matters: checks, fits, populations, evaluation. worker: of make_jobs."""
    from apps.bench import gpu_population, gpu_sides

    def measured(name: str, seconds: float) -> Part:
        def run(left: float) -> Outcome:
            outcome = worker.run(name, left)
            worker.shared |= {row.precision: row.tflops * 1e12 for row in outcome.rows if row.part == "matmul"}
            return outcome

        return Part(name, seconds, run)

    return [
        Part("checks", 120, lambda left: _checks(min(left, _CHECKS_S), shares)),
        measured("products", 15),
        *(measured(f"fit {case.name}", 40) for case in gpu_sides.CASES),
        *(measured(f"population {one.name}", one.seconds) for one in gpu_population.POPULATIONS),
        measured("evaluate", 25),
    ]


def make_jobs(settings: tuple[Path, int], matmul: dict[str, float]) -> dict[str, Callable[[float], Outcome]]:
    """What is measured, by name. settings: folder of data, rounds; matmul: rate of products by precision."""
    from apps.bench import gpu_evaluate, gpu_fit, gpu_plan, gpu_population, gpu_sides
    from apps.bench.gpu_time import event_seconds, matmul_rates

    data, rounds = settings
    peers = tuple(name for name, reason in gpu_fit.usable_peers().items() if reason is None)
    absent = tuple(f"{name} is left out: {reason}" for name, reason in gpu_fit.usable_peers().items() if reason)

    def products(_: float) -> Outcome:
        return Outcome(tuple(_matmul_row(name, rate) for name, rate in matmul_rates(rounds).items()), absent)

    def fit(case: gpu_sides.Case) -> Callable[[float], Outcome]:
        def run(left: float) -> Outcome:
            broken: list[str] = []
            names = gpu_plan.precisions(case.spec)
            rows = gpu_fit.measure(case, names, peers, matmul, rounds, event_seconds, broken.append, left)
            return Outcome(tuple(rows), failures=tuple(broken))

        return run

    def population(one: gpu_population.Population) -> Callable[[float], Outcome]:
        if not (data / one.file).is_file():
            return lambda _: Outcome(lines=(f"population {one.name}: left out, there is no {one.file} in {data}",))
        names = gpu_plan.precisions(one.work.spec)
        return lambda _: Outcome(tuple(gpu_population.measure(one, data, names, matmul)))

    return {
        "products": products,
        **{f"fit {case.name}": fit(case) for case in gpu_sides.CASES},
        **{f"population {one.name}": population(one) for one in gpu_population.POPULATIONS},
        "evaluate": lambda _: Outcome(tuple(gpu_evaluate.measure(matmul, rounds, event_seconds))),
    }


def _checks(left: float, shares: int) -> Outcome:
    """Laws and sanitizer, and beside them the compilation of what is measured later: the same cache serves it."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from apps.bench import gpu_checks, gpu_evaluate, gpu_plan, gpu_sides

    sanitizer = gpu_checks.find_sanitizer()
    absent = () if sanitizer else ("compute-sanitizer is not installed: memcheck and racecheck are left out",)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    environment.pop("TRITON_INTERPRET", None)
    with ProcessPoolExecutor(shares, mp_context=get_context("spawn")) as pool:
        work = [(case, name) for case in gpu_sides.CASES for name in gpu_plan.precisions(case.spec)]
        compiling = [pool.submit(compile_case, case, name) for case, name in work]
        compiling += [pool.submit(compile_evaluation, case) for case in gpu_evaluate.CASES]
        outcomes = gpu_checks.run_all(gpu_checks.checks(shares, sanitizer), left, environment)
        for future in compiling:
            future.cancel()  # and what did not compile is said where it is measured
    good = tuple(outcome.line for outcome in outcomes if outcome.ok)
    bad = [outcome for outcome in outcomes if not outcome.ok]
    for outcome in bad:
        print(f"--- {outcome.name}\n{outcome.detail}", file=sys.stderr)
    return Outcome(lines=(*absent, *good), failures=tuple(outcome.line for outcome in bad))


def compile_case(case, precision: str) -> None:
    """Compile the kernel of one case in one precision, into Triton's cache."""
    from apps.bench.gpu_sides import Ours, build

    Ours(build(case, 2), precision).advance(1)


def compile_evaluation(case) -> None:
    """The same for the kernels that evaluate a case and take its gradients."""
    from apps.bench.gpu_evaluate import Evaluation
    from apps.bench.gpu_sides import build

    Evaluation(build(case, 2), "triton").gradients()


def _matmul_row(precision: str, rate: float) -> GpuRow:
    return GpuRow(
        part="matmul", case="8192 x 8192", side="torch.mm", precision=precision, fields=0, steps=0, unit="products",
        seconds=2 * 8192**3 / rate, rate=rate / (2 * 8192**3), tflops=rate / 1e12, share=1.0,
    )  # fmt: skip


def keep_rows(folder: Path, rows: Sequence[GpuRow], card: gpu_rows.Card) -> None:
    """Append rows to gpu.csv in a folder, with the date, the card and the versions they were taken with."""
    stamp = {"date": now(), "card": card.name, "clocks": card.clocks, "driver": card.driver}
    gpu_rows.append_csv(folder / "gpu.csv", [replace(row, versions=versions(*_PACKAGES), **stamp) for row in rows])


def write_page(folder: Path, last: Sequence[str] = ()) -> None:
    """Write gpu.md from gpu.csv: the newest row of every kind on every card; what never was measured says so.

    last: what the last run says besides, one line each.
    """
    from apps.bench.gpu_plan import planned

    path = folder / "gpu.csv"
    rows = gpu_rows.latest(gpu_rows.read_csv(path)) if path.exists() else []
    machines = sorted({f"- {r.date[:10]}: {r.card}; {r.clocks}; driver {r.driver}; {r.versions}" for r in rows})
    text = _PREFACE + gpu_rows.markdown([*rows, *gpu_rows.unmeasured(planned(), rows)])
    text += "\n" + "\n".join(machines or ["No GPU has been reached."]) + "\n"
    if last:
        text += "\nThe last run, besides:\n\n" + "\n".join(f"- {line}" for line in last) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.md").write_text(text, encoding="utf-8")


def find_data() -> Path:
    """The folder of real data: shared/data in the repository, or beside it."""
    found = [folder / "shared" / "data" for folder in (ROOT, ROOT.parent)]
    return next((folder for folder in found if folder.is_dir()), found[0])


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; bad values end the program with a line."""
    parser = argparse.ArgumentParser(prog="python -m apps.bench.gpu", description=__doc__)
    parser.add_argument("--deadline", type=float, default=480, help="seconds; what does not fit is left out and named")
    parser.add_argument("--only", nargs="+", default=[], help="parts whose name starts so, such as checks fit evaluate")
    parser.add_argument("--page", action="store_true", help="only write gpu.md from gpu.csv: no GPU is needed")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; each times every side once")
    parser.add_argument("--shares", type=int, default=max(1, (os.cpu_count() or 2) // 3), help="processes for the laws")
    parser.add_argument("--data", type=Path, default=find_data(), help="folder with mnist.npz and cifar10.npz")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="folder of gpu.csv and gpu.md")
    options = parser.parse_args(arguments)
    for name in ("deadline", "rounds", "shares"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} {getattr(options, name)}: expected a positive number")
    return options


def no_gpu() -> str | None:
    """Why there is nothing to check here, or None where there is a GPU."""
    absent = [name for name in _NEEDED if find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed for {sys.executable}: expected {', '.join(_NEEDED)}"
    from fitting.kernels import step_triton

    if os.environ.get("TRITON_INTERPRET"):
        return "TRITON_INTERPRET is set, and would run the kernels on the CPU: expected it unset"
    return step_triton.missing()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check and write what was measured."""
    options = parse(arguments)
    if options.page:
        write_page(options.out)
        return 0
    reason = no_gpu()
    if reason is not None:
        print(f"gpu-check: {reason}", file=sys.stderr)
        return 2
    begin = time.monotonic()
    worker = Worker(make_jobs, (options.data, options.rounds))
    parts = make_parts(options.shares, worker)
    chosen = [part for part in parts if not options.only or part.name.startswith(tuple(options.only))]
    if not chosen:
        print(
            f"--only {options.only}: expected starts of some of {', '.join(part.name for part in parts)}",
            file=sys.stderr,
        )
        return 2
    print(f"{gpu_rows.card()}; {versions(*_PACKAGES)}\n", flush=True)
    try:
        report = run_parts(
            chosen,
            options.deadline - (time.monotonic() - begin),
            say=lambda line: print(line, flush=True),
            keep=lambda rows: keep_rows(options.out, rows, gpu_rows.card()),
        )
    finally:
        worker.close()
        write_page(options.out)
    write_page(options.out, (*report.failures, *report.left_out))
    print(f"saved in {options.out / 'gpu.csv'} and gpu.md")
    for line in report.failures:
        print(f"FAILED {line}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
