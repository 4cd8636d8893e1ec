"""nf merge: stores of merged fields, figures that say what they are against, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch

from neuralfields import SIREN
from neuralfields.store import open_store, save
from neuralfields.testing import random_fields
from wsnets.merge import merge


@pytest.fixture
def second(tmp_path: Path, images_file: Path, nf) -> Path:
    """The images of `store`, fitted again from another start."""
    path = tmp_path / "second"
    words = ("fit", "images", images_file, "--split", "train", "--out", path, *nf.quick, "--seed", 7, "--quiet")
    assert nf(*words).code == 0
    return path


@pytest.mark.parametrize("method", ["mean", "aligned", "transport", "soup"])
def test_fits_of_two_stores_are_merged(nf, store: Path, second: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "merged"
    words = ("merge", store, second, "--method", method, "--limit", 20, "--out", out, "--threads", 1, "--json")
    done = nf(*words)
    assert done.code == 0, done.err
    assert "against the mean rendering of the parts" in done.out
    figures = done.figures
    assert figures["items"] == 20
    assert figures["fits"] == 40
    assert Path(figures["picture"]).stat().st_size > 1000
    assert {"psnr_parts", "psnr_merged", "psnr_mean", "psnr_aligned"} <= figures.keys()
    merged, first, other = open_store(out), open_store(store), open_store(second)
    assert merged.complete
    assert merged.labels.tolist() == first.labels[:20].tolist()
    assert merged.ids.tolist() == first.ids[:20].tolist()
    assert merged.meta["merged"]["method"] == method
    if method == "soup":
        assert figures["psnr_merged"] >= figures["psnr_parts"] - 1e-3
    else:
        expected = merge([first[:20], other[:20]], method)  # type: ignore[arg-type]
        assert torch.allclose(merged[:].flat(), expected.flat(), atol=1e-6)
    again = nf(*words)
    assert again.code == 0
    assert again.figures["seconds"] is None
    assert again.figures["psnr_merged"] == figures["psnr_merged"]


def test_fits_of_one_store_are_merged_by_group(nf, store: Path, second: Path, tmp_path: Path) -> None:
    nf("merge", store, "--by", "group", "--out", tmp_path / "x").assert_refused("by='group'", "found none")
    nf("merge", store, "--by", "name", "--out", tmp_path / "x").assert_refused("by='name'")
    nf("merge", store, second, "--limit", 0, "--out", tmp_path / "x").assert_refused("limit=0")
    nf("merge", "--out", tmp_path / "x").assert_refused("STORE")
    copy = shutil.copytree(store, tmp_path / "copy")
    twice = nf("merge", store, copy, "--by", "group", "--out", tmp_path / "same", "--json")
    assert twice.code == 0, twice.err
    merged, first = open_store(tmp_path / "same"), open_store(store)
    assert torch.allclose(merged[:].flat(), first[:].flat(), atol=1e-6)


def test_fields_without_a_name_are_not_fits_of_one_item(nf, generator: torch.Generator, tmp_path: Path) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    fields = random_fields(SIREN(2, 1, hidden=(8, 8)), 4, generator, torch.float32)
    save(plain, fields, {"name": ["", "", "a", "a"]}, {})
    nf("merge", plain, "--by", "name", "--out", out).assert_refused("by='name'", str(plain), "without one")
    assert not out.exists()


def test_a_store_is_not_merged_with_itself(nf, store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    out = tmp_path / "out"
    for other in (store, f"{store}/", tmp_path / "link"):
        nf("merge", store, other, "--out", out).assert_refused("stores=", str(other), "twice")
    assert not out.exists()


def test_widths_may_differ_for_transport_alone(nf, store: Path, images_file: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    words = ("--steps", 5, "--hidden", 12, 10, "--backend", "torch", "--threads", 1, "--lr", 1e-3, "--quiet")
    assert nf("fit", "images", images_file, "--split", "train", "--out", wide, *words).code == 0
    nf("merge", store, wide, "--out", tmp_path / "x").assert_refused("hidden")
    done = nf("merge", store, wide, "--method", "transport", "--limit", 4, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert "psnr_mean" not in done.figures
    assert open_store(tmp_path / "out").spec == open_store(store).spec
