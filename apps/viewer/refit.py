"""The command that fits the population of a store again."""

import shlex

from apps.viewer.collection import Part

KINDS = {"pictures": "images", "shapes": "shapes", "scenes": "views"}
_COMMON = ("steps", "lr", "seed")  # a recipe may have been followed with others than its own
SET = {"images": _COMMON, "shapes": _COMMON, "views": (*_COMMON, "rays", "samples", "init", "batch")}


def refit(part: Part) -> str | None:
    """The command that fits a whole population again; None where a store does not say how: its recipe or its source is
    not known, or its scenes were read in a way, or are of a network, that no option of the command gives."""
    signal, config, name = part.meta.get("signal") or {}, part.meta.get("config") or {}, part.meta.get("recipe")
    if not signal.get("source") or not name:
        return None
    kind = KINDS[part.kind]
    words = ["nf", "fit", kind, str(signal["source"])]
    if signal.get("split"):
        words += ["--split", str(signal["split"])]
    if kind == "views":
        about = scene_options(part, str(name))
        if about is None:
            return None
        words += about
    else:
        words += ["--recipe", str(name), "--hidden", *map(str, part.spec.hidden)]
    for option in SET[kind]:
        if option in config:
            words += [f"--{option}", str(config[option])]
    return shlex.join([*words, "--out", "runs/again"])


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
    return ["--model", model, *reading, "--background", behind[0]]
