"""nf info on a folder that `nf train` wrote: what the network does, reads and reached."""

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
    loaders[task](folder)


def _about(folder: Path) -> tuple[dict[str, Any], "FieldSpec"]:
    """What describes the network, with all the keys that every one of its kind has, and the spec of its fields."""
    from neuralfields import FieldSpec
    from wsnets import checkpoint, network
    from wsnets.tasks import meta_classify as meta

    path = next(folder / name for name in ABOUT if (folder / name).is_file())
    about = (network if path.name == network.FILE else meta).read_about(folder)
    if "classes" in about:
        checkpoint.check_kinds(path, about, {"classes": checkpoint.TEXTS})
    with checkpoint.reading(path):
        return about, FieldSpec.from_json(about["spec"])


def _training(folder: Path) -> dict[str, Any]:
    """Figures of its training, {} where there are none. Raises ValueError where some are missing."""
    from wsnets import checkpoint

    path = folder / "training.json"
    found = checkpoint.read_figures(path)
    missing = sorted(set(FIGURES) - set(found))
    if missing and path.is_file():
        raise ValueError(f"{path} has no {', '.join(missing)}: expected the figures of a training")
    return found
