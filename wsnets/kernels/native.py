"""Whether the compiled module of this folder is there, and which tensors it takes."""

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack  # pyright: ignore[reportPrivateImportUsage]

from neuralfields.kernels import compiled

_MODULE = "wsnets.kernels._native"


def missing() -> str | None:
    """Why the native module cannot be used, or None when it is there."""
    return compiled.missing(_MODULE)


def isas() -> list[str]:
    """Instruction sets that this build has and this machine can run, fastest first; empty without the module."""
    return compiled.isas(_MODULE)


_MISSING = missing()


def takes(x: Tensor) -> bool:
    """Whether the kernels take such a tensor: float32 on a CPU, where nothing watches torch's operations."""
    transforms = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    watched = torch._C._len_torch_dispatch_stack() > 0 or transforms.peek_interpreter_stack() is not None
    return _MISSING is None and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 and not watched


def array(x: Tensor | None):
    """The memory of a contiguous tensor, shared, as the module takes it, once; a fifth of what a NumPy array costs."""
    return None if x is None else to_dlpack(x)
