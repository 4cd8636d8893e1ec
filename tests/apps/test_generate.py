"""nf train generate and nf generate: folders, pictures, stores like any other, going on, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from apps.generated_sheet import arranged, balanced
from neuralfields.store import open_store, save
from neuralfields.testing import random_fields
from wsnets.data import split_test
from wsnets.models.inr2vec import Inr2VecConfig
from wsnets.tasks.embed import EmbedConfig, embed

SETTINGS = ("width=16", "num_layers=1", "num_heads=2")
QUICK = ("--epochs", 2, "--threads", 1, "--batch", 8, "--noise-steps", 20, "--token", 16, "--option", *SETTINGS)
EMBED = Inr2VecConfig(encoder=(8, 12), rows="all", decoder=(8, 8), bands=2, points=16)


@pytest.fixture
def generator_folder(nf, store: Path, tmp_path: Path) -> Path:
    """A generator that was hardly trained."""
    out = tmp_path / "generator"
    assert nf("train", "generate", store, "--out", out, *QUICK, "--quiet").code == 0
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".lock"}


def test_it_trains_draws_and_goes_on(nf, store: Path, tmp_path: Path):
    words = ("train", "generate", store, "--out", tmp_path / "g", *QUICK, "--samples-every", 1, "--json")
    done = nf(*words)
    assert done.code == 0, done.err
    figures = done.figures
    assert (figures["epochs_run"], figures["classes"]) == (2, ["0", "1"])
    assert figures["tokens"] == [7, 16]
    assert figures["val_loss"] > 0
    for name in ("samples", "curves"):
        assert (tmp_path / "g" / f"{name}.png").stat().st_size > 1000
    assert nf(*words).figures["epochs_run"] == 0


def test_it_writes_a_store_like_any_other(nf, generator_folder: Path, store: Path, tmp_path: Path):
    out = tmp_path / "new"
    words = ("generate", generator_folder, "--count", 10, "--steps", 5, "--out", out, "--threads", 1, "--json")
    done = nf(*words)
    assert done.code == 0, done.err
    made = open_store(out)
    assert made.complete
    assert made.spec == open_store(store).spec
    assert made.labels.tolist() == [0] * 5 + [1] * 5
    assert made.column("name")[0] == "0-0"
    assert made.meta["signal"]["shape"] == open_store(store).meta["signal"]["shape"]
    assert torch.isfinite(made[:].flat()).all()
    assert Path(done.figures["picture"]).stat().st_size > 1000
    before = files(out)
    assert nf(*words).figures["seconds"] is None
    assert files(out) == before
    assert nf("render", out, "--out", tmp_path / "all.png").code == 0
    assert nf("info", out).code == 0


def test_a_killed_store_goes_on_and_ends_the_same(nf, generator_folder: Path, tmp_path: Path, monkeypatch):
    import apps.generate as command
    from neuralfields.store_writer import StoreWriter

    monkeypatch.setattr(command, "SHARD", 4)
    words = ("generate", generator_folder, "--count", 10, "--steps", 5, "--threads", 1, "--quiet", "--out")
    assert nf(*words, tmp_path / "whole").code == 0
    write = StoreWriter.write

    def once(self, shard, *rest):
        if shard == 1:
            raise KeyboardInterrupt
        write(self, shard, *rest)

    monkeypatch.setattr(StoreWriter, "write", once)
    assert nf(*words, tmp_path / "cut").code == 130
    monkeypatch.setattr(StoreWriter, "write", write)
    assert nf(*words, tmp_path / "cut").code == 0
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_labels_guidance_and_seeds_are_taken(nf, generator_folder: Path, tmp_path: Path):
    def make(name: str, *more) -> np.ndarray:
        words = ("generate", generator_folder, "--count", 4, "--steps", 5, "--threads", 1, "--quiet")
        done = nf(*words, "--out", tmp_path / name, *more)
        assert done.code == 0, done.err
        return open_store(tmp_path / name)[:].flat().numpy()

    base = make("a", "--label", 1)
    assert open_store(tmp_path / "a").labels.tolist() == [1] * 4
    for number, more in enumerate((("--seed", 1), ("--guidance", 3.0), ("--method", "ddpm"))):
        assert not np.allclose(base, make(f"b{number}", "--label", 1, *more))
    make("c", "--any-class")
    assert open_store(tmp_path / "c").labels.tolist() == [-1] * 4


def test_a_store_of_other_classes_is_not_the_same(nf, generator_folder: Path, store: Path, tmp_path: Path):
    out = tmp_path / "new"
    words = ("generate", generator_folder, "--count", 6, "--steps", 2, "--out", out, "--threads", 1)
    assert nf(*words).code == 0
    before = files(out)
    for more in (("--label", 1), ("--label", 1, 0), ("--any-class",)):
        refused = nf(*words, *more)
        assert refused.code == 2
        assert "holds another population: meta.generated.per_class" in refused.err
    assert files(out) == before


def test_latents_are_generated_decoded_and_sampled_by_density(nf, store: Path, tmp_path: Path):
    embed(open_store(store), EmbedConfig(model=EMBED, epochs=1, batch=8), tmp_path / "e")  # type: ignore[arg-type]
    words = ("--latents", tmp_path / "e", "--out", tmp_path / "g", *QUICK, "--json")
    done = nf("train", "generate", store, *words)
    assert done.code == 0, done.err
    assert done.figures["tokens"] == [1, 16]
    assert done.figures["generated_spec"]["activation"] == "relu"
    (tmp_path / "e").rename(tmp_path / "moved")
    made = nf(
        "generate", tmp_path / "g", "--count", 4, "--steps", 5, "--out", tmp_path / "n", "--threads", 1, "--quiet"
    )
    assert made.code == 0, made.err
    assert open_store(tmp_path / "n").spec.activation == "relu"
    for method in ("kde", "neighbours", "gaussian"):
        words = (
            "--method",
            method,
            "--from",
            store,
            "--count",
            6,
            "--threads",
            1,
            "--out",
            tmp_path / method,
            "--quiet",
        )
        found = nf("generate", tmp_path / "moved", *words)
        assert found.code == 0, found.err
        assert open_store(tmp_path / method).labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert (tmp_path / f"{method}-sheet.png").stat().st_size > 1000


def test_shapes_are_drawn_shaded(nf, tmp_path: Path, generator: torch.Generator, monkeypatch):
    from neuralfields import SIREN

    for name, value in (("ROWS", 2), ("COLUMNS", 2), ("CELLS", 24)):
        monkeypatch.setattr(f"apps.generated_sheet.{name}", value)

    fields = random_fields(SIREN(3, 1, hidden=(5, 5)), 16, generator, torch.float32)
    signal = {"kind": "sdf", "level": 0.0, "inside": "below", "classes": ["a", "b"], "shapes": {"x": 1}}
    rows = {"label": [0, 1] * 8, "name": [f"s{k}" for k in range(16)]}
    save(tmp_path / "shapes", fields, rows, {"signal": signal})
    done = nf("train", "generate", tmp_path / "shapes", "--out", tmp_path / "g", *QUICK, "--quiet")
    assert done.code == 0, done.err
    assert (tmp_path / "g" / "samples.png").stat().st_size > 1000
    words = ("generate", tmp_path / "g", "--count", 4, "--steps", 4, "--threads", 1, "--out", tmp_path / "n", "--json")
    made = nf(*words)
    assert made.code == 0, made.err
    store = open_store(tmp_path / "n")
    assert store.column("name").tolist() == ["a-0", "a-1", "b-2", "b-3"]
    assert "shapes" not in store.meta["signal"]
    assert Path(made.figures["picture"]).stat().st_size > 1000


def test_sheets_have_a_row_for_each_class():
    assert balanced(7, np.array([3, 5])).tolist() == [3, 3, 3, 3, 5, 5, 5]
    assert balanced(2, np.array([], np.int64)).tolist() == [-1, -1]
    rows, columns = arranged(np.repeat([0, 1, 2], [4, 3, 20]))
    assert columns == 3
    assert rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    rows, columns = arranged(np.full(300, -1))
    assert (len(rows), columns) == (100, 10)


def test_what_is_refused(nf, generator_folder: Path, store: Path, tmp_path: Path):
    words = ("generate", generator_folder, "--out", tmp_path / "n", "--threads", 1)
    nf(*words, "--label", 7).assert_refused("label=7", "expected some of 0, 1")
    nf(*words, "--label", 1, "--any-class").assert_refused("label=[1] and any_class=True are both given")
    nf(*words, "--count", 0).assert_refused("count=0: expected a whole number from 1")
    nf(*words, "--steps", 21).assert_refused("steps=21", "from 1 to 20")
    assert not (tmp_path / "n").exists()
    nf(*words, "--method", "kde").assert_refused("method='kde': expected --from STORE")
    nf(*words, "--bandwidth", 1.0).assert_refused("bandwidth=1.0 without --from")
    nf(*words, "--from", store).assert_refused("method='ddim' with from=", "expected kde")
    nf(*words, "--from", store, "--method", "kde").assert_refused(
        "was trained to generate: expected one trained to embed"
    )
    for seed in (-1, 2**32, 2**64 - 1):
        for more in ((), ("--from", store, "--method", "kde")):
            nf(*words, *more, "--seed", seed).assert_refused(f"seed={seed}: expected a whole number in [0, 2^32)")
    nf(*words, "--from", store, "--method", "gaussian", "--bandwidth", 3).assert_refused(
        "bandwidth=3.0 with method='gaussian'", "expected kde or neighbours"
    )
    nf(*words, "--from", store, "--method", "kde", "--bandwidth", "inf").assert_refused("bandwidth=inf", "finite")
    nf(*words, "--from", store, "--method", "kde", "--steps", 5).assert_refused("a density has neither")
    nf("generate", store, "--out", tmp_path / "n").assert_refused("holds no finished network")
    train = ("train", "generate", store, "--out", tmp_path / "g", *QUICK)
    nf(*train, "--samples-every", -1).assert_refused("samples_every=-1: expected zero or more")
    plain = ("train", "generate", store, "--out", tmp_path / "g", "--threads", 1)
    nf(*plain, "--model", "mlp").assert_refused("'mlp' generates nothing: expected one of hyper_diffusion")


def test_what_is_kept_aside_is_not_trained_on(nf, store: Path, tmp_path: Path):
    words = ("train", "generate", store, "--out", tmp_path / "g", *QUICK, "--test-fraction", 0.25, "--json")
    done = nf(*words)
    assert done.code == 0, done.err
    kept, _ = split_test(open_store(store), 0.25, 0)
    assert done.figures["train_fields"] + done.figures["val_fields"] == len(kept) < len(open_store(store))
