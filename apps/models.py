"""nf models: the networks that read and edit fields."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from apps.options import SHOWN, Shown
from apps.output import Output


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the networks on fields: paper, the symmetries that they respect, parameters, what they do; or one of them.

    Parameters are counted for the classification of sine fields 2-32-32-1 into ten classes.
    """

    name: Annotated[Positional[str | None], arg(metavar="NAME", help_behavior_hint="(default: all)")] = None
    """One model, with all its settings."""
    size: Literal["small", "published"] = "small"
    """Settings that are shown: for a laptop, or as published."""
    output: Shown = SHOWN


def list_models(options: Models, output: Output) -> None:
    """Run `nf models`."""
    from wsnets import models

    if options.name is not None:
        show(options.name, options.size, output)
        return
    rows = [describe(name) for name in models.names()]
    header = ("name", "reads", "edits", "parameters, small", "published", "respects")
    output.table(
        header,
        [
            (r["name"], "yes", "yes" if r["edits"] else "-", f"{r['small']:,}", f"{r['published_size']:,}", r["group"])
            for r in rows
        ],
    )
    output.say()
    output.facts([(row["name"], f"{row['paper']}. {row['published']}") for row in rows])
    output.say("respects: exactly, for any sine field; accuracies in percent are the papers' own, see the README")
    output.record(models=rows)
    output.next(["nf", "models", "scale_gmn"], ["nf", "train", "classify", "STORE", "--model", "orbit", "--out", "DIR"])


def describe(name: str) -> dict:
    """What the table says of one model."""
    from neuralfields import SIREN
    from wsnets import models

    kind, spec = models.kind(name), SIREN(2, 1)
    small, published = kind.small(), kind()
    return {
        "name": name,
        "paper": kind.paper,
        "published": kind.published,
        "group": ", ".join(small.symmetry(spec)) or "nothing",
        "small": count(small),
        "published_size": count(published),
        "edits": models.edits(name),
    }


def count(settings) -> int:
    """Parameters of a reader with these settings."""
    import torch

    from neuralfields import SIREN

    model = settings.build(SIREN(2, 1), 10, torch.Generator().manual_seed(0))
    return sum(parameter.numel() for parameter in model.parameters())


def show(name: str, size: str, output: Output) -> None:
    """One model with all its settings."""
    from wsnets import models

    kind, about = models.kind(name), describe(name)
    settings = kind.small() if size == "small" else kind()
    output.facts([("model", name), ("paper", about["paper"]), ("published", about["published"])])
    output.facts([("respects", about["group"]), ("edits", "yes" if about["edits"] else "no")])
    output.facts([("normalise", kind.normalise), ("parameters", f"{count(settings):,} ({size})")])
    values = {key: value for key, value in models.to_json(settings).items() if key != "name"}
    output.facts(list(values.items()))
    output.record(**about, settings=values)
