"""The laws of fitting radiance fields: independence of batch and restart, and views that really come out."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import neuralfields as nf
from fitting import views_fit
from fitting.signals.lens import Lens
from fitting.signals.scene_box import SceneBox
from fitting.signals.view_set import Rays, ViewSet, rays
from fitting.signals.views import ViewSignals
from fitting.view_pool import RayPool
from fitting.view_run import ViewFitConfig, ViewRun, within_budget
from fitting.views_fit import fit_views, heldout_quality
from neuralfields.render import cameras
from neuralfields.render.occupancy_grid import OccupancyGrid
from neuralfields.render.view import view
from neuralfields.render.volume import RayBatch, box_range, march

SPEC = nf.HashNeRF(
    hidden=(16,),
    encoding=nf.HashGrid(levels=4, features=2, log2_size=10, base=4, scale=1.6),
    view=nf.ViewHead(hidden=(16,), features=7, bands=1),
)
TINY = ViewFitConfig(
    steps=8, rays=64, samples=16, budget=512, grid=8, grid_every=2, grid_start=4, init="random", checkpoint_every=3
)


def ball(centre: float):
    """A ball of radius 0.4, red on the left and green on the right, opaque, at x = centre."""

    def field(positions, directions):
        offset = positions - torch.tensor([centre, 0.0, 0.0])
        left = (offset[..., 0] < 0).float()
        rgb = torch.stack([left, 1.0 - left, torch.full_like(left, 0.2)], dim=-1)
        return rgb, 60.0 * (offset.norm(dim=-1) < 0.4)

    return field


def scene(centre: float, views: int = 8, size: int = 16, held: int = 2) -> ViewSet:
    poses = cameras.fibonacci_sphere(views, 3.0)
    shot = tuple(cameras.pinhole(pose, size, np.radians(45.0)) for pose in poses)
    images = []
    for camera in shot:
        origins, directions = (v.view(1, -1, 3) for v in cameras.rays(camera))
        batch = RayBatch(origins, directions, *box_range(origins, directions))
        images.append(march(ball(centre), batch, 128, 1.0).colour.view(size, size, 3))
    names = tuple(map(str, range(views)))
    held_out = np.arange(views) >= views - held
    box = SceneBox((0.0, 0.0, 0.0), 1.0)
    return ViewSet(f"ball{centre}", torch.stack(images), shot, (Lens(),) * views, names, held_out, box)


@pytest.fixture(scope="module")
def balls() -> ViewSignals:
    """Three scenes, the last with fewer views than the others."""
    scenes = (scene(0.0), scene(0.3), scene(-0.3, views=6))
    names = tuple(s.name for s in scenes)
    return ViewSignals(scenes, np.array([0, 1, 1], np.int64), names, np.array([3, 5, 9], np.uint32))


def digest(folder: Path) -> dict[str, str]:
    """Hash of every file of a store that must not depend on how the fit was run."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".parquet"))
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def start(signals: ViewSignals, config: ViewFitConfig = TINY) -> ViewRun:
    pool = RayPool([rays(s.train) for s in signals.scenes], config.near)
    return ViewRun(pool, SPEC, config, signals.ids, 1.0)


def test_held_out_views_come_out(balls, tmp_path):
    config = ViewFitConfig(steps=160, rays=256, samples=24, budget=3072, grid=16, grid_start=40, lr=0.02)
    store = fit_views(balls.select(slice(0, 2)), SPEC, config, out=tmp_path)
    assert store.complete
    psnr, ssim = store.column("psnr_heldout"), store.column("ssim_heldout")
    assert psnr.min() > 18
    assert ssim.min() > 0.6
    before = heldout_quality(balls.select(slice(0, 2)), start(balls.select(slice(0, 2))).fields, config)
    assert (psnr > before["psnr_heldout"] + 8).all()
    camera = balls[1].cameras[0]
    seen = view(store[0:2], camera, samples=64)
    errors = [(picture - balls[i].images[0]).square().mean() for i, picture in enumerate(seen.colour)]
    assert max(errors) < 0.02, "the stored fields show what was fitted"
    assert 2.4 < seen.depth[1][seen.opacity[1] > 0.9].mean() < 3.1, "the ball is 3 away, its front a little less"


def test_a_scene_alone_equals_the_scene_in_a_batch(balls):
    together, alone = start(balls), start(balls.select(slice(2, 3)))
    for run in (together, alone):  # a threshold this high leaves what is denser than the mean
        run.grid = OccupancyGrid.full(len(run.ids), 8, step=1 / 8, threshold=1.0)
    for _ in range(6):
        both = together.advance()[2], alone.advance()[0]
        torch.testing.assert_close(*both, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together.fields[2].flat(), alone.fields.flat(), rtol=1e-3, atol=1e-4)
    assert together.grid is not None
    assert 0.1 < together.grid.mask.float().mean() < 0.9, "the grid took part"


def test_a_scene_that_no_ray_meets_steps_as_it_does_alone(balls):
    config = replace(TINY, grid_every=100)
    together, alone = start(balls, config), start(balls.select(slice(2, 3)), config)
    for run in (together, alone):
        run.advance()
        assert run.grid is not None
        run.grid.mask[-1] = False
        for _ in range(2):
            run.advance()
    torch.testing.assert_close(together.fields[2].flat(), alone.fields.flat(), rtol=1e-4, atol=1e-6)


def test_checkpoints_of_written_batches_do_not_stay(balls, tmp_path, monkeypatch):
    left = [tmp_path / "checkpoint-00000.safetensors", tmp_path / "checkpoint-00000.safetensors.tmp"]
    advance = ViewRun.advance

    def killed_after_the_first_batch(self: ViewRun):
        if (tmp_path / "index-00000.parquet").exists():
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(ViewRun, "advance", killed_after_the_first_batch)
        with pytest.raises(KeyboardInterrupt):
            fit_views(balls, SPEC, TINY, out=tmp_path, batch=2)
    for path in left:
        path.write_bytes(b"")
    fit_views(balls, SPEC, TINY, out=tmp_path, batch=2)
    assert not list(tmp_path.glob("checkpoint*"))


def test_a_stopped_fit_ends_byte_for_byte_as_one_that_was_not(balls, tmp_path, monkeypatch):
    fit_views(balls, SPEC, TINY, out=tmp_path / "whole", batch=2)
    advance, taken = ViewRun.advance, []

    def stopped(self: ViewRun):
        if len(taken) == 5:
            raise KeyboardInterrupt
        taken.append(self.step)
        return advance(self)

    torn = tmp_path / "torn"
    with monkeypatch.context() as patch:
        patch.setattr(ViewRun, "advance", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit_views(balls, SPEC, TINY, out=torn, batch=2)
    assert [p.name for p in torn.glob("checkpoint*")] == ["checkpoint-00000.safetensors"]
    resumed = []
    monkeypatch.setattr(ViewRun, "advance", lambda self: (resumed.append(self.step), advance(self))[1])
    fit_views(balls, SPEC, TINY, out=torn, batch=2)
    assert resumed == [*range(3, 8), *range(8)], "goes on at the checkpoint, then the second batch"
    assert digest(torn) == digest(tmp_path / "whole")


def test_a_damaged_checkpoint_is_refused_in_one_line(balls, tmp_path):
    run = start(balls)
    run.save(tmp_path / "c.safetensors")
    whole = (tmp_path / "c.safetensors").read_bytes()
    (tmp_path / "c.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"c.safetensors is damaged .*: remove it"):
        run.restore(tmp_path / "c.safetensors")
    (tmp_path / "c.safetensors").write_bytes(whole)
    with pytest.raises(ValueError, match=r"is of scenes \[3, 5, 9\]: expected \[3\]"):
        start(balls.select(slice(0, 1))).restore(tmp_path / "c.safetensors")


@pytest.mark.parametrize("setting", ["lr", "near"])
def test_settings_are_finite(setting):
    with pytest.raises(ValueError, match=f"^{setting}=inf: expected a finite"):
        replace(TINY, **{setting: float("inf")})


def test_the_store_holds_rows_and_refuses_other_settings(balls, tmp_path):
    store = fit_views(balls, SPEC, TINY, out=tmp_path)
    assert store.labels.tolist() == [0, 1, 1]
    assert store.ids.tolist() == [3, 5, 9]
    assert store.spec == SPEC
    assert set(store.column("steps")) == {8}
    before = digest(tmp_path)
    fit_views(balls, SPEC, TINY, out=tmp_path, checkpoint_every=100)
    assert digest(tmp_path) == before
    with pytest.raises(ValueError, match="steps"):
        fit_views(balls, SPEC, TINY, out=tmp_path, steps=9)


def test_draws_have_the_rays_of_their_scene(balls):
    pool = RayPool([rays(s.train) for s in balls.scenes])
    drawn, colours = pool.draw(0, balls.ids, 7, 500)
    for position, one in enumerate(balls.scenes):
        own = rays(one.train)
        table = torch.cat([own.directions, own.origins, own.colours], dim=-1)[own.near < own.far]
        found = torch.cat([drawn.directions[position], drawn.origins[position], colours[position]], dim=-1)
        assert (torch.cdist(found, table, compute_mode="donot_use_mm_for_euclid_dist").amin(1) < 1e-6).all()
        assert len(found.unique(dim=0)) > 200
    alone, _ = RayPool([rays(balls[1].train)]).draw(0, balls.ids[1:2], 7, 500)
    assert torch.equal(alone.directions[0], drawn.directions[1])


def test_the_budget_keeps_the_first_rays_of_every_scene():
    live = torch.zeros(2, 4, 8, dtype=torch.bool)
    live[0, :, :3] = True
    live[1, 0], live[1, 3, 0] = True, True
    assert within_budget(live, 6).tolist() == [[True, True, False, False], [True, False, False, False]]
    assert within_budget(live, 9).tolist() == [[True, True, True, False], [True, True, True, True]]


def test_the_first_steps_rule_nothing_out_and_the_learning_rate_falls(balls):
    run = start(balls)
    for _ in range(4):
        run.advance()
        assert run.grid is not None
        assert run.grid.mask.all()
    config = ViewFitConfig(steps=100, lr=0.1, lr_final=0.1, warmup=10)
    assert config.rate(0) == pytest.approx(0.01)
    assert config.rate(99) == pytest.approx(0.01, rel=0.03)
    assert max(map(config.rate, range(100))) == config.rate(9) or config.rate(10) > config.rate(11)


def test_bad_input_is_refused(balls, tmp_path):
    with pytest.raises(ValueError, match="expected a radiance field"):
        fit_views(balls, nf.SIREN(3, 1), TINY, out=tmp_path)
    with pytest.raises(ValueError, match="unknown settings stepz"):
        fit_views(balls, SPEC, TINY, out=tmp_path, stepz=3)
    with pytest.raises(ValueError, match="budget=0: expected a whole number from 1"):
        ViewFitConfig(budget=0)
    with pytest.raises(ValueError, match="lr_final=0"):
        ViewFitConfig(lr_final=0)
    hidden = ViewSignals((scene(0.0, views=2, size=4),), None, ("hidden",), np.zeros(1, np.uint32))
    with pytest.raises(ValueError, match=r"scenes \['hidden'\]: expected views to fit"):
        fit_views(hidden, SPEC, TINY, out=tmp_path)
    away = Rays(torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match=r"scenes \[0\]: expected rays that hit"):
        RayPool([away])
    assert not any(tmp_path.iterdir())
    assert views_fit.QUALITY == ("psnr_heldout", "ssim_heldout")
