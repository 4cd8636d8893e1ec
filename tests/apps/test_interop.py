"""nf export and nf import: there and back."""

from pathlib import Path

import pytest
import torch

from neuralfields.store import open_store


@pytest.mark.parametrize("layout", ["dwsnets", "nfn", "fit-a-nef"])
def test_there_and_back_is_bit_equal(layout: str, nf, store: Path, tmp_path: Path) -> None:
    there = nf("export", store, "--format", layout, "--out", tmp_path / "foreign", "--json")
    assert (there.code, there.figures["fields"]) == (0, 32), there.err
    back = nf("import", tmp_path / "foreign", "--format", layout, "--out", tmp_path / "back", "--json")
    assert (back.code, back.figures["fields"]) == (0, 32), back.err
    first, second = open_store(store), open_store(tmp_path / "back")
    assert second.spec == first.spec
    assert torch.equal(second[:].flat(), first[:].flat())
    assert (second.labels == first.labels).all()
    assert (second.ids == first.ids).all()


def test_without_sidecar_the_facts_must_be_given(nf, store: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    assert nf("export", store, "--format", "dwsnets", "--out", foreign, "--quiet").code == 0
    for file in foreign.glob("neuralfields.*"):
        file.unlink()
    words = ["import", foreign, "--format", "dwsnets", "--out", tmp_path / "back"]
    nf(*words).assert_refused("w0", "offset", "grid", "axes")
    facts = ["--activation", "sine", "--w0", 30, "--scale", 1, "--offset", 0, "--grid", "centers", "--axes", "ij"]
    assert nf(*words, *facts, "--shape", 6, 5).code == 0
    back = open_store(tmp_path / "back")
    assert back.spec == open_store(store).spec
    assert nf("render", tmp_path / "back", "--count", 4, "--out", tmp_path / "x.png").code == 0


def test_pictures_of_a_size_that_the_files_do_not_say(nf, store: Path, tmp_path: Path) -> None:
    foreign, out = tmp_path / "foreign", tmp_path / "back"
    assert nf("export", store, "--format", "nfn", "--out", foreign, "--quiet").code == 0
    for file in foreign.glob("neuralfields.*"):
        file.unlink()
    facts = ["--activation", "sine", "--w0", 30, "--scale", 1, "--offset", 0, "--grid", "centers", "--axes", "ij"]
    words = ("import", foreign, "--format", "nfn", *facts, "--out")
    for shape in ((-1, 3), (0, 0), (6, 0)):
        nf(*words, tmp_path / "x", "--shape", *shape).assert_refused(f"shape={shape}", "positive")
    assert not (tmp_path / "x").exists()
    assert nf(*words, out).code == 0
    about = nf("info", out)
    assert about.code == 0, about.err
    assert "image of 1 channels, size unknown, from foreign" in about.out
    draw = ("interpolate", out, "--fields", 0, 1, "--frames", 3, "--out", tmp_path / "p.png")
    nf(*draw).assert_refused("give --size H W")
    done, known = nf(*draw, "--size", 6, 5, "--json"), nf(*draw[:1], store, *draw[2:], "--json")
    assert done.code == 0, done.err
    assert torch.equal(open_store(out)[:2].flat(), open_store(store)[:2].flat())
    assert done.figures["mse"] == pytest.approx(known.figures["mse"])


def test_bad_requests_are_one_line(nf, store: Path, tmp_path: Path) -> None:
    nf("export", store, "--format", "zip", "--out", tmp_path / "x").assert_refused("zip", "dwsnets")
    nf("export", store, "--format", "nfn", "--out", store).assert_refused(str(store))
    nf("import", tmp_path / "absent", "--format", "nfn", "--out", tmp_path / "x").assert_refused("absent")
    words = ["import", store, "--format", "fit-a-nef", "--out", tmp_path / "x", "--splits", "a.json"]
    nf(*words).assert_refused("splits")
