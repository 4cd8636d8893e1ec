"""Numbers in bfloat16 parts, as device functions: float32 split into them, their products, sine and its derivative."""

import triton
import triton.language as tl

from neuralfields.kernels import interpreter

_INTERPRETED = tl.constexpr(interpreter.ACTIVE)


@triton.jit
def half(x):
    """float32 x to bfloat16, two at a time: the compiler would convert one by one what float32 arithmetic uses."""
    if _INTERPRETED:
        whole = x.to(tl.int32, bitcast=True)
        whole = (whole + 0x7FFF + ((whole >> 16) & 1)) & -65536
        return tl.where(x == x, whole.to(tl.float32, bitcast=True), x)
    return tl.inline_asm_elementwise("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [x], tl.bfloat16, True, 2)


@triton.jit
def times(x, slope):
    """float32 x to bfloat16, times bfloat16 slope."""
    if _INTERPRETED:
        return half(half(x) * slope)
    return tl.inline_asm_elementwise(
        "{ .reg .b32 a, b; mov.b32 a, 0x80008000; cvt.rn.bf16x2.f32 b, $2, $1; fma.rn.bf16x2 $0, b, $3, a; }",
        "=r,r,r,r", [x, slope], tl.bfloat16, True, 2,
    )  # fmt: skip


@triton.jit
def halves(x):
    """bfloat16 high and low half of float32 x: together 16 of its 24 bits."""
    if _INTERPRETED:
        high = half(x)
        return high, half(x - high)
    return tl.inline_asm_elementwise(
        "{ .reg .b32 a; .reg .f32 b, c; cvt.rn.bf16x2.f32 $0, $3, $2; shl.b32 a, $0, 16; sub.f32 b, $2, a;"
        " and.b32 a, $0, 0xffff0000; sub.f32 c, $3, a; cvt.rn.bf16x2.f32 $1, c, b; }",
        "=&r,=r,r,r", [x], (tl.bfloat16, tl.bfloat16), True, 2,
    )  # fmt: skip


@triton.jit
def part_of(x, part):
    """One of the three bfloat16 parts of float32 x, by number."""
    first = half(x).to(tl.float32)
    second = half(x - first).to(tl.float32)
    return half(tl.where(part == 0, first, tl.where(part == 1, second, x - first - second)))


@triton.jit
def other(x):
    """bfloat16 x, which the compiler must take for another tensor."""
    if _INTERPRETED:
        return x
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], tl.bfloat16, False, 2)


@triton.jit
def dot(a, b, z=None):
    """Blocks a times b, plus z where given: float32 sums."""
    return tl.dot(a, b, z, input_precision="ieee")


@triton.jit
def sine_pair(x):
    """sin(x) and cos(x) of the special function units: 2^-21 from them near zero, |x| 2^-23 far from it, which is as
    much as rounding x costs; the polynomials of sine_cosine, exact to 1e-7, are five times the instructions."""
    if _INTERPRETED:
        return tl.sin(x), tl.cos(x)
    sine = tl.inline_asm_elementwise("sin.approx.ftz.f32 $0, $1;", "=r,r", [x], tl.float32, True, 1)
    return sine, tl.inline_asm_elementwise("cos.approx.ftz.f32 $0, $1;", "=r,r", [x], tl.float32, True, 1)


@triton.jit
def activate(z, SINE: tl.constexpr):
    """act(z) and its derivative by z in bfloat16."""
    if SINE:
        s, cosine = sine_pair(z)
        return s, half(cosine)
    else:
        return tl.where(z < 0.0, 0.0, z), half(tl.where(z > 0.0, 1.0, 0.0))
