"""Shard: parameters of some fields in one safetensors file, read row by row through a memory map."""

import json
import math
import mmap
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from neuralfields.batch import FieldBatch

CURVES = "curves"
_DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "BF16": np.dtype("<u2")}
# Read at least this part of a shard at once, and reading ahead pays: it costs less than a fault for every page.
_DENSE = 1 / 16
_WRITABLE = (torch.float32, torch.float64, torch.bfloat16)


def shard_bytes(fields: FieldBatch, curves: Tensor | None) -> bytes:
    """A shard's file: the parameters, and learning curves (N, K) beside them.

    Raises ValueError for parameters that are not float32, float64 or bfloat16, and for curves of another shape.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in fields.parameters.items()}
    for name, value in tensors.items():
        if value.dtype not in _WRITABLE:
            raise ValueError(f"{name} is {value.dtype}: expected float32, float64 or bfloat16")
    if curves is not None:
        if curves.ndim != 2 or len(curves) != len(fields):
            raise ValueError(f"curves has shape {tuple(curves.shape)}: expected ({len(fields)}, K)")
        tensors[CURVES] = curves.detach().to("cpu", torch.float32).contiguous()
    return safetensors_bytes(tensors)


class Shard:
    """Memory-mapped tensors of one shard: reading rows touches only those rows.

    shapes: what the file must hold for each of its `count` fields. Raises ValueError, one line, when it does not.
    """

    def __init__(self, path: Path, shapes: dict[str, tuple[int, ...]], count: int) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._read_ahead(False)
            data = np.frombuffer(self._map, np.uint8)
            size = int.from_bytes(data[:8].tobytes(), "little")
            header = json.loads(data[8 : 8 + size].tobytes()) if 8 + size <= len(data) else {}
            known = [name for name in (*shapes, CURVES) if name in header]
            self.tensors = {name: _view(data[8 + size :], header[name]) for name in known}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is damaged: {type(error).__name__} in its header: {error}") from None
        for name, shape in shapes.items():
            found = self.tensors[name].shape if name in self.tensors else "missing"
            if found != (count, *shape):
                raise ValueError(f"{path} is damaged: {name} is {found}, expected {(count, *shape)}")
        curves = self.tensors.get(CURVES)
        if curves is not None and (curves.ndim != 2 or len(curves) != count or curves.dtype != _DTYPES["F32"]):
            raise ValueError(f"{path} is damaged: curves is {curves.dtype} {curves.shape}, expected F32 ({count}, K)")

    def rows(self, name: str, rows: slice | np.ndarray) -> Tensor:
        """Rows of one tensor as float32 (float64 when stored so), a copy."""
        stored = self.tensors[name]
        chosen = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        self._read_ahead(chosen >= _DENSE * len(stored))
        values = np.array(stored[rows], stored.dtype.newbyteorder("="))
        if values.dtype == np.uint16:  # bfloat16 is the upper half of a float32
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16).float()
        return torch.from_numpy(values)

    def _read_ahead(self, wanted: bool) -> None:
        """Tell the system to read far ahead of every touched page, or that page alone, where it can be told."""
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_NORMAL if wanted else mmap.MADV_RANDOM)


def _view(data: np.ndarray, entry: dict) -> np.ndarray:
    begin, end = entry["data_offsets"]
    dtype, shape = _DTYPES.get(entry["dtype"]), tuple(entry["shape"])
    if dtype is None:
        raise ValueError(f"dtype {entry['dtype']}, expected one of {', '.join(_DTYPES)}")
    if not 0 <= begin <= end <= len(data) or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"bytes {begin} to {end} do not hold shape {shape}")
    return np.ndarray(shape, dtype, data, begin)
