"""The process that measures: what it answers, and that a failure costs one part alone."""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from apps.bench.gpu_worker import Broken, Job, Worker


def make(settings: Any, shared: dict) -> dict[str, Job]:
    def broken(_: float) -> Iterator[str]:
        yield "before"
        raise RuntimeError("an illegal memory access\nand more")

    def hang(_: float) -> Iterator[None]:
        yield None
        time.sleep(60)

    return {
        "process": lambda left: [(os.getpid(), settings, dict(shared), left)],
        "several": lambda _: (number**2 for number in range(3)),
        "broken": broken,
        "crash": lambda _: os._exit(7),
        "hang": hang,
    }


def test_a_failure_costs_one_part_and_a_new_process_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    worker = Worker(make, "settings")
    try:
        ((first, settings, shared, left),) = worker.run("process", 60.0)
        assert (settings, shared) == ("settings", {})
        assert 0 < left < 60.0 - 0.01  # what its start took is gone
        assert first != os.getpid()
        worker.shared["tf32"] = 5.0
        assert [answer[::2] for answer in worker.run("process", 1.0)] == [(first, {"tf32": 5.0})]
        assert list(worker.run("several", 1.0)) == [0, 1, 4]
        said = worker.run("broken", 1.0)
        assert next(said) == "before"
        with pytest.raises(Broken, match=r"^RuntimeError: an illegal memory access$"):
            next(said)
        assert "and more" in capfd.readouterr().err
        ((second, _, shared, _),) = worker.run("process", 1.0)
        assert second != first
        assert shared == {"tf32": 5.0}
        with pytest.raises(Broken, match="its process ended with status 7"):
            list(worker.run("crash", 1.0))
        assert next(iter([*worker.run("process", 1.0)]))[0] not in (first, second)
    finally:
        worker.close()


def test_a_part_that_hangs_is_ended_with_its_process() -> None:
    from apps.bench import gpu

    worker = Worker(make, None)
    try:
        ((hanging, *_),) = worker.run("process", 1.0)
        begin = time.monotonic()
        kept = gpu.Outcome(lines=("found before",))
        parts = [gpu.Part("hang", 0.2, lambda left: (kept for _ in worker.run("hang", left)))]
        told = lambda left: [gpu.Outcome(lines=(str(pid),)) for pid, *_ in worker.run("process", left)]  # noqa: E731
        parts.append(gpu.Part("next", 40, told))
        said: list[str] = []
        report = gpu.run_parts(parts, 51.0, say=said.append)
        assert report.failures == ("hang: ended after 1 s, before it was done",)
        assert report.left_out == ()
        assert "found before" in said
        assert time.monotonic() - begin < 45
        assert any(line.isdigit() and line != str(hanging) for line in said)
        with pytest.raises(ProcessLookupError):
            os.kill(hanging, 0)
    finally:
        worker.close()
