"""StoreWriter: write a population shard by shard; killed at any point, it goes on where it was."""

import hashlib
from pathlib import Path
from typing import IO

from torch import Tensor

from neuralfields import store_files as files
from neuralfields import store_lock
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.store_index import index_table, table_bytes
from neuralfields.store_shard import shard_bytes


class StoreWriter:
    """Writes a store; use as a context manager, which holds the folder's lock.

    Creates `path`, or goes on with the store in it when spec, meta, num_fields and shard_size are the same. Raises
    ValueError when another process writes there, when `path` holds another population, or files that are no store.
    """

    def __init__(self, path: str | Path, spec: FieldSpec, meta: dict, num_fields: int, shard_size: int) -> None:
        if num_fields < 1 or shard_size < 1:
            raise ValueError(f"num_fields={num_fields}, shard_size={shard_size}: expected positive integers")
        if (part := files.wrong_part(meta)) is not None:
            raise ValueError(f"meta[{part!r}]={meta[part]!r}: expected a dict or None")
        self.path = Path(path)
        self.spec = spec
        self.head = {
            "format": files.FORMAT,
            "version": files.VERSION,
            "spec": spec.to_json(),
            "meta": files.plain_json(meta),
            "num_fields": int(num_fields),
            "shard_size": int(shard_size),
            "complete": False,
        }
        self.num_fields, self.shard_size = num_fields, shard_size
        self._lock: IO | None = None

    def __enter__(self) -> "StoreWriter":
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out={str(self.path)!r} is a file: expected a folder")
        if self.path.is_dir() and not (self.path / files.STORE_JSON).exists():
            ours = {files.LOCK, *(p.name for p in files.left_overs(self.path))}
            if any(p.name not in ours for p in self.path.iterdir()):
                raise ValueError(f"out={str(self.path)!r} holds files but no store: expected a new or empty folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = store_lock.acquire(self.path, files.LOCK)
        try:
            for left_over in files.left_overs(self.path):
                left_over.unlink()
            self._create_or_compare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            store_lock.release(self._lock)
            self._lock = None

    def _create_or_compare(self) -> None:
        path = self.path / files.STORE_JSON
        if not path.exists():
            files.sync_folder(self.path.parent)
            files.write_atomic(path, files.to_json_bytes(self.head))
            return
        found = files.read_head(self.path)
        for key in ("spec", "meta", "num_fields", "shard_size"):
            difference = _difference(key, found[key], self.head[key])
            if difference:
                raise ValueError(f"out={str(self.path)!r} holds another population: {difference}")

    @property
    def complete(self) -> bool:
        """Whether the store was finished before."""
        return files.read_head(self.path)["complete"]

    def missing(self) -> list[tuple[int, slice]]:
        """Shards still to write, with the positions of their fields."""
        written = set(files.written_shards(self.path)) if self.path.is_dir() else set()
        return [
            (shard, files.shard_positions(shard, self.num_fields, self.shard_size))
            for shard in range(files.num_shards(self.num_fields, self.shard_size))
            if shard not in written
        ]

    def write(self, shard: int, fields: FieldBatch, rows: dict, curves: Tensor | None = None) -> None:
        """Write one shard: its parameters, then its index, which makes it count.

        fields: as many as `missing` says; rows: columns of the index, name -> one value a field (see FORMAT.md);
        curves: (N, K). A shard that was written before is replaced, unless the store is complete. Raises ValueError
        for arguments that do not fit, OSError when the disk is full (earlier shards stay).
        """
        self._check_open()
        if not 0 <= shard < files.num_shards(self.num_fields, self.shard_size):
            raise ValueError(f"shard={shard}: expected 0 to {files.num_shards(self.num_fields, self.shard_size) - 1}")
        positions = files.shard_positions(shard, self.num_fields, self.shard_size)
        count = positions.stop - positions.start
        if fields.spec != self.spec or len(fields) != count:
            raise ValueError(
                f"shard {shard} takes {count} fields of {self.spec}: got {len(fields)} fields of {fields.spec}"
            )
        path, index = self.path / files.shard_name(shard), self.path / files.index_name(shard)
        if index.exists() and path.exists() and self.complete:
            raise ValueError(f"out={str(self.path)!r} is complete: shard {shard} cannot be replaced")
        table = index_table(rows, count, positions.start)
        data = shard_bytes(fields, curves)
        facts = {"shard_bytes": str(len(data)), "shard_sha256": hashlib.sha256(data).hexdigest()}
        # Without its index a shard does not count: at no moment does an index stand beside parameters not its own.
        index.unlink(missing_ok=True)
        files.write_atomic(path, data)
        files.write_atomic(index, table_bytes(table, facts))

    def finish(self, statistics: dict) -> None:
        """Mark the store complete, with checksums of all indices. Raises ValueError while shards are missing."""
        self._check_open()
        missing = self.missing()
        if missing:
            raise ValueError(
                f"{len(missing)} shards are missing, the first is {missing[0][0]}: cannot finish the store"
            )
        names = [files.index_name(s) for s in range(files.num_shards(self.num_fields, self.shard_size))]
        checksums = {name: files.digest(self.path / name) for name in names}
        head = {**self.head, "complete": True, "statistics": statistics, "checksums": checksums}
        data = files.to_json_bytes(head)
        if (self.path / files.STORE_JSON).read_bytes() != data:
            files.write_atomic(self.path / files.STORE_JSON, data)

    def _check_open(self) -> None:
        if self._lock is None:
            raise ValueError("the writer does not hold its folder: use it as `with StoreWriter(...) as writer`")


def _difference(name: str, found: object, wanted: object) -> str | None:
    """The first place where two JSON values differ, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(set(found) | set(wanted)):
            difference = _difference(f"{name}.{key}", found.get(key), wanted.get(key))
            if difference:
                return difference
        return None
    return None if found == wanted else f"{name} is {found!r} there, {wanted!r} now"
