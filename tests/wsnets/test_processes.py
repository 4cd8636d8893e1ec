"""Several processes train like one, and the loss of one ends the others with a message."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wsnets.processes import Processes, join

SCRIPT = """
import atexit
import sys
import numpy as np
import torch
import torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from conftest import Memory, SPEC
from dataclasses import replace
from neuralfields import FieldBatch
from wsnets import models
from wsnets.models.gmn import GMNConfig
from wsnets.train import ClassifyConfig, classify
torch.set_num_threads(1)
# Called last, as what is registered first is: threads of a group left behind crash as Python ends.
atexit.register(lambda: print('still joined' if dist.is_initialized() else 'left', flush=True))
flat = torch.from_numpy(np.load(sys.argv[2]))
labels = np.arange(len(flat), dtype=np.int64) % 3
population = Memory(FieldBatch.from_flat(SPEC, flat), labels, np.arange(len(flat), dtype=np.uint32), {})
stop, epochs = int(sys.argv[4]), int(sys.argv[5])
config = ClassifyConfig(model=GMNConfig.small(), epochs=epochs, batch=32, noise=0.1, lr=1e-3)
def watch(now):
    print(now.epoch, flush=True)
    if now.epoch == stop:
        raise SystemExit(3)
classify(population, config, sys.argv[3], watch)
"""


@pytest.fixture
def base(population, tmp_path: Path) -> list[str]:
    np.save(tmp_path / "flat.npy", population.fields.flat().numpy())
    (tmp_path / "script.py").write_text(SCRIPT)
    return [str(tmp_path / "script.py"), str(Path(__file__).parent), str(tmp_path / "flat.npy")]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_started_by_one_process_resumed_by_two_gives_the_same_curve(base: list[str], tmp_path: Path):
    alone = [sys.executable, *base]
    subprocess.run([*alone, str(tmp_path / "whole"), "0", "6"], check=True, capture_output=True, env=ENVIRONMENT)
    first = subprocess.run([*alone, str(tmp_path / "cut"), "3", "6"], capture_output=True, env=ENVIRONMENT)
    assert first.returncode == 3
    run = [*TORCHRUN, *base, str(tmp_path / "cut"), "0", "6"]
    done = subprocess.run(run, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (done.stdout.count("left"), done.stdout.count("still joined")) == (2, 0)
    whole, cut = (json.loads((tmp_path / name / "training.json").read_text())["history"] for name in ("whole", "cut"))
    assert len(whole) == len(cut) == 6
    for a, b in zip(whole, cut, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-6), name


def test_summed_gradients_step_a_parameter_of_any_memory_layout_alike(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.distributed.all_reduce", lambda together: together.mul_(2))
    stepped = []
    for values in (torch.arange(6.0).view(3, 2).T.clone(), torch.arange(6.0).view(3, 2).T.contiguous()):
        layer = nn.Linear(3, 2, bias=False)
        layer.weight = nn.Parameter(values)
        optimizer = torch.optim.Adam(layer.parameters(), fused=True)
        (layer.weight * torch.arange(-2.0, 4.0).view(2, 3)).sum().backward()
        total = Processes(0, 2).sum_gradients(layer, torch.tensor(3.0))
        assert total == 6.0
        optimizer.step()
        stepped.append(layer.weight.detach())
    assert not stepped[0].is_contiguous()
    assert torch.equal(*stepped)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list:
    """What the second of two processes of a machine does to join, where nothing is really joined."""
    done: list = []
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.distributed.init_process_group", done.append)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("atexit.register", lambda _: None)
    monkeypatch.setattr("torch.cuda.set_device", done.append)
    return done


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)


@pytest.mark.parametrize(
    ("count", "device", "expected"),
    [
        (0, "auto", ["gloo"]),
        (0, "cpu", ["gloo"]),
        (1, "cpu", ["gloo"]),
        (2, "cpu", ["gloo"]),
        (2, "auto", ["cpu:gloo,cuda:nccl", 1]),
        (3, "cuda", ["cpu:gloo,cuda:nccl", 1]),
    ],
)
def test_each_process_takes_a_gpu_of_its_own_unless_none_is_asked_for(
    count: int, device: str, expected: list, joined: list, monkeypatch: pytest.MonkeyPatch
):
    gpus(monkeypatch, count)
    assert join(device) == Processes(1, 2)
    assert joined == expected


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_processes_than_gpus_are_refused_before_any_waits_for_another(
    device: str, joined: list, monkeypatch: pytest.MonkeyPatch
):
    gpus(monkeypatch, 1)
    with pytest.raises(ValueError, match=f"device='{device}': expected cpu, or a GPU for each of 2 processes; 1 found"):
        join(device)
    assert joined == []


def test_killing_one_process_ends_the_run_with_a_message(base: list[str], tmp_path: Path):
    run = [*TORCHRUN, *base, str(tmp_path / "run"), "0", "100000"]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stdout is not None
    while "3" not in process.stdout.readline():
        assert process.poll() is None
    script = base[0]
    found = [pid for pid in os.listdir("/proc") if pid.isdigit() and script in _command(pid)]
    workers = sorted(int(pid) for pid in found if "torch.distributed" not in _command(pid))
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    started = time.monotonic()
    _, errors = process.communicate(timeout=90)
    assert process.returncode != 0
    assert time.monotonic() - started < 80
    assert "exitcode  : -9" in errors or "Signal 9" in errors


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended meanwhile
        return ""
