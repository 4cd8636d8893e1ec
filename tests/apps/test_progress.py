"""Progress goes to stderr, as lines where there is no terminal."""

import pytest

from apps import progress
from apps.progress import Progress


def test_plain_lines_come_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(clock)))
    with Progress("fit", "fields") as bar:
        for done in range(1, 11):
            bar.update(done, 10, f"{done} of 10", "30.1 dB")
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == ""
    assert 1 < len(lines) < 10
    assert lines[0].startswith("fit: 3 of 10 fields, 30.1 dB, ")
    assert lines[0].endswith(" left")


def test_what_came_before_the_first_part_is_no_time_of_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with Progress("train", "epochs") as bar:
        for seconds, done in ((30.0, 0), (35.0, 1), (40.0, 2)):
            now[0] = seconds
            bar.update(done, 10, str(done))
    assert capsys.readouterr().err.splitlines()[-1] == "train: 2 epochs, 40 s left"


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", -1.0)
    with Progress("fit", "fields", quiet=True) as bar:
        bar.update(1, 2, "1 of 2")
    assert capsys.readouterr().err == ""


def test_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("fit", "fields") as bar:
        assert bar.bar is not None
        bar.update(1, 2, "1 of 2", "30 dB")
        task = bar.bar.tasks[0]
        assert (task.completed, task.total, task.fields["note"]) == (1, 2, "1 of 2 fields, 30 dB")
    assert capsys.readouterr().out == ""
