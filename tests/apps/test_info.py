"""nf info: a store's contents, an installation's abilities, damage found."""

import json
import os
from pathlib import Path

import pytest


def test_info_says_what_the_store_holds(nf, store: Path) -> None:
    done = nf("info", store, "--check", "--json")
    assert done.code == 0
    figures = done.figures
    assert (figures["fields"], figures["planned"], figures["complete"]) == (32, 32, True)
    assert figures["splits"] == {"train": 32}
    assert figures["classes"] == {"0": 16, "1": 16}
    assert figures["spec"]["hidden"] == [8, 8]
    assert figures["bytes"] == sum(file.stat().st_size for file in store.iterdir())
    assert figures["numeric_columns"] == ["id", "label", "steps", "psnr"]
    assert "id, label, steps, psnr" in done.out
    for text in ("sine 2-8-8-1", "complete", "adam", "seed", "shared", "all files agree", "6x5x1"):
        assert text in done.out


def test_info_without_a_store_is_about_the_installation(nf) -> None:
    done = nf("info", "--json")
    assert done.code == 0
    assert {"python", "torch", "numpy", "neuralfields"} <= set(done.figures["versions"])
    assert done.figures["backends"]["torch"] == "yes"
    assert done.figures["backends"]["native"].startswith(("yes", "no: "))
    assert done.figures["cores"] >= 1


def test_damage_is_one_line(nf, store: Path, tmp_path: Path) -> None:
    nf("info", tmp_path / "absent").assert_refused("absent")
    nf("info", tmp_path).assert_refused(str(tmp_path))
    shard = store / "shard-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    nf("info", store, "--check").assert_refused("shard-00001.safetensors")
    os.truncate(shard, 300)
    nf("info", store).assert_refused("shard-00001.safetensors")


def test_store_of_a_newer_format_is_one_line(nf, store: Path) -> None:
    path = store / "store.json"
    data = json.loads(path.read_text())
    version = next(key for key in data if "version" in key)
    path.write_text(json.dumps({**data, version: 999}))
    nf("info", store).assert_refused("999")


def test_unfinished_store_is_called_incomplete(nf, store: Path, images_file: Path) -> None:
    path = store / "store.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "complete": False}))
    for name in ("shard-00001.safetensors", "index-00001.parquet"):
        (store / name).unlink()
    done = nf("info", store, "--json")
    assert done.code == 0
    assert "16 fields still to fit" in done.out
    assert (done.figures["fields"], done.figures["complete"]) == (16, False)


@pytest.fixture
def reader(nf, store: Path, tmp_path: Path) -> Path:
    """The folder of a small reader."""
    words = ("--model", "mlp", "--epochs", 1, "--out", tmp_path / "reader", "--quiet")
    done = nf("train", "classify", store, *words)
    assert done.code == 0, done.err
    return tmp_path / "reader"


def test_a_network_is_checked_by_reading_all_of_it(nf, reader: Path) -> None:
    plain, checked = nf("info", reader), nf("info", reader, "--check")
    assert (plain.code, checked.code) == (0, 0), checked.err
    assert "classify" in plain.out
    assert "all files can be read" not in plain.out
    assert "all files can be read" in checked.out
    weights = reader / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 8)
    assert nf("info", reader).code == 0
    nf("info", reader, "--check").assert_refused("model.safetensors")
    weights.unlink()
    nf("info", reader, "--check").assert_refused("model.safetensors")


def test_what_a_networks_files_lack_is_one_line(nf, reader: Path) -> None:
    about = reader / "network.json"
    whole, training = json.loads(about.read_text()), reader / "training.json"
    for text in ("{}", "[]"):
        about.write_text(text)
        nf("info", reader).assert_refused(str(about), "model")
    about.write_text("{")
    nf("info", reader).assert_refused(str(about), "damaged")
    for change in ({"spec": {}}, {"spec": 3}, {"model": 3}):
        about.write_text(json.dumps({**whole, **change}))
        nf("info", reader).assert_refused(str(about), next(iter(change)))
    about.write_text(json.dumps({**whole, "task": "dream"}))
    nf("info", reader, "--check").assert_refused("dream", "classify")
    about.write_text(json.dumps(whole))
    training.write_text(json.dumps({"epochs": 3}))
    nf("info", reader).assert_refused(str(training), "best_epoch")


def test_a_check_of_nothing_is_refused(nf) -> None:
    nf("info", "--check").assert_refused("check", "FOLDER")
