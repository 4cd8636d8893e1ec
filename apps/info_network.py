"""nf info on a folder that `nf train` wrote: what the network does, reads and reached."""

import json
from pathlib import Path
from typing import Any

from apps.output import Output, duration
from apps.training import validation_words

ABOUT = ("network.json", "meta.json")  # of networks on fields, and of MWT, which fits its own


def is_network(folder: str) -> bool:
    """Whether the folder holds a trained network."""
    return any((Path(folder) / name).is_file() for name in ABOUT)


def network(folder: str, output: Output) -> None:
    """Print and record what the files of the folder say. Raises ValueError for damaged ones."""
    from neuralfields import FieldSpec

    about, training = _read(Path(folder), ABOUT), _read(Path(folder), ("training.json",))
    task, model = about.get("task", "meta"), about["model"]
    spec = FieldSpec.from_json(about["spec"])
    settings = {key: value for key, value in model.items() if key != "name"}
    words = ", ".join(f"{key} {value}" for key, value in settings.items())
    classes = about.get("classes")
    output.facts([("network", folder), ("trained to", "fit and classify" if task == "meta" else task)])
    output.facts([("model", model.get("name", "mwt")), ("settings", words), ("reads", spec.describe())])
    output.facts([("classes", ", ".join(classes) if classes else None), ("normalised", about.get("normalise"))])
    if training:
        size = training.get("train_fields", training.get("train_images", 0))
        took = f"{training['epochs']} epochs in {duration(training['seconds'])}, {size:,} to train on"
        output.facts([("parameters", f"{training['parameters']:,}"), ("training", took)])
        output.facts(
            [("validation", f"{validation_words(training) or 'none'}, epoch {training['best_epoch']} was kept")]
        )
    figures = {name: value for name, value in training.items() if name not in ("history", "times", "config")}
    output.record(network=folder, task=task, model=model, spec=about["spec"], training=figures)


def _read(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """The first of the files that is there, {} for none."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
