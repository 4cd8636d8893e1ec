"""The index of a shard: one row a field in a Parquet file, with the shard's size and checksum in its metadata."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

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
_FACTS = ("shard_bytes", "shard_sha256")


def index_table(rows: dict, count: int, start: int) -> pa.Table:
    """Rows of one shard as a table: the fixed columns first (defaults where not given), then the caller's own.

    rows: name -> `count` values; id counts from `start` where not given. Raises ValueError for another number of
    values or for values that a column cannot hold.
    """
    wrong_lengths = {name: len(values) for name, values in rows.items() if len(values) != count}
    if wrong_lengths:
        raise ValueError(f"rows have lengths {wrong_lengths}: expected {count}, one per field")
    columns = {}
    for name, kind in COLUMNS.items():
        values = rows.get(name)
        if values is None:
            values = range(start, start + count) if name == "id" else [_DEFAULTS[name]] * count
        columns[name] = _column(name, [_DEFAULTS.get(name) if v is None else v for v in _plain(values)], kind)
    for name, values in rows.items():
        if name not in COLUMNS:
            columns[name] = _column(name, _plain(values), None)
    return pa.table(columns)


def empty_index() -> pa.Table:
    """The index of a store that holds no field yet."""
    return pa.schema(list(COLUMNS.items())).empty_table()


def table_bytes(table: pa.Table, facts: dict[str, str]) -> bytes:
    """Parquet bytes of an index, with facts about its shard in the file's key-value metadata."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(facts), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_index(path: Path, count: int) -> tuple[pa.Table, int, str]:
    """Read an index of `count` rows: the table, its shard's size in bytes and its sha256.

    Raises ValueError when it is damaged.
    """
    try:
        table = pq.read_table(path, partitioning=None)  # pyright: ignore[reportArgumentType]
        metadata = table.schema.metadata or {}
        size, checksum = (metadata[name.encode()].decode() for name in _FACTS)
        facts = int(size), checksum
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged: {str(error).strip().splitlines()[0]}") from None
    except KeyError as error:
        raise ValueError(f"{path} is damaged: its metadata has no {error}") from None
    if len(table) != count:
        raise ValueError(f"{path} is damaged: it has {len(table):,} rows, expected {count:,}")
    for name, kind in COLUMNS.items():
        found = table.schema.field(name).type if name in table.column_names else None
        if found != kind:
            raise ValueError(f"{path} is damaged: column {name} is {found or 'missing'}, expected {kind}")
        if table[name].null_count:
            raise ValueError(f"{path} is damaged: column {name} has nulls, expected {_DEFAULTS.get(name, 'an id')!r}")
    return table.replace_schema_metadata(None), *facts


def _plain(values) -> list:
    return values.tolist() if isinstance(values, np.ndarray | Tensor) else list(values)


def _column(name: str, values: list, kind: pa.DataType | None) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"rows[{name!r}]: {reason}; expected {kind or 'values of one type'}") from None
