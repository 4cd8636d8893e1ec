"""Files of a store: names, atomic writes, checksums and rows of a shard by memory map. FORMAT.md is the specification."""

import errno
import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

FORMAT = "neuralfields-store"
VERSION = 1
STORE_JSON = "store.json"
LOCK = ".lock"
TEMPORARY = ".tmp"

# Columns every index has, with their types.
COLUMNS = {
    "id": pa.uint32(),
    "label": pa.int64(),
    "split": pa.string(),
    "name": pa.string(),
    "init_id": pa.string(),
    "steps": pa.int32(),
    "psnr": pa.float32(),
}
_DEFAULTS = {"label": -1, "split": "", "name": "", "init_id": "", "steps": -1, "psnr": math.nan}
_DTYPES = {"F32": np.float32, "F64": np.float64, "BF16": np.uint16}


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
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"no space for {path.name} ({len(data):,} bytes; {free:,} free): what was written before is kept, "
            "free some space and run the same command again",
            str(path.parent),
        ) from None
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
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
    """A value as JSON gives it back: lists for tuples, None for what is not finite."""
    if isinstance(value, dict):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_head(path: Path) -> dict:
    """Read store.json. Raises FileNotFoundError or ValueError, one line, when this version cannot use it."""
    if not path.exists():
        raise FileNotFoundError(f"store={str(path)!r}: no such folder")
    if not (path / STORE_JSON).is_file():
        raise ValueError(f"store={str(path)!r}: not a store (it has no {STORE_JSON})")
    try:
        head = json.loads((path / STORE_JSON).read_bytes())
        name, version = head["format"], head["version"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path / STORE_JSON} is damaged: not the JSON of a store") from None
    if name != FORMAT:
        raise ValueError(f"store={str(path)!r}: format {name!r}, expected {FORMAT!r}")
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(f"store={str(path)!r} has format version {version}; this version reads up to {VERSION}: upgrade")
    missing = {"spec", "meta", "num_fields", "shard_size", "complete"} - set(head)
    if missing:
        raise ValueError(f"{path / STORE_JSON} is damaged: {', '.join(sorted(missing))} missing")
    return head


def index_table(rows: dict, count: int, start: int) -> pa.Table:
    """Rows of one shard as a table: the fixed columns first (defaults where not given), then the caller's own."""
    unknown_lengths = {name: len(values) for name, values in rows.items() if len(values) != count}
    if unknown_lengths:
        raise ValueError(f"rows have lengths {unknown_lengths}: expected {count}, one per field")
    columns = {}
    for name, kind in COLUMNS.items():
        values = rows.get(name)
        if values is None:
            values = range(start, start + count) if name == "id" else [_DEFAULTS[name]] * count
        plain = [_DEFAULTS.get(name) if v is None else v for v in _plain(values)]
        columns[name] = pa.array(plain, kind)
    for name, values in rows.items():
        if name not in COLUMNS:
            columns[name] = pa.array(_plain(values))
    return pa.table(columns)


def _plain(values) -> list:
    return values.tolist() if isinstance(values, np.ndarray | Tensor) else list(values)


def table_bytes(table: pa.Table, facts: dict[str, str]) -> bytes:
    """Parquet bytes of an index, with facts about its shard in the file's key-value metadata."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(facts), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_index(path: Path) -> tuple[pa.Table, dict[str, str]]:
    """Read an index and the facts about its shard. Raises ValueError when it is damaged."""
    try:
        table = pq.read_table(path)
        facts = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        facts = {"shard_bytes": facts["shard_bytes"], "shard_sha256": facts["shard_sha256"]}
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    return table.replace_schema_metadata(None), facts


class Shard:
    """Memory-mapped tensors of one shard file: reading rows touches only those rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
            data = np.memmap(path, np.uint8, "r")
            self.tensors = {
                name: self._view(data[8 + size :], entry) for name, entry in header.items() if name != "__metadata__"
            }
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    @staticmethod
    def _view(data: np.ndarray, entry: dict) -> np.ndarray:
        begin, end = entry["data_offsets"]
        return data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def rows(self, name: str, rows: slice | np.ndarray) -> Tensor:
        """Rows of one tensor as float32 (float64 when stored so), a copy."""
        values = np.array(self.tensors[name][rows])
        if values.dtype == np.uint16:
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16).float()
        return torch.from_numpy(values)
