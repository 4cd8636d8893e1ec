"""Let Triton's interpreter run on any NumPy: importing this is enough, and does nothing where kernels are compiled.

The interpreter keeps scalars as arrays of one element and makes loop bounds of them by int(), which NumPy 2.4 refuses.
"""

import triton
from triton.runtime import interpreter

# Whether kernels decorated in this process are interpreted: triton reads the variable when they are.
ACTIVE = triton.knobs.runtime.interpret  # pyright: ignore[reportAttributeAccessIssue]

_patch = interpreter._patch_lang_tensor


def _patch_with_bounds(tensor, scope) -> None:
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


if ACTIVE:
    interpreter._patch_lang_tensor = _patch_with_bounds
