"""Checkpoints: tensors and JSON in one file that exists whole or not at all; no pickle."""

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from neuralfields.store_files import write_atomic


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
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    missing = sorted({"format", "version", *keys} - set(about if isinstance(about, dict) else ()))
    if missing or about["format"] != form:
        raise ValueError(f"{path} is not a network of this kind: keys missing {missing}, format expected {form!r}")
    if about["version"] > version:
        raise ValueError(f"{path} is of format version {about['version']}, this program reads up to {version}: upgrade")
    return about


def pick(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with "prefix.", without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `pick`: every name with "prefix." before it."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
