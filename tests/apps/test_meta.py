"""nf train meta: figures, files, a store of fields, and going on where it stopped."""

from pathlib import Path

import numpy as np
import pytest

from neuralfields.store import open_store

SIZES = ("hidden=8", "layers=2", "steps=2", "points=16", "depth=1", "width=8", "head=8")
QUICK = ("--option", *SIZES, "--epochs", 2, "--batch", 8, "--threads", 1, "--device", "cpu")


def test_train_evaluate_and_write_fields(nf, images_file: Path, tmp_path: Path) -> None:
    out, fields = tmp_path / "meta", tmp_path / "fields"
    words = ["train", "meta", images_file, "--split", "train", "--test", "test", "--out", out, "--fields", fields]
    done = nf(*words, *QUICK, "--json")
    assert done.code == 0, done.err
    figures = done.figures
    assert (figures["images"], figures["test_images"], figures["epochs_run"]) == (32, 8, 2)
    assert np.trace(figures["confusion"]) == round(8 * figures["test_accuracy"])
    assert {"confusion.png", "curves.png", "meta.json", "training.json"} <= {file.name for file in out.iterdir()}
    store = open_store(fields)
    assert store.complete
    assert len(store) == 8
    assert store.spec.hidden == (8, 8, 8)
    assert set(store.labels) == {0, 1}
    assert float(np.mean(store.metrics.psnr)) == pytest.approx(figures["psnr_mean"], rel=1e-5)
    assert nf("render", fields, "--out", tmp_path / "sheet.png", "--beside", images_file, "--split", "test").code == 0
    assert nf("info", fields).code == 0
    assert nf("predict", out, fields, "--json").figures["accuracy"] == pytest.approx(figures["test_accuracy"])
    assert nf("info", out, "--json").figures["task"] == "meta"
    nf("train", "meta", images_file, "--out", tmp_path / "other", "--fields", fields, *QUICK).assert_refused("fields=")
    assert not (tmp_path / "other").exists()

    again = nf(*words, *QUICK, "--json")
    assert again.code == 0, again.err
    assert again.figures["epochs_run"] == 0
    assert again.figures["test_accuracy"] == figures["test_accuracy"]


def test_bad_requests_are_one_line(nf, images_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "meta"
    np.savez(tmp_path / "bare.npz", x=np.zeros((4, 4, 4), np.uint8))
    nf("train", "meta", tmp_path / "absent.npz", "--out", out).assert_refused("absent.npz")
    nf("train", "meta", tmp_path / "bare.npz", "--out", out).assert_refused("labels")
    nf("train", "meta", images_file, "--out", out, "--option", "wings=2").assert_refused("wings")
    nf("train", "meta", images_file, "--out", out, "--epochs", 0).assert_refused("epochs=0")
    nf("train", "meta", images_file, "--out", out, "--test", "val").assert_refused("val")
    limited = nf("train", "meta", images_file, "--out", out, "--test-limit", 3, *QUICK)
    limited.assert_refused("test_limit=3: expected --test")
    assert not out.exists()
