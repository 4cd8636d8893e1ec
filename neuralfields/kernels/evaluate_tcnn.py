"""tiny-cuda-nn's hash grid for one large field on a GPU: only where it is asked for, and importable.

The grid is what costs in a large field, and tiny-cuda-nn's is the fast one. Layers stay in torch: its networks have no
biases and compute in half precision.
"""

import functools
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import forward_raw as torch_forward_raw
from neuralfields.hash_grid import HashGrid
from neuralfields.interop import tcnn
from neuralfields.spec import FieldSpec

INSTALL = "pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch"


def missing() -> str | None:
    """Why tiny-cuda-nn cannot be used, or None where it can."""
    if find_spec("tinycudann") is None:
        return f"tinycudann is not installed ({INSTALL})"
    if not torch.cuda.is_available():
        return "there is no CUDA device that torch can use"
    return None


def unsupported(spec: FieldSpec, count: int = 1) -> str | None:
    """Why this backend cannot evaluate `count` such fields, or None when it can."""
    if missing() is not None:
        return missing()
    if not isinstance(spec.encoding, HashGrid):
        return f"encoding={spec.encoding!r} (it has HashGrid)"
    if spec.encoding.features not in (1, 2, 4, 8):
        return f"features={spec.encoding.features} of the hash grid (it has 1, 2, 4 and 8)"
    if count != 1:
        return f"{count} fields (it takes one)"
    return None


def encode(fields: FieldBatch, coords: Tensor) -> Tensor:
    """Encode coordinates (B, I) in [-1, 1] with one field's hash grid: (1, B, E), differentiable in both.

    float32, on a CUDA device. Raises ValueError where `unsupported` says why, and when tiny-cuda-nn lays the grid out
    otherwise (its powers are of lower precision).
    """
    if (reason := unsupported(fields.spec, len(fields))) is not None:
        raise ValueError(f"backend='tcnn' cannot evaluate these fields: {reason}")
    assert isinstance(fields.spec.encoding, HashGrid)
    table = fields.parameters["encoding.table"].flatten()
    grid = _grid(fields.spec.encoding, fields.spec.encoded_dim)
    if grid.params.numel() != table.numel():
        raise ValueError(
            f"encoding={fields.spec.encoding!r} has {table.numel()} parameters, in tiny-cuda-nn"
            f" {grid.params.numel()}: expected a scale whose powers it rounds alike"
        )
    return torch.func.functional_call(grid, {"params": table}, ((coords + 1.0) * 0.5,)).float().unsqueeze(0)


def forward_raw(fields: FieldBatch, coords: Tensor) -> Tensor:
    """Raw outputs of one field at coordinates (B, I), before scale and offset: (1, B, O); otherwise as `encode`."""
    return torch_forward_raw(fields, encode(fields, coords))


@functools.cache
def _grid(encoding: HashGrid, in_dim: int) -> Any:
    import tinycudann  # pyright: ignore[reportMissingImports]

    return tinycudann.Encoding(in_dim, tcnn.encoding_config(encoding), dtype=torch.float32)
