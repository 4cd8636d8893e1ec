"""Keep freed memory: glibc gives every large tensor back to the kernel and faults it in anew at the next step.

Training that makes and drops the same large activations at every step spends half of its time on that. The three
settings below are what MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ set from outside; mallopt(3)
sets them from within.
"""

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEPT_BYTES = 2**31 - 1  # the parameter is an int
_GROWN_BY_BYTES = 2**26


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
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_TOP_PAD, _GROWN_BY_BYTES))
    return all([mallopt(name, value) == 1 for name, value in settings])
