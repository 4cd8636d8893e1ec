"""nf render: the picture that is written."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from neuralfields.render import image
from neuralfields.store import open_store


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
    from apps.options import ImageOptions
    from apps.render import originals

    found = originals(open_store(store), np.array([30, 2]), str(images_file), ImageOptions())
    expected = np.load(images_file)["x_train"][[30, 2]] / 255.0
    np.testing.assert_allclose(found[..., 0].numpy(), expected, atol=1e-6)


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
