"""Laws of shape signals: what is fitted, what fails, what is found again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from fitting import FitConfig, fit, fit_batch, shapes
from fitting.signals import shape_cache
from fitting.signals.shape_pool import PoolConfig
from neuralfields import SIREN, evaluate, open

POOL = PoolConfig(surface=500, near=((0.02, 4000),), uniform=2500, test=4000)
SPEC = SIREN(3, 1, hidden=(32, 32), w0=15.0, scale=(0.1,))
CONFIG = FitConfig(steps=150, lr=3e-3, batch=1024, loss="l1", schedule="cosine", shard=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of closed shapes; one of them in two files, turned and moved, and four files that cannot be used."""
    root = tmp_path_factory.mktemp("shapes")
    ball = trimesh.creation.icosphere(subdivisions=3, radius=2.0)
    moved = ball.copy().apply_translation((5, 0, 0))
    (root / "round").mkdir()
    (root / "square").mkdir()
    ball.export(root / "round" / "1.ply")
    moved.export(root / "round" / "2.stl")
    trimesh.creation.box((1, 2, 3)).subdivide().subdivide().export(root / "square" / "3.obj")
    (root / "square" / "4.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 nan\n3 0 1 2\n")
    (root / "square" / "5.off").write_text("OFF\n4 2 0\n0 0 0\n1 0 0\n0 1 0\n1 1 0\n3 0 1 2\n3 1 3 2\n")
    (root / "square" / "6.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n")
    (root / "square" / "7.xyz").write_text("0 0 0\n1 0 0\n0 1 0\n0 0 1\n")
    return root


@pytest.fixture(scope="module")
def signals(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> shapes.ShapeSignals:
    return shapes.load(folder, pool=POOL, cache=tmp_path_factory.mktemp("cache"))


def test_what_fails_is_listed_and_the_others_go_on(signals):
    assert signals.names == ("round/1.ply", "round/2.stl", "square/3.obj")
    assert signals.ids.tolist() == [0, 1, 2]
    assert signals.classes == ("round", "square")
    assert signals.labels is not None
    assert signals.labels.tolist() == [0, 0, 1]
    reasons = dict(signals.failures)
    assert "NaN or infinite" in reasons["square/4.off"]
    assert "flat mesh" in reasons["square/5.off"]
    assert "zero area" in reasons["square/6.off"]
    assert "point cloud without normals" in reasons["square/7.xyz"]
    assert not any("\n" in reason for reason in reasons.values())
    assert signals.describe()["failures"] == [list(failure) for failure in signals.failures]


def test_copies_share_a_group_whatever_their_place(signals):
    groups = signals.columns()["group"]
    assert groups[0] == groups[1] != groups[2]


def test_unsigned_distances_take_what_has_no_inside(folder, tmp_path):
    found = shapes.load(folder, signal="udf", pool=POOL, cache=tmp_path)
    assert "square/5.off" in found.names
    assert "square/7.xyz" in found.names
    targets = found.points(SPEC).targets
    assert float(targets.min()) >= 0
    assert float(targets.max()) <= 1 + 1e-6
    assert any("no inside" in line for line in found.warnings())


def test_a_source_without_any_usable_shape_is_refused_in_one_line(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no shape can be used; 4.off: .*NaN[^\n]*$"):
        shapes.load(folder / "square" / "4.off", cache=tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        shapes.load(folder / "nothing", cache=tmp_path)
    with pytest.raises(ValueError, match="signal='mesh': expected one of sdf, occupancy, udf, tsdf"):
        shapes.load(folder, signal="mesh", cache=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"truncate=0: expected a positive"):
        shapes.load(folder / "round", truncate=0, pool=POOL, cache=tmp_path)


def test_the_cache_gives_back_what_was_drawn_and_heals(folder, tmp_path, monkeypatch):
    first = shapes.load(folder / "round", pool=POOL, cache=tmp_path)
    made = first.points(SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(shape_cache, "draw_pool", None)  # nothing is drawn again
        again = shapes.load(folder / "round", pool=POOL, cache=tmp_path)
    assert torch.equal(made.coords, again.points(SPEC).coords)
    assert torch.equal(made.targets, again.points(SPEC).targets)
    assert again.describe() == first.describe()
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 2
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:100])
    shapes.load(folder / "round", pool=POOL, cache=tmp_path)
    assert files[0].read_bytes() == whole


def test_targets_are_what_the_kind_says(signals):
    points = signals.points(SPEC)
    distance = np.stack([shape.pool().distance for shape in signals.shapes])[..., None]
    np.testing.assert_allclose(points.targets.numpy() * 0.1, np.clip(distance, -0.1, 0.1), atol=1e-7)
    inside = replace(signals, kind="occupancy").points(replace(SPEC, scale=(1.0,))).targets
    assert np.array_equal(inside.numpy() == 1, distance < 0)
    soft = replace(signals, kind="tsdf").points(replace(SPEC, scale=(1.0,))).targets.numpy()
    assert np.array_equal(soft < 0.5, distance < 0)
    assert 0 <= soft.min() <= soft.max() <= 1


@pytest.mark.parametrize("kind", ["sdf", "occupancy", "udf", "tsdf"])
def test_a_loss_of_values_is_not_one_of_logits(signals, kind):
    wrong, words = ("mse", "expected bce") if kind in ("occupancy", "tsdf") else ("bce", "expected mse or l1")
    with pytest.raises(ValueError, match=f"loss='{wrong}': {words}"):
        fit_batch(replace(signals, kind=kind), SPEC, replace(CONFIG, steps=1, loss=wrong))
    if kind in ("occupancy", "tsdf"):
        with pytest.raises(ValueError, match="target_psnr=30: expected 0 with loss='bce'"):
            fit_batch(replace(signals, kind=kind), SPEC, replace(CONFIG, steps=1, loss="bce", target_psnr=30))


def test_a_shape_that_changed_since_its_points_were_drawn_is_refused(tmp_path):
    path = tmp_path / "ball.ply"
    trimesh.creation.icosphere(subdivisions=2).export(path)
    found = shapes.load(path, pool=POOL, cache=tmp_path / "cache")
    assert found.source == "ball.ply"
    assert len(found.shapes[0].geometry().faces) == 320
    trimesh.creation.box().export(path)
    with pytest.raises(ValueError, match=r"ball\.ply has changed since its points were drawn"):
        found.shapes[0].geometry()


def test_columns_do_not_depend_on_how_a_population_is_cut(folder, tmp_path):
    found = shapes.load(folder, signal="udf", pool=POOL, cache=tmp_path / "cache")
    meshes = np.array([bool(shape.report.faces) for shape in found.shapes])
    assert 0 < meshes.sum() < len(found)
    store = fit(found, SPEC, replace(CONFIG, steps=60, shard=1), out=tmp_path / "store")
    assert np.isnan(store.column("normal_consistency"))[~meshes].all()
    assert np.isfinite(store.column("normal_consistency"))[meshes].any()
    assert store.statistics["diverged"] == 0


def test_a_fitted_population_stands_for_its_shapes(signals, tmp_path):
    store = fit(signals, SPEC, CONFIG, out=tmp_path / "store")
    assert store.column("iou").min() > 0.9
    assert store.column("chamfer_l1").max() < 0.02
    assert store.column("closed").all()
    assert store.groups[0] == store.groups[1] != store.groups[2]
    assert store.statistics["iou_mean"] == pytest.approx(store.column("iou").mean())
    assert "closed_mean" not in store.statistics
    again = open(tmp_path / "store")
    assert [row[0] for row in again.meta["signal"]["failures"]] == [name for name, _ in signals.failures]


def test_one_shape_alone_ends_as_in_its_batch(signals):
    config = replace(CONFIG, steps=20, backend="native")
    together = fit_batch(signals, SPEC, config).fields
    alone = fit_batch(signals.select(slice(2, 3)), SPEC, config).fields
    assert torch.equal(together[2].flat(), alone.flat())


def test_losses_of_the_gradient_do_what_they_are_for(signals):
    part = replace(signals.select(slice(2, 3)), truncate=5.0)
    spec = replace(SPEC, scale=(1.0,))
    config = replace(CONFIG, steps=120, batch=512, backend="torch")
    found = {}
    for name, weights in (("none", {}), ("both", {"eikonal": 0.1, "normals": 0.1})):
        fields = fit_batch(part, spec, replace(config, **weights)).fields
        points = part.points(spec)
        coords = points.coords.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(evaluate(fields, coords).sum(), coords)
        length = gradient.norm(dim=-1)
        assert points.normals is not None
        cosine = (gradient[:, : POOL.surface] * points.normals).sum(-1) / length[:, : POOL.surface]
        found[name] = ((length - 1).square().mean().item(), cosine.mean().item())
    assert found["both"][0] < found["none"][0]
    assert found["both"][1] > found["none"][1]


def test_losses_of_the_gradient_are_refused_where_they_mean_nothing(signals):
    with pytest.raises(ValueError, match=r"backend='native' cannot run this: eikonal=0.1"):
        fit_batch(signals, SPEC, replace(CONFIG, steps=1, backend="native", eikonal=0.1))
    from fitting import images

    sides = replace(signals, kind="occupancy")
    with pytest.raises(ValueError, match=r"eikonal=0\.1, normals=0\.0: expected 0 for signals without distances"):
        fit_batch(sides, replace(SPEC, scale=(1.0,)), replace(CONFIG, steps=1, loss="bce", eikonal=0.1))
    with pytest.raises(ValueError, match=r"normals=0\.1: no normals are known"):
        fit_batch(replace(signals, kind="udf"), SPEC, replace(CONFIG, steps=1, normals=0.1))
    with pytest.raises(ValueError, match="expected 0 for signals without distances"):
        fit_batch(images.load("digits", limit=2), SIREN(2, 1), FitConfig(steps=1, eikonal=0.1))
