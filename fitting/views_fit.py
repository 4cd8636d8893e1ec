"""fit_views: a population of radiance fields from posed views of many scenes, batch by batch, resumable within one."""

import time
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fitting.fit import FitResult, OnFit, Watch, log_shard, statistics, torch_threads
from fitting.signals.view_set import ViewSet, rays
from fitting.signals.views import ViewSignals
from fitting.view_metrics import view_psnr, view_ssim
from fitting.view_pool import RayPool
from fitting.view_run import ViewFitConfig, ViewRun
from neuralfields import inits
from neuralfields.batch import FieldBatch
from neuralfields.render.occupancy_grid import OccupancyGrid
from neuralfields.render.view import radiance, render_rays
from neuralfields.render.volume import RayBatch
from neuralfields.spec import FieldSpec
from neuralfields.store import FieldStore, StoreWriter, open_store

QUALITY = ("psnr_heldout", "ssim_heldout")


def fit_views(
    signals: ViewSignals,
    spec: FieldSpec,
    config: ViewFitConfig | None = None,
    *,
    out: str | Path,
    recipe: str | None = None,
    progress: OnFit | None = None,
    **overrides,
) -> FieldStore:
    """Fit one radiance field to every scene and keep the population in the store `out`.

    config.batch scenes at a time go through a ViewRun, each batch a file of the store, with columns psnr_heldout (dB)
    and ssim_heldout. Scenes may have different numbers of views. A fit that was killed goes on at the last checkpoint
    of the batch it was in, when called again with the same arguments, and ends byte for byte as one that was not.
    `overrides` are ViewFitConfig settings. Raises ValueError for bad settings, a spec without a view head, a scene
    without views to fit, or an `out` that holds another population.
    """
    config = _with_overrides(config or ViewFitConfig(), overrides)
    _check(signals, spec)
    meta = {
        "recipe": recipe,
        "config": {**config.result_json(), "backend": "torch"},
        "signal": signals.describe(),
        "created_by": "neuralfields 0.1.0",
    }
    out = Path(out)
    with StoreWriter(out, spec, meta, len(signals), config.batch) as writer:
        missing = writer.missing()
        watch = Watch(progress, len(signals), config.steps, len(signals) - sum(p.stop - p.start for _, p in missing))
        for shard, positions in missing:
            started = time.perf_counter()
            part = signals.select(positions)
            checkpoint = out / f"checkpoint-{shard:05d}.safetensors"
            with torch_threads(config.threads):
                run = _run(part, spec, config, checkpoint, watch)
                quality = heldout_quality(part, run.fields, config, run.grid)
            writer.write(shard, run.fields, _rows(part, spec, quality, config), run.curves)
            checkpoint.unlink(missing_ok=True)
            steps = np.full(len(part), config.steps, np.int32)
            result = FitResult(run.fields, quality, steps, run.curves.numpy(), "torch")
            log_shard(out, shard, result, time.perf_counter() - started)
            watch.base += len(part)
        for left in out.glob("checkpoint-*.safetensors*"):  # of a batch whose fit was killed when it had been written
            left.unlink()
        if not writer.complete:
            written = open_store(out)
            judged = {name: written.column(name) for name in QUALITY}
            writer.finish(statistics(written.batches(16), judged, written.column("steps")))
    return open_store(out)


def _check(signals: ViewSignals, spec: FieldSpec) -> None:
    if spec.view is None:
        raise ValueError(f"spec is {spec.describe()}: expected a radiance field, such as HashNeRF()")
    bare = [name for name, scene in zip(signals.names, signals.scenes, strict=True) if scene.held_out.all()]
    if bare:
        raise ValueError(f"scenes {bare}: expected views to fit, all of theirs are held out")


def _run(signals: ViewSignals, spec: FieldSpec, config: ViewFitConfig, checkpoint: Path, watch: Watch) -> ViewRun:
    """Take all steps with one batch of scenes, from its checkpoint where there is one."""
    pool = RayPool([rays(scene.train) for scene in signals.scenes], config.near)
    background = torch.stack([_background(scene) for scene in signals.scenes]).unsqueeze(1)
    run = ViewRun(pool, spec, config, signals.ids, background)
    if checkpoint.exists():
        run.restore(checkpoint)
    while run.step < config.steps:
        losses = run.advance()
        watch.update(run.step * len(signals), 0, float(losses.mean()))
        if run.step % config.checkpoint_every == 0 and run.step < config.steps:
            run.save(checkpoint)
    return run


def heldout_quality(
    signals: ViewSignals, fields: FieldBatch, config: ViewFitConfig, grid: OccupancyGrid | None = None
) -> dict[str, np.ndarray]:
    """PSNR in dB and SSIM of held-out views, rendered as the fit renders: name -> (N,), means over the views.

    NaN for a scene without held-out views, and for the SSIM of pictures below 11 pixels.
    """
    found = np.full((len(QUALITY), len(signals)), np.nan, np.float32)
    for position, scene in enumerate(signals.scenes):
        own = None if grid is None else grid.select(slice(position, position + 1))
        pictures = heldout_views(scene.test, fields[position], config, own)
        pairs = zip(pictures, scene.test.images, strict=True)
        figures = [(view_psnr(picture, truth), view_ssim(picture, truth)) for picture, truth in pairs]
        if figures:
            found[:, position] = np.mean(figures, axis=0)
    return dict(zip(QUALITY, found, strict=True))


def heldout_views(
    views: ViewSet, field: FieldBatch, config: ViewFitConfig, grid: OccupancyGrid | None = None
) -> Tensor:
    """What one field shows where photographs were taken, with their lenses: (V, H, W, 3) in [0, 1]."""
    if not len(views):
        return torch.zeros_like(views.images)
    seen = rays(views)
    near = seen.near.clamp_min(config.near)
    batch = RayBatch(*(value.unsqueeze(0) for value in (seen.origins, seen.directions, near, seen.far)))
    shown = render_rays(radiance(field), batch, config.samples, _background(views), grid)
    return shown.colour.clamp(0.0, 1.0).view_as(views.images)


def _background(scene: ViewSet) -> Tensor:
    return torch.tensor(scene.background, dtype=torch.float32)


def _rows(signals: ViewSignals, spec: FieldSpec, quality: dict[str, np.ndarray], config: ViewFitConfig) -> dict:
    origin = f"{config.init}/{inits.default_scheme(spec)}/{config.seed}"
    return {
        "id": signals.ids.tolist(),
        "label": [-1] * len(signals) if signals.labels is None else signals.labels.tolist(),
        "split": [signals.split or ""] * len(signals),
        "name": list(signals.names),
        "init_id": [f"{origin}/{i}" if config.init == "random" else origin for i in signals.ids.tolist()],
        "steps": [config.steps] * len(signals),
        **{name: values.tolist() for name, values in quality.items()},
    }


def _with_overrides(config: ViewFitConfig, overrides: dict) -> ViewFitConfig:
    known = [f.name for f in dataclass_fields(ViewFitConfig)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}: expected some of {', '.join(known)}")
    return replace(config, **overrides)
