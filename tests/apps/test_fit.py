"""nf fit images: what is fitted, resumed and refused."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from fitting import recipes
from neuralfields.store import open_store


def test_fit_reports_what_the_store_holds(nf, images_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    done = nf("fit", "images", images_file, "--split", "train", "--limit", 20, "--out", out, *nf.quick, "--json")
    assert done.code == 0
    store, figures = open_store(out), done.figures
    psnr = store.column("psnr").astype(np.float64)
    assert (figures["fields"], figures["fitted"], figures["found"]) == (20, 20, 0)
    assert figures["psnr_mean"] == pytest.approx(psnr.mean())
    assert figures["psnr_median"] == pytest.approx(np.median(psnr))
    assert figures["psnr_p5"] == pytest.approx(np.percentile(psnr, 5))
    assert figures["out"] == str(out)
    assert figures["seconds"] > 0
    assert store.spec.hidden == (8, 8)
    assert store.meta["config"]["steps"] == 5
    assert f"nf render {out}" in done.out
    assert "nf train classify" in done.out


def test_same_command_again_fits_nothing(nf, images_file: Path, store: Path) -> None:
    before = {file.name: file.read_bytes() for file in store.iterdir()}
    done = nf("fit", "images", images_file, "--split", "train", "--out", store, *nf.quick, "--json")
    assert done.code == 0
    assert (done.figures["fitted"], done.figures["found"]) == (0, 32)
    assert "nothing left to fit" in done.out
    assert {file.name: file.read_bytes() for file in store.iterdir()} == before


def test_options_override_the_recipe(nf, images_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    words = ["--recipe", "siren-mnist", "--steps", 3, "--seed", 5, "--limit", 4, "--w0", 12, "--backend", "torch"]
    assert nf("fit", "images", images_file, "--out", out, *words, "--quiet").code == 0
    store = open_store(out)
    assert (store.meta["config"]["steps"], store.meta["config"]["seed"], store.meta["recipe"]) == (3, 5, "siren-mnist")
    assert store.meta["config"]["lr"] == recipes.get("siren-mnist").config.lr
    assert (store.spec.hidden, store.spec.w0_first, store.spec.w0_hidden) == ((32, 32), 12.0, 12.0)


def test_images_are_resized_and_grey(nf, tmp_path: Path) -> None:
    np.savez(tmp_path / "colour.npz", x=np.zeros((3, 9, 7, 3), np.uint8))
    out = tmp_path / "new"
    words = ["--resize", 4, 5, "--grey", *nf.quick]
    assert nf("fit", "images", tmp_path / "colour.npz", "--out", out, *words).code == 0
    assert open_store(out).meta["signal"]["shape"] == [4, 5]
    assert open_store(out).spec.out_dim == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--recipe", "no-such"], ["no-such", "siren-mnist"]),
        (["--backend", "gpu"], ["gpu", "torch", "native"]),
        (["--split", "evaluation"], ["evaluation"]),
        (["--limit", "0"], ["limit=0"]),
        (["--x-key", "pictures"], ["pictures", "x_train"]),
        (["--steps", "0"], ["steps=0"]),
        (["--lr", "-1"], ["lr=-1"]),
        (["--init", "no/such/store#3"], ["no/such/store"]),
        (["--resize", "1", "9"], ["resize"]),
        (["--threads", "-2"], ["threads=-2"]),
    ],
)
def test_bad_settings_are_one_line(words: list[str], said: list[str], nf, images_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    nf("fit", "images", images_file, "--out", out, *words).assert_refused(*said)
    assert not out.exists()


def test_fields_that_diverged_are_counted_and_not_averaged(nf, images_file: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "new", ("fit", "images", images_file, "--limit", 3, *nf.quick, "--json")
    done = nf(*words, "--out", out, "--lr", 1e30)
    assert done.code == 0, done.err
    assert (done.figures["diverged"], done.figures.get("psnr_mean")) == (3, None)
    assert re.search(r"diverged +3 of 3", done.out)
    assert "nan" not in done.out.replace(str(out), "")
    assert "next:" not in done.out
    assert re.search(r"diverged +3 of 3", nf("info", out).out)
    good = nf(*words, "--out", tmp_path / "good")
    assert good.figures["diverged"] == 0
    assert re.search(r"^ +diverged", good.out, re.MULTILINE) is None


def test_averages_are_over_the_finite_fields(nf, images_file: Path, tmp_path: Path, monkeypatch) -> None:
    from fitting.signals.image import ImageSignals

    quality = ImageSignals.quality

    def broken(self, fields):
        found = quality(self, fields)
        found["psnr"][0] = np.nan
        return found

    monkeypatch.setattr(ImageSignals, "quality", broken)
    done = nf("fit", "images", images_file, "--limit", 3, "--out", tmp_path / "new", *nf.quick, "--json")
    psnr = open_store(tmp_path / "new").column("psnr").astype(np.float64)
    assert done.figures["diverged"] == 1
    assert done.figures["psnr_mean"] == pytest.approx(psnr[1:].mean())
    assert re.search(r"diverged +1 of 3", done.out)
    assert "next:" in done.out


def test_a_broken_start_is_refused(nf, images_file: Path, tmp_path: Path) -> None:
    start, out = tmp_path / "start", tmp_path / "new"
    assert nf("fit", "images", images_file, "--limit", 2, "--out", start, *nf.quick, "--lr", 1e30).code == 0
    done = nf("fit", "images", images_file, "--limit", 2, "--out", out, *nf.quick, "--init", f"{start}#1")
    done.assert_refused("init=", f"{start}#1", "finite weights")
    assert not out.exists()


def test_the_next_commands_read_the_arrays_that_were_fitted(nf, tmp_path: Path) -> None:
    np.savez(tmp_path / "keyed.npz", pix=np.zeros((4, 5, 5), np.uint8), lab=np.array([0, 1, 0, 1]))
    words = (tmp_path / "keyed.npz", "--x-key", "pix", "--y-key", "lab")
    done = nf("fit", "images", *words, "--out", tmp_path / "new", *nf.quick)
    assert done.code == 0, done.err
    line = next(line for line in done.out.splitlines() if line.startswith("next:"))
    after = shlex.split(line)[1:]
    assert after[:2] == ["nf", "render"]
    assert nf(*after[1:]).code == 0


def test_bad_sources_are_one_line(nf, tmp_path: Path) -> None:
    pixels = np.full((3, 4, 4), 0.5, np.float32)
    pixels[1, 2, 2] = np.nan
    np.savez(tmp_path / "nan.npz", x=pixels)
    np.savez(tmp_path / "thin.npz", x=np.zeros((3, 1, 9), np.uint8))
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 4, 4), np.uint8))
    (tmp_path / "text.npz").write_text("no archive")
    for name, said in (("nan", "1"), ("thin", "2"), ("empty", "0"), ("text", "text.npz"), ("absent", "absent.npz")):
        done = nf("fit", "images", tmp_path / f"{name}.npz", "--out", tmp_path / "new", *nf.quick)
        done.assert_refused(said)
        assert not (tmp_path / "new").exists()


def test_folder_with_another_store_is_kept(nf, images_file: Path, store: Path) -> None:
    before = {file.name: file.read_bytes() for file in store.iterdir()}
    words = ["fit", "images", images_file, "--split", "train", "--out", store, *nf.quick]
    nf(*words, "--seed", 9).assert_refused("seed")
    nf(*words, "--w0", 5).assert_refused("w0")
    assert {file.name: file.read_bytes() for file in store.iterdir()} == before


def test_explicit_backend_that_cannot_run_is_refused(nf, images_file: Path, tmp_path: Path) -> None:
    words = ["fit", "images", images_file, "--out", tmp_path / "new", "--hidden", 512, 512, "--steps", 2]
    nf(*words, "--backend", "native").assert_refused("native")
    assert not (tmp_path / "new").exists()


def test_several_fits_of_an_image_stay_together(nf, images_file: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "store", ("fit", "images", images_file, "--split", "train", "--limit", 6)
    done = nf(*words, "--fits", 3, "--init", "random", "--out", out, *nf.quick)
    assert done.code == 0, done.err
    store = open_store(out)
    assert store.groups.tolist() == [number for number in range(6) for _ in range(3)]
    assert len(set(store.ids.tolist())) == 18
    flat = store[:].flat()
    assert not torch.equal(flat[0], flat[1])
    picture = tmp_path / "sheet.png"
    assert nf("render", out, "--beside", images_file, "--split", "train", "--out", picture).code == 0
    kept = ("--val-fraction", 0.5, "--epochs", 1, "--threads", 1, "--batch", 4)
    assert nf("train", "contrast", out, "--out", tmp_path / "embedder", *kept).code == 0
    nf("train", "contrast", out, "--out", tmp_path / "e", "--val-last", 4, *kept[2:]).assert_refused("val_last=4")
    nf(*words, "--fits", 2, "--init", "shared", "--out", tmp_path / "s", *nf.quick).assert_refused("fits=2", "random")
    nf(*words, "--fits", 0, "--out", tmp_path / "s", *nf.quick).assert_refused("fits=0", "1 to 64")
    assert not (tmp_path / "s").exists()
