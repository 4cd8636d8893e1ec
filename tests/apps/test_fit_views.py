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
from fitting.signals import views
from neuralfields.store import open_store, save

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


@pytest.fixture(scope="module")
def grouped(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of one name in three classes of a split, the first unreadable, and no word of what is to be held out."""
    root = tmp_path_factory.mktemp("grouped")
    for kind, name in (("bowl", "broken"), ("chair", "ball"), ("table", "box")):
        copy = shutil.copytree(scenes / name, root / "test" / kind / "1")
        for part in ("train", "test"):
            (copy / f"transforms_{part}.json").unlink()
    shutil.copytree(root / "test" / "chair", root / "train" / "table")
    return root


@pytest.fixture(scope="module")
def grouped_store(grouped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from apps.cli import main

    out = tmp_path_factory.mktemp("fit") / "grouped"
    read = ("--split", "test", "--holdout", 3, "--scale", 0.5, "--background", "black")
    words = ("fit", "views", grouped, "--out", out, *read, "--steps", 2, "--rays", 16, "--samples", 8, "--quiet")
    assert main([str(word) for word in words]) == 0
    return out


def test_scenes_that_diverged_are_counted(nf, scenes: Path, tmp_path: Path) -> None:
    words = ("--steps", 3, "--rays", 16, "--samples", 8, "--lr", 1e38, "--model", "nerf", "--json")
    done = nf("fit", "views", scenes / "ball", "--out", tmp_path / "s", *words)
    assert done.code == 0, done.err
    assert done.figures["diverged"] == 1
    assert "1 of 1 fields: their weights or PSNR are not finite" in done.out
    assert "next:" not in done.out


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


def test_photographs_beside_are_those_that_the_store_held_out(nf, grouped: Path, grouped_store: Path, tmp_path: Path):
    from apps.render_views import held_out

    words = ("render", grouped_store, "--beside", grouped, "--out", tmp_path / "x.png")
    done = nf(*words, "--fields", 1)
    assert done.code == 0, done.err
    assert "3 held-out views of 1 fields" in done.out
    fitted = views.load_many(grouped, "test", None, 0.5, "black", 3)
    for row, scene in enumerate(fitted):
        found = held_out(open_store(grouped_store), row, str(grouped), 1.0)
        assert found.names == scene.test.names
        assert torch.equal(found.images, scene.test.images)
        assert all(np.allclose(a.pose, b.pose) for a, b in zip(found.cameras, scene.test.cameras, strict=True))
    assert held_out(open_store(grouped_store), 0, str(grouped), 2.0).shape == (24, 24)
    nf(*words, "--scale", 3).assert_refused("scale=3.0", "at most 2")


def test_photographs_that_are_gone_or_were_never_held_out_are_told(nf, grouped: Path, tmp_path: Path) -> None:
    scene = shutil.copytree(grouped / "test" / "chair" / "1", tmp_path / "chair")
    draw = ("--beside", scene, "--out", tmp_path / "x.png")
    for holdout in (0, 3):
        words = ("--holdout", holdout, "--steps", 2, "--rays", 16, "--samples", 8, "--quiet")
        assert nf("fit", "views", scene, "--out", tmp_path / str(holdout), *words).code == 0
    nf("render", tmp_path / "0", *draw).assert_refused("held out no views", "chair")
    held = open_store(tmp_path / "3").meta["signal"]["scenes"][0]["held_out"]
    (scene / held[1]).unlink()
    nf("render", tmp_path / "3", *draw).assert_refused(held[1], "beside=")
    assert not (tmp_path / "x.png").exists()


def test_scenes_of_one_name_are_told_apart(grouped: Path, grouped_store: Path, tmp_path: Path) -> None:
    from apps.render_views import scene

    store = open_store(grouped_store)
    assert store.column("name").tolist() == ["chair/1", "table/1"]
    expected = [one.describe() for one in views.load_many(grouped, "test", None, 0.5, "black", 3)]
    assert expected[0]["sha256"] != expected[1]["sha256"]
    assert [scene(store, row) for row in (0, 1)] == expected
    assert scene(of_store(store), 1) == expected[1]
    rows = {name: store.column(name)[1:] for name in ("id", "name")}
    part = save(tmp_path / "part", store[1:], rows, store.meta)
    assert scene(part, 0) == expected[1]
    unknown = save(tmp_path / "other", store[1:], {**rows, "id": [70]}, store.meta)
    with pytest.raises(ValueError, match="several scenes named '1'"):
        scene(unknown, 0)


def test_a_scale_is_that_of_the_stored_size(nf, view_store: Path, tmp_path: Path) -> None:
    assert nf("render", view_store, "--fields", 0, "--scale", 1.5, "--frames", 2, "--out", tmp_path / "f.gif").code == 0
    assert iio.imread(tmp_path / "f.gif", index=None).shape == (2, 36, 36, 3)
    assert nf("render", view_store, "--scale", 0.5, "--out", tmp_path / "half.png").code == 0
    assert nf("render", view_store, "--size", 12, 12, "--out", tmp_path / "size.png").code == 0
    np.testing.assert_array_equal(iio.imread(tmp_path / "half.png"), iio.imread(tmp_path / "size.png"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--split", "test", "--beside", "scenes"), ("split='test'", "pictures with --beside", "scenes")),
        (("--limit", 1), ("limit=1", "pictures with --beside", "scenes")),
        (("--style", "depth"), ("style='depth'", "shapes")),
        (("--level", 2), ("level=2.0", "shapes")),
        (("--frames", 9), ("frames=9", "film")),
        (("--size", 20, 20, "--beside", "scenes"), ("size=(20, 20)", "--scale")),
        (("--size", 20, 20, "--scale", 2), ("size", "scale", "both")),
        (("--scale", "nan"), ("scale=nan",)),
        (("--size", 3000000, 3000000), ("size=(3000000, 3000000)", "values")),
    ],
)
def test_drawing_refuses_what_it_would_ignore(words, said, nf, view_store: Path, tmp_path: Path) -> None:
    nf("render", view_store, "--out", tmp_path / "x.png", *words).assert_refused(*said)
    assert not (tmp_path / "x.png").exists()


def test_a_film_has_nothing_beside(nf, scenes: Path, view_store: Path, tmp_path: Path) -> None:
    words = ("--fields", 0, "--beside", scenes, "--out", tmp_path / "x.gif")
    nf("render", view_store, *words).assert_refused("beside=", "film")


def test_the_density_has_a_surface(nf, view_store: Path, tmp_path: Path) -> None:
    done = nf("mesh", view_store, "--fields", 0, "--resolution", 24, "--level", 1, "--out", tmp_path / "m", "--json")
    assert done.code == 0, done.err
    assert trimesh.load(tmp_path / "m" / "ball.ply").is_watertight


def test_a_scene_outside_of_its_folder_is_not_read(scenes: Path) -> None:
    from apps.viewer.photographs import scene_path

    given = scenes / "ball" / "train"
    for name in ("../../box", str(scenes / "box")):
        with pytest.raises(ValueError, match=r"^beside='.*': name: '.*box' is not a path inside the folder$"):
            scene_path(given, None, name)


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
