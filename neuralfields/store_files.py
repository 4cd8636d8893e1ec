"""Files of a store: names, atomic writes, checksums and store.json. FORMAT.md is the specification."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np

FORMAT = "neuralfields-store"
VERSION = 1
STORE_JSON = "store.json"
LOCK = ".lock"
TEMPORARY = ".tmp"

_INDEX = re.compile(r"index-(\d{5,})\.parquet")
_LEFT_OVER = re.compile(r"(store\.json|shard-\d{5,}\.safetensors|index-\d{5,}\.parquet)\.tmp")
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
# Keys of store.json that must be there, with their types.
_KEYS = {"spec": dict, "meta": dict, "num_fields": int, "shard_size": int, "complete": bool}
_OPTIONAL_KEYS = {"statistics": dict, "checksums": dict}
_PARTS_OF_META = ("signal", "config")  # which readers look into


def shard_name(shard: int) -> str:
    """File name of a shard's parameters."""
    return f"shard-{shard:05d}.safetensors"


def index_name(shard: int) -> str:
    """File name of a shard's index."""
    return f"index-{shard:05d}.parquet"


def shard_positions(shard: int, num_fields: int, shard_size: int) -> slice:
    """Positions of the fields in a shard."""
    return slice(shard * shard_size, min(num_fields, (shard + 1) * shard_size))


def num_shards(num_fields: int, shard_size: int) -> int:
    """Number of shards of a complete store."""
    return -(-num_fields // shard_size)


def written_shards(path: Path) -> list[int]:
    """Numbers of the shards in a folder, ascending: those whose index and parameters are both there."""
    numbers = [int(match[1]) for p in path.iterdir() if (match := _INDEX.fullmatch(p.name))]
    return sorted(n for n in numbers if (path / shard_name(n)).exists() and (path / index_name(n)).exists())


def left_overs(path: Path) -> list[Path]:
    """Temporary files that a killed writer left in a folder; files of other programs are not among them."""
    return [p for p in path.iterdir() if _LEFT_OVER.fullmatch(p.name)]


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that exists whole or not at all: temporary name, flush to disk, rename, flush the folder.

    Raises OSError in one line when the disk is full; nothing is left behind then.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError) or error.errno not in _FULL:
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"no space for {path.name} ({len(data):,} bytes needed; {free:,} free): what was written before is kept, "
            "free some space and run the same command again",
            str(path.parent),
        ) from None
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the platform can."""
    if os.name != "posix":  # elsewhere a folder cannot be opened for flushing
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json_bytes(data: dict) -> bytes:
    """The same bytes for the same values: sorted keys, not-a-number as null."""
    return (json.dumps(plain_json(data), sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def plain_json(value):
    """A value as JSON gives it back: lists for tuples and arrays, None for what is not finite."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def wrong_part(meta: dict) -> str | None:
    """Name of the first part of a meta that readers look into and that is neither an object nor left out."""
    return next((name for name in _PARTS_OF_META if not isinstance(meta.get(name), dict | None)), None)


def read_head(path: Path) -> dict:
    """Read store.json. Raises FileNotFoundError or ValueError, one line, when this version cannot use it."""
    file = path / STORE_JSON
    if not path.exists():
        raise FileNotFoundError(f"store={str(path)!r}: no such folder")
    if not file.is_file():
        raise ValueError(f"store={str(path)!r}: not a store (it has no {STORE_JSON})")
    try:
        head = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{file} is damaged: not JSON") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        found = head.get("format") if isinstance(head, dict) else None
        raise ValueError(f"{file}: format is {found!r}, expected {FORMAT!r}")
    version = head.get("version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"{file} is damaged: version is {version!r}, expected a positive integer")
    if version > VERSION:
        raise ValueError(f"{file}: written by format {version}; this version reads up to {VERSION}: upgrade")
    for key, kind in _KEYS.items():
        if type(head.get(key)) is not kind:
            raise ValueError(f"{file} is damaged: {key} is {head.get(key)!r}, expected {kind.__name__}")
    for key, kind in _OPTIONAL_KEYS.items():
        if type(head.setdefault(key, {})) is not kind:
            raise ValueError(f"{file} is damaged: {key} is {head[key]!r}, expected {kind.__name__}")
    if (part := wrong_part(head["meta"])) is not None:
        raise ValueError(f"{file} is damaged: meta.{part} is {head['meta'][part]!r}, expected dict or null")
    if head["num_fields"] < 1 or head["shard_size"] < 1:
        raise ValueError(f"{file} is damaged: num_fields and shard_size must be positive")
    return head
