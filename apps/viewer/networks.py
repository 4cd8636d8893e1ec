"""Networks: trained networks on the fields that are looked at, loaded when first used, shared by all sessions."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from neuralfields import FieldBatch, FieldSpec, FieldStore

TASKS = ("classify", "regress", "edit", "embed", "contrast", "generate", "meta")


@dataclass(frozen=True)
class Entry:
    """A network: name, unique in the viewer; folder; task, one of TASKS; model: name of its architecture; spec: of the
    fields that it reads."""

    name: str
    folder: Path
    task: str
    model: str
    spec: "FieldSpec"

    @property
    def words(self) -> str:
        """What a person calls it."""
        return self.name if self.name == self.model else f"{self.name} ({self.model})"


class Networks:
    """The networks of some folders. Raises FileNotFoundError or ValueError, one line that names the folder, for one
    that holds no network, one that does something else, or one for other fields than those of the store."""

    def __init__(self, folders: Sequence[str], store: "FieldStore") -> None:
        self._store = store
        paths = list(dict.fromkeys(Path(folder) for folder in folders))
        ends = [path.resolve().name for path in paths]
        names = [end if ends.count(end) == 1 else str(path) for path, end in zip(paths, ends, strict=True)]
        self.entries = [entry(path, name) for path, name in zip(paths, names, strict=True)]
        self._locks = {one.name: threading.RLock() for one in self.entries}
        self._loaded: dict[str, Any] = {}
        for one in self.entries:
            self._check(one)

    def of(self, *tasks: str) -> list[Entry]:
        """Those that were trained to do one of these tasks, in the order in which they were given."""
        return [one for one in self.entries if one.task in tasks]

    @contextmanager
    def using(self, one: Entry) -> Iterator[Any]:
        """The network, for this thread alone: a Reader, Regressor, Editor, Embedding, Embedder, FieldGenerator, or
        for meta a StoredMeta. Raises ValueError in one line when its folder is damaged."""
        with self._locks[one.name]:
            if one.name not in self._loaded:
                self._loaded[one.name] = load(one, self._store)
            yield self._loaded[one.name]

    def predict(self, one: Entry, fields: "FieldBatch") -> np.ndarray:
        """What a reader says of fields: probabilities (N, K), or numbers (N,) of one that was trained to regress."""
        with self.using(one) as network:
            return np.asarray(network.predict(fields))

    def _check(self, one: Entry) -> None:
        if one.spec == self._store.spec:
            if one.task == "meta":  # of one spec there are fields that this network made, and others
                with self.using(one):
                    pass
            return
        if one.task == "generate":
            with self.using(one) as generator:
                if generator.generated_spec == self._store.spec:
                    return
        from wsnets.loop import first_difference

        difference = first_difference(one.spec.to_json(), self._store.spec.to_json())
        raise ValueError(
            f"network={str(one.folder)!r} is for fields {one.spec.describe()}: expected one for "
            f"{self._store.spec.describe()}, those of {self._store.path}; {difference}"
        )


def entry(folder: Path, name: str) -> Entry:
    """What the files of a folder say of the network in it. Raises as Networks does."""
    from neuralfields import FieldSpec
    from wsnets import checkpoint
    from wsnets.network import FILE, read_about
    from wsnets.tasks import meta_classify

    if (folder / meta_classify.FILE).is_file():
        keys = ("spec", "classes", "model")
        about = checkpoint.read_about(folder / meta_classify.FILE, meta_classify.FORMAT, meta_classify.VERSION, keys)
        return Entry(name, folder, "meta", "mwt", FieldSpec.from_json(about["spec"]))
    if not (folder / FILE).is_file():
        inside = inner(folder)
        hint = f", such as {inside}" if inside else ""
        raise FileNotFoundError(
            f"network={str(folder)!r} holds no trained network: expected a folder of nf train{hint}"
        )
    about = read_about(folder)
    if about["task"] not in TASKS:
        raise ValueError(
            f"network={str(folder)!r} was trained to {about['task']}: expected one trained to {', '.join(TASKS)}"
        )
    return Entry(name, folder, about["task"], about["model"]["name"], FieldSpec.from_json(about["spec"]))


def inner(folder: Path) -> Path | None:
    """The first folder inside that holds a network, as nf train --compare makes them; None where there is none."""
    from wsnets.network import FILE

    return next((path.parent for path in sorted(folder.glob(f"*/{FILE}"))), None) if folder.is_dir() else None


def load(one: Entry, store: "FieldStore") -> Any:
    """Open a network. Raises ValueError in one line for a damaged folder."""
    import wsnets
    from apps.predict import StoredMeta
    from wsnets.tasks.meta_classify import MetaReader

    if one.task == "meta":
        reader = MetaReader.load(one.folder)
        try:
            return StoredMeta.of(reader, store)
        except ValueError as error:
            raise ValueError(f"network={str(one.folder)!r}: {error}") from None
    kinds = {
        "classify": wsnets.Reader,
        "regress": wsnets.Regressor,
        "edit": wsnets.Editor,
        "embed": wsnets.Embedding,
        "contrast": wsnets.Embedder,
        "generate": wsnets.FieldGenerator,
    }
    return kinds[one.task].load(one.folder)
