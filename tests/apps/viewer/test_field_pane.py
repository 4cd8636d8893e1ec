"""What the field pane tells of how a field was fitted."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.viewer.collection import Part, of_batch, of_store
from apps.viewer.refit import refit
from fitting.config import FitConfig
from fitting.kernels import halves_tiles
from neuralfields.store import open_store

SAID = ("--schedule", "cosine", "--warmup", 1, "--weight-decay", 0.01, "--batch", 16, "--init", "random", "--w0", 12)
QUICK = ("--limit", 2, "--steps", 2, "--warmup", 1, "--hidden", 8)
TORCH = ("--backend", "torch", "--threads", 1, "--quiet")


def fitted(nf, kind: str, source: object, out: Path, *words: object) -> Part:
    done = nf("fit", kind, source, "--out", out, *words, *TORCH)
    assert done.code == 0, done.err
    return of_store(open_store(out))


def assert_again(nf, part: Part, out: Path, *words: object) -> list[str]:
    """Run the command that a part gives; the same fields and the same words about them come of it."""
    command = shlex.split(refit(part) or "")
    assert command[:2] == ["nf", "fit"]
    assert command[-2] == "--out"
    again = fitted(nf, command[2], command[3], out, *command[4:-2], *words)
    assert torch.equal(again.fields[:].flat(), part.fields[:].flat())
    assert again.meta == part.meta
    return command


@pytest.fixture
def made(nf, tmp_path: Path) -> Part:
    """Three digits, as siren-digits has them but for the width and the steps."""
    words = ("--recipe", "siren-digits", "--limit", 3, "--hidden", 4, "--steps", 2)
    return fitted(nf, "images", "digits", tmp_path / "made", *words)


@pytest.mark.parametrize("more", [(), SAID, (*SAID, "--fits", 2), ("--split", "test", "--target-psnr", 3)])
def test_the_command_it_gives_fits_the_same_fields(nf, tmp_path, more):
    words = ("--recipe", "siren-mnist", "--hidden", 8, 9, "--steps", 3, "--lr", 2e-3, "--seed", 5, "--limit", 6)
    assert_again(nf, fitted(nf, "images", "digits", tmp_path / "first", *words, *more), tmp_path / "again")


@pytest.mark.parametrize("words", [("--signal", "udf", "--truncate", 0.2), ("--eikonal", 0.1, "--normals", 0.1)])
def test_the_command_of_shapes_fits_the_same_fields(nf, tmp_path, monkeypatch, words):
    trimesh = pytest.importorskip("trimesh")
    root, cache = tmp_path / "meshes", ("--cache", tmp_path / "cache")
    root.mkdir()
    for name in ("a", "c"):
        trimesh.creation.icosphere(subdivisions=1).export(root / f"{name}.ply")
    (root / "b.off").write_text("not a mesh")
    first = fitted(nf, "shapes", root, tmp_path / "first", *cache, *words, *QUICK)
    assert len(first) == 1
    monkeypatch.chdir(tmp_path)
    assert_again(nf, first, tmp_path / "again", *cache)


def test_the_command_says_no_more_than_what_is_not_the_recipes(made):
    assert shlex.split(refit(made) or "") == [
        *("nf", "fit", "images", "digits", "--recipe", "siren-digits", "--hidden", "4", "--limit", "3"),
        *("--steps", "2", "--lr", "0.002", "--seed", "0", "--out", "runs/again"),
    ]


def test_a_precision_is_said_where_it_is_another_than_that_which_is_found_again(made):
    config = {**made.meta["config"], "backend": "triton"}
    for precision in ("mixed", "tf32", "fp32"):
        part = replace(made, meta={**made.meta, "config": {**config, "precision": precision}})
        found = halves_tiles.precision(made.spec, FitConfig.from_json({**config, "precision": "auto"}))
        assert f"--precision {precision}" in (refit(part) or "") or precision == found
        assert "--precision" not in (refit(part) or "-") or precision != found


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": "mine"},
        {"recipe": "siren-sdf"},
        {"recipe": "siren-image"},
        {"config": {"lr_final": 0.5}},
        {"config": {"optimizer": "adamw"}},
        {"config": {"steps": "many"}},
        {"signal": {"kind": "sdf"}},
        {"columns": {"id": np.array([0, 1, 7], np.uint32)}},
        {"columns": {"group": np.array([0, 0, 1], np.uint32)}},
        {"spec": {"w0_first": 3.0}},
        {"spec": {"activation": "tanh"}},
    ],
)
def test_there_is_no_command_where_it_would_fit_something_else(made, change):
    meta = dict(made.meta)
    for key in ("config", "signal"):
        meta[key] = {**meta[key], **change.get(key, {})}
    meta["recipe"] = change.get("recipe", meta["recipe"])
    part = replace(made, meta=meta, columns={**made.columns, **change.get("columns", {})})
    if "spec" in change:
        part.fields.spec = replace(made.spec, **change["spec"])
    assert refit(part) is None


def test_there_is_no_command_for_fields_that_were_made_while_looking(made):
    assert refit(of_batch("generated", made.fields[0:2], {}, made)) is None
