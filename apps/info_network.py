"""nf info on a folder that `nf train` wrote: what the network does, reads and reached."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.output import Output, duration
from apps.training import validation_words

if TYPE_CHECKING:
    from neuralfields import FieldSpec

META = "meta"
FIGURES = ("best_epoch", "epochs", "parameters", "seconds")
ABOUT = ("network.json", "meta.json")  # of networks on fields, and of MWT, which fits its own


def is_network(folder: str) -> bool:
    """Whether the folder holds a trained network."""
    return any((Path(folder) / name).is_file() for name in ABOUT)


def network(folder: str, check: bool, output: Output) -> None:
    """Print and record what the files of the folder say; load the network too where `check`.

    Raises ValueError for damaged ones.
    """
    (about, spec), training = _about(Path(folder)), _training(Path(folder))
    task, model = about.get("task", META), about["model"]
    if check:
        load(folder, task)
    settings = {key: value for key, value in model.items() if key != "name"}
    words = ", ".join(f"{key} {value}" for key, value in settings.items())
    classes = about.get("classes")
    output.facts([("network", folder), ("trained to", "fit and classify" if task == META else task)])
    output.facts([("check", "all files can be read" if check else None)])
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


def load(folder: str, task: str) -> None:
    """Load a network of any task. Raises FileNotFoundError or ValueError where a file of it is damaged or missing."""
    import wsnets
    from wsnets.tasks.meta_classify import MetaReader

    kinds = (wsnets.Reader, wsnets.Regressor, wsnets.Editor, wsnets.Embedding, wsnets.Embedder, wsnets.FieldGenerator)
    loaders = {META: MetaReader.load, **{kind.task: kind.load for kind in (*kinds, wsnets.DeepAligner)}}
    if task not in loaders:
        raise ValueError(f"{folder} was trained to {task}: expected one trained to {', '.join(loaders)}")
    try:
        loaders[task](folder)
    except KeyError as error:
        raise ValueError(f"{folder}: its description has no {error}: expected all that training wrote") from None


def _about(folder: Path) -> tuple[dict[str, Any], "FieldSpec"]:
    """What describes the network, with all the keys that every one of its kind has, and the spec of its fields."""
    from neuralfields import FieldSpec
    from wsnets import checkpoint, network
    from wsnets.tasks import meta_classify as meta

    path = next(folder / name for name in ABOUT if (folder / name).is_file())
    if path.name == network.FILE:
        about = network.read_about(folder)
    else:
        about = checkpoint.read_about(path, meta.FORMAT, meta.VERSION, ("spec", "classes", "model"))
    if not isinstance(about["model"], dict):
        raise ValueError(f"{path}: model={about['model']!r}: expected an object that holds its settings")
    try:
        return about, FieldSpec.from_json(about["spec"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: spec={about['spec']!r}: expected that of a field; {error}") from None


def _training(folder: Path) -> dict[str, Any]:
    """Figures of its training, {} where there are none. Raises ValueError where some are missing."""
    path = folder / "training.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    missing = sorted(set(FIGURES) - set(found if isinstance(found, dict) else ()))
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: expected the figures of a training")
    return found
