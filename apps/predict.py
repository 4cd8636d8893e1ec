"""nf predict: what a trained network reads from the weights of fields."""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from apps.options import SHOWN, Shown, StorePath, Threads
from apps.output import Output, duration
from apps.progress import Progress
from apps.sides import without_bad
from apps.training import limit_threads

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields import FieldBatch, FieldStore
    from wsnets import Reader, Regressor
    from wsnets.data import Subset
    from wsnets.tasks.meta_classify import MetaReader

READ_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Read the fields of STORE by their weights: their class, or the number that the network was trained on.

    Where the store has the answer, say how good the reading is.
    """

    reader: Annotated[Positional[str], arg(metavar="READER")]
    """Folder that `nf train classify`, `nf train regress` or `nf train meta` wrote."""
    store: StorePath
    """Folder of a store."""
    out: Annotated[str | None, arg(metavar="FILE.csv", help_behavior_hint="(default: none)")] = None
    """Table to write: id, name, label, predicted class and its probability; or id, name, predicted and true value."""
    skip_bad: bool = False
    """Leave out fields with NaN or infinite weights instead of refusing the store."""
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def predict(options: Predict, output: Output) -> None:
    """Run `nf predict`."""
    from neuralfields.store import open_store
    from wsnets import Reader, Regressor
    from wsnets.network import read_about
    from wsnets.tasks import meta_classify

    limit_threads(options.threads)
    whole = open_store(options.store)
    store = without_bad(whole, options.skip_bad)
    output.facts([("skipped", f"{len(whole) - len(store):,} fields" if len(store) < len(whole) else None)])
    if (Path(options.reader) / meta_classify.FILE).is_file():
        _classes(options, StoredMeta.of(meta_classify.MetaReader.load(options.reader), store), store, output)
        return
    task = read_about(Path(options.reader))["task"]
    if task == "classify":
        _classes(options, Reader.load(options.reader), store, output)
    elif task == "regress":
        _values(options, Regressor.load(options.reader), store, output)
    else:
        raise ValueError(f"{options.reader} was trained to {task}: expected one trained to classify or to regress")


@dataclass(frozen=True)
class StoredMeta:
    """A reader that was trained with its fits, for fields that it had fitted before."""

    reader: "MetaReader"

    @classmethod
    def of(cls, reader: "MetaReader", store: "FieldStore | Subset") -> "StoredMeta":
        """Raises ValueError for a store of other fields than this reader's own."""
        made_by = (store.meta.get("config") or {}).get("learned_sha256")
        if store.spec != reader.model.spec or made_by != reader.digest():
            raise ValueError(f"{store.path} holds other fields than this network makes: see nf train meta --fields")
        return cls(reader)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.reader.classes

    def predict(self, fields: "FieldBatch") -> "Tensor":
        """Probabilities (N, K)."""
        return self.reader.read(fields)


def _classes(options: Predict, reader: "Reader | StoredMeta", store: "FieldStore | Subset", output: Output) -> None:
    probabilities, seconds = _read(reader, store, options.output.quiet)
    chosen, truth = probabilities.argmax(axis=1), _true_names(reader.classes, store)
    names = np.array(reader.classes)[chosen]
    known = np.isin(truth, reader.classes)
    accuracy = float((names[known] == truth[known]).mean()) if known.any() else None
    counts = {str(name): int((chosen == k).sum()) for k, name in enumerate(reader.classes)}
    right = None if accuracy is None else f"{100 * accuracy:.2f} % of {int(known.sum()):,} fields of these classes"
    output.facts([("read", f"{len(store):,} fields in {duration(seconds)}"), ("right", right)])
    output.facts([("predicted", ", ".join(f"{name}: {count:,}" for name, count in counts.items()))])
    output.record(fields=len(store), seconds=seconds, accuracy=accuracy, predicted=counts, out=options.out)
    best = [f"{p:.6f}" for p in probabilities.max(axis=1)]
    write(options.out, store, ("label", "predicted", "probability"), (truth.tolist(), names.tolist(), best), output)


def _true_names(classes: tuple[str, ...], store: "FieldStore | Subset") -> np.ndarray:
    """The class of every field: as its store calls it, else as the reader does, else its number; "" for none."""
    from wsnets.data import stored_names

    own = stored_names(store) or classes
    labels = store.labels.tolist()
    return np.array(["" if k < 0 else own[k] if k < len(own) else str(k) for k in labels], dtype=str)


def _values(options: Predict, regressor: "Regressor", store: "FieldStore | Subset", output: Output) -> None:
    from wsnets.regressor import fit_figures

    predicted, seconds = _read(regressor, store, options.output.quiet)
    has = regressor.target in store.index.column_names
    truth = store.column(regressor.target).astype(np.float64) if has else np.full(len(store), np.nan)
    found: dict[str, float] = fit_figures(predicted, truth) if np.isfinite(truth).all() else {}
    words = ", ".join(f"{name} {value:.4f}" for name, value in found.items()) or None
    output.facts([("read", f"{len(store):,} fields in {duration(seconds)}"), (regressor.target, words)])
    output.record(fields=len(store), seconds=seconds, target=regressor.target, out=options.out, **found)
    shown = ["" if np.isnan(value) else f"{value:.6g}" for value in truth]
    columns = (shown, [f"{value:.6g}" for value in predicted])
    write(options.out, store, (regressor.target, "predicted"), columns, output)


def _read(
    network: "Reader | Regressor | StoredMeta", store: "FieldStore | Subset", quiet: bool
) -> tuple[np.ndarray, float]:
    """Predictions for all fields, and the seconds it took. Raises ValueError for a store without fields."""
    from wsnets.data import batches

    started, parts, done = time.perf_counter(), [], 0
    with Progress("read", "fields", quiet) as bar:
        for fields in batches(store, READ_AT_ONCE, skippable=True):
            parts.append(np.asarray(network.predict(fields)))
            done += len(fields)
            bar.update(done, len(store), f"{done:,} of {len(store):,}")
    if not parts:
        raise ValueError(f"{store.path} holds no fields yet")
    return np.concatenate(parts), time.perf_counter() - started


def write(
    out: str | None,
    store: "FieldStore | Subset",
    header: Sequence[str],
    columns: Sequence[Sequence[Any]],
    output: Output,
) -> None:
    """Write one line per field: id, name, and the given columns. Raises OSError when the disk is full."""
    from neuralfields.store_files import write_atomic

    if out is None:
        return
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    names = store.index.column("name").to_pylist() if "name" in store.index.column_names else [""] * len(store)
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["id", "name", *header])
    table.writerows(zip(store.ids.tolist(), names, *columns, strict=True))
    if path.is_symlink() or (path.exists() and not path.is_file()):  # /dev/stdout, a pipe: not to be replaced
        path.write_bytes(text.getvalue().encode())
    else:
        write_atomic(path, text.getvalue().encode())
    output.facts([("out", out)])
