"""Products on the GPU in a chosen precision: the one place that says what each name means on the device."""

import triton
import triton.language as tl

from neuralfields.kernels import interpreter

# fp32: IEEE products and sums; tf32x3: three tensor-core products of high and low halves, about as exact as float32;
# tf32: one, of operands with 11 significant bits; bf16: one, of operands with 8. Sums are float32 in all.
PRECISIONS = ("fp32", "tf32x3", "tf32", "bf16")
_INTERPRETED = tl.constexpr(interpreter.ACTIVE)


@triton.jit
def dot(a, b, precision: tl.constexpr, acc=None):
    """a (M, K) times b (K, N), both float32, plus acc (M, N) where given: (M, N) float32.

    M, N and K are powers of two from 16. precision: one of PRECISIONS.
    """
    tl.static_assert(
        precision == "fp32" or precision == "tf32x3" or precision == "tf32" or precision == "bf16",
        "precision: expected fp32, tf32x3, tf32 or bf16",
    )
    if _INTERPRETED:
        if precision == "bf16" or precision == "tf32":
            a, b = _rounded(a, 16 if precision == "bf16" else 13), _rounded(b, 16 if precision == "bf16" else 13)
        return tl.dot(a, b, acc, input_precision="ieee")
    elif precision == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)
    elif precision == "fp32":
        return tl.dot(a, b, acc, input_precision="ieee")
    else:
        return tl.dot(a, b, acc, input_precision=precision)


@triton.jit
def _rounded(x, bits: tl.constexpr):
    """x to the nearest value whose last `bits` bits are zero: what a tensor core sees, for the interpreter."""
    whole = x.to(tl.int32, bitcast=True) + (1 << (bits - 1))
    return tl.where(x == x, ((whole >> bits) << bits).to(tl.float32, bitcast=True), x)
