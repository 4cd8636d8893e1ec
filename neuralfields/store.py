"""FieldStore: a population on disk, opened by metadata alone, read by memory map, checked by checksum."""

from collections.abc import Iterator, Sequence
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from neuralfields import store_files as files
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.store_index import empty_index, read_index
from neuralfields.store_shard import CURVES, Shard
from neuralfields.store_writer import StoreWriter


class Metrics:
    """Numeric columns of an index by attribute: store.metrics.psnr is a float array (N,)."""

    def __init__(self, table: pa.Table) -> None:
        numeric = [f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
        self._columns = {name: table[name] for name in numeric}

    def __getattr__(self, name: str) -> np.ndarray:
        columns = self.__dict__.get("_columns", {})  # empty while a copy is being made
        if name not in columns:
            raise AttributeError(f"metrics has no {name!r}: expected one of {', '.join(columns)}")
        return columns[name].to_numpy()


class FieldStore:
    """A population on disk, read-only.

    len(store) counts the fields written so far; `complete` says whether all `num_planned` are. store[i], store[a:b],
    store[[3, 1]] give a FieldBatch and read only those rows. Raises ValueError, one line, for what is no store, was
    written by a newer version, or is damaged; a shard's checksum is compared when it is first read (not when
    verify=False).
    """

    def __init__(self, path: str | Path, verify: bool = True) -> None:
        self.path = Path(path)
        self._verify = verify
        head = files.read_head(self.path)
        self.spec = _spec(self.path / files.STORE_JSON, head["spec"])
        self.meta: dict = head["meta"]
        self.complete: bool = head["complete"]
        self.num_planned: int = head["num_fields"]
        self.shard_size: int = head["shard_size"]
        self.statistics: dict = head["statistics"]
        self._checksums: dict = head["checksums"]
        self._shards: dict[int, Shard] = {}
        self._load_indices()

    def _load_indices(self) -> None:
        wanted = files.num_shards(self.num_planned, self.shard_size)
        self._numbers = [number for number in files.written_shards(self.path) if number < wanted]
        if self.complete and len(self._numbers) < wanted:
            written = set(self._numbers)
            gone = next(number for number in range(wanted) if number not in written)
            raise ValueError(f"{self.path} is damaged: shard {gone} or its index is missing, yet the store is complete")
        tables, self._sha256 = [], {}
        for shard in self._numbers:
            index, data = self.path / files.index_name(shard), self.path / files.shard_name(shard)
            positions = files.shard_positions(shard, self.num_planned, self.shard_size)
            if self._verify and self.complete:
                self._check_index(index)
            table, expected, self._sha256[shard] = read_index(index, positions.stop - positions.start)
            size = data.stat().st_size
            if size != expected:
                raise ValueError(f"{data} is truncated or altered: {size:,} bytes, expected {expected:,}")
            tables.append(table)
        try:
            self.index = pa.concat_tables(tables, promote_options="permissive") if tables else empty_index()
        except pa.ArrowException as error:
            raise ValueError(f"{self.path}: its indices do not fit together: {str(error).splitlines()[0]}") from None
        self._starts = np.cumsum([0] + [len(table) for table in tables])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"FieldStore({str(self.path)!r}, {len(self):,} of {self.num_planned:,} fields, {self.spec.describe()})"

    def __reduce__(self) -> tuple:
        return FieldStore, (self.path, self._verify)  # another process maps the files itself

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

    @property
    def groups(self) -> np.ndarray:
        """What a split keeps together, (N,) uint32: the column "group" where the index has it, else the ids."""
        return self.column("group" if "group" in self.index.column_names else "id")

    @cached_property
    def metrics(self) -> Metrics:
        """Numeric columns by attribute: store.metrics.psnr."""
        return Metrics(self.index)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray | Tensor) -> FieldBatch:
        positions = _positions(index, len(self))
        return FieldBatch(self.spec, {name: self._rows(name, positions) for name in self.spec.shapes})

    def _rows(self, name: str, positions: np.ndarray) -> Tensor:
        part_of = np.searchsorted(self._starts, positions, side="right") - 1
        found: list[tuple[np.ndarray, Tensor]] = []
        for part in np.unique(part_of):
            chosen = np.flatnonzero(part_of == part)
            rows = positions[chosen] - self._starts[part]
            found.append((chosen, self._shard(self._numbers[part]).rows(name, _as_slice(rows))))
        if len(found) == 1:
            return found[0][1]
        dtype = reduce(torch.promote_types, (rows.dtype for _, rows in found), torch.float32)
        together = torch.empty(len(positions), *self.spec.shapes[name], dtype=dtype)
        for chosen, rows in found:
            together[torch.from_numpy(chosen)] = rows.to(dtype)
        return together

    def _shard(self, shard: int) -> Shard:
        if shard not in self._shards:
            if self._verify:
                self._check_shard(shard)
            positions = files.shard_positions(shard, self.num_planned, self.shard_size)
            path = self.path / files.shard_name(shard)
            self._shards[shard] = Shard(path, self.spec.shapes, positions.stop - positions.start)
        return self._shards[shard]

    def _check_shard(self, shard: int) -> None:
        path = self.path / files.shard_name(shard)
        if files.digest(path) != self._sha256[shard]:
            raise ValueError(f"{path} is altered: its checksum is not the one in {files.index_name(shard)}")

    def _check_index(self, path: Path) -> None:
        if files.digest(path) != self._checksums.get(path.name):
            raise ValueError(f"{path} is altered: its checksum is not the one in {files.STORE_JSON}")

    def batches(self, size: int) -> Iterator[FieldBatch]:
        """All fields in order, `size` at a time. Raises ValueError for a size below 1."""
        if size < 1:
            raise ValueError(f"size={size}: expected a positive integer")
        return (self[start : start + size] for start in range(0, len(self), size))

    def curves(self) -> np.ndarray | None:
        """Learning curves (N, K) float32, or None when the writer gave none."""
        found = [self._shard(number).tensors.get(CURVES) for number in self._numbers]
        curves = [part for part in found if part is not None]
        if not curves or len(curves) < len(found):
            return None
        if len({part.shape[1] for part in curves}) > 1:
            raise ValueError(f"{self.path}: the shards have learning curves of different lengths")
        return np.concatenate(curves)

    def curve(self, position: int) -> np.ndarray | None:
        """Learning curve (K,) float32 of one field, or None when the writer gave none; reads no other."""
        (at,) = _positions(position, len(self))
        part = int(np.searchsorted(self._starts, at, side="right")) - 1
        curves = self._shard(self._numbers[part]).tensors.get(CURVES)
        return None if curves is None else np.array(curves[at - self._starts[part]])

    def verify(self) -> None:
        """Compare every checksum. Raises ValueError naming the first file that is damaged."""
        for shard in self._numbers:
            if self.complete:  # until then nothing vouches for an index
                self._check_index(self.path / files.index_name(shard))
            self._check_shard(shard)


def open_store(path: str | Path, verify: bool = True) -> FieldStore:
    """Open a population; see FieldStore."""
    return FieldStore(path, verify)


def save(
    path: str | Path, fields: FieldBatch, rows: dict, meta: dict, shard_size: int = 4096, curves: Tensor | None = None
) -> FieldStore:
    """Write a population in one call.

    rows: columns of the index, name -> one value a field. What a killed call left is written anew by the next one.
    Raises ValueError when `path` already holds a complete store, or an incomplete one of another description.
    """
    wrong_lengths = {name: len(values) for name, values in rows.items() if len(values) != len(fields)}
    if wrong_lengths:
        raise ValueError(f"rows have lengths {wrong_lengths}: expected {len(fields)}, one per field")
    with StoreWriter(path, fields.spec, meta, len(fields), shard_size) as writer:
        if writer.complete:
            raise ValueError(f"path={str(path)!r} already holds a store: expected a new or empty folder")
        for shard in range(files.num_shards(len(fields), shard_size)):
            part = files.shard_positions(shard, len(fields), shard_size)
            own = {name: values[part] for name, values in rows.items()}
            writer.write(shard, fields[part], own, None if curves is None else curves[part])
        writer.finish({})
    return open_store(path)


def _spec(path: Path, data: dict) -> FieldSpec:
    try:
        return FieldSpec.from_json(data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: its spec is not one: {error}") from None


def _positions(index: int | slice | Sequence[int] | np.ndarray | Tensor, count: int) -> np.ndarray:
    """An index as positions 0 to count - 1; negative numbers count from the end."""
    if isinstance(index, slice):
        return np.arange(*index.indices(count))
    positions = np.atleast_1d(np.asarray(index))
    if positions.dtype == bool:
        if positions.shape != (count,):
            raise IndexError(f"index is a mask of shape {positions.shape}: expected {(count,)}")
        return np.flatnonzero(positions)
    if positions.ndim != 1 or (positions.size and positions.dtype.kind not in "iu"):
        raise IndexError(f"index is {positions.dtype} of shape {positions.shape}: expected integers (n,)")
    positions = positions.astype(np.int64)
    outside = positions[(positions < -count) | (positions >= count)]
    if outside.size:
        raise IndexError(f"index={outside[0]}: expected {-count} to {count - 1}")
    return np.where(positions < 0, positions + count, positions)


def _as_slice(rows: np.ndarray) -> slice | np.ndarray:
    """Rows in a run as a slice, which copies several times faster than the same rows one by one."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) and (np.diff(rows) == 1).all() else rows
