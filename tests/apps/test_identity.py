"""What is made of stores and networks is made again only of the same ones, whatever their folders are called."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from apps.contrast import tenth
from apps.identity import store_sha256
from neuralfields.store import open_store, save

QUICK = ("--epochs", 1, "--threads", 1, "--batch", 8)
OTHER = "holds another population"


@pytest.fixture
def other(nf, images_file: Path, tmp_path: Path) -> Path:
    """The same pictures fitted from another start."""
    out = tmp_path / "other"
    words = ("fit", "images", images_file, "--split", "train", "--out", out, *nf.quick, "--seed", 1, "--quiet")
    assert nf(*words).code == 0
    return out


def replace_by(path: Path, other: Path) -> None:
    """Put another folder where one was."""
    shutil.rmtree(path)
    shutil.copytree(other, path)


def test_stores_are_told_apart_and_their_names_are_not(store: Path, other: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "copy")
    assert store_sha256(tmp_path / "copy") == store_sha256(store) != store_sha256(other)


def test_edits_of_another_store_or_by_another_editor_are_refused(nf, store: Path, other: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        words = ("--model", "ng_gnn", "--target", "dilate", "--seed", seed)
        assert nf("train", "edit", store, "--out", tmp_path / f"editor-{seed}", *words, *QUICK).code == 0
    words = ("edit", tmp_path / "editor-0", store, "--out", tmp_path / "edited")
    assert nf(*words).code == 0
    nf("edit", tmp_path / "editor-1", store, *words[3:]).assert_refused(OTHER, "meta.edited.editor")
    nf("edit", tmp_path / "editor-0", other, *words[3:]).assert_refused(OTHER)


def test_a_refitted_store_is_merged_anew(nf, store: Path, other: Path, tmp_path: Path) -> None:
    third = tmp_path / "third"
    shutil.copytree(store, third)
    words = ("merge", store, third, "--method", "mean", "--out", tmp_path / "merged")
    assert nf(*words).code == 0
    replace_by(third, other)
    nf(*words).assert_refused(OTHER, "meta.merged.sources")


def test_what_another_aligner_did_is_refused(nf, store: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        words = ("train", "align", store, "--out", tmp_path / f"aligner-{seed}", "--seed", seed, *QUICK)
        assert nf(*words).code == 0
    words = ("align", store, "--out", tmp_path / "aligned", "--method")
    assert nf(*words, tmp_path / "aligner-0").code == 0
    nf(*words, tmp_path / "aligner-1").assert_refused(OTHER, "meta.aligned.aligner")


def test_classes_of_another_store_keep_their_names(nf, store: Path, tmp_path: Path) -> None:
    named = {}
    for name, classes in (("pets", ["cat", "dog"]), ("clothes", ["shirt", "cat"])):
        fields = open_store(store)
        rows = {column: fields.index.column(column).to_pylist() for column in ("id", "label", "split", "name")}
        signal = {**fields.meta["signal"], "classes": classes}
        named[name] = save(tmp_path / name, fields[:], rows, {**fields.meta, "signal": signal}).path
    assert nf("train", "classify", named["pets"], "--out", tmp_path / "reader", *QUICK).code == 0
    table = tmp_path / "read.csv"
    read = nf("predict", tmp_path / "reader", named["clothes"], "--out", table, "--json")
    assert read.code == 0, read.err
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"shirt", "cat"}
    cats = [row["predicted"] == "cat" for row in rows if row["label"] == "cat"]
    assert read.figures["accuracy"] == pytest.approx(np.mean(cats)), "of the class that both know"
    assert f"of {len(cats)} fields of these classes" in read.out


def test_pictures_with_an_encoding_are_contrasted_by_noise(nf, images_file: Path, tmp_path: Path) -> None:
    from fitting import fit, images
    from neuralfields import Positional, ReLUField

    spec = ReLUField(2, 1, (8, 8), Positional(2))
    fit(images.load(images_file, split="train"), spec, steps=2, backend="torch", out=tmp_path / "encoded")
    done = nf("train", "contrast", tmp_path / "encoded", "--out", tmp_path / "embedder", "--model", "mlp", *QUICK)
    assert done.code == 0, done.err


def test_a_tenth_of_every_class_is_put_aside() -> None:
    labels = np.repeat([0, 1, 2], [100, 20, 5])
    aside = tenth(labels)
    assert [int(aside[labels == label].sum()) for label in range(3)] == [10, 2, 0]
