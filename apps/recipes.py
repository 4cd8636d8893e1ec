"""nf recipes: list, show and check the named ways to make a population."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, TypeAlias

from tyro.conf import Positional, arg

from apps.options import SHOWN, ImageOptions, Images, Shown
from apps.output import Output
from apps.progress import Progress

if TYPE_CHECKING:
    from fitting import FitProgress
    from neuralfields import FieldSpec

NOT_REPRODUCED = 1
DEFAULT_CHECKED = 500

RecipeName: TypeAlias = Annotated[Positional[str], arg(metavar="NAME")]


@dataclass(frozen=True, kw_only=True)
class List:
    """List the recipes. `nf recipes show NAME` has all settings of one, `nf recipes check NAME SOURCE` refits it."""

    output: Shown = SHOWN


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print all settings of one recipe, and the statistics that its published population has."""

    name: RecipeName
    """Name of a recipe."""
    output: Shown = SHOWN


@dataclass(frozen=True, kw_only=True)
class Check:
    """Refit images by a recipe and compare the weights' standard deviations with the published ones.

    Exit code 1 when some deviate by more than the recipe's tolerance.
    """

    name: RecipeName
    """Name of a recipe with published statistics."""
    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """The images that the published population was fitted to; as the SOURCE of `nf fit images`."""
    images: Images = field(default_factory=ImageOptions)
    output: Shown = SHOWN


def list_recipes(options: List, output: Output) -> None:
    """Run `nf recipes`."""
    from fitting import recipes

    rows, found = [], []
    for name in recipes.names():
        recipe = recipes.get(name)
        spec = _example_spec(name)
        checked = "yes" if recipe.published else "no"
        rows.append((name, spec.describe().split(",")[0], recipe.config.steps, recipe.config.init, checked))
        found.append({"name": name, "source": recipe.source, "steps": recipe.config.steps, "spec": spec.to_json()})
    output.table(("recipe", "field", "steps", "init", "published statistics"), rows)
    output.record(recipes=found)
    output.next(["nf", "recipes", "show", recipes.names()[0]])


def show(options: Show, output: Output) -> None:
    """Run `nf recipes show`."""
    from fitting import recipes

    recipe = recipes.get(options.name)
    spec = _example_spec(options.name)
    about = [("recipe", recipe.name), ("source", recipe.source), ("note", recipe.note or None)]
    kind = "images" if recipe.pool is None else "shapes"
    about += [("signal", recipe.signal), ("field", spec.describe()), ("w0", f"{spec.w0_first:g}")]
    about += [("pixels", f"{spec.grid}, {spec.axes}" if recipe.pool is None else None)]
    about += [] if recipe.pool is None else [(f"pool {name}", value) for name, value in vars(recipe.pool).items()]
    about += [("scale", _numbers(spec.scale)), ("offset", _numbers(spec.offset))]
    output.facts([*about, *recipe.config.to_json().items()])
    if recipe.published:
        output.say(f"  published standard deviation of every tensor (a refit must be within {recipe.tolerance:.0%}):")
        output.table(("tensor", "std"), list(recipe.published.items()))
    output.record(name=recipe.name, source=recipe.source, note=recipe.note, spec=spec.to_json())
    output.record(config=recipe.config.to_json(), published=dict(recipe.published), tolerance=recipe.tolerance)
    output.next(["nf", "fit", kind, "SOURCE", "--recipe", recipe.name, "--out", f"runs/{recipe.name}"])


def check(options: Check, output: Output) -> int:
    """Run `nf recipes check`."""
    from fitting import images, recipes

    recipes.get(options.name)
    limit = DEFAULT_CHECKED if options.images.limit is None else options.images.limit
    signals = images.load(options.source, **{**vars(options.images), "limit": limit})
    with Progress("refit", "fields", options.output.quiet) as bar:

        def update(now: "FitProgress") -> None:
            count = f"{now.fields_done:,} of {now.fields_total:,}"
            bar.update(now.steps_done, now.steps_total, count, f"{now.psnr:.1f} dB in work")

        found = recipes.check(options.name, signals, limit, update)
    rows = [(r["tensor"], f"{r['published']:.4f}", f"{r['measured']:.4f}", f"{r['ratio']:.3f}") for r in found.rows]
    output.say(f"standard deviation of the weights of {found.fields:,} fields, {found.psnr_mean:.2f} dB mean")
    output.table(("tensor", "published", "measured", "ratio"), rows)
    tolerance = recipes.get(options.name).tolerance
    verdict = "reproduced" if found.ok else "NOT reproduced"
    output.say(f"{verdict}: every ratio within {tolerance:.0%} is asked for")
    output.facts([("note", found.note or None)])
    output.record(rows=found.rows, ok=found.ok, note=found.note, fields=found.fields, psnr_mean=found.psnr_mean)
    return 0 if found.ok else NOT_REPRODUCED


def _example_spec(name: str) -> "FieldSpec":
    """The recipe's architecture for grey images, or for colour where it takes nothing else."""
    from fitting import recipes

    recipe = recipes.get(name)
    try:
        return recipe.make_spec(1)
    except ValueError:
        return recipe.make_spec(3)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
