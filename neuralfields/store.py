"""FieldStore: a population on disk, opened by metadata alone, read by memory map, checked by checksum."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from neuralfields import store_files as files
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.store_writer import StoreWriter


class Metrics:
    """Numeric columns of an index by attribute: store.metrics.psnr is a float array (N,)."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __getattr__(self, name: str) -> np.ndarray:
        kinds = {f.name: f.type for f in self._table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)}
        if name not in kinds:
            raise AttributeError(f"metrics has {', '.join(kinds)}; no {name!r}")
        return self._table[name].to_numpy()


class FieldStore:
    """A population on disk, read-only.

    len(store) counts the fields written so far; `complete` says whether all `num_planned` are. store[i], store[a:b],
    store[[3, 1]] give a FieldBatch and read only those rows. Raises ValueError, one line, for what is no store, was
    written by a newer version, or is damaged; a shard's checksum is compared when it is first read, unless verify=False.
    """

    def __init__(self, path: str | Path, verify: bool = True) -> None:
        self.path = Path(path)
        self._verify = verify
        head = files.read_head(self.path)
        self.spec = FieldSpec.from_json(head["spec"])
        self.meta: dict = head["meta"]
        self.complete: bool = head["complete"]
        self.num_planned: int = head["num_fields"]
        self.shard_size: int = head["shard_size"]
        self.statistics: dict = head.get("statistics", {})
        self._checksums: dict = head.get("checksums", {})
        self._shards: dict[int, files.Shard] = {}
        self._load_indices()

    def _load_indices(self) -> None:
        tables, self._numbers, self._facts = [], [], {}
        for shard in range(files.num_shards(self.num_planned, self.shard_size)):
            index, data = self.path / files.index_name(shard), self.path / files.shard_name(shard)
            if not index.exists() or not data.exists():
                if self.complete:
                    raise ValueError(f"{index if data.exists() else data} is missing: the store says it is complete")
                continue
            table, facts = files.read_index(index)
            size = data.stat().st_size
            if size != int(facts["shard_bytes"]):
                raise ValueError(f"{data} is truncated or altered: {size:,} bytes, expected {int(facts['shard_bytes']):,}")
            self._numbers.append(shard)
            self._facts[shard] = facts
            tables.append(table)
        empty = pa.schema(list(files.COLUMNS.items())).empty_table()
        self.index = pa.concat_tables(tables, promote_options="default") if tables else empty
        self._starts = np.cumsum([0] + [len(table) for table in tables])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"FieldStore({str(self.path)!r}, {len(self):,} of {self.num_planned:,} fields, {self.spec.describe()})"

    def column(self, name: str) -> np.ndarray:
        """One column of the index. Raises ValueError for a name the index does not have."""
        if name not in self.index.column_names:
            raise ValueError(f"column={name!r}: expected one of {', '.join(self.index.column_names)}")
        return self.index[name].to_numpy()

    @property
    def labels(self) -> np.ndarray:
        """Labels (N,) int64; -1 where a field has none."""
        return self.column("label")

    @property
    def ids(self) -> np.ndarray:
        """Field ids (N,) uint32."""
        return self.column("id")

    @cached_property
    def metrics(self) -> Metrics:
        """Numeric columns by attribute: store.metrics.psnr."""
        return Metrics(self.index)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> FieldBatch:
        if isinstance(index, int | np.integer):
            index = [range(len(self))[index]]
        positions = np.arange(len(self))[index]
        return FieldBatch(self.spec, {name: self._rows(name, positions) for name in self.spec.shapes})

    def _rows(self, name: str, positions: np.ndarray) -> Tensor:
        part_of = np.searchsorted(self._starts, positions, side="right") - 1
        found: Tensor | None = None
        for part in np.unique(part_of):
            chosen = np.flatnonzero(part_of == part)
            rows = self._shard(self._numbers[part]).rows(name, positions[chosen] - self._starts[part])
            if len(chosen) == len(positions):
                return rows
            found = rows.new_empty(len(positions), *rows.shape[1:]) if found is None else found
            found[torch.from_numpy(chosen)] = rows
        return torch.empty(0, *self.spec.shapes.get(name, ())) if found is None else found

    def _shard(self, shard: int) -> files.Shard:
        if shard not in self._shards:
            path = self.path / files.shard_name(shard)
            if self._verify and files.digest(path) != self._facts[shard]["shard_sha256"]:
                raise ValueError(f"{path} is altered: its checksum is not the one in {files.index_name(shard)}")
            self._shards[shard] = files.Shard(path)
        return self._shards[shard]

    def batches(self, size: int) -> Iterator[FieldBatch]:
        """All fields in order, `size` at a time."""
        if size < 1:
            raise ValueError(f"size={size}: expected a positive integer")
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def curves(self) -> np.ndarray | None:
        """Learning curves (N, K) float32, or None when the writer gave none."""
        shards = [self._shard(number) for number in self._numbers]
        if not shards or any("curves" not in shard.tensors for shard in shards):
            return None
        return np.concatenate([shard.tensors["curves"] for shard in shards])

    def verify(self) -> None:
        """Compare every checksum. Raises ValueError naming the first file that is damaged."""
        for shard in self._numbers:
            index = self.path / files.index_name(shard)
            if files.digest(index) != self._checksums.get(index.name, files.digest(index)):
                raise ValueError(f"{index} is altered: its checksum is not the one in {files.STORE_JSON}")
            path = self.path / files.shard_name(shard)
            if files.digest(path) != self._facts[shard]["shard_sha256"]:
                raise ValueError(f"{path} is altered: its checksum is not the one in {index.name}")


def open_store(path: str | Path, verify: bool = True) -> FieldStore:
    """Open a population; see FieldStore."""
    return FieldStore(path, verify)


def save(
    path: str | Path, fields: FieldBatch, rows: dict, meta: dict, shard_size: int = 4096, curves: Tensor | None = None
) -> FieldStore:
    """Write a population in one call. Raises ValueError when `path` already holds one."""
    if (Path(path) / files.STORE_JSON).exists():
        raise ValueError(f"path={str(path)!r} already holds a store: expected a new or empty folder")
    with StoreWriter(path, fields.spec, meta, len(fields), shard_size) as writer:
        for shard, part in writer.missing():
            own = {name: values[part] for name, values in rows.items()}
            writer.write(shard, fields[part], own, None if curves is None else curves[part])
        writer.finish({})
    return open_store(path)
