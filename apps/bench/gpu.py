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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.bench import gpu_rows
from apps.bench.gpu_rows import GpuRow
from apps.bench.gpu_worker import Broken, Job, Worker
from apps.bench.rows import now, versions

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

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
    """What a part found: rows, lines to tell, failures, and what it could not look at, one line each."""

    rows: tuple[GpuRow, ...] = ()
    lines: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One part of the check. seconds: what it takes at most on an H100; run: takes the seconds that are left, and gives
    what it finds as soon as it is found."""

    name: str
    seconds: float
    run: Callable[[float], Iterable[Outcome]]


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
    seconds that later ones are said to take: what it had found until then is kept. keep: called with the rows of every
    part as soon as it is done, so that a later one cannot lose them.
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
        outcome = run_part(part, max(part.seconds, left - later - _LOSS_S))
        rows += outcome.rows
        failures += outcome.failures
        left_out += outcome.left_out
        for line in (*outcome.lines, *outcome.left_out, *outcome.failures):
            say(line)
        if outcome.rows:
            keep(outcome.rows)
            say(gpu_rows.text_table(outcome.rows))
        say(f"{part.name}: {clock() - begin:.0f} s since the start\n")
    return Report(tuple(rows), tuple(failures), tuple(left_out))


def run_part(part: Part, left: float) -> Outcome:
    """All that a part finds in so many seconds; what it raises is a failure. Of several rows of one kind, the last."""
    found: list[Outcome] = []
    try:
        with alarm(left):
            for outcome in part.run(left):
                found.append(outcome)  # one by one: what was found before it broke is kept
    except Passed:
        found.append(Outcome(failures=(f"{part.name}: ended after {left:.0f} s, before it was done",)))
    except Broken as error:
        found.append(Outcome(failures=(f"{part.name}: {error}",)))
    except Exception as error:
        traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        found.append(Outcome(failures=(f"{part.name}: {type(error).__name__}: {first}",)))
    return Outcome(
        tuple(gpu_rows.latest(row for outcome in found for row in outcome.rows)),
        tuple(line for outcome in found for line in outcome.lines),
        tuple(line for outcome in found for line in outcome.failures),
        tuple(line for outcome in found for line in outcome.left_out),
    )


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
        def run(left: float) -> Iterator[Outcome]:
            for outcome in worker.run(name, left):
                worker.shared |= {row.precision: row.tflops * 1e12 for row in outcome.rows if row.part == "matmul"}
                yield outcome

        return Part(name, seconds, run)

    return [
        Part("checks", 120, lambda left: [_checks(min(left, _CHECKS_S), shares)]),
        measured("products", 15),
        *(measured(f"fit {case.name}", 40) for case in gpu_sides.CASES),
        *(measured(f"population {one.name}", one.seconds) for one in gpu_population.POPULATIONS),
        measured("evaluate", 25),
    ]


def make_jobs(settings: tuple[Path, int], matmul: dict[str, float]) -> dict[str, Job]:
    """What is measured, by name. settings: folder of data, rounds; matmul: rate of products by precision."""
    from apps.bench import gpu_evaluate, gpu_fit, gpu_plan, gpu_population, gpu_sides
    from apps.bench.gpu_time import event_seconds, matmul_rates

    data, rounds = settings
    peers = tuple(name for name, reason in gpu_fit.usable_peers().items() if reason is None)
    absent = tuple(f"{name} is left out: {reason}" for name, reason in gpu_fit.usable_peers().items() if reason)

    def products(_: float) -> Iterator[Outcome]:
        yield Outcome(tuple(_matmul_row(name, rate) for name, rate in matmul_rates(rounds).items()), absent)

    def fit(case: gpu_sides.Case) -> Job:
        def run(left: float) -> Iterator[Outcome]:
            broken: list[str] = []
            names = gpu_plan.precisions(case.spec)
            for rows in gpu_fit.measure(case, names, peers, matmul, rounds, event_seconds, broken.append, left):
                yield Outcome(tuple(rows), failures=tuple(broken))
                broken.clear()

        return run

    def population(one: gpu_population.Population) -> Job:
        def run(_: float) -> Iterator[Outcome]:
            if not (data / one.file).is_file():
                yield Outcome(left_out=(f"population {one.name}: left out, there is no {one.file} in {data}",))
                return
            for rows in gpu_population.measure(one, data, gpu_plan.precisions(one.work.spec), matmul):
                yield Outcome(tuple(rows), failures=gpu_population.shortfalls(rows))

        return run

    def evaluate(_: float) -> Iterator[Outcome]:
        yield Outcome(tuple(gpu_evaluate.measure(matmul, rounds, event_seconds)))

    return {
        "products": products,
        **{f"fit {case.name}": fit(case) for case in gpu_sides.CASES},
        **{f"population {one.name}": population(one) for one in gpu_population.POPULATIONS},
        "evaluate": evaluate,
    }


def _checks(left: float, shares: int) -> Outcome:
    """Laws and sanitizer, and beside them the compilation of what is measured later: the same cache serves it."""
    from concurrent.futures import ProcessPoolExecutor, wait
    from multiprocessing import get_context

    from apps.bench import gpu_checks, gpu_evaluate

    sanitizer = gpu_checks.find_sanitizer()
    absent = () if sanitizer else ("compute-sanitizer is not installed: memcheck and racecheck are left out",)
    found = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # the packages may lie there
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(found), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    environment.pop("TRITON_INTERPRET", None)
    end = time.monotonic() + left - _LOSS_S  # before the alarm, which would lose what the others found
    pool = ProcessPoolExecutor(shares, mp_context=get_context("spawn"))
    try:
        compiling = [pool.submit(compile_case, case, name) for case, name in compilations()]
        compiling += [pool.submit(compile_evaluation, case) for case in gpu_evaluate.CASES]
        outcomes = gpu_checks.run_all(gpu_checks.checks(shares, sanitizer), end - time.monotonic(), environment)
        # What did not compile is compiled, or said, where it is measured; what is at it would disturb what comes next.
        wait([one for one in compiling if not one.cancel()], max(0.0, end - time.monotonic()))
    finally:
        end_pool(pool)
    good = tuple(outcome.line for outcome in outcomes if outcome.ok)
    bad = [outcome for outcome in outcomes if not outcome.ok]
    for outcome in bad:
        print(f"--- {outcome.name}\n{outcome.detail}", file=sys.stderr)
    return Outcome(lines=(*absent, *good), failures=tuple(outcome.line for outcome in bad))


def end_pool(pool: "ProcessPoolExecutor") -> None:
    """End a pool with its processes, whatever they are doing: a kernel that never ends would keep the card."""
    processes = [*(pool._processes or {}).values()]
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    for process in processes:
        process.join(_LOSS_S)


def compilations() -> list[tuple[Any, str]]:
    """Cases and populations in every precision that is measured, all of their defaults first."""
    from apps.bench import gpu_plan, gpu_population, gpu_sides

    cases = [*gpu_sides.CASES, *gpu_population.POPULATIONS[:2]]
    named = [(case, place, name) for case in cases for place, name in enumerate(gpu_plan.precisions(case.spec))]
    return [(case, name) for case, _, name in sorted(named, key=lambda each: each[1])]


def compile_case(case: Any, precision: str) -> None:
    """Compile the kernel of one case or population in one precision, into Triton's cache."""
    from apps.bench import gpu_population
    from apps.bench.gpu_sides import Ours, build

    if isinstance(case, gpu_population.Population):
        Ours(gpu_population.sketch(case, 2), precision, gpu_population.config_of(case)).advance(1)
    else:
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
    begin = time.monotonic()  # what is imported next takes its seconds, too
    reason = no_gpu()
    if reason is not None:
        print(f"gpu-check: {reason}", file=sys.stderr)
        return 2
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
