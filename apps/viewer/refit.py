"""The command that fits the population of a store again."""

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.collection import Part

if TYPE_CHECKING:
    from fitting.config import FitConfig
    from fitting.recipes import Recipe
    from neuralfields import FieldSpec

KINDS = {"pictures": "images", "shapes": "shapes", "scenes": "views"}
SCENES = ("steps", "lr", "seed", "rays", "samples", "init", "batch")
ALWAYS = ("steps", "lr", "seed")  # said even where they are the recipe's
OTHERS = ("schedule", "warmup", "weight_decay", "batch", "init", "target_psnr")
FREE = ("backend", "precision", "curve_every", "threads", "shard")  # found again by the machine, or no matter
SURFACE = ("eikonal", "normals")


def refit(part: Part) -> str | None:
    """The command that fits a whole population again; None where a store does not say how: its recipe or its source is
    not known, or it was read or fitted in a way, or is of a network, that no option of the command gives."""
    signal, name = part.meta.get("signal") or {}, part.meta.get("recipe")
    if not signal.get("source") or not name or not planned_fields(part):
        return None
    kind = KINDS[part.kind]
    options = scene_options(part, str(name)) if kind == "views" else recipe_options(part, str(name))
    if options is None:
        return None
    split = ["--split", str(signal["split"])] if signal.get("split") else []
    return shlex.join(["nf", "fit", kind, str(signal["source"]), *split, *options, "--out", "runs/again"])


def recipe_options(part: Part, name: str) -> list[str] | None:
    """Options of `nf fit images` or `shapes` that say what was fitted, and to what; None where they cannot say it."""
    from fitting import recipes
    from fitting.config import FitConfig

    try:
        recipe, config = recipes.get(name), FitConfig.from_json(part.meta.get("config") or {})
        read = shape_options(part, recipe, config) if part.kind == "shapes" else image_options(part, recipe)
        network = None if read is None else network_options(part, recipe)
    except (ValueError, TypeError):  # written by another version, or by hand
        return None
    how = fit_options(part.spec, recipe.config, config)
    return None if read is None or network is None or how is None else ["--recipe", name, *network, *read, *how]


def network_options(part: Part, recipe: "Recipe") -> list[str] | None:
    """How a network differs from the recipe's; None where no option says it. Raises ValueError where the recipe is for
    other channels."""
    spec, own, signal = part.spec, recipe.make_spec(part.spec.out_dim), part.meta["signal"]
    if signal.get("kind") in ("sdf", "udf"):
        own = replace(own, scale=(signal["truncate"],))
    words, w0 = ["--hidden", *map(str, spec.hidden)], {}
    if (spec.w0_first, spec.w0_hidden) != (own.w0_first, own.w0_hidden):
        words, w0 = [*words, "--w0", str(spec.w0_first)], {"w0_first": spec.w0_first, "w0_hidden": spec.w0_first}
    return words if replace(own, hidden=spec.hidden, **w0) == spec else None


def image_options(part: Part, recipe: "Recipe") -> list[str] | None:
    """How many images were read, and how often each was fitted; None where they were not the first of their source."""
    from fitting.signals.image import ID_OFFSETS

    signal, planned = part.meta["signal"], planned_fields(part)
    images, fits = np.unique(part.columns.get("group", part.columns["id"]), return_counts=True)
    if recipe.pool is not None or signal.get("kind") != "image" or fits.min() < fits.max():
        return None
    if "group" in part.columns and len(part) < planned:  # some fits of an image may be missing yet
        return None
    count = planned // int(fits[0])
    if int(images.max()) - ID_OFFSETS.get(signal.get("split"), 0) >= count:
        return None
    return ["--limit", str(count), *(["--fits", str(fits[0])] if fits[0] > 1 else [])]


def shape_options(part: Part, recipe: "Recipe", config: "FitConfig") -> list[str] | None:
    """How many shapes were read, and what of them was fitted; None where they were not the first of their source."""
    from apps.fit_shapes import FitShapes, pool_of
    from fitting import shapes

    signal, kind = part.meta["signal"], part.meta["signal"].get("kind")
    pool = pool_of(recipe.pool, config.normals)
    count = planned_fields(part) + len(signal.get("failures") or ())  # files that could not be used were read, too
    if pool is None or signal.get("pool") != pool.to_json() or int(part.columns["id"].max()) >= count:
        return None
    if recipe.config.loss not in shapes.LOSSES.get(kind, ()):
        return None
    words = ["--limit", str(count)]
    if kind != recipe.signal:
        words += ["--signal", kind]
    if signal["truncate"] != FitShapes.truncate:
        words += ["--truncate", str(signal["truncate"])]
    for name in SURFACE:
        if getattr(config, name):
            words += [f"--{name}", str(getattr(config, name))]
    return words


def fit_options(spec: "FieldSpec", own: "FitConfig", config: "FitConfig") -> list[str] | None:
    """How a config differs from the recipe's own; None where no option says it."""
    from fitting.kernels import halves_tiles

    again = replace(own, **{name: getattr(config, name) for name in (*ALWAYS, *OTHERS, *FREE, *SURFACE)})
    if again != config:
        return None
    told = [*ALWAYS, *(name for name in OTHERS if getattr(own, name) != getattr(config, name))]
    found = halves_tiles.precision(spec, replace(config, precision="auto")) if config.backend == "triton" else "auto"
    if config.precision not in ("auto", found):
        told.append("precision")
    return [word for name in told for word in (f"--{name.replace('_', '-')}", str(getattr(config, name)))]


def planned_fields(part: Part) -> int:
    """Number of fields of a store once it is complete; 0 of fields that were made while looking."""
    return getattr(part.fields, "num_planned", 0)


def scene_options(part: Part, model: str) -> list[str] | None:
    """Options of `nf fit views` that say what was fitted, and to which pictures; None where they cannot say it."""
    from apps.fit_views import COLOURS, MODELS, model_spec
    from fitting.signals.view_pictures import BACKGROUNDS

    signal = part.meta["signal"]
    grounds = {tuple(scene["background"]) for scene in signal.get("scenes") or ()}
    behind = [word for word in COLOURS if {BACKGROUNDS[word]} == grounds]
    if model not in MODELS or part.spec != model_spec(model) or not signal.get("reading") or not behind:
        return None
    reading = [word for name, value in signal["reading"].items() for word in (f"--{name}", f"{value:g}")]
    config = part.meta.get("config") or {}
    fitted = [word for name in SCENES if name in config for word in (f"--{name}", str(config[name]))]
    return ["--model", model, *reading, "--background", behind[0], *fitted]
