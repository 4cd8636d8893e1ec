"""What is printed: alignment, figures, JSON that is JSON."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from apps.output import Output, duration, file_size, plain, psnr_figures, psnr_line, sparkline


def test_facts_are_aligned_and_leave_out_none(capsys: pytest.CaptureFixture[str]) -> None:
    Output().facts([("a", 1), ("a longer name", "two"), ("gone", None)])
    Output().facts([("b", 3)])
    assert capsys.readouterr().out == "  a              1\n  a longer name  two\n  b           3\n"


def test_numbers_of_a_table_line_up_at_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("name", "n", "share"), [("x", 5, "0.5"), ("yy", 1000, "12.25")])
    lines = capsys.readouterr().out.splitlines()
    assert [len(line) for line in lines] == [len(lines[0])] * 3
    assert lines[1].endswith("    5    0.5")


def test_next_commands_survive_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["nf", "info", "my runs/it's"]
    Output().next(words, ["nf", "demo"])
    first, second = capsys.readouterr().out.splitlines()
    assert shlex.split(first) == ["next:", *words]
    assert second.split() == ["nf", "demo"]


def test_json_is_the_last_line_and_quiet_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True, quiet=True)
    output.say("not shown")
    values = np.array([1.5, np.nan], np.float32)
    output.record(count=np.int64(3), values=values, out=Path("a/b"), none=None, nested={"x": (np.inf, True)})
    output.close()
    found = json.loads(capsys.readouterr().out)
    assert found == {"count": 3, "values": [1.5, None], "out": "a/b", "none": None, "nested": {"x": [None, True]}}


def test_plain_keeps_what_json_knows() -> None:
    assert plain([1, "a", None, True, 0.5]) == [1, "a", None, True, 0.5]


def test_psnr_figures_are_those_of_numpy() -> None:
    values = np.linspace(20, 40, 101).astype(np.float32)
    found = psnr_figures(values)
    assert found == pytest.approx({"psnr_mean": 30.0, "psnr_median": 30.0, "psnr_p5": 21.0})
    assert psnr_line(found) == "30.00 dB mean, 30.00 median, 21.00 at the 5th percentile"
    assert psnr_figures(np.zeros(0)) == {}
    assert psnr_line({}) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.12 s"), (38.4, "38 s"), (119.6, "2 min 00 s"), (250, "4 min 10 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (4_600_000, "4.6 MB"), (2e12, "2.0 TB")])
def test_file_size(count: int, text: str) -> None:
    assert file_size(count) == text


def test_sparkline_is_highest_where_most_values_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        encoding = "utf-8"

    monkeypatch.setattr("sys.stdout", Terminal())
    marks = sparkline(np.array([0.0] * 9 + [1.0]), bins=5)
    assert (marks[0], marks[-1], len(marks)) == ("█", "▁", 5)
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    assert sparkline(np.array([0.0, 1.0])) == ""
