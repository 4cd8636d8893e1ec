"""Checks on a GPU: every law file of the kernels on the hardware, and compute-sanitizer over small fits.

They run at once, each in processes of its own: most of their time goes into compiling kernels, on the host.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("memcheck", "racecheck")
_FOUND = 99  # status of compute-sanitizer where it found something


@dataclass(frozen=True)
class Check:
    """One process: its name, its command, and whether a status other than zero may be about the tool alone."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """ok: whether the check held; line: what to tell a person; detail: the end of its output where it did not."""

    name: str
    ok: bool
    line: str
    detail: str = ""


def law_files() -> list[Path]:
    """All files of laws that hold on a GPU and in Triton's interpreter alike."""
    return sorted(path for path in (ROOT / "tests").rglob("*_laws.py") if not path.name.startswith("test_"))


def checks(shares: int, sanitizer: str | None) -> list[Check]:
    """The laws in so many shares, and each tool of compute-sanitizer where its path is given."""
    python = (sys.executable, "-m")
    files = tuple(map(str, law_files()))
    found = [
        Check(f"laws {share + 1}/{shares}", (*python, "apps.bench.laws", *files, "--share", f"{share}/{shares}"))
        for share in range(shares)
    ]
    if sanitizer is not None:
        for tool in TOOLS:
            watch = (sanitizer, "--tool", tool, "--error-exitcode", str(_FOUND))
            found.append(Check(tool, (*watch, *python, "apps.bench.gpu_small")))
    return found


def find_sanitizer() -> str | None:
    """Path of compute-sanitizer, or None where it is not installed."""
    usual = Path("/usr/local/cuda/bin/compute-sanitizer")
    return shutil.which("compute-sanitizer") or (str(usual) if usual.exists() else None)


def run_all(work: Sequence[Check], seconds: float, environment: dict[str, str]) -> list[Outcome]:
    """Run all checks at once and wait for them, so many seconds at most; those that take longer are ended."""
    with tempfile.TemporaryDirectory() as folder:
        running: list[tuple[Check, subprocess.Popen, IO[str]]] = []
        for check in work:
            said = (Path(folder) / check.name.replace("/", " of ")).open("w+", encoding="utf-8")
            process = subprocess.Popen(
                check.command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
            )
            running.append((check, process, said))
        deadline = time.monotonic() + seconds
        try:
            return [_wait(check, process, said, deadline) for check, process, said in running]
        finally:
            for _, process, said in running:
                _end(process)
                said.close()


def _end(process: subprocess.Popen) -> None:
    """End a process that is still at work, and the compilers and tools it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(check: Check, process: subprocess.Popen, said: IO[str], deadline: float) -> Outcome:
    try:
        status = process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _end(process)
        status = None
    said.seek(0)
    return judge(check.name, status, said.read())


def judge(name: str, status: int | None, said: str) -> Outcome:
    """What a status (None: ended for time) and an output mean."""
    lines = [line for line in said.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "no output"
    if status is None:
        return Outcome(name, False, f"{name}: did not finish in time", "\n".join(lines[-20:]))
    if status == 0:
        return Outcome(name, True, f"{name}: {last}")
    failed = [line for line in lines if line.startswith(("failed:", "========="))]
    line = f"{name}: failed with status {status}: {(failed or [last])[0][:200]}"
    return Outcome(name, False, line, "\n".join(lines[-60:]))
