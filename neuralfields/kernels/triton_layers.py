"""Device functions for dense layers: blocks of a field's flat parameters, activations, inputs with a bias column.

LAYOUT is layout.layout(spec). A place comes with the mask of what exists: padded units and columns read as zero.
"""

import triton
import triton.language as tl

from neuralfields.kernels.triton_math import sine_cosine


@triton.jit
def weights_block(LAYOUT: tl.constexpr, l: tl.constexpr, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Places of (ROWS, COLUMNS) of the weights (out, in) of layer l from (row, column) on, and which exist."""
    out, inside = row + tl.arange(0, ROWS)[:, None], column + tl.arange(0, COLUMNS)[None, :]
    return LAYOUT[l][2] + out * LAYOUT[l][0] + inside, (out < LAYOUT[l][1]) & (inside < LAYOUT[l][0])


@triton.jit
def first_block(LAYOUT: tl.constexpr, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The same for the first layer, with its bias as one more column."""
    out, inside = row + tl.arange(0, ROWS)[:, None], column + tl.arange(0, COLUMNS)[None, :]
    place = tl.where(inside < LAYOUT[0][0], LAYOUT[0][2] + out * LAYOUT[0][0] + inside, LAYOUT[0][3] + out)
    return place, (out < LAYOUT[0][1]) & (inside <= LAYOUT[0][0])


@triton.jit
def bias_block(LAYOUT: tl.constexpr, l: tl.constexpr, row, ROWS: tl.constexpr):
    """The same for the biases of layer l, a vector."""
    entry = row + tl.arange(0, ROWS)
    return LAYOUT[l][3] + entry, entry < LAYOUT[l][1]


@triton.jit
def taken(parameters, block):
    """Parameters of a block (its places and which exist), zero where they do not exist."""
    return tl.load(parameters + block[0], mask=block[1], other=0.0)


@triton.jit
def written(parameters, block, value):
    """Write a block where it exists."""
    tl.store(parameters + block[0], value, mask=block[1])


@triton.jit
def activate(z, LAYOUT: tl.constexpr, l: tl.constexpr, SINE: tl.constexpr):
    """act(z) and its derivative in hidden layer l; sine in half turns of z, w0 / pi = high + low."""
    if SINE:
        s, c = sine_cosine(z * LAYOUT[l][5] + z * LAYOUT[l][6])
        return s, c * LAYOUT[l][4]
    else:
        return tl.where(z < 0.0, 0.0, z), tl.where(z > 0.0, 1.0, 0.0)


@triton.jit
def inputs(x, place, inside, column, INPUTS: tl.constexpr, COLUMNS: tl.constexpr):
    """Inputs of a tile's points from a column on, one more column of ones for the bias, then zeros: (TILE, COLUMNS)."""
    column += tl.arange(0, COLUMNS)[None, :]
    value = tl.load(x + place[:, None] * INPUTS + column, mask=inside[:, None] & (column < INPUTS), other=0.0)
    return tl.where(column == INPUTS, 1.0, value)


@triton.jit
def output_gradient(d_raw, place, inside, OUTPUTS: tl.constexpr):
    """dL/dy of a tile's points: (TILE, 16)."""
    column = tl.arange(0, 16)[None, :]
    return tl.load(d_raw + place[:, None] * OUTPUTS + column, mask=inside[:, None] & (column < OUTPUTS), other=0.0)


@triton.jit
def put_columns(rows, place, inside, column, value, COLUMNS: tl.constexpr):
    """Write value at a tile's points of rows (points, COLUMNS), from a column on."""
    column += tl.arange(0, value.shape[1])[None, :]
    tl.store(rows + place[:, None] * COLUMNS + column, value, mask=inside[:, None] & (column < COLUMNS))
