"""The CUDA evaluation kernel of narrow fields: a tile of points passes through all layers in registers."""

import triton
import triton.language as tl

from neuralfields.kernels.triton_dot import dot
from neuralfields.kernels.triton_layers import (
    activate,
    bias_block,
    first_block,
    inputs,
    put_columns,
    taken,
    weights_block,
)


@triton.jit
def _product(h, flat, block, z, zero, PRECISION: tl.constexpr):
    """z plus h times a block of weights (out, in), transposed.

    In float32 in a loop of its own: the weights of later products would else be loaded before, while operands of this
    one take most of the registers. zero: 0, which the compiler must not know.
    """
    if PRECISION == "fp32":
        for _ in tl.range(zero, 1, disable_licm=True):
            z = dot(h, taken(flat + zero, block).trans(), PRECISION, z)
        return z
    else:
        return dot(h, taken(flat, block).trans(), PRECISION, z)


@triton.jit(do_not_specialize=["num_points", "encoded_stride"])
def evaluate_forward(
    flat, encoded, raw, num_points, encoded_stride,
    LAYOUT: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, SINE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Raw outputs of TILE points of field program_id(0) // tiles.

    flat (N, P); encoded (B, E), or (N, B, E) with encoded_stride = B * E (else 0); raw (N, B, O). Inputs are taken
    COLUMNS at a time; a layer is a tuple of blocks of its columns, each (TILE, BLOCK).
    """
    LAST: tl.constexpr = len(LAYOUT) - 1
    INPUTS: tl.constexpr = LAYOUT[0][0]
    OUTPUTS: tl.constexpr = LAYOUT[LAST][1]
    SIZE: tl.constexpr = LAYOUT[LAST][3] + OUTPUTS
    # Coordinates keep all their bits in every precision: w0 and the layers after magnify what they lose.
    EXACT: tl.constexpr = "fp32" if PRECISION == "fp32" else "tf32x3"
    tiles = tl.cdiv(num_points, TILE)
    field = (tl.program_id(0) // tiles).to(tl.int64)
    start = (tl.program_id(0) % tiles) * TILE
    place = tl.arange(0, TILE)
    inside = place < num_points - start
    flat += field * SIZE
    encoded += field * encoded_stride + start.to(tl.int64) * INPUTS
    zero = (num_points < 0).to(tl.int32)
    h = ()
    for n in tl.static_range((LAYOUT[0][1] + BLOCK - 1) // BLOCK):
        z = tl.zeros((TILE, BLOCK), tl.float32)
        for k in tl.static_range(INPUTS // COLUMNS + 1):
            x = inputs(encoded, place, inside, k * COLUMNS, INPUTS, COLUMNS)
            z = _product(x, flat, first_block(LAYOUT, n * BLOCK, k * COLUMNS, BLOCK, COLUMNS), z, zero, EXACT)
        value, _ = activate(z, LAYOUT, 0, SINE)
        h = h + (value,)
    for l in tl.static_range(1, LAST):
        above = ()
        for n in tl.static_range((LAYOUT[l][1] + BLOCK - 1) // BLOCK):
            z = tl.zeros((TILE, BLOCK), tl.float32) + taken(flat, bias_block(LAYOUT, l, n * BLOCK, BLOCK))[None, :]
            for k in tl.static_range(len(h)):
                block = weights_block(LAYOUT, l, n * BLOCK, k * BLOCK, BLOCK, BLOCK)
                z = _product(h[k], flat, block, z, zero, PRECISION)
            value, _ = activate(z, LAYOUT, l, SINE)
            above = above + (value,)
        h = above
    y = tl.zeros((TILE, 16), tl.float32) + taken(flat, bias_block(LAYOUT, LAST, 0, 16))[None, :]
    for k in tl.static_range(len(h)):
        y = _product(h[k], flat, weights_block(LAYOUT, LAST, 0, k * BLOCK, 16, BLOCK), y, zero, PRECISION)
    put_columns(raw + (field * num_points + start) * OUTPUTS, place, inside, 0, y, OUTPUTS)
