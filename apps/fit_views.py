"""nf fit views: one radiance field per scene of posed views, on disk."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from apps.fit import diverged_line, num_diverged
from apps.follow import Follow, FollowOptions, followed
from apps.options import SHOWN, OutPath, Shown, Threads, given
from apps.output import Output, duration
from apps.progress import Progress

if TYPE_CHECKING:
    from fitting import FitProgress
    from fitting.signals.views import ViewSignals
    from neuralfields import FieldSpec, FieldStore

MODELS = ("hash", "triplane", "nerf")
OURS = "(default: well tried)"
LISTED = 10
STEPS_ALONE = 4000  # of a scene by itself, which costs a sixteenth of a batch
COLOURS = {"white": "white", "black": "black"}


@dataclass(frozen=True, kw_only=True)
class ViewFitOptions:
    """How the fields are fitted."""

    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 4000 for one scene, else 1000)")] = (
        None
    )
    """Optimizer steps."""
    rays: Annotated[int | None, arg(metavar="INT", help_behavior_hint=OURS)] = None
    """Rays per scene and step."""
    samples: Annotated[int | None, arg(metavar="INT", help_behavior_hint=OURS)] = None
    """Samples along a ray."""
    lr: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=OURS)] = None
    """Peak learning rate."""
    init: Annotated[str | None, arg(metavar="{shared,random}", help_behavior_hint="(default: shared)")] = None
    """One start for all fields, or one per field."""
    seed: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 0)")] = None
    """Source of all randomness, together with the id of the scene."""
    batch: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 16)")] = None
    """Scenes fitted together, one file each batch."""
    threads: Threads = None
    """Processor threads."""


@dataclass(frozen=True, kw_only=True)
class FitViews:
    """Fit one radiance field to every scene of SOURCE and keep them in a store.

    Views of transforms_test.json, or else every eighth, are held out to judge the fields. An interrupted run goes on
    where it stopped when the same command is given again.
    """

    keeps_partial_work: ClassVar[bool] = True

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """A transforms.json, a folder with one or with a COLMAP text model, or a folder of such scenes."""
    out: OutPath
    """Folder of the store: new, or holding the same fit, unfinished."""
    model: Annotated[str, arg(metavar="{hash,triplane,nerf}")] = "hash"
    """Fields on a hash grid, on three planes, or on frequencies alone."""
    split: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: all)")] = None
    """Split of a folder of scenes, such as train or test."""
    limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Read the first so many scenes."""
    scale: float = 1.0
    """Shrink the pictures to this share of their size."""
    background: Annotated[str, arg(metavar="{white,black}")] = "white"
    """What transparent pictures stand before, and what rays see that meet nothing."""
    holdout: int = 8
    """Hold out every so manieth view where no test file says which; 0 for none."""
    fitting: Annotated[ViewFitOptions, OmitArgPrefixes] = field(default_factory=ViewFitOptions)
    follow: Follow = field(default_factory=FollowOptions)
    output: Shown = SHOWN


def fit_views(options: FitViews, output: Output) -> None:
    """Run `nf fit views`."""
    with followed(options.follow, options.out, output, options.source):
        _fit_views(options, output)


def _fit_views(options: FitViews, output: Output) -> None:
    from fitting import views_fit
    from fitting.view_run import ViewFitConfig

    if options.background not in COLOURS:
        raise ValueError(f"background={options.background!r}: expected one of {', '.join(COLOURS)}")
    spec = model_spec(options.model)
    config = ViewFitConfig(**given(options.fitting))  # type: ignore[arg-type]
    signals = load(options)
    if options.fitting.steps is None and len(signals) == 1:
        config = replace(config, steps=STEPS_ALONE)
    count = sum(len(scene) for scene in signals.scenes)
    skipped = {f"{scene.name}/{name}": why for scene in signals.scenes for name, why in scene.skipped.items()}
    for name, why in list(skipped.items())[:LISTED]:
        output.say(f"  skipped: {name}: {why}")
    if len(skipped) > LISTED:
        output.say(f"  skipped: and {len(skipped) - LISTED:,} more views")
    output.say(f"fitting {len(signals):,} scenes, {count:,} views: {spec.describe()}")
    started = time.perf_counter()
    with Progress("fit", "scenes", options.output.quiet) as bar:

        def update(now: "FitProgress") -> None:
            done = f"{now.fields_done:,} of {now.fields_total:,}"
            bar.update(now.steps_done, now.steps_total, done, f"{now.psnr:.1f} dB in work")

        store = views_fit.fit_views(signals, spec, config, out=options.out, recipe=options.model, progress=update)
    report(store, signals, time.perf_counter() - started, skipped, output)
    base = options.out.rstrip("/")
    if num_diverged(store) == len(store):
        return
    output.next(
        ["nf", "render", options.out, "--beside", options.source, "--out", f"{base}.png"],
        ["nf", "render", options.out, "--fields", 0, "--out", f"{base}.mp4"],
    )


def load(options: FitViews) -> "ViewSignals":
    """One scene as a population of one, or a folder of scenes."""
    from fitting.signals import views
    from fitting.signals.view_scene import is_scene

    path = Path(options.source)
    about = {"scale": options.scale, "background": options.background, "holdout": options.holdout}
    if path.is_dir() and not is_scene(path):
        return views.load_many(path, options.split, options.limit, **about)  # type: ignore[arg-type]
    if options.split is not None or options.limit is not None:
        raise ValueError(f"source={options.source!r} is one scene: expected no split and no limit")
    reading = {"scale": options.scale, "holdout": options.holdout}
    scene = views.load(path, **about)  # type: ignore[arg-type]
    return views.from_scenes([scene], source=path.resolve().name, reading=reading)


def model_spec(name: str) -> "FieldSpec":
    """The architecture of a model's name: small ones, that two processor cores can fit."""
    from neuralfields import HashGrid, HashNeRF, NeRF, TriPlane, TriPlaneNeRF

    if name not in MODELS:
        raise ValueError(f"model={name!r}: expected one of {', '.join(MODELS)}")
    if name == "nerf":
        return NeRF(hidden=(64, 64, 64), bands=8)
    if name == "triplane":
        return TriPlaneNeRF(hidden=(32,), encoding=TriPlane(resolution=64, features=8))
    grid = HashGrid(levels=8, features=2, log2_size=15, base=16, scale=1.5)
    return HashNeRF(hidden=(32,), encoding=grid)


def report(
    store: "FieldStore", signals: "ViewSignals", seconds: float, skipped: dict[str, str], output: Output
) -> None:
    """Say how well held-out views are shown, what failed, and where the store lies."""
    psnr, ssim = store.column("psnr_heldout"), store.column("ssim_heldout")
    known = np.isfinite(psnr)
    figures = {"psnr_heldout": None, "ssim_heldout": None}
    line = "none were held out"
    if known.any():
        figures = {"psnr_heldout": float(psnr[known].mean()), "ssim_heldout": float(np.nanmean(ssim[known]))}
        line = (
            f"{figures['psnr_heldout']:.2f} dB, SSIM {figures['ssim_heldout']:.3f}, mean of {int(known.sum())} scenes"
        )
    output.facts([("fields", f"{len(store):,} in {duration(seconds)}"), ("held out", line)])
    output.facts([("diverged", diverged_line(store)), ("out", store.path)])
    for name, why in list(signals.failed.items())[:LISTED]:
        output.say(f"  failed: {name}: {why}")
    output.record(fields=len(store), seconds=seconds, out=store.path, diverged=num_diverged(store), **figures)
    output.record(skipped=skipped, failures=[{"name": name, "reason": why} for name, why in signals.failed.items()])
