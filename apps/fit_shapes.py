"""nf fit shapes: one field per mesh or point cloud, on disk."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from apps.fit import FitOptions, SpecOptions, diverged_line, fit_store, num_diverged
from apps.follow import Follow, FollowOptions, followed
from apps.options import SHOWN, OutPath, Shown, given
from apps.output import Output, duration
from apps.progress import Progress

if TYPE_CHECKING:
    from fitting import recipes
    from fitting.signals.shape import ShapeSignals
    from fitting.signals.shape_pool import PoolConfig
    from neuralfields import FieldStore

RECIPES = {"sdf": "siren-sdf", "occupancy": "siren-occupancy", "udf": "siren-sdf", "tsdf": "inr2vec-shapes"}
LISTED = 10  # failures and warnings printed; all of them are in the store


@dataclass(frozen=True, kw_only=True)
class FitShapes:
    """Fit one field to every shape of SOURCE and keep them in a store.

    Shapes are normalised to [-0.9, 0.9] by their largest side. Files that cannot be used are listed at the end, the
    others go on. An interrupted run goes on where it stopped when the same command is given again.
    """

    keeps_partial_work: ClassVar[bool] = True

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """A mesh (OBJ, OFF, PLY, STL, GLB, also .gz), a point cloud (XYZ, NPY, PLY), or a folder of them."""
    out: OutPath
    """Folder of the store: new, or holding the same fit, unfinished."""
    signal: Annotated[str | None, arg(metavar="{sdf,occupancy,udf,tsdf}", help_behavior_hint="(default: sdf)")] = None
    """What a field says of a point: signed distance, inside or not, distance, or signed distance as a logit."""
    recipe: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: siren-sdf or -occupancy)")] = None
    """Named settings; `nf recipes` lists them."""
    limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Read the first so many shapes."""
    truncate: float = 0.1
    """Distance at which distances are clipped, where the largest side of a shape is 1.8."""
    eikonal: float = 0.0
    """Weight of the loss (|gradient| - 1)^2 where distances are not clipped; on the torch backend."""
    normals: float = 0.0
    """Weight of the loss 1 - cos(gradient, normal) on the surface; on the torch backend."""
    cache: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="(default: the user's cache)")] = None
    """Folder of the sampled points, used again by later fits."""
    fitting: Annotated[FitOptions, OmitArgPrefixes] = field(default_factory=FitOptions)
    architecture: Annotated[SpecOptions, OmitArgPrefixes] = field(default_factory=SpecOptions)
    follow: Follow = field(default_factory=FollowOptions)
    output: Shown = SHOWN


def fit_shapes(options: FitShapes, output: Output) -> None:
    """Run `nf fit shapes`."""
    with followed(options.follow, options.out, output, options.source):
        _fit_shapes(options, output)


def _fit_shapes(options: FitShapes, output: Output) -> None:
    from fitting import recipes, shapes
    from fitting.fit import with_overrides

    recipe = recipes.get(options.recipe or RECIPES.get(options.signal or "sdf", "siren-sdf"))
    if recipe.pool is None:
        raise ValueError(f"recipe={recipe.name!r} is for images: expected one of {', '.join(shape_recipes())}")
    loss, signal = recipe.config.loss, options.signal or recipe.signal
    if loss not in shapes.LOSSES.get(signal, (loss,)):
        raise ValueError(
            f"recipe={recipe.name!r} has the loss {loss}, which is not for signal={signal!r}: expected a recipe such as"
            f" {RECIPES[signal]}"
        )
    config = with_overrides(recipe.config, given(options.fitting))
    config = replace(config, eikonal=options.eikonal, normals=options.normals)
    signals = load(options, recipe, options.output.quiet)
    spec = with_architecture(recipe, signals, options.architecture)
    for line in signals.warnings()[:LISTED]:
        output.say(f"  warning: {line}")
    output.say(f"fitting {len(signals):,} shapes, {signals.kind}: {spec.describe()}")
    store, seconds, found = fit_store(signals, spec, config, options.out, recipe.name, options.output.quiet, _rms)
    report(store, signals, seconds, found, output)
    base = options.out.rstrip("/")
    if num_diverged(store) == len(store):
        return
    output.next(
        ["nf", "render", options.out, "--beside", options.source, "--out", f"{base}.png"],
        ["nf", "mesh", options.out, "--out", f"{base}-meshes"],
    )


def load(options: FitShapes, recipe: "recipes.Recipe", quiet: bool) -> "ShapeSignals":
    """Read the shapes and draw their points, with a progress bar."""
    from fitting import shapes

    with Progress("sample", "shapes", quiet) as bar:

        def update(done: int, total: int, name: str) -> None:
            bar.update(done, total, f"{done:,} of {total:,}", name)

        return shapes.load(
            options.source,
            signal=options.signal or recipe.signal,  # type: ignore[arg-type]
            pool=pool_of(recipe.pool, options.normals),
            truncate=options.truncate,
            limit=options.limit,
            cache=options.cache,
            progress=update,
        )


def pool_of(pool: "PoolConfig | None", normals: float) -> "PoolConfig | None":
    """The recipe's pool; with points on the surface, in the place of uniform ones, where a loss needs their normals."""
    if pool is None or normals == 0 or pool.surface > 0:
        return pool
    return replace(pool, surface=pool.uniform // 2, uniform=pool.uniform - pool.uniform // 2)


def with_architecture(recipe: "recipes.Recipe", signals: "ShapeSignals", options: SpecOptions):
    """The recipe's architecture with what was given in its place; clipped distances come out of raw outputs of +-1."""
    spec = recipe.spec_for(signals)
    changes: dict = {} if options.hidden is None else {"hidden": options.hidden}
    if options.w0 is not None:
        changes |= {"w0_first": options.w0, "w0_hidden": options.w0}
    if signals.kind in ("sdf", "udf"):
        changes["scale"] = (signals.truncate,)
    return replace(spec, **changes)


def shape_recipes() -> list[str]:
    """Names of the recipes that fit shapes."""
    from fitting import recipes

    return [name for name in recipes.names() if recipes.get(name).pool is not None]


def report(store: "FieldStore", signals: "ShapeSignals", seconds: float, found: int, output: Output) -> None:
    """Say what was fitted, how fast, how well, what failed, and where it lies."""
    fitted, closed = len(store) - found, store.column("closed").astype(bool)
    chamfer = store.column("chamfer_l1")
    more = ("chamfer_l1", "f_score", "normal_consistency")
    figures: dict[str, object] = {
        f"{name}_mean": _mean(store.column(name)) for name in more if name in store.index.column_names
    }
    mean = _mean(chamfer)
    quality = f"{mean:.4f} mean, {50 * mean:.2f} % of the box's side" if np.isfinite(mean) else "no surface"
    lines: list[tuple[str, object]] = [("Chamfer-L1", quality)]
    if "iou" in store.index.column_names:
        iou = store.column("iou")
        figures |= {"iou_mean": _mean(iou[closed]), "iou_mean_all": _mean(iou), "iou_min": float(iou.min())}
        opened = f"; {_mean(iou[~closed]):.4f} of {int((~closed).sum())} others" if not closed.all() else ""
        lines.insert(0, ("IoU", f"{_mean(iou[closed]):.4f} mean of {int(closed.sum()):,} closed meshes{opened}"))
    backend = store.meta["config"]["backend"]
    took = f"{fitted:,} fitted in {duration(seconds)} ({backend} backend)" if fitted else "nothing left to fit"
    resumed = f"{found:,} of {len(store):,} were there already" if found else None
    output.facts([("fields", took), ("resumed", resumed), *lines])
    output.facts([("diverged", diverged_line(store)), ("out", store.path)])
    for name, reason in signals.failures[:LISTED]:
        output.say(f"  failed: {name}: {reason}")
    if len(signals.failures) > LISTED:
        output.say(f"  failed: and {len(signals.failures) - LISTED:,} more, all in {store.path}/store.json")
    output.record(fields=len(store), fitted=fitted, found=found, seconds=seconds, backend=backend, **figures)
    output.record(closed=int(closed.sum()), out=store.path, warnings=signals.warnings(), diverged=num_diverged(store))
    output.record(failures=[{"name": name, "reason": reason} for name, reason in signals.failures])


def _rms(psnr: float) -> str:
    """The error of the fields in work as a root mean square, from its PSNR in dB."""
    return f"rms error {10 ** (-psnr / 20):.4f} in work"


def _mean(values: np.ndarray) -> float:
    """Mean of the finite entries, NaN where there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean(dtype=np.float64)) if finite.size else float("nan")
