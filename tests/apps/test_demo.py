"""nf demo, on fewer digits and epochs than a person gets: files, figures, second run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fitting
from apps.demo import PARTS, held_out
from fitting import images, recipes
from neuralfields.store import open_store
from wsnets import train


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the demo fit 100 digits for 20 steps and train for 2 epochs."""
    load, get, tuned = images.load, recipes.get, train.ClassifyConfig.tuned
    quick = {"steps": 20, "backend": "torch"}
    monkeypatch.setattr(fitting.images, "load", lambda source: load(source, limit=100))
    monkeypatch.setattr(recipes, "get", lambda name: replace(get(name), config=replace(get(name).config, **quick)))
    monkeypatch.setattr(train.ClassifyConfig, "tuned", lambda name, **given: tuned(name, **{**given, "epochs": 2}))


@pytest.mark.usefixtures("small")
def test_demo_makes_everything_and_a_second_run_nothing(nf, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    first = nf("demo", "--out", out, "--threads", 1, "--json")
    assert first.code == 0, first.err
    figures = first.figures
    assert not figures["skipped"]
    assert figures["fields"] == figures["train_fields"] + figures["test_fields"] == 100
    assert all((out / part).stat().st_size > 0 for part in (*PARTS, "report.md"))
    report = json.loads((out / "report.json").read_text())
    assert report == {key: value for key, value in figures.items() if key != "skipped"}
    text = (out / "report.md").read_text()
    for expected in (f"{100 * figures['test_accuracy']:.2f} %", "grid.png", "confusion.png", "torch", "seed"):
        assert expected in text
    train_ids, test_ids = (set(open_store(out / name).ids.tolist()) for name in ("train", "test"))
    assert not train_ids & test_ids
    assert train_ids | test_ids == set(open_store(out / "fields").ids.tolist())
    assert set(open_store(out / "test").column("split")) == {"test"}

    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    second = nf("demo", "--out", out, "--threads", 1, "--json")
    assert second.code == 0
    assert second.figures == {**figures, "skipped": True}
    assert "finished demo" in second.out
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


@pytest.mark.usefixtures("small")
def test_demo_goes_on_where_it_stopped(nf, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    assert nf("demo", "--out", out, "--threads", 1).code == 0
    whole = (out / "reader" / "model.safetensors").read_bytes()
    for part in ("report.json", "grid.png", "test/store.json"):
        (out / part).unlink()
    for file in (out / "test").iterdir():
        file.unlink()
    again = nf("demo", "--out", out, "--threads", 1, "--json")
    assert again.code == 0, again.err
    assert (again.figures["resumed_fields"], again.figures["epochs_run"]) == (100, 0)
    assert (out / "reader" / "model.safetensors").read_bytes() == whole
    nf("demo", "--out", out, "--seed", 7).assert_refused("seed")


def test_held_out_is_a_share_of_every_class_and_follows_the_seed() -> None:
    labels = np.arange(400) % 10
    chosen = held_out(labels, 0.25, seed=3)
    assert np.bincount(labels[chosen]).tolist() == [10] * 10
    assert len(set(chosen.tolist())) == 100
    np.testing.assert_array_equal(chosen, held_out(labels, 0.25, seed=3))
    assert not np.array_equal(chosen, held_out(labels, 0.25, seed=4))
