"""nf fit images: one field per image, on disk."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from apps.follow import Follow, FollowOptions, followed
from apps.options import SHOWN, ImageOptions, Images, OutPath, Shown, Threads, given
from apps.output import Output, duration, psnr_figures, psnr_line
from apps.progress import Progress

if TYPE_CHECKING:
    from fitting import FitConfig, FitProgress, recipes
    from fitting.signals.image import ImageSignals
    from fitting.signals.signal import Signals
    from neuralfields import FieldSpec, FieldStore

RECIPE = "(default: the recipe's)"


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How the fields are fitted; what is given here overrides the recipe."""

    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint=RECIPE)] = None
    """Optimizer steps per field."""
    lr: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=RECIPE)] = None
    """Peak learning rate."""
    schedule: Annotated[str | None, arg(metavar="{constant,cosine}", help_behavior_hint=RECIPE)] = None
    """Learning rate over the steps."""
    warmup: Annotated[int | None, arg(metavar="INT", help_behavior_hint=RECIPE)] = None
    """Steps over which the learning rate rises, at most --steps."""
    weight_decay: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=RECIPE)] = None
    """Weight decay of the optimizer."""
    batch: Annotated[int | None, arg(metavar="INT", help_behavior_hint=RECIPE)] = None
    """Points (of an image: pixels) drawn per step; 0 takes all of them."""
    init: Annotated[str | None, arg(metavar="{shared,random,STORE#N}", help_behavior_hint=RECIPE)] = None
    """One start for all fields, one per field, or field N of a store."""
    seed: Annotated[int | None, arg(metavar="INT", help_behavior_hint=RECIPE)] = None
    """Source of all randomness, together with the id of the image or shape."""
    target_psnr: Annotated[float | None, arg(metavar="DB", help_behavior_hint=RECIPE)] = None
    """A field stops at this PSNR; 0 never stops early."""
    backend: Annotated[
        str | None, arg(metavar="{auto,torch,native,triton,tcnn}", help_behavior_hint="(default: auto)")
    ] = None
    """What runs the arithmetic."""
    precision: Annotated[
        str | None, arg(metavar="{auto,fp32,tf32x3,tf32,mixed,bf16}", help_behavior_hint="(default: auto)")
    ] = None
    """Precision of the hidden layers' products on the triton backend."""
    threads: Threads = None
    """Processor threads."""
    shard: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 1024)")] = None
    """Fields per file: what an interrupted run loses at most."""


@dataclass(frozen=True, kw_only=True)
class SpecOptions:
    """Architecture of the fields; what is given here overrides the recipe."""

    hidden: Annotated[tuple[int, ...] | None, arg(metavar="INT [INT ...]", help_behavior_hint=RECIPE)] = None
    """Widths of the hidden layers."""
    w0: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=RECIPE)] = None
    """Frequency of all sine layers."""


@dataclass(frozen=True, kw_only=True)
class FitImages:
    """Fit one field to every image of SOURCE and keep them in a store.

    An interrupted run goes on where it stopped when the same command is given again. Without --recipe a sine field
    of two hidden layers, 32 wide, is fitted with Adam.
    """

    keeps_partial_work: ClassVar[bool] = True

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """An .npz, a folder of pictures, an idx file, one photograph, digits, or a picture of scikit-image (camera)."""
    out: OutPath
    """Folder of the store: new, or holding the same fit, unfinished."""
    recipe: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: none)")] = None
    """Named settings; `nf recipes` lists them."""
    images: Images = field(default_factory=ImageOptions)
    fits: int = 1
    """Fit every image so many times, each with a start of its own: views of one image, which splits keep together."""
    fitting: Annotated[FitOptions, OmitArgPrefixes] = field(default_factory=FitOptions)
    architecture: Annotated[SpecOptions, OmitArgPrefixes] = field(default_factory=SpecOptions)
    follow: Follow = field(default_factory=FollowOptions)
    output: Shown = SHOWN


def fit_images(options: FitImages, output: Output) -> None:
    """Run `nf fit images`."""
    with followed(options.follow, options.out, output, options.source, options.images):
        _fit_images(options, output)


def _fit_images(options: FitImages, output: Output) -> None:
    from fitting import FitConfig, images, recipes
    from fitting.fit import with_overrides

    recipe = None if options.recipe is None else recipes.get(options.recipe)
    config = with_overrides(FitConfig() if recipe is None else recipe.config, given(options.fitting))
    signals = images.load(options.source, **vars(options.images)).repeated(options.fits)
    if options.fits > 1 and config.init != "random":
        raise ValueError(f"fits={options.fits} with init={config.init!r}: expected init=random, a start for each fit")
    spec = architecture(signals, recipe, options.architecture)
    size = "x".join(map(str, signals.shape))
    output.say(f"fitting {len(signals):,} images of {size}x{signals.channels}: {spec.describe()}")
    store, seconds, found = fit_store(signals, spec, config, options.out, options.recipe, options.output.quiet)
    report(store, seconds, found, output)
    render = ["nf", "render", options.out, "--out", f"{options.out.rstrip('/')}.png", "--beside", options.source]
    for name in ("split", "x_key", "y_key"):
        chosen = getattr(options.images, name)
        render += [f"--{name.replace('_', '-')}", chosen] if chosen else []
    after, broken = [render], num_diverged(store)
    if len({int(label) for label in store.labels} - {-1}) > 1:
        reader = ["nf", "train", "classify", options.out, "--out", f"{options.out.rstrip('/')}-reader"]
        after.append([*reader, "--skip-bad"] if broken else reader)
    if broken < len(store):
        output.next(*after)


def architecture(signals: "ImageSignals", recipe: "recipes.Recipe | None", options: SpecOptions) -> "FieldSpec":
    """The recipe's architecture for these signals, with what was given in its place."""
    from neuralfields import SIREN

    spec = SIREN(2, signals.channels) if recipe is None else recipe.spec_for(signals)
    changes: dict = {} if options.hidden is None else {"hidden": options.hidden}
    if options.w0 is not None:
        changes |= {"w0_first": options.w0, "w0_hidden": options.w0}
    return replace(spec, **changes)


def fit_store(
    signals: "Signals",
    spec: "FieldSpec",
    config: "FitConfig",
    out: str,
    recipe: str | None,
    quiet: bool,
    error: Callable[[float], str] = "{:.1f} dB in work".format,
) -> tuple["FieldStore", float, int]:
    """Fit with a progress bar; return the store, the seconds it took and how many fields were there before.

    error: words for the error of the fields in work, given as PSNR in dB.
    """
    from fitting import fit
    from neuralfields.store import open_store

    found = len(open_store(out)) if (Path(out) / "store.json").is_file() else 0
    started = time.perf_counter()
    with Progress("fit", "fields", quiet) as bar:

        def update(now: "FitProgress") -> None:
            count = f"{now.fields_done:,} of {now.fields_total:,}"
            bar.update(now.steps_done, now.steps_total, count, error(now.psnr))

        store = fit(signals, spec, config, out=out, recipe=recipe, progress=update)
    return store, time.perf_counter() - started, found


def report(store: "FieldStore", seconds: float, found: int, output: Output) -> None:
    """Say what was fitted, how fast, how well, and where it lies."""
    fitted = len(store) - found
    psnr = store.column("psnr")
    figures = psnr_figures(psnr[np.isfinite(psnr)])
    speed = f"{fitted / seconds:,.0f} fields/s" if fitted > seconds >= 1 else ""
    took = ", ".join(text for text in (duration(seconds), speed) if text)
    resumed = f"{found:,} of {len(store):,} were there already" if found else None
    backend = store.meta["config"]["backend"]
    output.facts(
        [
            ("fields", f"{fitted:,} fitted in {took} ({backend} backend)" if fitted else "nothing left to fit"),
            ("resumed", resumed),
            ("PSNR", psnr_line(figures)),
            ("diverged", diverged_line(store)),
            ("out", store.path),
        ]
    )
    output.record(fields=len(store), fitted=fitted, found=found, seconds=seconds, backend=backend, **figures)
    output.record(fields_per_second=fitted / seconds if fitted else None, out=store.path, diverged=num_diverged(store))


def num_diverged(store: "FieldStore") -> int:
    """Number of fields that came to nothing, as a finished fit counted them: their weights or PSNR are not finite."""
    return int(store.statistics.get("diverged") or 0)


def diverged_line(store: "FieldStore") -> str | None:
    """The same in words; None where no field diverged."""
    count = num_diverged(store)
    return f"{count:,} of {len(store):,} fields: their weights or PSNR are not finite" if count else None
