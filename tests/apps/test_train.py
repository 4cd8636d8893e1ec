"""nf train edit and regress, nf edit, nf models, --compare: figures, files, and what is refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from apps.classify import TrainClassify
from apps.models import count, made
from apps.training import MODELS, TrainingOptions, settings
from neuralfields import SIREN
from neuralfields.evaluate import evaluate
from neuralfields.grids import image_coords
from neuralfields.store import open_store
from wsnets import models
from wsnets.models.mwt import MWTConfig
from wsnets.train import ClassifyConfig, EditConfig

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
    assert Path(made.figures["picture"]) == tmp_path / "edited-sheet.png"
    assert Path(made.figures["picture"]).stat().st_size > 1000
    assert "mse_image" not in made.figures
    assert made.figures["mse"] != made.figures["mse_unedited"] > 0
    before, after = open_store(store), open_store(edited)
    assert after.complete
    assert after.spec == before.spec
    assert after.ids.tolist() == before.ids.tolist()
    assert after.labels.tolist() == before.labels.tolist()
    assert not np.allclose(before[:].flat(), after[:].flat())
    again = nf("edit", out, store, "--out", edited, "--json")
    assert again.code == 0
    assert again.figures["seconds"] is None
    assert again.figures["mse"] == made.figures["mse"]
    nf("edit", store, store, "--out", edited).assert_refused("network.json")
    nf("predict", out, store).assert_refused("trained to edit")


def test_edits_are_also_judged_by_the_original_images(nf, store: Path, images_file: Path, tmp_path: Path) -> None:
    words = ("--model", "ng_gnn", "--target", "dilate", "--test-fraction", 0.25, "--beside", images_file)
    done = nf("train", "edit", store, "--out", tmp_path / "editor", *words, *TRAIN, "--json")
    assert done.code == 0, done.err
    made = nf("edit", tmp_path / "editor", store, "--out", tmp_path / "edited", "--beside", images_file, "--json")
    assert made.code == 0, made.err
    fields, after = open_store(store), open_store(tmp_path / "edited")
    images = torch.from_numpy(np.load(images_file)["x_train"][fields.ids][:, None] / 255).float()
    dilated = torch.nn.functional.max_pool2d(images, 3, 1, 1).flatten(1)
    for name, side in (("mse_image", after), ("mse_image_unedited", fields)):
        shown = evaluate(side[:], image_coords(side.spec, (6, 5)))[..., 0]
        assert made.figures[name] == pytest.approx(float((shown - dilated).square().mean()), rel=1e-5)
    assert made.figures["mse_image"] != made.figures["mse"]
    assert {"test_mse_image", "test_mse_image_unedited"} <= done.figures.keys()
    compared = nf("train", "edit", store, "--out", tmp_path / "c", *words[2:], "--compare", "ng_gnn", *TRAIN, "--json")
    assert compared.figures["compare"][0]["to images"] == done.figures["test_mse_image"]


def test_edits_are_learned_from_the_original_images(nf, store: Path, images_file: Path, tmp_path: Path) -> None:
    words = ("train", "edit", store, "--model", "dws", "--beside", images_file, "--val-last", 8, *TRAIN)
    turned = ("--augment", "flip=x", "quarters=true", "--option", "change=1e-12")
    done = nf(*words, *turned, "--truth", "images", "--out", tmp_path / "editor", "--json")
    assert done.code == 0, done.err
    fields, editor = open_store(store), tmp_path / "editor"
    pixels = torch.from_numpy(np.load(images_file)["x_train"][fields.ids][:, None] / 255).float()
    dilated = torch.nn.functional.max_pool2d(pixels, 3, 1, 1).flatten(1)
    shown = evaluate(fields[:], image_coords(fields.spec, (6, 5)))[..., 0]
    error = (shown - dilated).square().mean(dim=1)
    history = json.loads((editor / "training.json").read_text())["history"]
    assert history[0]["val_mse_unedited"] == pytest.approx(float(error[-8:].mean()), rel=1e-5)
    # With a change too small to count, the loss of mirrored and turned fields is that of the images they show.
    assert history[0]["loss"] == pytest.approx(float(error[:24].mean()), rel=1e-3)
    shown_only = nf(*words, "--out", tmp_path / "other", "--json")
    assert shown_only.figures["val_mse_unedited"] != history[0]["val_mse_unedited"]
    nf(*words[:5], "--truth", "images", "--out", tmp_path / "x").assert_refused("truth='images'", "--beside")
    nf(*words, "--out", editor).assert_refused("holds another run")


def test_regress_and_predict(nf, store: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "regressor", tmp_path / "predictions.csv"
    done = nf("train", "regress", store, "--out", out, "--target", "psnr", *TRAIN, "--json")
    assert done.code == 0, done.err
    assert {"val_r2", "val_mae", "val_tau"} <= done.figures.keys()
    read = nf("predict", out, store, "--out", table, "--json")
    assert read.code == 0, read.err
    (tmp_path / "link.csv").symlink_to(tmp_path / "linked.csv")
    assert nf("predict", out, store, "--out", tmp_path / "link.csv").code == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "linked.csv").read_bytes() == table.read_bytes()
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["psnr"]) for row in rows] == pytest.approx(open_store(store).metrics.psnr.tolist(), rel=1e-4)
    nf("train", "regress", store, "--out", tmp_path / "r", "--target", "colour", *TRAIN).assert_refused(
        "colour", "psnr"
    )


def test_a_full_disk_leaves_the_table_that_was_there(nf, store: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    out, table = tmp_path / "regressor", tmp_path / "predictions.csv"
    assert nf("train", "regress", store, "--out", out, "--target", "psnr", *TRAIN).code == 0
    table.write_text("old", encoding="utf-8")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        done = nf("predict", out, store, "--out", table, "--quiet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    done.assert_refused(str(tmp_path), "no space for predictions.csv")
    assert table.read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.glob("*predictions*")) == ["predictions.csv"]


def test_compare_prints_one_table_and_goes_on(nf, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "compared"
    words = ("train", "classify", store, "--compare", "mlp,ng_gnn", "--test-fraction", 0.25, "--out", out, *TRAIN)
    done = nf(*words, "--json")
    assert done.code == 0, done.err
    rows = {row["model"]: row for row in done.figures["compare"]}
    assert rows.keys() == {"mlp", "ng_gnn"}
    assert all(0 <= row["test"] <= 1 and row["parameters"] > 0 and row["seconds"] > 0 for row in rows.values())
    assert all((out / name / "curves.png").is_file() for name in rows)
    assert json.loads((out / "compare.json").read_text()) == done.figures["compare"]
    with (out / "compare.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["model", "validation", "test", "seconds", "fields/s", "epochs", "parameters"]
    assert [float(row["test"]) for row in table] == [row["test"] for row in done.figures["compare"]]
    header = next(line for line in done.out.splitlines() if line.split()[:1] == ["model"])
    assert header.split() == list(table[0])
    assert [row["test"] for row in table] == sorted((row["test"] for row in table), reverse=True)
    assert {row["epochs"] for row in table} == {"2"}
    again = nf(*words, "--json")
    assert {row["model"]: row["test"] for row in again.figures["compare"]} == {n: r["test"] for n, r in rows.items()}
    nf(*words[:4], "mlp,oracle", "--out", out).assert_refused("oracle", "scale_gmn")


def test_models_are_compared_under_equal_minutes(nf, store: Path, tmp_path: Path) -> None:
    words = ("train", "classify", store, "--compare", "mlp,ng_gnn", "--minutes", 0.01, "--batch", 8, "--threads", 1)
    done = nf(*words, "--out", tmp_path / "c", "--json")
    assert done.code == 0, done.err
    rows = done.figures["compare"]
    assert {row["model"] for row in rows} == {"mlp", "ng_gnn"}
    assert all("test" not in row and 0 <= row["validation"] <= 1 for row in rows)
    configs = [json.loads((tmp_path / "c" / row["model"] / "training.json").read_text())["config"] for row in rows]
    assert [config["minutes"] for config in configs] == [0.01, 0.01]
    assert all(row["seconds"] >= 0.6 for row in rows)


@pytest.mark.parametrize(("task", "column"), [("regress", "test R2"), ("edit", "test MSE")])
def test_other_tasks_compare_too_best_first(task: str, column: str, nf, store: Path, tmp_path: Path) -> None:
    words = ("--compare", "dws,ng_gnn", "--test-fraction", 0.25, *TRAIN, "--json")
    done = nf("train", task, store, "--out", tmp_path / "c", *words)
    assert done.code == 0, done.err
    found = [row[column] for row in done.figures["compare"]]
    assert found == sorted(found, reverse=task == "regress")


def test_the_end_of_a_training_says_how_long_it_waited_for_data(nf, store: Path, tmp_path: Path) -> None:
    done = nf("train", "classify", store, "--out", tmp_path / "r", *TRAIN, "--json")
    line = next(line for line in done.out.splitlines() if line.split()[:1] == ["training"])
    share = 100 * done.figures["waited"] / json.loads((tmp_path / "r" / "training.json").read_text())["seconds"]
    assert f"waited for data {share:.1f} % of the time" in line
    assert 0 <= share < 100


def test_the_size_of_a_model_is_small_unless_the_published_one_is_asked_for(nf, store: Path, tmp_path: Path) -> None:
    words = ("train", "classify", store, "--model", "scale_gmn", *TRAIN[2:], "--epochs", 1)
    for size, more in (("small", ()), ("published", ("--size", "published"))):
        done = nf(*words, "--out", tmp_path / size, *more, "--json")
        assert done.code == 0, done.err
        shown = nf("models", "scale_gmn", "--size", size, "--json").figures["settings"]
        config = json.loads((tmp_path / size / "training.json").read_text())["config"]["model"]
        assert {name: config[name] for name in shown} == shown
    chosen = TrainingOptions(model="scale_gmn", size="published")
    assert settings(EditConfig, chosen, SIREN(2, 1), "nfn_np").model == models.kind("scale_gmn").editing()
    help_text = " ".join(nf("train", "classify", "--help").out.replace("│", " ").split())
    assert "--size {small,published}" in help_text
    assert "suit two cores" in help_text


@pytest.mark.parametrize("task", ["classify", "regress", "edit", "contrast", "meta"])
def test_help_lists_no_value_that_cannot_be_wanted(task: str, nf) -> None:
    shown = nf("train", task, "--help").out
    assert "None" not in shown
    assert "True" not in shown


def test_defaults_that_help_names_are_those_of_training() -> None:
    config = ClassifyConfig()
    assert (config.epochs, config.batch, config.lr, config.weight_decay) == (50, 128, 0.001, 0.01)
    options = TrainClassify(store="", out="")
    for name in ("mixup", "mixup_matching", "label_smoothing"):
        assert getattr(options, name) == getattr(config, name)
    for name in ("skip_bad", "precision", "seed"):
        assert getattr(options.training, name) == getattr(config, name)


def test_models_fit_a_terminal_and_say_what_they_are(nf) -> None:
    shown = nf("models")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= 120
    for name in models.names():
        about = models.kind(name)
        line = next(line for line in lines if line.split()[:1] == [name])
        assert (", ".join(about.small().symmetry(SIREN(2, 1))) or "nothing") in line
        assert about.paper.split(",")[0][:30] in line
    published = sum(p.numel() for p in models.kind("dws")().build(SIREN(2, 1), 10, Generator()).parameters())
    assert f"{published:,}" in next(line for line in lines if line.split()[:1] == ["dws"])


@pytest.mark.parametrize("name", ["hyper_diffusion", "hyper_rep", "sane"])
def test_parameters_of_deep_networks_are_counted_from_shallow_ones(name: str) -> None:
    small = replace(models.kind(name).small(), num_layers=5)
    assert count(small) == made(small)


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


def test_what_fits_images_itself_is_listed_too(nf) -> None:
    shown = nf("models", "mwt", "--json")
    assert shown.figures["does"] == "fits, reads"
    assert shown.figures["settings"] == MWTConfig.small().to_json()
    assert nf("models", "--json").figures["models"][-1]["published_size"] > shown.figures["small"] > 100_000


def test_one_model_with_its_settings(nf) -> None:
    shown = nf("models", "mlp", "--json")
    assert shown.code == 0, shown.err
    assert shown.figures["settings"]["hidden"] == [512, 256]
    assert shown.figures["does"] == "reads"
    nf("models", "oracle").assert_refused("oracle", "mlp")


def test_contrast_probes_the_embedding(nf, store: Path, tmp_path: Path) -> None:
    words = ("--model", "mlp", "--dim", 8, "--augment", "noise=0.1", "--test-fraction", 0.25)
    done = nf("train", "contrast", store, "--out", tmp_path / "e", *words, *TRAIN, "--json")
    assert done.code == 0, done.err
    assert 0 <= done.figures["test_nearest"] <= 1
    assert 0 <= done.figures["test_linear"] <= 1
    nf("train", "contrast", store, "--out", tmp_path / "f", "--temperature", 0, *words).assert_refused("temperature")
