"""Trainings of networks that make fields, killed without warning: the same command goes on and ends the same."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHARED = ("--epochs", 60, "--threads", 1, "--batch", 8, "--quiet")
COMMANDS = {
    "embed": ("--option", "encoder=8,9", "wide=12", "decoder=8,8", "points=16"),
    "generate": ("--noise-steps", 20, "--token", 16, "--option", "width=16", "num_layers=1", "num_heads=2"),
    "align": ("--option", "coordinates=8", "width=8", "dim=6", "hidden=8"),
}


@pytest.mark.parametrize("task", COMMANDS)
def test_killed_and_run_again_is_the_same_as_not_killed(nf, store: Path, tmp_path: Path, task: str) -> None:
    words = ("train", task, store, *SHARED, *COMMANDS[task])
    assert nf(*words, "--out", tmp_path / "whole").code == 0
    cut = tmp_path / "cut"
    command = [sys.executable, "-m", "apps", *(str(word) for word in words), "--out", str(cut)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (cut / "checkpoint.safetensors").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert not (cut / "network.json").exists()
    assert nf(*words, "--out", cut).code == 0
    assert (cut / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
