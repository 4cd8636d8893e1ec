"""nf train under torchrun: one result, one message for a fault, and an end where a process is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The launcher looks at its processes seldom, so that they notice by themselves.
TORCHRUN = (
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "--monitor-interval",
    "3",
    "-m",
    "apps",
)


def start(*words: object) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, *TORCHRUN, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def complaints(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("nf: error: ")]


def workers(out: Path) -> list[int]:
    """Process ids of the trainings that write to `out`, the launcher not among them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0") if entry.name.isdigit() else []
        except OSError:  # it has ended meanwhile
            continue
        if str(out) in words and "torch.distributed.run" not in words:
            found.append(int(entry.name))
    return sorted(found)


def test_two_processes_print_one_result_and_one_refusal(store: Path, tmp_path: Path) -> None:
    words = ("train", "classify", store, "--epochs", 2, "--batch", 8, "--threads", 1, "--device", "cpu")
    done = start(*words, "--out", tmp_path / "reader", "--json")
    printed, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    assert printed.count('"val_accuracy"') == 1
    assert {"network.json", "curves.png"} <= {file.name for file in (tmp_path / "reader").iterdir()}
    refused = start(*words, "--out", tmp_path / "other", "--model", "oracle")
    _, errors = refused.communicate(timeout=120)
    assert refused.returncode != 0
    assert len(complaints(errors)) == 1
    assert "oracle" in complaints(errors)[0]


def test_fits_are_learned_by_two_processes_as_by_one(images_file: Path, nf, tmp_path: Path) -> None:
    sizes = ("hidden=8", "layers=2", "steps=2", "points=0", "depth=1", "width=8", "head=8")
    words = ("train", "meta", images_file, "--split", "train", "--epochs", 3, "--option", *sizes, "--threads", 1)
    words = (*words, "--device", "cpu", "--val-fraction", 0.2)
    done = start(*words, "--out", tmp_path / "two", "--json")
    printed, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    assert printed.count('"val_accuracy"') == 1
    assert nf(*words, "--out", tmp_path / "one").code == 0
    two, one = (json.loads((tmp_path / name / "training.json").read_text())["history"] for name in ("two", "one"))
    assert len(two) == len(one) == 3
    for a, b in zip(two, one, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_a_killed_process_ends_the_other_with_one_message(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "reader"
    words = ("train", "classify", store, "--out", out, "--epochs", 100_000, "--batch", 8, "--threads", 1)
    process = start(*words, "--device", "cpu")
    deadline = time.monotonic() + 90
    while not (out / "checkpoint.safetensors").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    both = workers(out)
    assert len(both) == 2
    os.kill(both[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert len(complaints(errors)) == 1, errors
    assert "lost another one" in complaints(errors)[0]
    assert "goes on from its last checkpoint" in complaints(errors)[0]
    assert workers(out) == []
