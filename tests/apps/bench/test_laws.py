"""The loop that runs laws without pytest: it finds every law, and one that does not hold fails it."""

import os
import sys
from pathlib import Path

import pytest

from apps.bench import laws

SOURCE = """
import os
import pytest

CASES = [(1, 2), (3, 6)]

@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(("a", "b"), CASES, ids=str)
def test_double(a, b, scale):
    assert 2 * a * scale == b * scale

@pytest.mark.parametrize("x", [1.0, pytest.param(2.0)])
def test_near(x):
    assert x + 1e-9 == pytest.approx(x)
    assert x + 1e-3 != pytest.approx(x)
    assert x + 1e-3 == pytest.approx(x, rel=1e-2)
    assert x + 1e-3 == pytest.approx(x, abs=1e-2)

def test_raising(monkeypatch, tmp_path):
    monkeypatch.setenv("LAWS_TEST", str(tmp_path))
    monkeypatch.setattr(os, "sep", "!")
    with pytest.raises(ValueError, match="a line") as caught:
        raise ValueError("with a line")
    assert "line" in str(caught.value)

@pytest.mark.skipif(True, reason="never")
def test_skipped():
    assert False

def test_skips_itself():
    pytest.skip("not here")

def test_wrong():
    assert 1 == 2, "one is not two"

def test_raises_nothing():
    with pytest.raises(ValueError):
        pass

def test_raises_another():
    with pytest.raises(ValueError, match="x"):
        raise ValueError("y")

def helper():
    assert False
"""
FAILING = {"test_wrong", "test_raises_nothing", "test_raises_another"}
SKIPPED = {"test_skipped", "test_skips_itself"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "some_laws.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


@pytest.mark.parametrize("with_pytest", [True, False])
def test_laws_hold_or_not(source: Path, with_pytest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_pytest:
        monkeypatch.setitem(sys.modules, "pytest", laws.stand_in())
    before = dict(os.environ), os.sep
    found = laws.collect(source)
    assert len(found) == 4 + 2 + 1 + 2 + 3
    for law in found:
        short = law.name.removeprefix("some_laws.").split("[")[0]
        outcome, detail = laws.hold(law)
        assert outcome == ("failed" if short in FAILING else "skipped" if short in SKIPPED else "held"), detail
    assert (dict(os.environ), os.sep) == before


def test_shares_are_the_whole(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert laws.main([str(source)]) == 1
    whole = [line for line in capsys.readouterr().out.splitlines() if "some_laws.test" in line and ": some" in line]
    parts = []
    for share in range(3):
        laws.main([str(source), "--share", f"{share}/3"])
        parts += [
            line for line in capsys.readouterr().out.splitlines() if "some_laws.test" in line and ": some" in line
        ]
    assert len(whole) == 12
    assert sorted(parts) == sorted(whole)


def test_a_missing_file_and_an_unknown_fixture_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing_laws"):
        laws.collect(tmp_path / "nothing_laws.py")
    path = tmp_path / "odd_laws.py"
    path.write_text("def test_odd(unknown_thing):\n    pass\n", encoding="utf-8")
    (law,) = laws.collect(path)
    assert laws.hold(law) == ("failed", "argument unknown_thing: expected one of monkeypatch, tmp_path")
