"""StoreWriter: write a population shard by shard; killed at any point, it goes on where it was."""

import os
from pathlib import Path
from typing import IO

from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from neuralfields import store_files as files
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec


class StoreWriter:
    """Writes a store; use as a context manager, which holds the folder's lock.

    Creates `path`, or goes on with the store in it when spec, meta, num_fields and shard_size are the same. Raises
    ValueError when another process writes there, when `path` holds another population, or files that are no store.
    """

    def __init__(self, path: str | Path, spec: FieldSpec, meta: dict, num_fields: int, shard_size: int) -> None:
        if num_fields < 1 or shard_size < 1:
            raise ValueError(f"num_fields={num_fields}, shard_size={shard_size}: expected positive integers")
        self.path = Path(path)
        self.spec = spec
        self.head = {
            "format": files.FORMAT,
            "version": files.VERSION,
            "spec": spec.to_json(),
            "meta": meta,
            "num_fields": num_fields,
            "shard_size": shard_size,
            "complete": False,
        }
        self.num_fields, self.shard_size = num_fields, shard_size
        self._lock: IO | None = None

    def __enter__(self) -> "StoreWriter":
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out={str(self.path)!r} is a file: expected a folder")
        occupied = self.path.is_dir() and any(p.name != files.LOCK for p in self.path.iterdir())
        if occupied and not (self.path / files.STORE_JSON).exists():
            if any(not p.name.endswith(files.TEMPORARY) for p in self.path.iterdir() if p.name != files.LOCK):
                raise ValueError(f"out={str(self.path)!r} holds files but no store: expected a new or empty folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _acquire(self.path)
        try:
            for left_over in self.path.glob(f"*{files.TEMPORARY}"):
                left_over.unlink()
            self._create_or_compare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def _create_or_compare(self) -> None:
        path = self.path / files.STORE_JSON
        if not path.exists():
            files.write_atomic(path, files.to_json_bytes(self.head))
            return
        found = files.read_head(self.path)
        wanted = files.plain_json(self.head)
        for key in ("spec", "meta", "num_fields", "shard_size"):
            difference = _difference(key, found[key], wanted[key])
            if difference:
                raise ValueError(f"out={str(self.path)!r} holds another population: {difference}")

    @property
    def complete(self) -> bool:
        """Whether the store was finished before."""
        return files.read_head(self.path)["complete"]

    def missing(self) -> list[tuple[int, slice]]:
        """Shards still to write, with the positions of their fields."""
        return [
            (shard, files.shard_positions(shard, self.num_fields, self.shard_size))
            for shard in range(files.num_shards(self.num_fields, self.shard_size))
            if not ((self.path / files.shard_name(shard)).exists() and (self.path / files.index_name(shard)).exists())
        ]

    def write(self, shard: int, fields: FieldBatch, rows: dict, curves: Tensor | None = None) -> None:
        """Write one shard: its parameters, then its index, which makes it count. See FORMAT.md for rows."""
        positions = files.shard_positions(shard, self.num_fields, self.shard_size)
        count = positions.stop - positions.start
        if fields.spec != self.spec or len(fields) != count:
            raise ValueError(f"shard {shard} takes {count} fields of {self.spec.describe()}: got {len(fields)}")
        tensors = {name: value.detach().contiguous().cpu() for name, value in fields.parameters.items()}
        if curves is not None:
            tensors["curves"] = curves.to(torch.float32).contiguous()
        data = safetensors_bytes(tensors)
        path = self.path / files.shard_name(shard)
        files.write_atomic(path, data)
        facts = {"shard_bytes": str(len(data)), "shard_sha256": files.digest(path)}
        table = files.index_table(rows, count, positions.start)
        files.write_atomic(self.path / files.index_name(shard), files.table_bytes(table, facts))

    def finish(self, statistics: dict) -> None:
        """Mark the store complete, with checksums of all indices. Raises ValueError while shards are missing."""
        if self.missing():
            raise ValueError(f"{len(self.missing())} shards are missing: the store cannot be finished")
        if not self.complete:
            names = [files.index_name(s) for s in range(files.num_shards(self.num_fields, self.shard_size))]
            checksums = {name: files.digest(self.path / name) for name in names}
            head = {**self.head, "complete": True, "statistics": statistics, "checksums": checksums}
            files.write_atomic(self.path / files.STORE_JSON, files.to_json_bytes(head))


def _acquire(path: Path) -> IO:
    """Take the folder's lock; it is released when the process ends, however it ends."""
    lock = (path / files.LOCK).open("a+")
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise ValueError(f"out={str(path)!r} is being written by another process (pid {owner}): wait or stop it") from None
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _difference(name: str, found: object, wanted: object) -> str | None:
    """The first place where two JSON values differ, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(set(found) | set(wanted)):
            difference = _difference(f"{name}.{key}", found.get(key), wanted.get(key))
            if difference:
                return difference
        return None
    return None if found == wanted else f"{name} is {found!r} there, {wanted!r} now"
