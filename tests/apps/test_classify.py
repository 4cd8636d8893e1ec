"""nf train classify and nf predict: figures, files, and going on where it stopped."""

import csv
from pathlib import Path

import numpy as np
import pytest

from neuralfields.store import open_store

TRAIN = ("--epochs", 3, "--threads", 1, "--batch", 8)


@pytest.fixture
def held_out_store(tmp_path: Path, images_file: Path, nf) -> Path:
    path = tmp_path / "test-store"
    assert nf("fit", "images", images_file, "--split", "test", "--out", path, *nf.quick, "--quiet").code == 0
    return path


def test_train_evaluate_and_predict_agree(nf, store: Path, held_out_store: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "reader", tmp_path / "deep" / "predictions.csv"
    done = nf("train", "classify", store, "--test", held_out_store, "--out", out, *TRAIN, "--json")
    assert done.code == 0, done.err
    figures = done.figures
    assert (figures["fields"], figures["test_fields"], figures["epochs_run"]) == (32, 8, 3)
    assert figures["out"] == str(out)
    assert 0 <= figures["val_accuracy"] <= 1
    assert np.sum(figures["confusion"]) == 8
    assert np.trace(figures["confusion"]) == round(8 * figures["test_accuracy"])
    assert {"confusion.png", "curves.png"} <= {file.name for file in out.iterdir()}

    read = nf("predict", out, held_out_store, "--out", table, "--json")
    assert read.code == 0, read.err
    assert read.figures["accuracy"] == pytest.approx(figures["test_accuracy"])
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == open_store(held_out_store).ids.tolist()
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == pytest.approx(figures["test_accuracy"])
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)


def test_same_command_again_trains_nothing(nf, store: Path, tmp_path: Path) -> None:
    words = ["train", "classify", store, "--out", tmp_path / "reader", *TRAIN, "--json"]
    first, second = nf(*words), nf(*words)
    assert (first.code, second.code) == (0, 0), second.err
    assert (first.figures["epochs_run"], second.figures["epochs_run"]) == (3, 0)
    assert second.figures["val_accuracy"] == first.figures["val_accuracy"]


def test_bad_requests_are_one_line(nf, store: Path, images_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "reader"
    nf("train", "classify", tmp_path / "absent", "--out", out).assert_refused("absent")
    nf("train", "classify", store, "--out", out, "--model", "oracle").assert_refused("oracle", "mlp")
    nf("train", "classify", store, "--out", out, "--epochs", 0).assert_refused("epochs=0")
    nf("train", "classify", store, "--out", out, "--threads", -1).assert_refused("threads=-1")
    words = ("--model", "orbit", "--normalise", "per_layer")
    nf("train", "classify", store, "--out", out, *words).assert_refused(
        "normalise='per_layer'", "orbit reads the fields"
    )
    words = ("--patience", 3, "--val-fraction", 0)
    nf("train", "classify", store, "--out", out, *words).assert_refused("patience=3", "fields to validate on")
    nf("predict", tmp_path / "absent", store).assert_refused("absent")
    assert nf("train", "classify", store, "--out", out, *TRAIN).code == 0
    other = tmp_path / "other"
    words = [*nf.quick, "--hidden", 5, "--limit", 3]
    assert nf("fit", "images", images_file, "--out", other, *words).code == 0
    nf("predict", out, other).assert_refused("2-8-8-1", "2-5-1")
    nf("train", "classify", store, "--test", other, "--out", out, *TRAIN).assert_refused("2-8-8-1", "2-5-1")


def test_images_without_labels_cannot_be_learned(nf, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 4, 4), np.uint8))
    assert nf("fit", "images", tmp_path / "x.npz", "--out", tmp_path / "s", *nf.quick).code == 0
    nf("train", "classify", tmp_path / "s", "--out", tmp_path / "r", *TRAIN).assert_refused("label")
