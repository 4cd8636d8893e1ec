"""nf align: the store that it writes, its references, the barriers that it measures, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.barriers import SHARES, figures, measure
from neuralfields import SIREN, symmetry
from neuralfields.evaluate import evaluate
from neuralfields.store import open_store, save
from neuralfields.testing import random_fields
from wsnets.align import align, aligned

SPEC = SIREN(2, 1, hidden=(6, 5), w0=5.0)
META = {"signal": {"kind": "image", "shape": [6, 5], "channels": 1}}
ROWS = {"id": range(100, 112), "label": [n % 3 for n in range(12)], "name": [f"item-{n}" for n in range(12)]}
THREADS = ("--threads", 1)


@pytest.fixture
def stores(tmp_path: Path, generator: torch.Generator) -> tuple[Path, Path]:
    """Twelve fields, and moved copies of them with a little noise, in another order."""
    fields = random_fields(SPEC, 12, generator, torch.float32)
    save(tmp_path / "first", fields, {**ROWS, "weight": np.arange(12.0)}, META)
    moved = symmetry.act(symmetry.sample(SPEC, 12, generator), fields).flat()
    moved = moved + 1e-3 * torch.randn(moved.shape, generator=generator)
    order = list(range(5, 12)) + list(range(5))
    rows = {name: [values[n] for n in order] for name, values in ROWS.items()}
    save(tmp_path / "second", type(fields).from_flat(SPEC, moved[order]), rows, META)
    return tmp_path / "first", tmp_path / "second"


@pytest.mark.parametrize("method", ["weights", "activations", "paths"])
def test_pairs_of_two_stores_come_together(method: str, nf, stores, tmp_path: Path) -> None:
    first, second = stores
    out = tmp_path / "out"
    done = nf("align", first, "--to", second, "--method", method, "--out", out, *THREADS, "--json")
    assert done.code == 0, done.err
    found = done.figures["barriers"]
    assert list(found) == ["before", "permutation", "exact"]
    assert found["exact"]["midpoint"] < 0.01 * found["before"]["midpoint"]
    assert found["exact"]["midpoint"] <= found["exact"]["largest"] + 1e-12
    assert found["permutation"]["of_permutation"] == 1
    assert all(len(curve) == SHARES for curve in done.figures["curves"].values())
    assert done.figures["pairs"] == 12
    for name in ("barrier_curves", "midpoints"):
        assert Path(done.figures[name]).parent == out
        assert Path(done.figures[name]).stat().st_size > 1000
    before, after, other = open_store(first), open_store(out), open_store(second)
    assert after.complete
    assert after.index.drop(["psnr"]).equals(before.index.drop(["psnr"]))  # NaN, which equals nothing
    assert after.meta["signal"] == before.meta["signal"]
    partner = [other.column("name").tolist().index(name) for name in before.column("name")]
    assert (after[:].flat() - other[partner].flat()).abs().max() < 0.01
    again = nf("align", first, "--to", second, "--method", method, "--out", out, *THREADS, "--json")
    assert again.figures["seconds"] is None
    assert again.figures["barriers"] == found


def test_a_killed_run_goes_on_and_ends_the_same(nf, stores, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("apps.align.SHARD", 5)
    for name in ("whole", "killed"):
        assert nf("align", stores[0], "--limit", 11, "--out", tmp_path / name, *THREADS).code == 0
    for left_over in ("index-00001.parquet", "shard-00002.safetensors"):
        (tmp_path / "killed" / left_over).unlink()
    head = (tmp_path / "killed" / "store.json").read_text()
    (tmp_path / "killed" / "store.json").write_text(head.replace('"complete": true', '"complete": false'))
    assert nf("align", stores[0], "--limit", 11, "--out", tmp_path / "killed", *THREADS).code == 0
    for name in ("store.json", "index-00001.parquet", "shard-00001.safetensors", "shard-00002.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_mean_is_kept_and_serves_other_stores(nf, stores, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    done = nf("align", stores[0], "--out", out, *THREADS, "--json")
    assert done.code == 0, done.err
    assert "barriers" not in done.figures
    reference = open_store(tmp_path / "out-reference")
    assert len(reference) == 1
    fields = open_store(stores[0])[:]
    assert torch.equal(open_store(out)[:].flat(), aligned(fields, reference[:]).flat())
    assert nf("align", stores[0], "--to", tmp_path / "out-reference", "--out", again, *THREADS).code == 0
    assert torch.equal(open_store(out)[:].flat(), open_store(again)[:].flat())
    nf("align", stores[1], "--out", out, *THREADS).assert_refused("out-reference", "another reference")
    nf("align", stores[1], "--to", 103, "--out", out, *THREADS).assert_refused("another population", "meta.aligned")


def test_a_field_and_permutations_only(nf, stores, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = nf("align", stores[0], "--to", 103, "--kinds", "permutation", "--limit", 5, "--out", out, *THREADS)
    assert done.code == 0, done.err
    fields = open_store(stores[0])[:]
    assert torch.equal(open_store(out)[:].flat(), aligned(fields[:5], fields[3], ("permutation",)).flat())


def test_groups_are_brought_to_their_first(nf, tmp_path: Path, generator: torch.Generator) -> None:
    fields = random_fields(SPEC, 4, generator)
    twice = symmetry.act(symmetry.sample(SPEC, 8, generator), fields[[0, 1, 2, 3, 0, 1, 2, 3]]).to(torch.float32)
    save(tmp_path / "both", twice, {"group": [5, 6, 7, 8] * 2}, META)
    done = nf("align", tmp_path / "both", "--to", "group", "--out", tmp_path / "out", *THREADS, "--json")
    assert done.code == 0, done.err
    assert done.figures["pairs"] == 4
    moved = open_store(tmp_path / "out")[:].flat()
    torch.testing.assert_close(moved[:4], moved[4:], rtol=1e-4, atol=1e-5)
    assert torch.equal(moved[:4], twice.flat()[:4])


def test_fields_of_shapes_have_curves_but_no_pictures(nf, tmp_path: Path, generator: torch.Generator) -> None:
    fields = random_fields(SIREN(3, 1, hidden=(5,)), 3, generator, torch.float32)
    for name in ("first", "second"):
        save(tmp_path / name, fields, {}, {})
    out = tmp_path / "out"
    done = nf("align", tmp_path / "first", "--to", tmp_path / "second", "--pairs", 2, "--out", out, *THREADS, "--json")
    assert done.code == 0, done.err
    assert done.figures["pairs"] == 2
    assert "midpoints" not in done.figures
    assert (out / "barriers.png").stat().st_size > 1000


def test_barriers_are_those_of_the_definition(generator: torch.Generator) -> None:
    a, b = random_fields(SPEC, 3, generator), random_fields(SPEC, 3, generator)
    coords = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    near = symmetry.act(align(b, a, ("permutation",)), b)
    paths = measure(a, {"before": b, "permutation": near}, coords)
    middle = type(a).from_flat(SPEC, (a.flat() + near.flat()) / 2)
    shown = [evaluate(x[1], coords)[0] for x in (a, b, middle)]
    target = (shown[0] + shown[1]) / 2
    expected = (shown[2] - target).square().mean() - (shown[0] - target).square().mean()
    assert paths.excess["permutation"][1, SHARES // 2] == pytest.approx(float(expected), rel=1e-9)
    found = figures(paths)["permutation"]
    assert found["midpoint"] == pytest.approx(paths.excess["permutation"][:, SHARES // 2].mean())
    assert found["largest"] == pytest.approx(paths.excess["permutation"].max(1).mean())
    assert figures(replace(paths, excess={"before": paths.excess["before"]}))["before"]["of_permutation"] is None


def test_refusals(nf, stores, tmp_path: Path) -> None:
    first, second = stores
    words = ("align", first, "--out", tmp_path / "out", *THREADS)
    nf(*words, "--limit", 0).assert_refused("limit=0")
    nf(*words, "--pairs", -1).assert_refused("pairs=-1")
    nf(*words, "--to", "nowhere").assert_refused("to='nowhere'", "mean, group, the id of a field")
    nf(*words, "--to", 7).assert_refused("to=7", "such as 100")
    nf(*words, "--to", "group").assert_refused("one signal")
    nf(*words, "--method", "guess").assert_refused("method='guess'", "weights, activations")
    nf(*words, "--method", first, "--kinds", "permutation").assert_refused("kinds='permutation'", "exact only")
    save(tmp_path / "few", open_store(second)[:2], {"name": ["item-0", "item-1"]}, META)
    nf(*words, "--to", tmp_path / "few").assert_refused("10 of 12 fields have no partner", "item-2")
    assert not (tmp_path / "out").exists()
