"""nf measure: the table, its files, and the small network that is kept."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuralfields import FieldBatch, ReLUField
from neuralfields.store import open_store, save

BRIEF = ("--count", 8, "--threads", 1)


@pytest.fixture
def sides(store: Path, images_file: Path, tmp_path: Path, nf) -> tuple[Path, Path]:
    """A store of "generated" fields, and one of held-out real ones."""
    whole = open_store(store)
    rows = {"id": whole.ids[:12], "label": whole.labels[:12]}
    save(tmp_path / "generated", whole[:12], rows, whole.meta)
    words = ["fit", "images", images_file, "--split", "test", "--out", tmp_path / "test", *nf.quick, "--quiet"]
    assert nf(*words).code == 0
    return tmp_path / "generated", tmp_path / "test"


def test_the_table_and_its_files(nf, store: Path, sides: tuple[Path, Path], images_file: Path, tmp_path: Path) -> None:
    generated, test = sides
    words = ["measure", generated, "--train", store, "--test", test, "--images", images_file, *BRIEF, "--json"]
    done = nf(*words)
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in done.figures["rows"]}
    assert list(rows) == ["generated", "held-out real", "training + noise", "average of two"]
    assert {row["count"] for row in rows.values()} == {4}  # half of the held-out fields
    assert rows["generated"]["novelty"] == 0  # they are training fields
    assert rows["held-out real"]["novelty_ratio"] == 1
    assert all(0 <= row[name] <= 1 for row in rows.values() for name in ("recognised", "nna", "nna_features", "cov"))
    for title in ("recognised", "1-NNA", "MMD", "COV", "FID-style", "novelty"):
        assert title in done.out
    out = tmp_path / "generated-measures"
    assert {"measures.json", "measures.csv", "nearest.png", "classifier"} == {file.name for file in out.iterdir()}
    assert json.loads((out / "measures.json").read_text())["rows"] == done.figures["rows"]
    with (out / "measures.csv").open(encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == list(rows)
    again = nf(*words)
    assert again.figures["rows"] == done.figures["rows"]


def test_the_network_is_kept_for_the_same_images_only(
    nf, store: Path, sides: tuple[Path, Path], images_file: Path, tmp_path: Path
) -> None:
    generated, test = sides
    words = [
        "measure",
        generated,
        "--train",
        store,
        "--test",
        test,
        "--classifier",
        tmp_path / "net",
        *BRIEF,
        "--quiet",
    ]
    assert nf(*words, "--out", tmp_path / "a").code == 0
    kept = (tmp_path / "net" / "picture_net.safetensors").read_bytes()
    assert nf(*words, "--out", tmp_path / "b").code == 0
    assert (tmp_path / "net" / "picture_net.safetensors").read_bytes() == kept
    nf(*words, "--images", images_file).assert_refused("other trained_on")


def test_a_part_of_the_training_store_is_held_out(nf, store: Path, sides: tuple[Path, Path], tmp_path: Path) -> None:
    done = nf("measure", sides[0], "--train", store, "--test-fraction", 0.4, *BRIEF, "--json", "--out", tmp_path / "m")
    assert done.code == 0, done.err
    assert 4 < 32 - done.figures["train_fields"] < 24


def test_without_labels_there_is_no_network(nf, store: Path, sides: tuple[Path, Path], tmp_path: Path) -> None:
    whole, bare = open_store(store), tmp_path / "bare"
    save(bare, whole[:], {"id": whole.ids, "label": np.full(32, -1)}, whole.meta)
    done = nf("measure", sides[0], "--train", bare, "--test", sides[1], *BRIEF, "--json")
    assert done.code == 0, done.err
    assert "none: the training fields have fewer than two classes" in done.out
    assert "FID-style" not in done.out
    assert all(row["frechet"] is None for row in done.figures["rows"])


def octahedra(path: Path, radii: np.ndarray) -> Path:
    """A store of shapes |x| + |y| + |z| = r."""
    count = len(radii)
    signs = torch.cat([torch.eye(3), -torch.eye(3)]).expand(count, 6, 3).clone()
    biases = [torch.zeros(count, 6), -torch.from_numpy(radii).float().unsqueeze(1)]
    fields = FieldBatch.from_layers(ReLUField(3, 1, hidden=(6,)), [signs, torch.ones(count, 1, 6)], biases)
    meta = {"signal": {"kind": "shape", "level": 0.0, "inside": "below"}}
    save(path, fields, {"id": np.arange(count), "label": np.zeros(count, int)}, meta)
    return path


def test_shapes_are_compared_by_their_surfaces(nf, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    generated = octahedra(tmp_path / "g", np.append(draws.uniform(0.3, 0.8, 3), -1.0))
    train, test = (octahedra(tmp_path / name, draws.uniform(0.3, 0.8, 8)) for name in ("train", "test"))
    words = ["measure", generated, "--train", train, "--test", test, "--points", 50, "--resolution", 12]
    done = nf(*words, "--threads", 1, "--json")
    assert done.code == 0, done.err
    assert "1 of generated: far from all others" in done.out
    rows = {row["name"]: row for row in done.figures["rows"]}
    assert rows["generated"]["empty"] == 1
    assert rows["generated"]["recognised"] is None
    assert rows["generated"]["novelty"] < 0.2
    assert (tmp_path / "g-measures" / "nearest.png").is_file()
    nf(*words, "--images", "digits").assert_refused("images='digits'", "expected none")


@pytest.mark.parametrize("role", ["generated", "train", "test"])
def test_weights_that_are_not_finite_are_named_by_the_id_of_their_field(
    role: str, nf, store: Path, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    paths = {"generated": sides[0], "train": store, "test": sides[1]}
    old = open_store(paths[role])
    flat = old[:].flat().clone()
    flat[1] = np.nan
    paths[role] = tmp_path / "spoilt"
    rows = {"id": 100 + np.arange(len(old)), "label": old.labels}
    save(paths[role], FieldBatch.from_flat(old.spec, flat), rows, old.meta)
    refused = nf("measure", paths["generated"], "--train", paths["train"], "--test", paths["test"], *BRIEF)
    refused.assert_refused("field id 101 has NaN", "expected finite weights")
    assert "skip_bad" not in refused.err  # `nf measure` has no such option


def test_bad_requests_are_one_line(
    nf, store: Path, sides: tuple[Path, Path], images_file: Path, tmp_path: Path
) -> None:
    generated, test = sides
    words = ["measure", generated, "--train", store]
    nf(*words).assert_refused("test=None")
    nf(*words, "--test", store).assert_refused("is the training store")
    nf(*words, "--test", test, "--test-fraction", 0.2).assert_refused("both")
    nf(*words, "--test", test, "--count", 1).assert_refused("count=1")
    nf(*words, "--test", test, "--images", tmp_path / "absent.npz").assert_refused("absent.npz")
    nf(*words, "--test", test, "--images", "camera").assert_refused("no labels")
    np.savez(tmp_path / "codes.npz", x=np.zeros((4, 6, 5), np.uint8), y=np.array([0, 1, 0, 20_000]))
    nf(*words, "--test", test, "--images", tmp_path / "codes.npz").assert_refused("label 20000 is too large")
    nf(*words, "--test", test, "--images", images_file, "--resize", 4, 4).assert_refused("(4, 4)", "(6, 5)")
    shapes = octahedra(tmp_path / "shapes", np.ones(3))
    nf("measure", shapes, "--train", store, "--test", test).assert_refused("both of pictures or of shapes")
