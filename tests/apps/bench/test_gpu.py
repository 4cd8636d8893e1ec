"""`make gpu-check` where there is no GPU: what it says, how it keeps its deadline, what it writes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from apps.bench import gpu, gpu_checks, gpu_plan, gpu_rows
from apps.bench.gpu import Outcome, Part
from apps.bench.gpu_rows import Card, GpuRow

ROOT = Path(__file__).resolve().parents[3]
ROW = GpuRow(part="fit", case="c", side="triton", precision="fp32", fields=1, steps=1, unit="field-steps", rate=2.0)


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def part(name: str, takes: float, clock: Clock, spends: float | None = None, outcome: Outcome | None = None) -> Part:
    def run(_: float) -> Iterator[Outcome]:
        clock.now += takes if spends is None else spends
        yield outcome or Outcome(lines=(name,))

    return Part(name, takes, run)


@pytest.mark.parametrize(("module", "name"), [("gpu", "gpu-check"), ("gpu_tiles", "gpu-tiles")])
def test_without_a_gpu_it_says_why_in_one_line(module: str, name: str) -> None:
    # A device that torch cannot see is none, on a machine with one too.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", f"apps.bench.{module}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"{name}: ")
    assert done.stderr.count("\n") == 1


def test_a_python_without_the_packages_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name in ("torch", "pyarrow") else object())
    assert gpu.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpu-check: torch, pyarrow not installed for ")
    assert said.count("\n") == 1


def test_the_interpreter_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET" in (gpu.no_gpu() or "")


def test_it_needs_only_what_it_says() -> None:
    unwanted = ("rich", "tyro", "pytest", "matplotlib", "sklearn", "skimage", "h5py", "scipy", "open3d", "trimesh")
    modules = [f"apps.bench.{path.stem}" for path in (ROOT / "apps" / "bench").glob("gpu*.py")]
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({(*unwanted, 'jax', 'optax')!r}))\n"
        f"import {', '.join(sorted(modules))}, apps.bench.laws\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_parts_that_do_not_fit_are_left_out_and_later_ones_may_fit() -> None:
    clock, said = Clock(), []
    parts = [part("a", 40, clock), part("b", 70, clock), part("c", 30, clock, spends=45), part("d", 20, clock)]
    report = gpu.run_parts(parts, 100, clock, said.append)
    assert report.left_out == (
        "b: left out, it takes up to 70 s and 60 s were left",
        "d: left out, it takes up to 20 s and 15 s were left",
    )
    assert report.failures == ()
    assert [line for line in said if line in ("a", "b", "c", "d")] == ["a", "c"]


def test_a_part_that_breaks_is_a_failure_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    clock, said = Clock(), []

    def broken(_: float) -> Iterator[Outcome]:
        yield Outcome((replace(ROW, case="first"), replace(ROW, case="first", rate=3.0)), left_out=("no data",))
        raise RuntimeError("out of memory\nand more")

    def late(_: float) -> Iterator[Outcome]:
        yield Outcome((replace(ROW, case="second"),))
        raise gpu.Passed

    good = part("good", 1, clock, outcome=Outcome((ROW,), failures=("laws: failed",)))
    report = gpu.run_parts([Part("broken", 1, broken), Part("late", 1, late), good], 100, clock, said.append)
    late_line = "late: ended after 89 s, before it was done"
    assert report.failures == ("broken: RuntimeError: out of memory", late_line, "laws: failed")
    assert report.left_out == ("no data",)
    assert report.rows == (replace(ROW, case="first", rate=3.0), replace(ROW, case="second"), ROW)
    assert "out of memory" in capsys.readouterr().err


def test_the_deadline_ends_what_is_at_work() -> None:
    begin = time.monotonic()
    parts = [Part("sleeps", 0.01, lambda _: [Outcome(lines=(str(time.sleep(30)),))])]
    report = gpu.run_parts(parts, 0.05, say=lambda _: None)
    assert report.failures == ("sleeps: ended after 0 s, before it was done",)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("arguments", [["--deadline", "0"], ["--rounds", "-1"], ["--shares", "0"], ["--nothing"]])
def test_bad_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu.parse(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_arguments_are_read() -> None:
    options = gpu.parse(["--deadline", "60", "--only", "fit", "evaluate", "--data", "x"])
    assert (options.deadline, options.only, options.data) == (60.0, ["fit", "evaluate"], Path("x"))
    assert gpu.parse([]).deadline == 480


def test_what_is_written_names_the_card_and_what_was_left_out(tmp_path: Path) -> None:
    card = Card("Some Card", "SM 1 MHz", "9.9")
    gpu.keep_rows(tmp_path, [ROW], card)
    gpu.keep_rows(tmp_path, [ROW], card)
    gpu.write_page(tmp_path)
    rows = gpu_rows.read_csv(tmp_path / "gpu.csv")
    assert [row.card for row in rows] == ["Some Card", "Some Card"]
    assert all(row.driver == "9.9" and row.date and "torch" in row.versions for row in rows)
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert text.count("| fit | c | triton | fp32 |") == 1
    assert "Some Card" in text
    assert "left out" not in text
    gpu.write_page(tmp_path, ("laws: failed", "evaluate: left out"))
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "- laws: failed" in text
    assert "- evaluate: left out" in text


def test_rows_are_kept_before_a_later_part_can_lose_them(capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[GpuRow] = []

    def crash(_: float) -> list[Outcome]:
        assert kept == [ROW]
        raise RuntimeError("an illegal memory access was encountered")

    parts = [part("first", 1, Clock(), outcome=Outcome((ROW,))), Part("second", 1, crash)]
    report = gpu.run_parts(parts, 100, say=lambda _: None, keep=kept.extend)
    assert report.failures == ("second: RuntimeError: an illegal memory access was encountered",)
    assert "illegal memory access" in capsys.readouterr().err


def test_a_page_without_measurements_says_so(tmp_path: Path) -> None:
    assert gpu.main(["--page", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(gpu_plan.planned())
    assert all("| not measured |" in row for row in rows)
    assert "No GPU has been reached." in text
    first = replace(gpu_plan.planned()[-1], rate=2.0)
    gpu.keep_rows(tmp_path, [first], Card("Some Card", "SM 1 MHz", "9.9"))
    gpu.write_page(tmp_path)
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert text.count("| not measured |") == len(rows) - 1
    assert "Some Card" in text


def test_what_is_measured_is_compiled_before_with_all_defaults_first() -> None:
    work = gpu.compilations()
    names = {(getattr(case, "name", ""), precision) for case, precision in work}
    assert {("2-32-32-1 @784", "mixed"), ("mnist", "mixed"), ("mnist", "bf16"), ("cifar10", "fp32")} <= names
    defaults = [gpu_plan.precisions(case.spec)[0] == precision for case, precision in work]
    assert defaults == sorted(defaults, reverse=True)
    assert sum(defaults) == 6


def test_data_that_is_not_there_is_said(tmp_path: Path) -> None:
    jobs = gpu.make_jobs((tmp_path, 1), {})
    (outcome,) = jobs["population mnist"](1.0)
    assert outcome == Outcome(left_out=(f"population mnist: left out, there is no mnist.npz in {tmp_path}",))


def test_checks_run_at_once_and_a_late_one_is_ended() -> None:
    python = (sys.executable, "-c")
    work = [
        gpu_checks.Check("good", (*python, "print('3 laws, 0 failed')")),
        gpu_checks.Check("bad", (*python, "print('failed: some law'); raise SystemExit(1)")),
        gpu_checks.Check("late", (*python, "import time; print('begun', flush=True); time.sleep(60)")),
    ]
    begin = time.monotonic()
    good, bad, late = gpu_checks.run_all(work, 3.0, dict(os.environ))
    assert time.monotonic() - begin < 30
    assert (good.ok, good.line) == (True, "good: 3 laws, 0 failed")
    assert (bad.ok, bad.line) == (False, "bad: failed with status 1: failed: some law")
    assert (late.ok, late.line, late.detail) == (False, "late: did not finish in time", "begun")


def test_a_pool_ends_with_what_is_at_work() -> None:
    begin = time.monotonic()
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    late = [pool.submit(time.sleep, 60) for _ in range(6)]
    numbers = [process.pid for process in pool._processes.values() if process.pid]
    assert len(numbers) == 2
    gpu.end_pool(pool)
    while not all(one.done() for one in late) or any(map(is_there, numbers)):
        assert time.monotonic() - begin < 40
        time.sleep(0.01)


def is_there(number: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_a_late_check_has_started_ends_with_it(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(4); open({str(mark)!r}, 'w').close()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    (late,) = gpu_checks.run_all([gpu_checks.Check("late", (sys.executable, "-c", parent))], 2.0, dict(os.environ))
    assert not late.ok
    time.sleep(3)
    assert not mark.exists()


def test_all_laws_are_checked_by_some_share() -> None:
    files = gpu_checks.law_files()
    # Not test_laws.py, which is about how laws are run, and asks for fixtures that a card's machine may not have.
    assert {path.name for path in files} >= {"triton_laws.py", "halves_laws.py", "streamed_laws.py", "evaluate_laws.py"}
    assert not [path for path in files if path.name.startswith("test_")]
    names = [check.name for check in gpu_checks.checks(2, "/bin/sanitizer")]
    assert names == ["laws 1/2", "laws 2/2", "memcheck", "racecheck"]
    assert [check.name for check in gpu_checks.checks(1, None)] == ["laws 1/1"]
    assert all(str(path) in gpu_checks.checks(1, None)[0].command for path in files)
