"""Checkpoints: tensors and JSON in one file that exists whole or not at all; no pickle."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from neuralfields.store_files import write_atomic

# What a value of a description is, in the words of the message that refuses another one.
OBJECT, TEXT, TEXTS, TEXTS_OR_NULL = "an object", "a string", "a list of strings", "a list of strings or null"
COUNT, COUNTS, NUMBER, TRUTH = "a whole number", "a list of whole numbers", "a number", "true or false"
_IS: dict[str, Callable[[Any], bool]] = {
    OBJECT: lambda value: isinstance(value, dict),
    TEXT: lambda value: isinstance(value, str),
    TEXTS: lambda value: isinstance(value, list) and all(isinstance(part, str) for part in value),
    TEXTS_OR_NULL: lambda value: value is None or _IS[TEXTS](value),
    COUNT: lambda value: isinstance(value, int) and not isinstance(value, bool),
    COUNTS: lambda value: isinstance(value, list) and all(map(_IS[COUNT], value)),
    NUMBER: lambda value: isinstance(value, float) or _IS[COUNT](value),
    TRUTH: lambda value: isinstance(value, bool),
}


def write(path: Path, tensors: dict[str, Tensor], data: dict) -> None:
    """Write named tensors and JSON data to a temporary name, flush to disk, then rename over `path`."""
    contents = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomic(path, save(contents, metadata={"json": json.dumps(data, allow_nan=False)}))


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `write` wrote. Raises ValueError for a damaged file, FileNotFoundError for none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    try:
        with safe_open(path, framework="pt") as file:
            data = json.loads((file.metadata() or {})["json"])
            return {name: file.get_tensor(name) for name in file.keys()}, data  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or not a file of this program: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write text atomically: temporary name, flush, rename."""
    write_atomic(path, text.encode())


def read_about(path: Path, form: str, version: int, keys: Iterable[str]) -> dict:
    """The JSON object of a trained network, of a format and at most a version, with at least these keys.

    Raises FileNotFoundError where there is none, ValueError for a damaged, foreign or newer one; each in one line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no finished network: {path.name} is not there")
    about = _json(path)
    missing = sorted({"format", "version", *keys} - set(about if isinstance(about, dict) else ()))
    if missing or about["format"] != form:
        raise ValueError(f"{path} is not a network of this kind: keys missing {missing}, format expected {form!r}")
    check_kinds(path, about, {"version": COUNT})
    if about["version"] > version:
        raise ValueError(f"{path} is of format version {about['version']}, this program reads up to {version}: upgrade")
    return about


def read_figures(path: Path) -> dict:
    """The figures of a training, a JSON object, {} where there are none. Raises ValueError for a damaged file."""
    if not path.is_file():
        return {}
    found = _json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: expected {OBJECT}")
    return found


def check_kinds(path: Path, about: dict, kinds: Mapping[str, str]) -> None:
    """Raise ValueError naming the first key that a description lacks, or whose value is of another kind than said."""
    for name, kind in kinds.items():
        if name not in about:
            raise ValueError(f"{path} has no {name}: expected all that training wrote")
        if not _IS[kind](about[name]):
            raise ValueError(f"{path}: {name}={about[name]!r}: expected {kind}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in one line, as ValueError, which file it was that something of another form was read from."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path} has no {error}: expected all that training wrote") from error
    except (TypeError, AttributeError, IndexError, RuntimeError) as error:
        words = next(iter(str(error).splitlines()), type(error).__name__)  # torch says more, and where
        raise ValueError(f"{path} is damaged: {words}; expected what training wrote") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def pick(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with "prefix.", without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `pick`: every name with "prefix." before it."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _json(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError naming it where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
