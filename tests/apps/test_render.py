"""nf render: the picture that is written."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from apps.options import ImageOptions
from apps.render import originals
from apps.viewer.collection import of_store
from apps.viewer.truth import Truth
from fitting import fit, images
from neuralfields import SIREN
from neuralfields.render import image
from neuralfields.store import open_store, save


def test_help_names_the_split_of_the_store(nf) -> None:
    for command in ("render", "view"):
        words = " ".join(nf(command, "--help").out.replace("│", " ").split())
        assert "such as train or test. (default: the store's)" in words


def test_single_field_is_the_bare_picture(nf, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "one.png"
    done = nf("render", store, "--fields", 3, "--scale", 2, "--out", out, "--json")
    assert done.code == 0
    expected = image(open_store(store)[3], (12, 10))[0].mul(255).round().byte().numpy()
    np.testing.assert_array_equal(iio.imread(out)[..., :1], expected)
    assert done.figures["size"] == [12, 10]
    assert done.figures["positions"] == [3]


def test_size_wins_over_the_stored_one(nf, store: Path, tmp_path: Path) -> None:
    assert nf("render", store, "--fields", -1, "--size", 20, 30, "--out", tmp_path / "x.png").code == 0
    assert iio.imread(tmp_path / "x.png").shape == (20, 30, 3)


def test_sheet_beside_the_originals(nf, store: Path, images_file: Path, tmp_path: Path) -> None:
    words = ["render", store, "--count", 6, "--out"]
    alone = nf(*words, tmp_path / "a.png", "--json")
    beside = nf(*words, tmp_path / "b.png", "--beside", images_file)
    assert (alone.code, beside.code) == (0, 0), beside.err
    assert alone.figures["positions"] == [0, 6, 12, 19, 25, 31]
    assert iio.imread(tmp_path / "b.png").shape != iio.imread(tmp_path / "a.png").shape


def test_originals_are_found_by_id(nf, store: Path, images_file: Path) -> None:
    found = originals(open_store(store), np.array([30, 2]), str(images_file), ImageOptions())
    expected = np.load(images_file)["x_train"][[30, 2]] / 255.0
    np.testing.assert_allclose(found[..., 0].numpy(), expected, atol=1e-6)


@pytest.fixture
def other_file(images_file: Path) -> Path:
    """The same images but for one pixel of the last one of either split."""
    arrays = dict(np.load(images_file))
    for split in ("train", "test"):
        arrays[f"x_{split}"][-1, 0, 0] ^= 1
    np.savez(images_file.with_name("other.npz"), **arrays)
    return images_file.with_name("other.npz")


def test_images_that_were_not_fitted_are_refused(nf, store: Path, images_file: Path, other_file: Path, tmp_path: Path):
    words, said = ("--beside", other_file), ("beside=", "sha256", "the images that were fitted")
    nf("render", store, "--fields", 0, "--out", tmp_path / "x.png", *words).assert_refused(*said)
    edit = ("train", "edit", store, "--model", "ng_gnn", "--epochs", 1, "--test-fraction", 0.25)
    nf(*edit, "--out", tmp_path / "x", *words).assert_refused(*said)
    assert not list(tmp_path.glob("x*"))
    kept = of_store(open_store(store))
    with pytest.raises(ValueError, match=r"sha256.* the images that were fitted"):
        Truth(str(other_file), ImageOptions()).picture(kept, 0)
    assert Truth(str(images_file), ImageOptions()).picture(kept, 0).shape == (6, 5, 1)
    part = ("--limit", 20)  # does not show all that was fitted: nothing to compare
    assert nf("render", store, "--fields", 0, "--out", tmp_path / "x.png", *words, *part).code == 0


@pytest.mark.parametrize("changed", [{"signal": {"kind": "image", "shape": [6, 5]}}, {}])
def test_stores_that_say_no_images_are_not_compared(changed: dict, nf, store: Path, other_file: Path, tmp_path: Path):
    kept = open_store(store)
    rows = {name: kept.index[name].to_pylist() for name in ("id", "label")}
    cut = {name: values[3:5] for name, values in rows.items()}  # of a store with a checksum: not all of its images
    save(tmp_path / "cut", kept[3:5], cut, {**kept.meta, **changed})
    done = nf("render", tmp_path / "cut", "--beside", other_file, "--split", "train", "--out", tmp_path / "x.png")
    assert done.code == 0, done.err


def test_images_fitted_from_memory_are_not_compared(images_file: Path, tmp_path: Path) -> None:
    pixels = np.load(images_file)["x_train"][:2] / np.float32(255)
    kept = fit(images.from_array(pixels, split="train"), SIREN(2, 1, hidden=(8,)), steps=2, out=tmp_path / "s")
    found = originals(kept, np.array([1]), str(images_file), ImageOptions())  # bytes there, floats in the fit
    np.testing.assert_allclose(found[0, ..., 0].numpy(), pixels[1], atol=1e-6)


@pytest.mark.parametrize(
    "words",
    [
        ("--split", "test"),
        ("--split", "train", "--limit", 7),
        ("--split", "train", "--limit", 5, "--fits", 3, "--init", "random"),
        ("--split", "train", "--grey", "--resize", 4, 4),
        ("--x-key", "x_train"),
    ],
)
def test_however_images_were_read_they_are_compared(words: tuple, nf, images_file: Path, tmp_path: Path) -> None:
    colours, other = dict(np.load(images_file)), tmp_path / "other.npz"
    colours |= {name: np.stack([colours[name]] * 3, axis=-1) for name in ("x_train", "x_test")}
    np.savez(images_file, **colours)
    for name in ("x_train", "x_test"):
        colours[name][0] = 255 - colours[name][0]
    np.savez(other, **colours)
    done = nf("fit", "images", images_file, "--out", tmp_path / "s", *words, *nf.quick)
    assert done.code == 0, done.err
    draw = ("render", tmp_path / "s", "--fields", 1, "--out", tmp_path / "x.png", "--beside")
    named = words if "--x-key" in words else ()
    assert nf(*draw, images_file, *named).code == 0
    nf(*draw, other, *named).assert_refused("beside=", "sha256")
    assert nf(*draw, other, *named, "--resize", 9, 9).code == 0  # of another size than fitted: nothing to compare


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fields", 99], "31"),
        (["--count", 0], "count=0"),
        (["--size", 0, 5], "size"),
        (["--scale", 0.01], "scale"),
        (["--size", 4, 4, "--scale", 2], "both"),
        (["--scale", "inf"], "scale=inf"),
        (["--scale", "nan"], "scale=nan"),
        (["--scale", 0], "scale=0"),
        (["--scale", -2], "scale=-2"),
        (["--scale", 1e300], "scale=1e+300"),
        (["--size", 3000000, 3000000], "size=(3000000, 3000000)"),
        (["--size", 2000, 2000, "--count", 32], "drawn 32 times"),
        (["--style", "normals"], "style='normals': expected only for"),
        (["--resolution", 64], "resolution=64"),
        (["--level", 0.5], "level=0.5"),
        (["--slice", "z"], "slice='z'"),
        (["--offset", 0.5], "offset=0.5"),
        (["--frames", 3], "frames=3"),
        (["--limit", 3], "limit=3: expected only for pictures with --beside; these are pictures"),
        (["--grey"], "grey=True"),
        (["--beside", "no.npz"], "no.npz"),
        (["--beside", "digits"], "id"),
    ],
)
def test_bad_requests_are_one_line(words: list, said: str, nf, store: Path, tmp_path: Path) -> None:
    if words[-1] == "digits":  # has fewer images than the last id asks for
        words = ["--beside", "digits", "--limit", 3]
    nf("render", store, "--out", tmp_path / "x.png", *words).assert_refused(said)
    assert not (tmp_path / "x.png").exists()


def test_only_png_is_written(nf, store: Path, tmp_path: Path) -> None:
    nf("render", store, "--out", tmp_path / "x.tiff").assert_refused(".png")
