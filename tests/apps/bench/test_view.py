"""`nf bench view`: its clients see what the server shows, and the command measures and saves."""

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from apps.bench import mesh, view
from apps.bench.view import BenchView, ViewRow, run
from apps.options import OutputOptions

QUIET = OutputOptions(quiet=True)
SMALL: dict[str, Any] = {
    "spec": "3-16-16-1",
    "moves": 2,
    "fields": 300,
    "pages": 2,
    "threads": 1,
    "without_browser": True,
}


@pytest.fixture
def hasty_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that was fitted for a few steps."""
    make = mesh.make_field
    monkeypatch.setattr(mesh, "make_field", lambda spec: make(spec, steps=60))


@pytest.mark.usefixtures("hasty_field")
def test_one_small_run_measures_and_saves(tmp_path: Path) -> None:
    pytest.importorskip("viser")
    found = run(BenchView(**SMALL, save=True, out=str(tmp_path), output=QUIET))
    assert [(row["fields"], row["side"], row["measured"]) for row in found] == [
        (1, "server", "coarse surface"),
        (1, "server", "fine surface"),
        (300, "server", "first page"),
        (300, "server", "memory before the first page"),
        (300, "server", "memory after the first page"),
        (300, "server", "memory 2 pages after the first page"),
    ]
    coarse, fine, *_ = found
    assert 0 < coarse["median"] < fine["median"]
    assert fine["median"] > 0.25  # it waits until the slider rests
    assert all(row["median"] > 0 and row["goal"] > 0 for row in found)
    view.append(tmp_path / "view.csv", [])
    with (tmp_path / "view.csv").open(newline="", encoding="utf-8") as file:
        saved = list(csv.DictReader(file))
    assert [{name: str(value) for name, value in row.items()} for row in found] == saved


@pytest.mark.usefixtures("hasty_field")
def test_a_browser_tells_when_it_handled_and_painted(tmp_path: Path) -> None:
    pytest.importorskip("viser")
    with ThreadPoolExecutor(1) as pool:  # playwright allows one browser driver a thread, and other tests have theirs
        times = pool.submit(_times_in_a_browser, tmp_path).result()
    if times is None:
        pytest.skip("playwright or a Chromium is not installed")
    assert 0 < times["coarse surface"] < times["coarse surface, painted"]
    assert times["coarse surface"] < times["fine surface"] < times["fine surface, painted"]
    assert times["first page"] > 0


def _times_in_a_browser(folder: Path) -> dict[str, float] | None:
    try:
        looker = view.Chromium()
    except ValueError:
        return None
    options = BenchView(**SMALL, output=QUIET)
    try:
        rows = view.slider(view.shape_store(folder, options), looker, options)
        rows += view.opening(view.large_store(folder, options), looker, options)
    finally:
        looker.close()
    return {row.measured: row.median for row in rows}


def test_a_file_with_other_columns_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "view.csv"
    path.write_text("a,b\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"has columns \['a', 'b'\]: expected \['spec'"):
        view.append(path, [])
    assert path.read_text(encoding="utf-8") == "a,b\n"


def test_rows_say_whether_a_goal_is_met() -> None:
    values: dict[str, Any] = {field.name: "" for field in fields(ViewRow)}
    values |= {"fields": 1, "p20": 0.1, "p80": 0.3, "unit": "s", "median": 0.2, "goal": 0.15}
    assert view.cells(ViewRow(**values))[-1] == "missed"
    values["median"] = 0.15
    assert view.cells(ViewRow(**values))[-1] == "met"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"moves": 0}, "moves=0"), ({"moves": 1000}, "50 moves at most"), ({"fields": 0}, "fields=0")],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(BenchView(output=QUIET, **options))
