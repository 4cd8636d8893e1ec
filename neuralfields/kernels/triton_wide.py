"""The CUDA evaluation kernels that take fields of any width: layers pass by a piece of memory that stays in the caches.

Each program has scratch memory for one tile of points, and goes through blocks of a layer's columns one after another.
Gradients compute the forward pass again. Those of weights come as one sum per chunk of points: no program adds to what
another one writes, so that a field's gradients are its own to the last bit.
"""

import triton
import triton.language as tl

from neuralfields.kernels.triton_dot import dot
from neuralfields.kernels.triton_layers import (
    activate,
    bias_block,
    first_block,
    inputs,
    output_gradient,
    put_columns,
    taken,
    weights_block,
    written,
)


@triton.jit
def _take(block, column, TILE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(TILE, BLOCK) from a column on of a (TILE, WIDTH) block of scratch memory."""
    return tl.load(block + column + tl.arange(0, TILE)[:, None] * WIDTH + tl.arange(0, BLOCK)[None, :])


@triton.jit
def _put(block, column, value, WIDTH: tl.constexpr):
    """Write what `_take` reads."""
    at = tl.arange(0, value.shape[0])[:, None] * WIDTH + tl.arange(0, value.shape[1])[None, :]
    tl.store(block + column + at, value)


@triton.jit
def _layers_forward(
    x, place, inside, flat, scratch, zero,
    LAYOUT: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    SINE: tl.constexpr, PRECISION: tl.constexpr, SLOPES: tl.constexpr,
):  # fmt: skip
    """One tile through the hidden layers: values of layer l go to area 2 l of the scratch memory, slopes to 2 l + 1.

    Without SLOPES two areas do, for the values of even and of odd layers.
    """
    AREA: tl.constexpr = TILE * WIDTH
    # Coordinates keep all their bits in every precision: w0 and the layers after magnify what they lose.
    EXACT: tl.constexpr = "fp32" if PRECISION == "fp32" else "tf32x3"
    for n in range(0, LAYOUT[0][1] + zero, BLOCK):
        z = tl.zeros((TILE, BLOCK), tl.float32)
        for k in range(0, LAYOUT[0][0] + 1 + zero, COLUMNS):
            weights = taken(flat, first_block(LAYOUT, n, k, BLOCK, COLUMNS))
            z = dot(inputs(x, place, inside, k, LAYOUT[0][0], COLUMNS), weights.trans(), EXACT, z)
        h, slope = activate(z, LAYOUT, 0, SINE)
        _put(scratch, n, h, WIDTH)
        if SLOPES:
            _put(scratch + AREA, n, slope, WIDTH)
    tl.debug_barrier()  # what one thread has put there another one takes
    for l in tl.static_range(1, len(LAYOUT) - 1):
        below = scratch + (2 * l - 2 if SLOPES else (l - 1) % 2) * AREA
        above = scratch + (2 * l if SLOPES else l % 2) * AREA
        for n in range(0, LAYOUT[l][1] + zero, BLOCK):
            z = tl.zeros((TILE, BLOCK), tl.float32) + taken(flat, bias_block(LAYOUT, l, n, BLOCK))[None, :]
            for k in range(0, LAYOUT[l][0] + zero, BLOCK):
                weights = taken(flat, weights_block(LAYOUT, l, n, k, BLOCK, BLOCK))
                z = dot(_take(below, k, TILE, WIDTH, BLOCK), weights.trans(), PRECISION, z)
            h, slope = activate(z, LAYOUT, l, SINE)
            _put(above, n, h, WIDTH)
            if SLOPES:
                _put(above + AREA, n, slope, WIDTH)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["num_points", "items", "zero", "encoded_stride"])
def evaluate_forward_wide(
    flat, encoded, raw, scratch, num_points, items, zero, encoded_stride,
    LAYOUT: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    SINE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Raw outputs as those of triton_forward, of fields of any width: each program takes every so many of the tiles.

    items: N * tiles; scratch: (programs, 2, TILE, WIDTH).
    """
    LAST: tl.constexpr = len(LAYOUT) - 1
    INPUTS: tl.constexpr = LAYOUT[0][0]
    OUTPUTS: tl.constexpr = LAYOUT[LAST][1]
    SIZE: tl.constexpr = LAYOUT[LAST][3] + OUTPUTS
    scratch += tl.program_id(0).to(tl.int64) * (2 * TILE * WIDTH)
    tiles = tl.cdiv(num_points, TILE)
    place = tl.arange(0, TILE)
    item = tl.program_id(0)
    while item < items:
        field = (item // tiles).to(tl.int64)
        start = (item % tiles) * TILE
        inside = place < num_points - start
        w = flat + field * SIZE
        x = encoded + field * encoded_stride + start.to(tl.int64) * INPUTS
        _layers_forward(x, place, inside, w, scratch, zero, LAYOUT, COLUMNS, WIDTH, BLOCK, TILE, SINE, PRECISION, False)
        y = tl.zeros((TILE, 16), tl.float32) + taken(w, bias_block(LAYOUT, LAST, 0, 16))[None, :]
        for k in range(0, LAYOUT[LAST][0] + zero, BLOCK):
            h = _take(scratch + ((LAST - 1) % 2) * (TILE * WIDTH), k, TILE, WIDTH, BLOCK)
            y = dot(h, taken(w, weights_block(LAYOUT, LAST, 0, k, 16, BLOCK)).trans(), PRECISION, y)
        put_columns(raw + (field * num_points + start) * OUTPUTS, place, inside, 0, y, OUTPUTS)
        tl.debug_barrier()  # all is taken before the next tile is put there
        item += tl.num_programs(0)


@triton.jit
def _add(partial, block, value, start):
    """Add a tile's gradients to those of the chunk's earlier tiles; the first one finds nothing there."""
    value += tl.load(partial + block[0], mask=block[1] & (start > 0), other=0.0)
    tl.debug_barrier()  # no thread writes before all have read
    written(partial, block, value)


@triton.jit
def _put_product(
    block, column, d, partial, start, LAYOUT: tl.constexpr, l: tl.constexpr, WIDTH: tl.constexpr, BIAS: tl.constexpr
):
    """Replace slopes of layer l by dL/dz = d * slope, which its biases take as it is."""
    d *= _take(block, column, d.shape[0], WIDTH, d.shape[1])
    tl.debug_barrier()
    _put(block, column, d, WIDTH)
    if BIAS and l > 0:  # the first layer's biases are a column of its weights
        _add(partial, bias_block(LAYOUT, l, column, d.shape[1]), tl.sum(d, axis=0), start)


@triton.jit
def _layers_backward(
    dy, flat, partial, scratch, start, zero,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr, WEIGHTS: tl.constexpr,
):  # fmt: skip
    """One tile backward: slopes in the scratch memory become dL/dz; gradients of biases are added to partial."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    TILE: tl.constexpr = dy.shape[0]
    AREA: tl.constexpr = TILE * WIDTH
    for n in range(0, LAYOUT[LAST][0] + zero, BLOCK):
        d = dot(dy, taken(flat, weights_block(LAYOUT, LAST, 0, n, 16, BLOCK)), PRECISION)
        _put_product(scratch + (2 * LAST - 1) * AREA, n, d, partial, start, LAYOUT, LAST - 1, WIDTH, WEIGHTS)
    if WEIGHTS:
        _add(partial, bias_block(LAYOUT, LAST, 0, 16), tl.sum(dy, axis=0), start)
    tl.debug_barrier()
    for l in tl.static_range(LAST - 1, 0, -1):
        for n in range(0, LAYOUT[l][0] + zero, BLOCK):
            d = tl.zeros((TILE, BLOCK), tl.float32)
            for k in range(0, LAYOUT[l][1] + zero, BLOCK):
                above = _take(scratch + (2 * l + 1) * AREA, k, TILE, WIDTH, BLOCK)
                d = dot(above, taken(flat, weights_block(LAYOUT, l, k, n, BLOCK, BLOCK)), PRECISION, d)
            _put_product(scratch + (2 * l - 1) * AREA, n, d, partial, start, LAYOUT, l - 1, WIDTH, WEIGHTS)
        tl.debug_barrier()


@triton.jit
def _add_weights(
    partial, scratch, x, d_raw, start, count, zero,
    LAYOUT: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Add a tile's gradients of weights to partial, from what the passes left in the scratch memory.

    Products over few points at a time: their operands are all that a thread has room for.
    """
    LAST: tl.constexpr = len(LAYOUT) - 1
    AREA: tl.constexpr = TILE * WIDTH
    FEW: tl.constexpr = 32
    for k in range(0, LAYOUT[0][1] + zero, BLOCK):
        for column in range(0, LAYOUT[0][0] + 1 + zero, COLUMNS):
            total = tl.zeros((BLOCK, COLUMNS), tl.float32)
            for row in range(0, TILE + zero, FEW):
                place = start + row + tl.arange(0, FEW)
                d = _take(scratch + AREA + row * WIDTH, k, FEW, WIDTH, BLOCK)
                below = inputs(x, place, place < count, column, LAYOUT[0][0], COLUMNS)
                total = dot(d.trans(), below, PRECISION, total)
            _add(partial, first_block(LAYOUT, k, column, BLOCK, COLUMNS), total, start)
    for l in tl.static_range(1, LAST):
        for k in range(0, LAYOUT[l][1] + zero, BLOCK):
            for n in range(0, LAYOUT[l][0] + zero, BLOCK):
                total = tl.zeros((BLOCK, BLOCK), tl.float32)
                for row in range(0, TILE + zero, FEW):
                    d = _take(scratch + ((2 * l + 1) * AREA + row * WIDTH), k, FEW, WIDTH, BLOCK)
                    h = _take(scratch + ((2 * l - 2) * AREA + row * WIDTH), n, FEW, WIDTH, BLOCK)
                    total = dot(d.trans(), h, PRECISION, total)
                _add(partial, weights_block(LAYOUT, l, k, n, BLOCK, BLOCK), total, start)
    for n in range(0, LAYOUT[LAST][0] + zero, BLOCK):
        total = tl.zeros((16, BLOCK), tl.float32)
        for row in range(0, TILE + zero, FEW):
            place = start + row + tl.arange(0, FEW)
            dy = output_gradient(d_raw, place, place < count, LAYOUT[LAST][1])
            h = _take(scratch + ((2 * LAST - 2) * AREA + row * WIDTH), n, FEW, WIDTH, BLOCK)
            total = dot(dy.trans(), h, PRECISION, total)
        _add(partial, weights_block(LAYOUT, LAST, 0, n, 16, BLOCK), total, start)


@triton.jit(do_not_specialize=["num_points", "chunk", "items", "zero", "encoded_stride"])
def evaluate_backward(
    flat, encoded, d_raw, partial, d_encoded, scratch, num_points, chunk, items, zero, encoded_stride,
    LAYOUT: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    SINE: tl.constexpr, PRECISION: tl.constexpr, WEIGHTS: tl.constexpr, INPUTS_TOO: tl.constexpr,
):  # fmt: skip
    """Gradients of all parameters and inputs: each program takes every so many of the chunks of the fields' points.

    flat (N, P); encoded (B, E), or (N, B, E) with encoded_stride = B * E (else 0); d_raw (N, B, O); partial (N, chunks,
    P), written where WEIGHTS; d_encoded (N, B, E), written where INPUTS_TOO. chunk: points, a multiple of TILE; items:
    N * chunks; zero: 0, which the compiler must not know (it would unroll loops until a thread has no room for them);
    scratch: (programs, hidden layers, 2, TILE, WIDTH), for the values and slopes of one tile at a time.
    """
    LAST: tl.constexpr = len(LAYOUT) - 1
    INPUTS: tl.constexpr = LAYOUT[0][0]
    OUTPUTS: tl.constexpr = LAYOUT[LAST][1]
    SIZE: tl.constexpr = LAYOUT[LAST][3] + OUTPUTS
    scratch += tl.program_id(0).to(tl.int64) * (2 * LAST * TILE * WIDTH)
    chunks = tl.cdiv(num_points, chunk)
    item = tl.program_id(0)
    while item < items:
        field = (item // chunks).to(tl.int64)
        first = (item % chunks) * chunk
        w, p = flat + field * SIZE, partial + item.to(tl.int64) * SIZE
        points = field * num_points + first
        count = tl.minimum(chunk, num_points - first)
        x, back = encoded + field * encoded_stride + first.to(tl.int64) * INPUTS, d_raw + points * OUTPUTS
        for start in range(0, count, TILE):
            place = start + tl.arange(0, TILE)
            inside = place < count
            _layers_forward(
                x, place, inside, w, scratch, zero, LAYOUT, COLUMNS, WIDTH, BLOCK, TILE, SINE, PRECISION, True
            )
            dy = output_gradient(back, place, inside, OUTPUTS)
            _layers_backward(dy, w, p, scratch, start, zero, LAYOUT, WIDTH, BLOCK, PRECISION, WEIGHTS)
            if INPUTS_TOO:
                for column in range(0, INPUTS + zero, COLUMNS):
                    dx = tl.zeros((TILE, COLUMNS), tl.float32)
                    for k in range(0, LAYOUT[0][1] + zero, BLOCK):
                        d = _take(scratch + TILE * WIDTH, k, TILE, WIDTH, BLOCK)
                        dx = dot(d, taken(w, first_block(LAYOUT, k, column, BLOCK, COLUMNS)), PRECISION, dx)
                    put_columns(d_encoded + points * INPUTS, place, inside, column, dx, INPUTS)
            if WEIGHTS:
                _add_weights(p, scratch, x, back, start, count, zero, LAYOUT, COLUMNS, WIDTH, BLOCK, TILE, PRECISION)
            tl.debug_barrier()  # all is taken before the next tile is put there
        item += tl.num_programs(0)
