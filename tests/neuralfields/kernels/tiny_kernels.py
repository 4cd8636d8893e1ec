"""Two kernels whose needs are plain: one of a few values per thread, one that needs far more than a thread has."""

import triton
import triton.language as tl


@triton.jit
def double(x, y, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < count) * 2.0, mask=at < count)


@triton.jit
def hoard(x, y, count, BLOCK: tl.constexpr):
    """Two blocks of BLOCK values, each needed until the last product."""
    at = tl.arange(0, BLOCK)
    a = tl.load(x + at)
    b = tl.load(x + BLOCK + at)
    for _ in range(count):
        a, b = a * b + 1.0, b * a - 1.0
    tl.store(y + at, a)
    tl.store(y + BLOCK + at, b)


@triton.jit
def product(x, y, z, SIZE: tl.constexpr):
    """One (SIZE, SIZE) product, its operands by way of shared memory."""
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(z + at, tl.dot(tl.load(x + at), tl.load(y + at)))


@triton.jit
def refused(x, y, count, BLOCK: tl.constexpr):
    tl.static_assert(BLOCK == 3, "BLOCK: expected 3")
