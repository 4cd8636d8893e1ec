"""Training commands on what cannot be trained or read: one line, exit code 2, and nothing is left behind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuralfields.batch import FieldBatch
from neuralfields.store import StoreWriter, open_store, save

TRAIN = ("--epochs", 1, "--threads", 1, "--batch", 8)
TASKS = ("classify", "regress", "edit", "contrast")


def rewritten(store: Path, out: Path, spoil: dict[int, float] | None = None, label: int | None = None) -> Path:
    """A copy of a store with one weight of some fields, by id, replaced, and perhaps the same label for all."""
    old = open_store(store)
    flat, ids = old[:].flat().clone(), old.ids.tolist()
    for item, value in (spoil or {}).items():
        flat[ids.index(item), 3] = value
    labels = old.labels.tolist() if label is None else [label] * len(old)
    rows = {"id": ids, "label": labels, "psnr": old.column("psnr").tolist()}
    with StoreWriter(out, old.spec, old.meta, len(old), len(old)) as writer:
        writer.write(0, FieldBatch.from_flat(old.spec, flat), rows)
        writer.finish({})
    return out


@pytest.fixture
def spoilt(store: Path, tmp_path: Path) -> Path:
    return rewritten(store, tmp_path / "spoilt", {7: float("nan"), 21: float("inf")})


@pytest.mark.parametrize("task", TASKS)
def test_weights_that_are_not_finite_are_named_and_left_out_only_when_asked(
    task: str, nf, spoilt: Path, tmp_path: Path
) -> None:
    model = ("--model", "ng_gnn" if task == "edit" else "mlp")
    words = ("train", task, spoilt, "--out", tmp_path / "out", *model, *TRAIN)
    nf(*words).assert_refused("field id 7", "2 such fields", "skip_bad")
    done = nf(*words, "--skip-bad", "--json")
    assert done.code == 0, done.err
    assert done.figures["skipped_fields"] == 2
    assert done.figures["train_fields"] + done.figures["val_fields"] == 30


@pytest.mark.parametrize("task", ["classify", "regress", "edit"])
def test_what_cannot_be_judged_by_is_refused_before_the_training(
    task: str, nf, store: Path, spoilt: Path, tmp_path: Path
) -> None:
    model = ("--model", "ng_gnn" if task == "edit" else "mlp")
    words = ("train", task, store, "--out", tmp_path / "out", *model, *TRAIN, "--test")
    nf(*words, spoilt).assert_refused("field id 7", "2 such fields", "skip_bad")
    if task == "classify":
        nf(*words, rewritten(store, tmp_path / "none", label=-1)).assert_refused("32 of 32", "no label")
        nf(*words, rewritten(store, tmp_path / "other", label=5)).assert_refused("label 5 has no name")
    assert not (tmp_path / "out").exists()
    if task == "regress":
        copy = rewritten(store, tmp_path / "copy")
        nf(*words[:4], tmp_path / "c", *words[5:], copy, "--target", "colour").assert_refused("colour")
    assert nf(*words, spoilt, "--skip-bad").code == 0


@pytest.mark.parametrize("task", [*TASKS, "embed", "align"])
def test_the_training_store_is_no_store_of_held_out_fields(task: str, nf, store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    words = ("train", task, store, "--out", tmp_path / "out", *TRAIN, "--test")
    for same in (store, f"{store}/../store", tmp_path / "link"):
        nf(*words, same).assert_refused(f"test='{same}': is the training store", "held-out fields", "--test-fraction")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["contrast", "embed"])
def test_what_was_left_out_is_left_out_of_what_held_out_fields_are_compared_with(
    task: str, nf, store: Path, spoilt: Path, tmp_path: Path
) -> None:
    test, out = rewritten(store, tmp_path / "test"), tmp_path / "out"
    done = nf("train", task, spoilt, "--out", out, *TRAIN, "--test", test, "--skip-bad", "--json")
    assert done.code == 0, done.err
    assert 0 <= done.figures["test_nearest"] <= 1


def test_pictures_of_no_known_size_are_not_edited(nf, store: Path, tmp_path: Path) -> None:
    fields = open_store(store)
    save(tmp_path / "plain", fields[:], {"label": fields.labels.tolist()}, {})
    words = ("train", "edit", tmp_path / "plain", "--out", tmp_path / "out", "--model", "ng_gnn", *TRAIN)
    nf(*words).assert_refused("plain does not say how large its pictures were")
    assert not (tmp_path / "out").exists()


def test_every_model_of_a_comparison_is_checked_before_the_first_is_trained(nf, store: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out", *TRAIN)
    nf("train", "edit", store, *out, "--compare", "ng_gnn,mlp").assert_refused("model='mlp'", "does not edit")
    wide = ("--option", "width=8")
    nf("train", "classify", store, *out, "--compare", "ng_gnn,mlp", *wide).assert_refused("width")
    nf("train", "classify", store, *out, "--model", "mwt").assert_refused("model='mwt'", "nf train meta")
    assert not (tmp_path / "out").exists()


def test_original_images_that_are_not_those_of_the_fields(nf, store: Path, images_file: Path, tmp_path: Path) -> None:
    words = ("train", "edit", store, "--out", tmp_path / "out", "--model", "ng_gnn", *TRAIN, "--beside")
    np.savez(tmp_path / "few.npz", x_train=np.zeros((4, 6, 5), np.uint8))
    nf(*words, tmp_path / "few.npz").assert_refused("beside=", "has no image with id 4")
    nf(*words, tmp_path / "absent.npz").assert_refused("absent.npz")
    assert not (tmp_path / "out").exists()


def test_reading_and_editing_name_the_field_too(nf, store: Path, spoilt: Path, tmp_path: Path) -> None:
    assert nf("train", "classify", store, "--out", tmp_path / "reader", *TRAIN).code == 0
    nf("predict", tmp_path / "reader", spoilt).assert_refused("field id 7", "2 such fields", "skip_bad")
    read = nf("predict", tmp_path / "reader", spoilt, "--skip-bad", "--out", tmp_path / "read.csv", "--json")
    assert read.figures["fields"] == 30
    assert len((tmp_path / "read.csv").read_text().splitlines()) == 31
    assert nf("train", "edit", store, "--out", tmp_path / "editor", "--model", "ng_gnn", *TRAIN).code == 0
    nf("edit", tmp_path / "editor", spoilt, "--out", tmp_path / "edited").assert_refused("field id 7", "skip_bad")
    assert nf("edit", tmp_path / "editor", spoilt, "--out", tmp_path / "rest", "--skip-bad").code == 0
    assert set(range(32)) - set(open_store(tmp_path / "rest").ids.tolist()) == {7, 21}


def test_a_damaged_reader_is_one_line(nf, store: Path, tmp_path: Path) -> None:
    words = ("--model", "mlp", "--out", tmp_path / "reader", *TRAIN)
    assert nf("train", "classify", store, *words).code == 0
    path = tmp_path / "reader" / "network.json"
    about = json.loads(path.read_text())
    for name, value in (("classes", 5), ("model", 3), ("spec", 3), ("align", 7)):
        path.write_text(json.dumps({**about, name: value}))
        for words in (("predict", path.parent, store), ("info", path.parent, "--check")):
            nf(*words).assert_refused(str(path), f"{name}={value}: expected")
    path.write_text(json.dumps({name: value for name, value in about.items() if name != "classes"}))
    for words in (("predict", path.parent, store), ("info", path.parent, "--check")):
        nf(*words).assert_refused(f"{path} has no classes")


def test_one_class_only_and_no_labels(nf, store: Path, tmp_path: Path) -> None:
    one = rewritten(store, tmp_path / "one", label=1)
    nf("train", "classify", one, "--out", tmp_path / "r", *TRAIN).assert_refused("label 1", "at least two classes")
    none = rewritten(store, tmp_path / "none", label=-1)
    nf("train", "classify", none, "--out", tmp_path / "r", *TRAIN).assert_refused("32 of 32", "label", "id 0")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("task", TASKS)
def test_a_store_of_another_architecture_does_not_go_on_with_a_run(
    task: str, nf, store: Path, images_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert nf("fit", "images", images_file, "--split", "train", "--out", other, *nf.quick, "--hidden", 5).code == 0
    model = ("--model", "ng_gnn" if task == "edit" else "mlp", "--augment", "noise=0.1")
    assert nf("train", task, store, "--out", tmp_path / "out", *model, *TRAIN).code == 0
    again = nf("train", task, other, "--out", tmp_path / "out", *model, *TRAIN)
    again.assert_refused("holds another run", "choose another folder")
    judged = nf("train", task, store, "--out", tmp_path / "judged", "--test", other, *model, *TRAIN)
    judged.assert_refused("2-5-1", "hidden")
    assert not (tmp_path / "judged").exists()
    assert open_store(store).spec != open_store(other).spec


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "oracle"), ("model='oracle'", "scale_gmn")),
        (("--model", "scale_gmn", "--option", "group=scale"), ("group='scale'", "sign or permutation", "sine")),
        (("--model", "dws", "--option", "wings=2"), ("unknown options ['wings']", "expected")),
        (("--model", "dws", "--option", "width=abc"), ("width=abc", "whole number")),
        (("--model", "ng_t", "--option", "num_layers=2.5"), ("num_layers=2.5", "whole number")),
        (("--epochs", 3, "--minutes", 1), ("epochs=3 and minutes=1.0", "expected one")),
        (("--test", "x", "--test-fraction", 0.5), ("test='x' and test_fraction=0.5", "expected one")),
        (("--val-fraction", 0.5, "--val-last", 4), ("val_fraction=0.5 and val_last=4", "expected one")),
        (("--compare", "mlp,dws", "--model", "mlp"), ("compare='mlp,dws' and model='mlp'", "expected one")),
        (("--compare", "mlp,mlp"), ("compare='mlp,mlp'", "different names")),
        (("--mixup-matching", "aligned"), ("mixup_matching='aligned'", "mixup above 0")),
        (("--augment", "rotation=far"), ("rotation=far", "a number")),
        (("--augment", "resize=0.9"), ("resize=", "two positive factors")),
        (("--augment", "symmetries=mirror"), ("mirror", "permutation")),
    ],
    ids=str,
)
def test_options_that_cannot_be_met(words: tuple, said: tuple[str, ...], nf, store: Path, tmp_path: Path) -> None:
    nf("train", "classify", store, "--out", tmp_path / "out", *words).assert_refused(*said)
    assert not (tmp_path / "out").exists()


def test_only_models_that_edit_are_asked_to(nf, store: Path, tmp_path: Path) -> None:
    words = ("train", "edit", store, "--out", tmp_path / "out", "--model")
    nf(*words, "mlp", *TRAIN).assert_refused("model='mlp' reads fields and does not edit them", "nfn_np")
    nf(*words, "ng_gnn", "--target", "smooth").assert_refused("target='smooth'", "3 coordinates")
    nf(*words, "ng_gnn", "--strength", 4).assert_refused("strength=4", "odd number")


def test_contrast_needs_copies_that_differ(nf, store: Path, tmp_path: Path) -> None:
    words = ("train", "contrast", store, "--out", tmp_path / "out", "--model", "ng_gnn", *TRAIN)
    nf(*words, "--augment", "noise=0.0").assert_refused("augment changes nothing")
    assert nf(*words).code == 0


def test_edits_that_cannot_be_written(nf, store: Path, tmp_path: Path) -> None:
    assert nf("train", "edit", store, "--out", tmp_path / "editor", "--model", "ng_gnn", *TRAIN).code == 0
    nf("edit", tmp_path / "editor", store, "--out", tmp_path / "x", "--limit", 0).assert_refused("limit=0")
    nf("edit", tmp_path / "editor", store, "--out", store).assert_refused(str(store))
    assert bool(torch.isfinite(open_store(store)[:].flat()).all())
    assert np.array_equal(open_store(store).ids, np.arange(32))
