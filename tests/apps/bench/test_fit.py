"""`nf bench fit`: every side computes the same fit, and the command measures, limits its cores and saves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from apps.bench import fit, problem, rows, sides_torch, worker
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
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(BenchFit(output=QUIET, **options))


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
