"""`nf bench fit`: every side computes the same fit, and the command measures, limits its cores and saves."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from apps.bench import fit, memory, problem, rows, sides_torch, worker
from apps.bench.fit import BenchFit, make_rows, run
from apps.options import OutputOptions

INSTALLED = [side for side in (*fit.SIDES, "torch-loop") if worker.reason_missing(side) is None]
QUIET = OutputOptions(quiet=True)


@pytest.mark.parametrize("spec", ["2-17-3", "2-16-24-1"])
@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.filterwarnings("default::DeprecationWarning")  # of jax and optax, where they are installed
def test_every_side_takes_the_same_steps(name: str, spec: str) -> None:
    work = problem.build(spec, points=25, count=3, threads=1)
    reference, side = sides_torch.TorchLoop(work), worker.make(name, work)
    reference.advance(3)
    side.advance(3)
    start = work.start.flat()
    moved = (reference.flat() - start).abs().mean()
    # Adam's first steps have the size of the learning rate whatever the gradient: a sign flip of a gradient that is
    # all rounding is allowed, another computation is not. fit-a-nef's weight decay is 1e-3 of that.
    assert (side.flat() - reference.flat()).abs().mean() < 0.01 * moved
    assert moved > problem.LEARNING_RATE


def test_points_must_be_a_square() -> None:
    with pytest.raises(ValueError, match="points=26"):
        problem.build("2-8-1", points=26, count=1, threads=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"points": (784,), "spec": ("2-8-1", "2-9-1")}, "points="),
        ({"threads": (0,)}, "threads="),
        ({"threads": (100_000,)}, "threads="),
        ({"rounds": 0}, "rounds="),
        ({"sides": ("cuda",)}, "sides="),
        ({"spec": ("two",)}, "spec="),
        ({"spec": ("3-8-1",)}, "spec='3-8-1': expected two coordinates"),
        ({"spec": ()}, r"spec=\(\): expected one at least"),
        ({"spec": ("2-8-1",), "points": (785,)}, "points=785: expected a square"),
        ({"spec": ("2-8-1",), "points": (0,)}, "points=0: expected a square"),
        ({"spec": ("2-8-1",), "points": (-4,)}, "points=-4: expected a square"),
        ({"threads": ()}, r"threads=\(\): expected"),
        ({"threads": (), "memory": True}, r"threads=\(\): expected"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(BenchFit(output=QUIET, **options))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Specs that were measured, by a process that dies at the second."""
    seen: list[str] = []

    def results(sides, cases, threads, rounds):
        for case in cases:
            if seen:
                raise RuntimeError("the measuring process ended with exit code -9")
            seen.append(case["spec"])
            found = {"seconds": [0.1] * rounds, "cores": 1.0}
            yield {**case, "limited": True, "isa": "avx2", "sides": {"sgemm": found, **dict.fromkeys(sides, found)}}

    monkeypatch.setattr(fit, "_results", results)
    return seen


def test_what_was_measured_is_kept_when_a_later_case_dies(tmp_path: Path, measured: list[str]) -> None:
    with pytest.raises(RuntimeError, match="code -9"):
        run(BenchFit(spec=("2-8-1", "2-9-1"), sides=("torch-bmm",), save=True, out=str(tmp_path), output=QUIET))
    assert measured == ["2-8-1"]
    assert [row.spec for row in rows.read_csv(tmp_path / "fit.csv")] == ["2-8-1"]
    assert "2-8-1" in (tmp_path / "fit.md").read_text(encoding="utf-8")


def test_what_cannot_be_saved_is_refused_before_it_is_measured(tmp_path: Path, measured: list[str]) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "fit.csv").write_text("a,b\n", encoding="utf-8")
    for out, words in ((tmp_path, "has columns"), (tmp_path / "file", "is a file"), (tmp_path / "file" / "x", "file")):
        with pytest.raises(ValueError, match=words):
            run(BenchFit(sides=("torch-bmm",), save=True, out=str(out), output=QUIET))
    assert measured == []


def test_memory_is_saved_figure_by_figure_under_its_own_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = [0, 1]
    words = json.dumps({"peak_rss_mb": 100.0, "before_mb": 50.0, "seconds": 1.0})

    def started(command, **how):
        return subprocess.CompletedProcess(command, codes.pop(0), words, "out of memory")

    monkeypatch.setattr(memory.subprocess, "run", started)
    options = BenchFit(threads=(1,), memory=True, save=True, out=str(tmp_path), output=QUIET)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(options)
    with (tmp_path / "memory.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["steps"], row["peak_rss_mb"]) == (str(memory.STEPS[0]), "100.0")
    (tmp_path / "memory.csv").write_text("a,b\n", encoding="utf-8")
    codes[:] = [0, 0]
    with pytest.raises(ValueError, match="has columns"):
        run(options)
    assert codes == [0, 0]
    assert (tmp_path / "memory.csv").read_text(encoding="utf-8") == "a,b\n"


def test_one_small_run_measures_and_saves(tmp_path: Path) -> None:
    options = BenchFit(
        spec=("2-8-1",),
        points=(16,),
        fields=2,
        threads=(1,),
        rounds=2,
        sides=("torch-bmm", "torch-loop"),
        save=True,
        out=str(tmp_path),
        output=QUIET,
    )
    found = run(options)
    assert [row["side"] for row in found] == ["torch-bmm", "torch-loop"]
    assert all(row["us_per_field_step"] > 0 and row["gflops"] > 0 and row["ratio"] is None for row in found)
    assert json.loads(json.dumps(found)) == found
    assert [row.to_json() for row in rows.read_csv(tmp_path / "fit.csv")] == found
    assert "torch-loop" in (tmp_path / "fit.md").read_text(encoding="utf-8")


def test_ratio_and_share_are_taken_round_by_round() -> None:
    sides = {
        "sgemm": {"seconds": [0.1, 0.1, 0.1], "cores": 1.0},
        "native": {"seconds": [1e-3, 2e-3, 3e-3], "cores": 1.0},
        "jax": {"seconds": [10e-3, 10e-3, 12e-3], "cores": 1.0},
    }
    case = {"spec": "2-32-32-1", "points": 784, "fields": 10, "limited": True, "isa": "avx2", "sides": sides}
    native, jax = make_rows(case, threads=1, rounds=3)
    assert native.ratio == 1.0
    assert jax.ratio == pytest.approx(5.0)  # the median of 10, 5, 4
    assert native.us_per_field_step == pytest.approx(200.0)
    assert native.gflops == pytest.approx(6592 * 784 / 200e-6 / 1e9, rel=1e-4)
    assert native.share == pytest.approx(native.gflops / (2 * 2048**3 / 0.1 / 1e9), rel=1e-2)


def test_a_slow_side_has_a_rate() -> None:
    sides = {"sgemm": {"seconds": [0.1], "cores": 1.0}, "torch-loop": {"seconds": [9.0], "cores": 1.0}}
    case = {"spec": "2-8-1", "points": 16, "fields": 2, "limited": True, "isa": "avx2", "sides": sides}
    (row,) = make_rows(case, threads=1, rounds=1)
    assert row.gflops == pytest.approx(112 * 16 / 4.5 / 1e9, rel=1e-3)


def test_limit_cores_binds_the_process() -> None:
    code = (
        "import os; from apps.bench.worker import limit_cores; limited = limit_cores(1)\n"
        "assert limited == hasattr(os, 'sched_setaffinity')\n"
        "assert not limited or len(os.sched_getaffinity(0)) == 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
