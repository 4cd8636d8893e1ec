"""nf fit shapes, nf mesh and nf render on shapes: from mesh files to a store, and from the store to meshes again."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import trimesh

from apps.options import ImageOptions
from apps.viewer.collection import of_store
from apps.viewer.truth import Truth
from neuralfields.store import open_store

QUICK = ("--steps", 150, "--batch", 1024, "--hidden", 32, 32, "--w0", 15)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("meshes")
    trimesh.creation.icosphere(subdivisions=3, radius=3.0).apply_translation((10, 0, 0)).export(root / "ball.ply")
    box = trimesh.creation.box((1, 2, 3)).subdivide()
    box.update_faces(np.arange(len(box.faces)) > 0)
    box.export(root / "box.obj")
    (root / "flat.off").write_text("OFF\n4 2 0\n0 0 0\n1 0 0\n0 1 0\n1 1 0\n3 0 1 2\n3 1 3 2\n")
    return root


@pytest.fixture(scope="module")
def shape_store(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from apps.cli import main

    root = tmp_path_factory.mktemp("fit")
    words = ["fit", "shapes", meshes, "--out", root / "store", "--cache", root / "cache", *QUICK, "--quiet"]
    assert main([str(word) for word in words]) == 0
    return root / "store"


def test_the_figures_of_a_fit_and_its_failures(nf, meshes: Path, shape_store: Path, tmp_path: Path) -> None:
    words = ["fit", "shapes", meshes, "--out", shape_store, "--cache", shape_store.parent / "cache", *QUICK, "--json"]
    done = nf(*words)
    assert done.code == 0, done.err
    assert "2 of 2 were there already" in done.out
    assert "warning: box.obj: not closed: 3 open edges; inside by winding number" in done.out
    assert "failed: flat.off: a flat mesh encloses no volume" in done.out
    figures = done.figures
    assert figures["fields"] == figures["found"] == 2
    assert figures["closed"] == 1
    assert figures["iou_mean"] > 0.9
    assert figures["chamfer_l1_mean"] < 0.02
    assert [failure["name"] for failure in figures["failures"]] == ["flat.off"]
    store = open_store(shape_store)
    assert figures["iou_mean"] == pytest.approx(store.column("iou")[store.column("closed")].mean())


def test_help_speaks_of_shapes_not_of_images(nf) -> None:
    words = " ".join(nf("fit", "shapes", "--help").out.replace("│", " ").split())
    assert "Points (of an image: pixels) drawn per step" in words
    assert "the id of the image or shape" in words


def test_shapes_that_diverged_are_counted(nf, meshes: Path, shape_store: Path, tmp_path: Path) -> None:
    words = ("fit", "shapes", meshes / "ball.ply", "--out", tmp_path / "s", "--cache", shape_store.parent / "cache")
    done = nf(*words, "--steps", 5, "--warmup", 0, "--batch", 64, "--hidden", 8, "--lr", 1e30, "--json")
    assert done.code == 0, done.err
    assert done.figures["diverged"] == 1
    assert "1 of 1 fields: their weights or PSNR are not finite" in done.out
    assert re.search(r"Chamfer-L1 +no surface$", done.out, re.MULTILINE)
    assert "next:" not in done.out


def test_meshes_are_closed_and_in_the_units_of_their_files(nf, meshes: Path, shape_store: Path, tmp_path: Path) -> None:
    done = nf("mesh", shape_store, "--out", tmp_path / "m", "--resolution", 48, "--format", "ply", "--json")
    assert done.code == 0, done.err
    assert [entry["watertight"] for entry in done.figures["meshes"]] == [True, True]
    ball = trimesh.load(tmp_path / "m" / "ball.ply")
    assert ball.is_watertight
    assert ball.volume == pytest.approx(4 / 3 * np.pi * 27, rel=0.05)
    assert abs(ball.centroid - (10, 0, 0)).max() < 0.1
    again = nf("mesh", shape_store, "--out", tmp_path / "n", "--fields", 0, "--resolution", 32, "--normalised")
    assert again.code == 0
    assert np.abs(trimesh.load(tmp_path / "n" / "ball.ply").vertices).max() < 1


@pytest.mark.parametrize("suffix", ["obj", "glb", "stl"])
def test_other_formats_load_watertight(suffix: str, nf, shape_store: Path, tmp_path: Path) -> None:
    words = ("--fields", 0, "--resolution", 24, "--format", suffix)
    assert nf("mesh", shape_store, "--out", tmp_path, *words).code == 0
    assert trimesh.load(tmp_path / f"ball.{suffix}", force="mesh").is_watertight


def test_pictures_of_shapes(nf, meshes: Path, shape_store: Path, tmp_path: Path) -> None:
    draw = ["render", shape_store, "--out"]
    small = ["--resolution", 32, "--size", 96, 96]
    sheet = nf(*draw, tmp_path / "sheet.png", "--beside", meshes, *small)
    assert sheet.code == 0, sheet.err
    assert iio.imread(tmp_path / "sheet.png").shape[1] > 3 * 96
    normals = ("--style", "normals", *small)
    for name, more in (("one", ("--fields", 0, *small)), ("normals", normals), ("slice", ("--slice", "z"))):
        assert nf(*draw, tmp_path / f"{name}.png", *more).code == 0
        assert iio.imread(tmp_path / f"{name}.png").std() > 5
    film = nf(*draw, tmp_path / "turn.gif", "--fields", 1, "--frames", 4, *small)
    assert film.code == 0, film.err
    assert len(iio.imread(tmp_path / "turn.gif", index=None)) == 4


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("x.gif", ("--slice", "z", "--fields", 0), ("slice='z'", ".png")),
        ("x.gif", ("--beside", "meshes", "--fields", 0), ("beside='meshes'", "film")),
        ("x.gif", ("--style", "depth", "--fields", 0), ("style='depth'", "film")),
        ("x.png", ("--slice", "z", "--beside", "meshes"), ("beside='meshes'", "slice")),
        ("x.png", ("--slice", "z", "--style", "depth"), ("style='depth'", "slice")),
        ("x.png", ("--slice", "z", "--resolution", 32), ("resolution=32", "slice")),
        ("x.png", ("--slice", "z", "--size", 96, 96), ("size=(96, 96)", "slice")),
        ("x.png", ("--offset", 0.5), ("offset=0.5", "--slice")),
        ("x.png", ("--frames", 3), ("frames=3", "film")),
        ("x.png", ("--scale", 2), ("scale=2.0", "pictures and scenes")),
        ("x.png", ("--split", "train", "--beside", "meshes"), ("split='train'", "pictures with --beside")),
        ("x.png", ("--x-key", "x"), ("x_key='x'", "pictures with --beside")),
        ("x.png", ("--size", 0, 96), ("size=(0, 96)",)),
        ("x.png", ("--size", 3000000, 3000000), ("size=(3000000, 3000000)", "values")),
        ("x.gif", ("--size", 3000000, 3000000, "--fields", 0), ("size=(3000000, 3000000)", "values")),
    ],
)
def test_drawing_refuses_what_it_would_ignore(name, words, said, nf, shape_store: Path, tmp_path: Path) -> None:
    nf("render", shape_store, "--out", tmp_path / "deep" / name, *words).assert_refused(*said)
    assert not (tmp_path / "deep").exists()


def test_bad_requests_are_one_line(nf, meshes: Path, shape_store: Path, store: Path, tmp_path: Path) -> None:
    cache = ("--cache", tmp_path / "c")
    nf("fit", "shapes", tmp_path / "no", "--out", tmp_path / "a").assert_refused("no such file or folder")
    nf("fit", "shapes", meshes / "flat.off", "--out", tmp_path / "a", *cache).assert_refused("flat.off", "flat mesh")
    nf("fit", "shapes", meshes, "--out", tmp_path / "a", "--signal", "mesh").assert_refused("signal='mesh'", "sdf")
    wrong = nf("fit", "shapes", meshes, "--out", tmp_path / "a", "--recipe", "siren-mnist")
    wrong.assert_refused("siren-mnist", "siren-sdf")
    nf("mesh", store, "--out", tmp_path / "m").assert_refused("2 coordinates", "expected 3")
    nf("mesh", shape_store, "--out", tmp_path / "m", "--format", "abc").assert_refused("format='abc'", "ply")
    nf("mesh", shape_store, "--out", tmp_path / "m", "--level", -99, "--resolution", 16).assert_refused("level=-99")
    nf("render", shape_store, "--out", tmp_path / "x.jpg").assert_refused(".png", ".mp4")
    nf("render", shape_store, "--out", tmp_path / "x.mp4").assert_refused("one field", "--fields")
    nf("render", shape_store, "--out", tmp_path / "x.png", "--style", "wire").assert_refused("style='wire'")
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("name", ["../secret.ply", "in/../../secret.ply", "C:\\secret.ply", "", "{root}/secret.ply"])
def test_an_original_outside_of_its_folder_is_not_read(name: str, meshes: Path, tmp_path: Path) -> None:
    from apps.render_shapes import original

    shutil.copy(meshes / "ball.ply", tmp_path / "secret.ply")
    (tmp_path / "given" / "in").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"^beside='.*': name: .* is not a path inside the folder$"):
        original(str(tmp_path / "given"), name.format(root=tmp_path))


def test_originals_are_those_that_were_fitted(nf, meshes: Path, shape_store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(meshes, tmp_path / "meshes"))
    words = ("render", shape_store, "--out", tmp_path / "x.png", "--resolution", 16, "--size", 32, 32, "--beside")
    assert nf(*words, folder / "ball.ply", "--fields", 0).code == 0
    (tmp_path / "x.png").unlink()
    shutil.copy(folder / "box.obj", folder / "ball.obj")
    nf(*words, folder / "ball.obj", "--fields", 0).assert_refused("beside=", "'ball.ply'", "sha256")
    trimesh.creation.icosphere(subdivisions=2).export(folder / "ball.ply")
    nf(*words, folder).assert_refused("beside=", "'ball.ply'", "sha256")
    assert not (tmp_path / "x.png").exists()
    kept = open_store(shape_store)
    part, truth = of_store(kept), Truth(str(folder), ImageOptions())
    with pytest.raises(ValueError, match=r"sha256 of shape 'ball\.ply'"):
        truth.mesh(part, 0)
    assert len(truth.mesh(part, 1).faces) > 1
    older = replace(part, meta={"signal": {**kept.meta["signal"], "shapes": {}}})
    assert len(truth.mesh(older, 0).faces) == 320  # no checksum, nothing to compare
