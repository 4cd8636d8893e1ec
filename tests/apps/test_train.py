"""nf train edit and regress, nf edit, nf models, --compare: figures, files, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from apps.training import MODELS
from neuralfields.store import open_store
from wsnets import models

TRAIN = ("--epochs", 2, "--threads", 1, "--batch", 8)


def test_the_names_that_help_lists_are_those_of_the_models() -> None:
    assert models.names() == MODELS


def test_edit_trains_and_writes_a_store_of_edited_fields(nf, store: Path, tmp_path: Path) -> None:
    out, edited = tmp_path / "editor", tmp_path / "edited"
    words = ("--model", "ng_gnn", "--target", "dilate", "--test-fraction", 0.25)
    done = nf("train", "edit", store, "--out", out, *words, *TRAIN, "--json")
    assert done.code == 0, done.err
    figures = done.figures
    assert figures["epochs_run"] == 2
    assert 0 < figures["test_mse_unedited"] < 1
    assert 0 < figures["test_mse"] < 1
    assert Path(figures["picture"]).stat().st_size > 1000
    made = nf("edit", out, store, "--out", edited, "--json")
    assert made.code == 0, made.err
    before, after = open_store(store), open_store(edited)
    assert after.complete
    assert after.spec == before.spec
    assert after.ids.tolist() == before.ids.tolist()
    assert after.labels.tolist() == before.labels.tolist()
    assert not np.allclose(before[:].flat(), after[:].flat())
    again = nf("edit", out, store, "--out", edited, "--json")
    assert again.code == 0
    assert again.figures["seconds"] is None
    nf("edit", store, store, "--out", edited).assert_refused("network.json")
    nf("predict", out, store).assert_refused("trained to edit")


def test_regress_and_predict(nf, store: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "regressor", tmp_path / "predictions.csv"
    done = nf("train", "regress", store, "--out", out, "--target", "psnr", *TRAIN, "--json")
    assert done.code == 0, done.err
    assert {"val_r2", "val_mae", "val_tau"} <= done.figures.keys()
    read = nf("predict", out, store, "--out", table, "--json")
    assert read.code == 0, read.err
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["psnr"]) for row in rows] == pytest.approx(open_store(store).metrics.psnr.tolist(), rel=1e-4)
    nf("train", "regress", store, "--out", tmp_path / "r", "--target", "colour", *TRAIN).assert_refused(
        "colour", "psnr"
    )


def test_compare_prints_one_table_and_goes_on(nf, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "compared"
    words = ("train", "classify", store, "--compare", "mlp,ng_gnn", "--test-fraction", 0.25, "--out", out, *TRAIN)
    done = nf(*words, "--json")
    assert done.code == 0, done.err
    rows = {row["model"]: row for row in done.figures["compare"]}
    assert rows.keys() == {"mlp", "ng_gnn"}
    assert all(0 <= row["test"] <= 1 and row["parameters"] > 0 and row["seconds"] > 0 for row in rows.values())
    assert json.loads((out / "compare.json").read_text()) == done.figures["compare"]
    again = nf(*words, "--json")
    assert {row["model"]: row["test"] for row in again.figures["compare"]} == {n: r["test"] for n, r in rows.items()}
    nf(*words[:4], "mlp,oracle", "--out", out).assert_refused("oracle", "scale_gmn")


def test_a_time_budget_ends_the_training(nf, store: Path, tmp_path: Path) -> None:
    done = nf("train", "classify", store, "--out", tmp_path / "r", "--minutes", 0.02, "--threads", 1, "--json")
    assert done.code == 0, done.err
    assert done.figures["seconds"] < 60
    assert done.figures["epochs"] >= 1


def test_options_of_models_and_augmentations(nf, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    words = ("train", "classify", store, "--out", out)
    done = nf(*words, *TRAIN, "--option", "hidden=(8,)", "norm=layer", "--augment", "images", "noise=0.0", "--json")
    assert done.code == 0, done.err
    config = json.loads((out / "training.json").read_text())["config"]
    assert (config["model"]["hidden"], config["model"]["norm"]) == ([8], "layer")
    assert (config["augment"]["noise"], config["augment"]["rotation"]) == (0.0, 15.0)
    nf(*words, "--option", "depth=3").assert_refused("depth", "hidden")
    nf(*words, "--option", "hidden").assert_refused("NAME=VALUE")
    nf(*words, "--augment", "blur=3").assert_refused("blur", "rotation")
    nf(*words, "--device", "abacus").assert_refused("abacus", "cpu")


def test_one_model_with_its_settings(nf) -> None:
    shown = nf("models", "mlp", "--json")
    assert shown.code == 0, shown.err
    assert shown.figures["settings"]["hidden"] == [512, 256]
    assert shown.figures["edits"] is False
    nf("models", "oracle").assert_refused("oracle", "mlp")
