"""The benchmark of weight-space networks: rows that add up, sides that are missing or die, unknown names."""

import csv
from dataclasses import fields
from pathlib import Path

import pytest

from apps.bench import wsnets
from apps.bench.wsnets import BenchWsnets, WsnetsRow
from apps.bench.wsnets_worker import PUBLIC, counted, ours, problem
from apps.options import OutputOptions
from apps.training import MODELS
from wsnets import models
from wsnets.features import Normaliser

QUIET = OutputOptions(quiet=True)


def test_rows_are_complete_consistent_and_saved(tmp_path: Path) -> None:
    options = BenchWsnets(
        models=("mlp", "dws"), batch=4, threads=1, rounds=2, save=True, out=str(tmp_path), output=QUIET
    )
    rows = wsnets.run(options)
    assert [(row["model"], row["side"]) for row in rows] == [("mlp", "ours"), ("dws", "ours")]
    for row in rows:
        assert row["samples_per_s"] == pytest.approx(row["batch"] / row["seconds"])
        assert row["share"] == pytest.approx(row["gflop_per_sample"] * row["samples_per_s"] / row["sgemm_gflops"])
        assert 0 < row["best"] <= row["seconds"]
        assert row["ratio"] == 1.0
        assert row["peak_mib"] > 50
    wsnets.run(BenchWsnets(models=("mlp",), batch=4, threads=1, rounds=1, save=True, out=str(tmp_path), output=QUIET))
    with (tmp_path / "wsnets.csv").open(encoding="utf-8") as file:
        saved = list(csv.DictReader(file))
    assert [row["model"] for row in saved] == ["mlp", "dws", "mlp"]
    assert list(saved[0]) == [field.name for field in fields(WsnetsRow)]


def test_what_was_measured_is_kept_when_a_later_model_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = wsnets._measure

    def dying(name, options, output):
        if name == "dws":
            raise ValueError("a measuring process ended with code -9")
        return measure(name, options, output)

    monkeypatch.setattr(wsnets, "_measure", dying)
    with pytest.raises(ValueError, match="code -9"):
        wsnets.run(
            BenchWsnets(models=("mlp", "dws"), batch=4, threads=1, rounds=1, save=True, out=str(tmp_path), output=QUIET)
        )
    with (tmp_path / "wsnets.csv").open(encoding="utf-8") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["mlp"]


def test_what_cannot_be_saved_is_refused_before_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsnets, "_measure", lambda *_: pytest.fail("was measured"))
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "wsnets.csv").write_text("a,b\n", encoding="utf-8")
    for out, words in ((tmp_path, "has columns"), (tmp_path / "file", "is a file")):
        with pytest.raises(ValueError, match=words):
            wsnets.run(BenchWsnets(models=("mlp",), save=True, out=str(out), output=QUIET))
    with pytest.raises(ValueError, match="has columns"):
        wsnets.append(tmp_path / "wsnets.csv", [])
    assert (tmp_path / "wsnets.csv").read_text(encoding="utf-8") == "a,b\n"


def test_a_public_side_that_is_not_there_is_said_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = wsnets.run(BenchWsnets(models=("scale_gmn",), public=str(tmp_path), batch=2, threads=1, rounds=1))
    assert [row["side"] for row in rows] == ["ours"]
    assert "scale_gmn: the public code is left out" in capsys.readouterr().out


def test_a_step_learns_and_its_operations_are_counted() -> None:
    once = ours("mlp", *problem(8))
    losses = [once() for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    # Matrix products alone, 2 operations for each weight and field forward, and as many twice backward but for the
    # first layer, whose input needs no gradient.
    sizes = [(1185, 512), (512, 256), (256, 10)]
    forward = sum(2 * a * b for a, b in sizes)
    assert counted(once) == 8 * (3 * forward - 2 * sizes[0][0] * sizes[0][1])


@pytest.mark.parametrize("name", ["scale_gmn", "dws", "orbit"])
def test_weights_are_normalised_as_the_model_wants(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, fit = [], Normaliser.fit
    monkeypatch.setattr(Normaliser, "fit", lambda mode, batches: asked.append(mode) or fit(mode, batches))
    ours(name, *problem(2))
    assert asked == [models.kind(name).normalise]


def test_every_public_side_is_a_model_and_unknown_ones_are_refused() -> None:
    assert set(PUBLIC) <= set(MODELS)
    with pytest.raises(ValueError, match="models=\\['other'\\]"):
        wsnets.run(BenchWsnets(models=("other",), output=QUIET))
