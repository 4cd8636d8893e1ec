"""Device functions that every Triton kernel shares: the sine pair and the Philox draws, twins of the native ones."""

import triton
import triton.language as tl

from neuralfields.kernels import sine

ROUND = tl.constexpr(sine.ROUND)
S0, S1, S2, S3, S4 = (tl.constexpr(value) for value in sine.SINE)
C0, C1, C2, C3, C4 = (tl.constexpr(value) for value in sine.COSINE)


@triton.jit
def sine_cosine(t):
    """sin(pi t) and cos(pi t) of float32 t in half turns, |t| < 2^22."""
    shifted = t + ROUND
    sign = shifted.to(tl.int32, bitcast=True) << 31
    f = t - (shifted - ROUND)
    f2 = f * f
    s = ((((S4 * f2 + S3) * f2 + S2) * f2 + S1) * f2 + S0) * f
    c = (((C4 * f2 + C3) * f2 + C2) * f2 + C1) * f2 + C0
    s = (s.to(tl.int32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)
    c = (c.to(tl.int32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)
    return s, c


@triton.jit
def sample_words(seed, field, step, block):
    """The four uint32 words that points 4 * block .. 4 * block + 3 of one step of one field are drawn from."""
    block = block.to(tl.uint32)
    zero = block * 0
    return tl.philox_impl(block, zero + step, zero + 1, zero, zero + seed, zero + field)
