"""nf train align: figures, files, going on, and what is refused."""

from pathlib import Path

import torch

from neuralfields.store import open_store
from wsnets.deep_aligner import DeepAligner

FEW = ("--option", "coordinates=8", "width=8", "dim=6", "hidden=8")
TRAIN = ("--epochs", 2, "--threads", 1, "--batch", 8, *FEW)


def test_it_trains_and_says_how_well_it_aligns(nf, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "aligner"
    words = ("train", "align", store, "--out", out, "--midpoint", 0.5, *TRAIN, "--test-fraction", 0.3, "--json")
    done = nf(*words)
    assert done.code == 0, done.err
    figures = done.figures
    assert figures["model"] == "deep_align"
    assert figures["epochs_run"] == 2
    assert 0 <= figures["units_back"] <= 1
    assert figures["units_back"] > 0.99  # without noise a copy has the same vectors, whatever the network
    assert not figures["of_one_item"]
    assert 0 < figures["ratio_after"] <= figures["ratio"] < 100
    assert min(figures["ms_network"], figures["ms_matching"]) > 0
    assert (out / "curves.png").is_file()
    again = nf(*words)
    assert again.code == 0
    assert again.figures["epochs_run"] == 0
    assert again.figures["ratio"] == figures["ratio"]
    fields = open_store(store)[:6]
    aligner = DeepAligner.load(out)
    assert torch.isfinite(aligner.aligned(fields, fields[0]).flat()).all()
    nf("predict", out, store).assert_refused("trained to align")


def test_bad_input_is_refused(nf, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "aligner"
    nf("train", "align", store, "--out", out, "--model", "mlp").assert_refused("expected a network that aligns")
    nf("train", "align", store, "--out", out, "--copy-noise", -1).assert_refused("copy_noise=-1.0")
    nf("train", "align", store, "--out", out, "--supervised", 0, "--weights", 0).assert_refused("one loss that counts")
    nf("train", "align", store, "--out", out, "--limit", 0).assert_refused("limit=0")
    nf("train", "align", tmp_path / "none", "--out", out).assert_refused("none")
