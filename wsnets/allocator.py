"""Keep freed memory: glibc gives every large tensor back to the kernel and faults it in anew at the next step.

Training that makes and drops the same large activations at every step spends half of its time on that. The settings
below can be made from outside, by variables that glibc reads at its start; mallopt(3) makes them from within.
"""

import ctypes
import sys
from functools import cache

# Of mallopt's parameters, which are ints: number, value, and the variable that sets it from outside.
_SETTINGS = (
    (-4, 0, "MALLOC_MMAP_MAX_"),
    (-1, 2**31 - 1, "MALLOC_TRIM_THRESHOLD_"),
    (-2, 2**20, "MALLOC_TOP_PAD_"),
    (-8, 1, "MALLOC_ARENA_MAX"),  # heaps of single threads keep nothing
)
ENVIRONMENT = {variable: str(value) for _, value, variable in _SETTINGS}


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to serve large requests from the heap and to keep what is freed; say whether that was possible.

    Memory then falls back to the kernel at the end of the process only. Elsewhere than on glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return all([mallopt(number, value) == 1 for number, value, _ in _SETTINGS])
