"""nf fit views, and nf render and nf mesh on radiance fields: from posed views to a store, and to pictures again."""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh

from apps.viewer.collection import of_store
from apps.viewer.refit import refit
from neuralfields.store import open_store

QUICK = ("--steps", 120, "--rays", 256, "--samples", 24, "--lr", 0.02, "--quiet")
PREPARE = Path(__file__).resolve().parents[2] / "data" / "posed_views" / "prepare.py"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of six views and two held out, 24 x 24, and a folder that is no scene any more."""
    root = tmp_path_factory.mktemp("views")
    (root / "meshes").mkdir()
    trimesh.creation.icosphere(subdivisions=3).export(root / "meshes" / "ball.ply")
    trimesh.creation.box((1, 2, 1)).export(root / "meshes" / "box.ply")
    words = [root / "meshes", "--out", root / "scenes", "--views", 6, "--test-views", 2, "--size", 24]
    subprocess.run([sys.executable, PREPARE, *map(str, words)], check=True, capture_output=True)
    broken = shutil.copytree(root / "scenes" / "box", root / "scenes" / "broken")
    for picture in broken.rglob("*.png"):
        picture.unlink()
    return root / "scenes"


@pytest.fixture(scope="module")
def view_store(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from apps.cli import main

    out = tmp_path_factory.mktemp("fit") / "store"
    assert main([str(word) for word in ("fit", "views", scenes, "--out", out, *QUICK)]) == 0
    return out


def test_the_figures_of_a_fit_and_its_failures(nf, scenes: Path, view_store: Path) -> None:
    done = nf("fit", "views", scenes, "--out", view_store, *QUICK[:-1], "--json")
    assert done.code == 0, done.err
    assert done.figures["fields"] == 2
    assert done.figures["psnr_heldout"] > 12
    assert 0 < done.figures["ssim_heldout"] < 1
    assert [failure["name"] for failure in done.figures["failures"]] == ["broken"]
    assert "failed: broken: " in done.out
    store = open_store(view_store)
    assert store.column("name").tolist() == ["ball", "box"]
    assert np.isfinite(store.column("psnr_heldout")).all()
    about = nf("info", view_store)
    assert "psnr_heldout" in about.out
    assert "broken: " in about.out


@pytest.mark.parametrize("source", ["scenes", "scenes/ball"])
def test_the_command_that_the_viewer_gives_fits_the_same_fields(nf, source, scenes: Path, tmp_path: Path, monkeypatch):
    words = ("--steps", 3, "--rays", 16, "--samples", 8, "--lr", 0.01, "--seed", 2, "--batch", 1, "--init", "random")
    read = ("--scale", 0.5, "--background", "black", "--holdout", 3, "--model", "triplane")
    first, again = tmp_path / "first", tmp_path / "again"
    fitted = nf("fit", "views", scenes.parent / source, *words, *read, "--out", first, "--quiet")
    assert fitted.code == 0, fitted.err
    command = shlex.split(refit(of_store(open_store(first))) or "")
    assert command[:3] == ["nf", "fit", "views"]
    assert command[-2] == "--out"
    monkeypatch.chdir((scenes.parent / source).parent)
    done = nf(*command[1:-1], again, "--quiet")
    assert done.code == 0, done.err
    before, after = open_store(first), open_store(again)
    assert torch.equal(before[:].flat(), after[:].flat())
    asked = [
        {**store.meta, "signal": {**store.meta["signal"], "failed": sorted(store.meta["signal"]["failed"])}}
        for store in (before, after)
    ]
    assert asked[0] == asked[1]  # what is said of a failure names its path, as it was given


def test_the_viewer_gives_no_command_that_would_fit_something_else(view_store: Path) -> None:
    part = of_store(open_store(view_store))
    assert refit(part)
    signal = part.meta["signal"]
    grey = {**signal, "scenes": [{**scene, "background": [0.5, 0.5, 0.5]} for scene in signal["scenes"]]}
    for meta in ({"signal": grey}, {"signal": {**signal, "reading": {}}}, {"recipe": "nerf"}, {"recipe": None}):
        assert refit(replace(part, meta={**part.meta, **meta})) is None


def test_one_scene_by_its_file_or_folder_is_a_population_of_one(nf, scenes: Path, tmp_path: Path) -> None:
    for number, source in enumerate((scenes / "ball", scenes / "ball" / "transforms.json")):
        out = tmp_path / str(number)
        done = nf("fit", "views", source, "--out", out, "--steps", 2, "--rays", 16, "--samples", 8, "--json")
        assert done.code == 0, done.err
        assert done.figures["fields"] == 1


@pytest.mark.parametrize("model", ["triplane", "nerf"])
def test_other_models_fit_too(model: str, nf, scenes: Path, tmp_path: Path) -> None:
    words = ("--model", model, "--steps", 2, "--rays", 16, "--samples", 8)
    assert nf("fit", "views", scenes / "ball", "--out", tmp_path / "s", *words).code == 0
    assert open_store(tmp_path / "s").spec.view is not None


def test_pictures_of_scenes(nf, scenes: Path, view_store: Path, tmp_path: Path) -> None:
    new = nf("render", view_store, "--out", tmp_path / "new.png", "--size", 20, 20)
    assert new.code == 0, new.err
    beside = nf("render", view_store, "--beside", scenes, "--out", tmp_path / "beside.png")
    assert beside.code == 0, beside.err
    assert "2 held-out views of 2 fields" in beside.out
    assert iio.imread(tmp_path / "beside.png").std() > 5
    film = nf("render", view_store, "--fields", 0, "--frames", 3, "--size", 16, 16, "--out", tmp_path / "f.gif")
    assert film.code == 0, film.err
    assert iio.imread(tmp_path / "f.gif", index=None).shape == (3, 16, 16, 3)


def test_the_density_has_a_surface(nf, view_store: Path, tmp_path: Path) -> None:
    done = nf("mesh", view_store, "--fields", 0, "--resolution", 24, "--level", 1, "--out", tmp_path / "m", "--json")
    assert done.code == 0, done.err
    assert trimesh.load(tmp_path / "m" / "ball.ply").is_watertight


def test_bad_requests_are_one_line(nf, scenes: Path, view_store: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "s")
    nf("fit", "views", tmp_path / "no", *out).assert_refused("no such file or folder")
    nf("fit", "views", scenes / "broken", *out).assert_refused("broken")
    nf("fit", "views", scenes, *out, "--model", "mlp").assert_refused("model='mlp'", "hash")
    nf("fit", "views", scenes, *out, "--background", "pink").assert_refused("background='pink'", "white")
    nf("fit", "views", scenes / "ball", *out, "--limit", 1).assert_refused("one scene", "limit")
    nf("render", view_store, "--out", tmp_path / "x.mp4").assert_refused("one field", "--fields")
    lens = json.loads((scenes / "ball" / "transforms.json").read_text())
    wrong = shutil.copytree(scenes / "ball", tmp_path / "lens")
    (wrong / "transforms.json").write_text(json.dumps({**lens, "camera_model": "OPENCV_FISHEYE"}))
    nf("fit", "views", wrong / "transforms.json", *out).assert_refused("OPENCV_FISHEYE")
    assert not (tmp_path / "s").exists()
