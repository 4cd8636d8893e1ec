"""nf train embed: figures, pictures, going on, fields without labels, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from apps.contrast import probe
from apps.retrieval import nearest, queries
from wsnets.latents import Embedding

QUICK = ("--epochs", 2, "--threads", 1, "--batch", 8, "--option", "encoder=8,9", "wide=12", "decoder=8,8", "points=16")


@pytest.fixture
def other(tmp_path: Path, images_file: Path, nf) -> Path:
    """The 8 held-out images, fitted as `store` is."""
    path = tmp_path / "other"
    assert nf("fit", "images", images_file, "--split", "test", "--out", path, *nf.quick, "--quiet").code == 0
    return path


def test_it_trains_judges_and_draws(nf, store: Path, other: Path, tmp_path: Path):
    words = ("train", "embed", store, "--test", other, "--out", tmp_path / "e", *QUICK, "--json")
    done = nf(*words)
    assert done.code == 0, done.err
    figures = done.figures
    assert figures["latent_shape"] == [1, 12]
    assert figures["epochs_run"] == 2
    assert figures["parameters"] > 0
    assert {"test_psnr_mean", "test_psnr_median", "test_psnr_p5", "test_mse", "val_psnr"} <= figures.keys()
    assert 0 <= figures["test_nearest"] <= 1
    assert 0 <= figures["test_linear"] <= 1
    for name in ("retrieval", "reconstruction", "interpolation", "curves"):
        assert (tmp_path / "e" / f"{name}.png").stat().st_size > 1000
    assert Embedding.load(tmp_path / "e").latent_shape == (1, 12)
    again = nf(*words)
    assert again.figures["epochs_run"] == 0
    assert again.figures["test_psnr_mean"] == figures["test_psnr_mean"]


def test_limits_and_no_test(nf, store: Path, tmp_path: Path):
    done = nf("train", "embed", store, "--out", tmp_path / "e", "--limit", 20, *QUICK, "--json")
    assert done.code == 0, done.err
    assert done.figures["train_fields"] + done.figures["val_fields"] == 20
    assert "test_psnr_mean" not in done.figures
    assert (tmp_path / "e" / "reconstruction.png").stat().st_size > 1000
    cut = ("--test-fraction", 0.3, "--test-limit", 4)
    judged = nf("train", "embed", store, "--out", tmp_path / "f", *cut, *QUICK, "--json")
    assert judged.figures["test_fields"] == 4


def test_one_field_alone_is_judged_and_drawn_without_a_path(nf, store: Path, other: Path, tmp_path: Path):
    words = ("train", "embed", store, "--test", other, "--test-limit", 1, "--out", tmp_path / "e", *QUICK, "--json")
    done = nf(*words)
    assert done.code == 0, done.err
    assert done.figures["test_fields"] == 1
    assert "skipped: a path needs two fields" in done.out
    assert "interpolation" not in done.figures
    assert not (tmp_path / "e" / "interpolation.png").exists()
    for name in ("retrieval", "reconstruction"):
        assert (tmp_path / "e" / f"{name}.png").stat().st_size > 1000
        assert done.figures[name] == str(tmp_path / "e" / f"{name}.png")


def test_fields_without_labels_are_not_probed_and_that_is_said(nf, store: Path, tmp_path: Path):
    import neuralfields.store as stores
    from neuralfields.store_writer import StoreWriter

    old = stores.open_store(store)
    with StoreWriter(tmp_path / "plain", old.spec, old.meta, len(old), len(old)) as writer:
        (missing,) = writer.missing()
        writer.write(missing[0], old[:], {"id": old.ids.tolist(), "label": [-1] * len(old)})
        writer.finish({})
    words = ("--test-fraction", 0.3, "--out", tmp_path / "e")
    done = nf("train", "embed", tmp_path / "plain", *words, *QUICK, "--json")
    assert done.code == 0, done.err
    assert "skipped: 32 fields have no label" in done.out
    assert "test_linear" not in done.figures
    assert "test_psnr_mean" in done.figures
    assert (tmp_path / "e" / "retrieval.png").stat().st_size > 1000


def test_refusals(nf, store: Path, tmp_path: Path):
    nf("train", "embed", store, "--model", "mlp", "--out", tmp_path / "e").assert_refused("mlp", "inr2vec")
    nf("train", "embed", store, "--limit", 0, "--out", tmp_path / "e").assert_refused("limit=0")
    nf("train", "embed", store, "--limit", 1, "--out", tmp_path / "e").assert_refused("expected at least 2")
    nf("train", "embed", tmp_path, "--out", tmp_path / "e").assert_refused(str(tmp_path))
    limited = nf("train", "embed", store, "--test-limit", 3, "--out", tmp_path / "e", *QUICK)
    limited.assert_refused("test_limit=3: expected --test or --test-fraction")
    assert not (tmp_path / "e").exists()


def test_the_probe_finds_what_is_there():
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    points = generator.normal(size=(300, 8))
    points[:, 0] += 4.0 * labels
    points *= np.geomspace(1.0, 1e3, 8)[::-1]
    train, test = (points[:200], labels[:200]), (points[200:], labels[200:])
    found = probe(train, test, scale=True)
    assert found["linear"] > 0.9
    shuffled = probe((points[:200], generator.permutation(labels[:200])), test, scale=True)
    assert shuffled["linear"] < 0.6
    ball = (points[:200] / np.linalg.norm(points[:200], axis=1, keepdims=True), labels[:200])
    assert probe(ball, ball)["nearest"] == 1.0


def test_neighbours_and_queries():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0], [0.4, 0.0]])
    assert nearest(points[:1], points, 3).tolist() == [[0, 3, 1]]
    assert queries(np.array([2, 0, 0, 1, 2])).tolist() == [1, 3, 0]
    assert queries(np.array([-1, 0, 1])).tolist() == [0, 1, 2]
    assert len(queries(np.full(100, -1))) == 10
