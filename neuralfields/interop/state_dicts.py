"""One field per `.pth` file: an ordered state_dict of plain tensors, as nn.Module.state_dict gives it.

A .pth file is a zip with a pickle inside. It is written from plain tensors only and read with weights_only=True, which
runs no code.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError  # only to name what torch.load raises when it refuses a file
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from neuralfields.interop.folders import Progress

if TYPE_CHECKING:
    from neuralfields.store import FieldStore

BLOCK = 1024
EXACT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def write_state_dicts(
    store: "FieldStore", keys: Sequence[str], paths: Sequence[Path], progress: Progress | None = None
) -> None:
    """Write field i to paths[i] under `keys`, one for each parameter in the order of `spec.shapes`, block by block."""
    for start in range(0, len(store), BLOCK):
        fields = store[start : start + BLOCK]
        for row, path in enumerate(paths[start : start + BLOCK]):
            path.parent.mkdir(parents=True, exist_ok=True)
            # clone: a view would take the storage of the whole batch into every file
            own = (value[row].detach().to("cpu", torch.float32).clone() for value in fields.parameters.values())
            torch.save(OrderedDict(zip(keys, own, strict=True)), path)
        if progress is not None:
            progress(start + len(fields), len(store))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read one file of named tensors. Raises ValueError in one line for anything else, FileNotFoundError if absent."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError) as error:
        reason = type(error).__name__
        raise ValueError(f"{path}: not a file of plain tensors; refused by weights_only=True ({reason})") from None
    if not isinstance(data, dict) or not data or not all(isinstance(value, Tensor) for value in data.values()):
        raise ValueError(f"{path}: expected a state_dict, names with tensors")
    for key, value in data.items():
        if value.dtype not in EXACT_DTYPES:
            raise ValueError(f"{path}: {key} has dtype {value.dtype}, expected float32 (or float16, bfloat16)")
    return {str(key): value for key, value in data.items()}


def layer_dims(path: Path, state: dict[str, Tensor]) -> tuple[int, ...]:
    """Return the widths of every stage of a plain MLP whose state holds weight, bias, weight, bias, ... in order.

    Raises ValueError naming file and key when the order, a rank or a width does not fit.
    """
    keys = list(state)
    dims: list[int] = []
    for weight_key, bias_key in zip(keys[::2], [*keys[1::2], ""][: len(keys[::2])], strict=True):
        if not weight_key.endswith("weight") or not bias_key.endswith("bias"):
            raise ValueError(f"{path}: key {weight_key!r} then {bias_key!r}, expected a weight, then its bias")
        weight, bias = state[weight_key], state[bias_key]
        if weight.ndim != 2 or (dims and weight.shape[1] != dims[-1]):
            wanted = f"(out, {dims[-1]})" if dims else "(out, in)"
            raise ValueError(f"{path}: {weight_key} has shape {tuple(weight.shape)}, expected {wanted}")
        if tuple(bias.shape) != (weight.shape[0],):
            raise ValueError(f"{path}: {bias_key} has shape {tuple(bias.shape)}, expected ({weight.shape[0]},)")
        dims = [*dims, int(weight.shape[0])] if dims else [int(weight.shape[1]), int(weight.shape[0])]
    if len(dims) < 3:
        raise ValueError(f"{path}: {len(keys)} tensors, expected at least two layers of weight and bias")
    return tuple(dims)


def read_flat(
    paths: Sequence[Path], keys: Sequence[str], shapes: Sequence[tuple[int, ...]], progress: Progress | None
) -> Tensor:
    """Read many files of the same keys and shapes into one (N, P) float32 tensor, row i from paths[i].

    Raises ValueError naming the file and its first missing, extra or misshapen key.
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    flat = torch.empty(len(paths), sum(sizes))
    for row, path in enumerate(paths):
        state = read_state_dict(path)
        _check_keys(path, state, keys, shapes)
        torch.cat([state[key].detach().reshape(-1).float() for key in keys], out=flat[row])
        if progress is not None and (row % BLOCK == BLOCK - 1 or row == len(paths) - 1):
            progress(row + 1, len(paths))
    return flat


def _check_keys(path: Path, state: dict[str, Tensor], keys: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> None:
    missing = [key for key in keys if key not in state]
    extra = [key for key in state if key not in keys]
    if missing or extra:
        what = f"key {missing[0]!r} is missing" if missing else f"key {extra[0]!r} is not expected"
        raise ValueError(f"{path}: {what}; expected {', '.join(keys)}")
    for key, shape in zip(keys, shapes, strict=True):
        if tuple(state[key].shape) != shape:
            raise ValueError(f"{path}: {key} has shape {tuple(state[key].shape)}, expected {shape}")
