"""nf models: the networks that read and edit fields."""

import re
import textwrap
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from apps.options import SHOWN, Shown
from apps.output import Output

WIDTH = 120  # characters of the table
META = "mwt"  # learns to fit the fields that it reads, and so is none of the models that take any fields


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the networks on fields: paper, symmetries, parameters, published figures; or one of them, with its settings.

    Parameters are counted, and symmetries named, for sine fields 2-32-32-1 of ten classes.
    """

    name: Annotated[Positional[str | None], arg(metavar="[NAME]", help_behavior_hint="(default: all)")] = None
    """One model, with all its settings."""
    size: Literal["small", "published"] = "small"
    """With NAME, settings that are shown: small ones, which suit two cores, or those of the paper."""
    output: Shown = SHOWN


def list_models(options: Models, output: Output) -> None:
    """Run `nf models`."""
    from wsnets import models

    if options.name is not None:
        show(options.name, options.size, output)
        return
    rows = [*(describe(name) for name in models.everything()), describe(META)]
    for line in table(rows):
        output.say(line)
    output.say()
    output.say("  group      symmetries of sine fields that are respected exactly")
    output.say("  published  parameters of the paper's settings, --size published; the default is --size small")
    output.say("  figures    accuracies in percent unless said otherwise, as the papers give them")
    output.say("  mwt        takes images and fits their fields itself: nf train meta")
    output.record(models=rows)
    output.next(["nf", "models", "scale_gmn"], ["nf", "train", "classify", "STORE", "--model", "orbit", "--out", "DIR"])


def table(rows: list[dict]) -> list[str]:
    """Lines of at most WIDTH characters; the paper and its figures are wrapped below each other."""
    cells = [("name", "group on sine", "does", "published", "small")]
    for row in rows:
        numbers = f"{row['published_size']:,}", f"{row['small']:,}"
        cells.append((row["name"], row["group"], row["does"], *numbers))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    indent = 2 + sum(widths) + 2 * len(widths)
    lines = []
    for line, row in zip(cells, [None, *rows], strict=True):
        said = ["paper, and its figures"] if row is None else [cite(row["paper"]), row["published"]]
        said = [text for text in said if text != "none"]
        texts = [part for text in said for part in textwrap.wrap(text, WIDTH - indent)]
        padded = [
            f"{cell:<{w}}" if i < 3 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  " + "  ".join([*padded, texts[0]]))
        lines.extend(" " * indent + text for text in texts[1:])
    return lines


def cite(paper: str) -> str:
    """A citation without the title: authors, place and year."""
    return re.sub(r'"[^"]*", ', "", paper)


def describe(name: str) -> dict:
    """What the table says of one model."""
    from neuralfields import SIREN
    from wsnets import models

    kind = settings_of(name)
    small, published = kind.small(), kind()
    return {
        "name": name,
        "paper": kind.paper,
        "published": kind.published,
        "group": ("" if name == META else ", ".join(small.symmetry(SIREN(2, 1)))) or "nothing",
        "small": count(small),
        "published_size": count(published),
        "does": "fits, reads" if name == META else models.does(name),
    }


def settings_of(name: str) -> Any:
    """The settings class of a network. Raises ValueError for an unknown name."""
    from wsnets import models
    from wsnets.models.mwt import MWTConfig

    return MWTConfig if name == META else models.kind(name)


def count(settings) -> int:
    """Parameters of a network with these settings.

    Where all layers are alike, two shallow ones are made and the rest is added: some published ones fill a memory.
    """
    from wsnets import models

    deep = getattr(settings, "num_layers", 0)
    if (
        isinstance(settings, settings_of(META))
        or deep <= 3
        or models.does(models.name_of(settings)).startswith("reads")
    ):
        return made(settings)
    two, three = (made(replace(settings, num_layers=layers)) for layers in (2, 3))
    return two + (deep - 2) * (three - two)


def made(settings) -> int:
    """The same, of the network itself."""
    import torch

    from neuralfields import SIREN
    from wsnets import models

    draws = torch.Generator().manual_seed(0)
    meta = isinstance(settings, settings_of(META))
    network = settings.build(1, 10, draws) if meta else models.build(settings, SIREN(2, 1), 10, draws)
    return sum(parameter.numel() for parameter in network.parameters())


def show(name: str, size: str, output: Output) -> None:
    """One model with all its settings."""
    from wsnets import models

    kind, about = settings_of(name), describe(name)
    settings = kind.small() if size == "small" else kind()
    output.facts([("model", name), ("paper", about["paper"]), ("published", about["published"])])
    output.facts([("respects", about["group"]), ("does", about["does"])])
    output.facts([("parameters", f"{about['small']:,} small, {about['published_size']:,} published")])
    usual = training(settings)
    output.facts([("training", ", ".join(f"{key} {value}" for key, value in usual.items()))])
    values = settings.to_json() if name == META else models.to_json(settings)
    values.pop("name", None)
    output.say(f"settings with --size {size}, each changed by --option NAME=VALUE:")
    plain = {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()}
    output.facts(list(plain.items()))
    output.record(**about, settings=values, training=usual)


def training(settings) -> dict:
    """Settings of training that a model has by default, those that people change most."""
    from wsnets.config import FieldConfig
    from wsnets.tasks.meta_classify import MetaConfig

    if isinstance(settings, settings_of(META)):
        config = MetaConfig.small() if settings == settings.small() else MetaConfig()
    else:
        config = FieldConfig.tuned(settings)
    names = ("epochs", "batch", "lr", "weight_decay", "noise", "align", "normalise")
    return {name: getattr(config, name) for name in names if hasattr(config, name)}
