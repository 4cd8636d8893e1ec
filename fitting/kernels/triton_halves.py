"""The CUDA fitting kernel of bfloat16 parts: one program fits one field, and tensor cores do all products.

Forward, a hidden product is that of high and low halves (mixed) or of high ones alone (bf16); first and last layer
and all biases keep their float32 bits (halves_tiles). Backward, all operands are bfloat16, for gradients need no more.
Weights are taken from copies that are already split, scaled by w0.
"""

import triton
import triton.language as tl

from fitting.kernels.triton_resident import _INTEGERS, _field, _here, _loss, _points
from fitting.kernels.triton_streamed import _update
from neuralfields.kernels import interpreter
from neuralfields.kernels.triton_layers import taken, weights_block, written

_INTERPRETED = tl.constexpr(interpreter.ACTIVE)


@triton.jit
def _half(x):
    """float32 x to bfloat16, two at a time: the compiler would convert one by one what float32 arithmetic uses."""
    if _INTERPRETED:
        whole = x.to(tl.int32, bitcast=True)
        whole = (whole + 0x7FFF + ((whole >> 16) & 1)) & -65536
        return tl.where(x == x, whole.to(tl.float32, bitcast=True), x)
    return tl.inline_asm_elementwise("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [x], tl.bfloat16, True, 2)


@triton.jit
def _times(x, slope):
    """float32 x to bfloat16, times bfloat16 slope."""
    if _INTERPRETED:
        return _half(_half(x) * slope)
    return tl.inline_asm_elementwise(
        "{ .reg .b32 a, b; mov.b32 a, 0x80008000; cvt.rn.bf16x2.f32 b, $2, $1; fma.rn.bf16x2 $0, b, $3, a; }",
        "=r,r,r,r", [x, slope], tl.bfloat16, True, 2,
    )  # fmt: skip


@triton.jit
def _halves(x):
    """bfloat16 high and low half of float32 x: together 16 of its 24 bits."""
    high = _half(x)
    return high, _half(x - high.to(tl.float32))


@triton.jit
def _part(x, part):
    """One of the three bfloat16 parts of float32 x, by number."""
    first = _half(x).to(tl.float32)
    second = _half(x - first).to(tl.float32)
    return _half(tl.where(part == 0, first, tl.where(part == 1, second, x - first - second)))


@triton.jit
def _dot(a, b, z=None):
    return tl.dot(a, b, z, input_precision="ieee")


@triton.jit
def _sine(x):
    """sin(x) and cos(x) of the special function units: 2^-21 from them near zero, |x| 2^-23 far from it, which is as
    much as rounding x costs; the polynomials of sine_cosine, exact to 1e-7, are five times the instructions."""
    if _INTERPRETED:
        return tl.sin(x), tl.cos(x)
    sine = tl.inline_asm_elementwise("sin.approx.ftz.f32 $0, $1;", "=r,r", [x], tl.float32, True, 1)
    return sine, tl.inline_asm_elementwise("cos.approx.ftz.f32 $0, $1;", "=r,r", [x], tl.float32, True, 1)


@triton.jit
def _activate(z, SINE: tl.constexpr):
    """act(z) and its derivative by z in bfloat16."""
    if SINE:
        sine, cosine = _sine(z)
        return sine, _half(cosine)
    else:
        return tl.where(z < 0.0, 0.0, z), _half(tl.where(z > 0.0, 1.0, 0.0))


@triton.jit
def _square(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def _bias_part(column, INPUTS: tl.constexpr):
    """Which part of a bias a column takes (halves_tiles.columns), or 3 where it takes none."""
    late = tl.where((column > 6 * INPUTS) & (column < 6 * INPUTS + 3), column - 6 * INPUTS, 3)
    return tl.where(column == 3 * INPUTS, 0, late)


@triton.jit
def _put_biases(weights, to, LAYOUT: tl.constexpr, l: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The biases of layer l, scaled, in three parts, in the columns where inputs have ones."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    part = _bias_part(column, LAYOUT[0][0])
    value = tl.load(weights + LAYOUT[l][3] + row + column * 0, mask=(row < LAYOUT[l][1]) & (part < 3), other=0.0)
    tl.store(to + _square(ROWS, COLUMNS), _part(value * LAYOUT[l][4], part))


@triton.jit
def _zero(HIDE: tl.constexpr):
    """Zero, hidden from the compiler where places are better computed in every step than kept in registers."""
    return _here() if HIDE else 0


@triton.jit
def _put_halves(to, value, HIDE: tl.constexpr):
    """A block's high halves, and after them its low ones."""
    at = _zero(HIDE) + _square(value.shape[0], value.shape[1])
    high, low = _halves(value)
    tl.store(to + at, high)
    tl.store(to + value.shape[0] * value.shape[1] + at, low)


@triton.jit
def _copy(
    weights, copies, LAYOUT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, HIDE: tl.constexpr
):  # fmt: skip
    """Write what the products take of the weights, block after block: of the first layer and its biases (WIDTH,
    COLUMNS); of a hidden one high halves and low halves (WIDTH, WIDTH), biases (WIDTH, COLUMNS); of the last one
    high halves and low halves (16, WIDTH), biases (16, COLUMNS)."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    INPUTS: tl.constexpr = LAYOUT[0][0]
    row, column = tl.arange(0, WIDTH)[:, None], tl.arange(0, COLUMNS)[None, :]
    bias = _bias_part(column, INPUTS)
    late = column - 3 * INPUTS - 1
    part = tl.where(late < 0, 0, tl.where(late < 2 * INPUTS, 1, 2))
    at = LAYOUT[0][2] + row * INPUTS + tl.where(late < 0, column, late) % INPUTS
    exists = (row < LAYOUT[0][1]) & ((bias < 3) | (column < 6 * INPUTS + 1))
    value = tl.load(weights + tl.where(bias < 3, LAYOUT[0][3] + row, at), mask=exists, other=0.0)
    tl.store(copies + _square(WIDTH, COLUMNS), _part(value * LAYOUT[0][4], tl.where(bias < 3, bias, part)))
    copies += WIDTH * COLUMNS
    for l in tl.static_range(1, LAST):
        tl.debug_barrier()  # no block is loaded before the one before is written: registers are few
        block = weights_block(LAYOUT, l, _zero(HIDE), 0, WIDTH, WIDTH)
        _put_halves(copies, taken(weights, block) * LAYOUT[l][4], HIDE)
        _put_biases(weights, copies + 2 * WIDTH * WIDTH, LAYOUT, l, WIDTH, COLUMNS)
        copies += 2 * WIDTH * WIDTH + WIDTH * COLUMNS
    _put_halves(copies, taken(weights, weights_block(LAYOUT, LAST, _zero(HIDE), 0, 16, WIDTH)), HIDE)
    _put_biases(weights, copies + 32 * WIDTH, LAYOUT, LAST, 16, COLUMNS)


@triton.jit
def _take(memory, place: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A block; its place is hidden from the compiler, which would keep all blocks in registers."""
    return tl.load(memory + (_here() * 16 + place) + _square(ROWS, COLUMNS))


@triton.jit
def _with(held, memory, l: tl.constexpr, block, MEMORY: tl.constexpr):
    """Keep a block of layer l: in memory where l is below MEMORY, else behind the others held."""
    if l < MEMORY:
        SIDE: tl.constexpr = block.shape[0] * block.shape[1]
        tl.store(memory + (_here() + l * SIDE) + _square(block.shape[0], block.shape[1]), block)
        return held
    else:
        return held + (block,)


@triton.jit
def _of(held, memory, l: tl.constexpr, MEMORY: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr):
    """The block that was kept for layer l."""
    if l < MEMORY:
        return _take(memory, l * TILE * WIDTH, TILE, WIDTH)
    else:
        return held[l - MEMORY]


@triton.jit
def _add(points, number: tl.constexpr, value, later):
    """Add to one of the sums over a field's tiles, which are in memory for want of registers; later: not the first."""
    at = points + (_here() + number * value.shape[0]) + tl.arange(0, value.shape[0])
    tl.store(at, value + tl.load(at, mask=(tl.arange(0, value.shape[0]) >= 0) & later, other=0.0))


@triton.jit
def _compare(y, points, later, place, inside, targets, channels, inverse, LAYOUT: tl.constexpr, LOSS: tl.constexpr):
    """The loss of outputs y (TILE, 8): dL/dy in bfloat16 as (TILE, 8) and (TILE, 16). Squared errors, losses, and dL/dy
    of every output are added to points."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    OUTPUTS: tl.constexpr = LAYOUT[LAST][1]
    narrow, wide = tl.arange(0, 8)[None, :], tl.arange(0, 16)[None, :]
    losses, values = place * 0.0, place * 0.0
    d8, d16 = y * 0.0, tl.zeros((y.shape[0], 16), tl.float32)
    for o in tl.static_range(OUTPUTS):
        own = tl.sum(tl.where(narrow == o, y, 0.0), axis=1)
        target = tl.load(targets + place * OUTPUTS + o)
        loss, dy = _loss(own, target, LOSS)
        losses += loss
        values += (own - target) * (own - target) * tl.load(channels + o)
        dy = tl.where(inside, dy * inverse, 0.0)
        _add(points, 2 + o, dy, later)
        d8 = tl.where(narrow == o, dy[:, None], d8)
        d16 = tl.where(wide == o, dy[:, None], d16)
    _add(points, 0, tl.where(inside, values, 0.0), later)
    _add(points, 1, tl.where(inside, losses, 0.0), later)
    return _half(d8), _half(d16)


@triton.jit
def _tile(
    g, gradients, points, later, copies, inputs, place, inside, targets, channels, inverse,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr, SINE: tl.constexpr,
    LOSS: tl.constexpr, EXACT: tl.constexpr, WAIT: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """One tile of points forward and backward: g with its gradients; what _compare adds to points.

    Activations of the first WAIT layers wait behind the copies; where SUMS, gradients of hidden weights are added to
    `gradients`. later: whether there is something there to add to.
    """
    LAST: tl.constexpr = len(LAYOUT) - 1
    AREA: tl.constexpr = WIDTH * WIDTH
    FIRST: tl.constexpr = WIDTH * COLUMNS
    LAYER: tl.constexpr = 2 * AREA + FIRST
    OUT: tl.constexpr = FIRST + (LAST - 1) * LAYER
    high_at = copies + OUT + 32 * WIDTH + 16 * COLUMNS
    slope_at = high_at + WAIT * TILE * WIDTH
    highs, slopes = (), ()
    x = tl.load(inputs + place[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])
    h, slope = _activate(_dot(x, _take(copies, 0, WIDTH, COLUMNS).trans()), SINE)
    high, low = _halves(h)
    for l in tl.static_range(1, LAST):
        highs = _with(highs, high_at, l - 1, high, WAIT)
        slopes = _with(slopes, slope_at, l - 1, slope, WAIT)
        w = _take(copies, OUT - (LAST - l) * LAYER, WIDTH, WIDTH).trans()
        z = _dot(x, _take(copies, OUT - (LAST - l) * LAYER + 2 * AREA, WIDTH, COLUMNS).trans())
        if EXACT:
            z = _dot(low, w, z)
            z = _dot(high, _take(copies, OUT - (LAST - l) * LAYER + AREA, WIDTH, WIDTH).trans(), z)
        h, slope = _activate(_dot(high, w, z), SINE)
        high, low = _halves(h)
    w = _take(copies, OUT, 8, WIDTH).trans()
    y = _dot(low, w, _dot(x, _take(copies, OUT + 32 * WIDTH, 8, COLUMNS).trans()))
    y = _dot(high, w, _dot(high, _take(copies, OUT + 16 * WIDTH, 8, WIDTH).trans(), y))
    d8, d16 = _compare(y, points, later, place, inside, targets, channels, inverse, LAYOUT, LOSS)
    last = _dot(high.trans(), d8, g[LAST])
    d = _times(_dot(d16, _take(copies, OUT, 16, WIDTH)), slope)
    ones = _half(tl.full((TILE, 8), 1.0, tl.float32))
    biases, hidden = (last,), ()
    if WAIT > 0:
        tl.debug_barrier()  # what one thread has put there another one takes
    for l in tl.static_range(LAST - 1, 0, -1):
        biases = (_dot(d.trans(), ones, g[l]),) + biases
        below = _of(highs, high_at, l - 1, WAIT, TILE, WIDTH)
        if SUMS:
            at = _here() + (l - 1) * AREA + _square(WIDTH, WIDTH)
            before = tl.load(gradients + at, mask=(at >= 0) & later, other=0.0)
            tl.store(gradients + at, _dot(d.trans(), below, before))
        else:
            hidden = (_dot(d.trans(), below, g[LAST + l]),) + hidden
        w = _take(copies, OUT - (LAST - l) * LAYER, WIDTH, WIDTH)
        d = _times(_dot(d, w), _of(slopes, slope_at, l - 1, WAIT, TILE, WIDTH))
    return (_dot(d.trans(), x, g[0]),) + biases + hidden


@triton.jit
def _zeros(LAYOUT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, SUMS: tl.constexpr):
    """Gradients: of the first layer by columns; biases of hidden layers; weights of the last; weights of hidden layers,
    where they are not in memory."""
    g = (tl.zeros((WIDTH, COLUMNS), tl.float32),)
    for _ in tl.static_range(len(LAYOUT) - 1):
        g = g + (tl.zeros((WIDTH, 8), tl.float32),)
    if not SUMS:
        for _ in tl.static_range(len(LAYOUT) - 2):
            g = g + (tl.zeros((WIDTH, WIDTH), tl.float32),)
    return g


@triton.jit
def _total(points, number: tl.constexpr, TILE: tl.constexpr):
    """One of the sums of _compare over all points."""
    PIECE: tl.constexpr = 32 if TILE > 32 else TILE  # of one warp: a sum across warps keeps a register all the time
    total = tl.zeros((PIECE,), tl.float32)
    for first in tl.static_range(0, TILE, PIECE):
        total += tl.load(points + (_here() + number * TILE + first) + tl.arange(0, PIECE))
    return tl.sum(total)


@triton.jit
def _gather(
    g, hidden, to,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr, SUMS: tl.constexpr,
    HIDE: tl.constexpr,
):  # fmt: skip
    """Write the gradients where the parameters are; hidden: memory for their blocks, those of hidden weights first."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    INPUTS: tl.constexpr = LAYOUT[0][0]
    OUTPUTS: tl.constexpr = LAYOUT[LAST][1]
    AREA: tl.constexpr = WIDTH * WIDTH
    first = hidden + (LAST - 1) * AREA
    narrow = first + WIDTH * COLUMNS
    tl.store(first + _here() + _square(WIDTH, COLUMNS), g[0])
    for l in tl.static_range(1, LAST + 1):
        tl.store(narrow + (_here() + (l - 1) * WIDTH * 8) + _square(WIDTH, 8), g[l])
    if not SUMS:
        for l in tl.static_range(1, LAST):
            tl.store(hidden + (_here() + (l - 1) * AREA) + _square(WIDTH, WIDTH), g[LAST + l])
    tl.debug_barrier()  # all threads see the blocks
    for o in tl.static_range(OUTPUTS):
        tl.store(to + LAYOUT[LAST][3] + o, _total(narrow + LAST * WIDTH * 8, 2 + o, TILE))
    unit = _here() + tl.arange(0, WIDTH)
    exists = unit < LAYOUT[0][1]
    for i in tl.static_range(INPUTS):
        at = first + unit * COLUMNS + i  # the columns of an input's three parts
        total = tl.load(at) + tl.load(at + INPUTS) + tl.load(at + 2 * INPUTS)
        tl.store(to + LAYOUT[0][2] + unit * INPUTS + i, total * LAYOUT[0][4], mask=exists)
    tl.store(to + LAYOUT[0][3] + unit, tl.load(first + unit * COLUMNS + 3 * INPUTS) * LAYOUT[0][4], mask=exists)
    for l in tl.static_range(1, LAST):
        block = tl.load(hidden + (_here() + (l - 1) * AREA) + _square(WIDTH, WIDTH)) * LAYOUT[l][4]
        written(to, weights_block(LAYOUT, l, _zero(HIDE), 0, WIDTH, WIDTH), block)
        value = tl.load(narrow + ((l - 1) * WIDTH + unit) * 8) * LAYOUT[l][4]
        tl.store(to + LAYOUT[l][3] + unit, value, mask=unit < LAYOUT[l][1])
        tl.debug_barrier()  # as in _copy
    for o in tl.static_range(OUTPUTS):
        value = tl.load(narrow + ((LAST - 1) * WIDTH + unit) * 8 + o)
        tl.store(to + LAYOUT[LAST][2] + o * LAYOUT[LAST][0] + unit, value, mask=unit < LAYOUT[LAST][0])


@triton.jit(do_not_specialize=_INTEGERS)
def fit_halves(
    weights, first, second, inputs, targets, ids, rates, channels, taken, curves, final, scratch, copies, zero,
    num_points, count, coords_stride, steps, seed, min_steps, curve_every, num_curves,
    target_mse, beta2, keep1, keep2, eps, l2,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr, SINE: tl.constexpr,
    LOSS: tl.constexpr, SAMPLED: tl.constexpr, EXACT: tl.constexpr, COPIES: tl.constexpr, SCRATCH: tl.constexpr,
    WAIT: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Fit field program_id(0) of N; what has the name of an argument of fit_resident is the same.

    inputs (M, COLUMNS), or (N, M, COLUMNS) with coords_stride = M * COLUMNS (else 0): halves_tiles.spread of the
    coordinates, bfloat16; scratch (N, SCRATCH): see halves_tiles.scratch; copies (N, COPIES): bfloat16, see there.
    """
    LAST: tl.constexpr = len(LAYOUT) - 1
    OUTPUTS: tl.constexpr = LAYOUT[LAST][1]
    SIZE: tl.constexpr = LAYOUT[LAST][3] + OUTPUTS
    AREAS: tl.constexpr = (SIZE + 15) // 16 * 16
    POINTS: tl.constexpr = SCRATCH - AREAS - (2 + OUTPUTS) * TILE
    seed = seed.to(tl.uint32, bitcast=True)
    going = steps > 0
    tl.store(taken + _field(), 0)  # what counts the steps: a register could not be spared
    for _ in tl.range(0, steps, disable_licm=True):
        if going:
            _copy(weights + _field() * SIZE, copies + _field() * COPIES, LAYOUT, WIDTH, COLUMNS, WAIT > 0)
            tl.debug_barrier()  # all threads see them
            g = _zeros(LAYOUT, WIDTH, COLUMNS, SUMS)
            for start in tl.range(0, count, TILE, disable_licm=True):
                field = _field()
                inverse = 1.0 / ((count + _here()) * OUTPUTS)
                field_id = tl.load(ids + field).to(tl.uint32, bitcast=True)
                step = tl.load(taken + field)
                place, inside = _points(start, count, num_points, seed, field_id, step, SAMPLED, TILE)
                blocks = scratch + field * SCRATCH + AREAS
                tl.debug_barrier()  # all threads see the sums of the tile before
                g = _tile(
                    g, blocks, blocks + POINTS, start > 0, copies + field * COPIES, inputs + field * coords_stride,
                    place, inside, targets + field * num_points * OUTPUTS, channels, inverse,
                    LAYOUT, WIDTH, COLUMNS, TILE, SINE, LOSS, EXACT, WAIT, SUMS,
                )  # fmt: skip
            tl.debug_barrier()
            blocks = scratch + _field() * SCRATCH + AREAS
            step = tl.load(taken + _field())
            mse = _total(blocks + POINTS, 0, TILE) / (count * OUTPUTS)
            tl.store(final + _field(), mse)
            if step % curve_every == 0:
                loss = _total(blocks + POINTS, 1, TILE) / (count * OUTPUTS)
                tl.store(curves + _field() * num_curves + step // curve_every, loss)
            going = (mse > target_mse) | (step < min_steps) | (mse != mse)
            if going:
                own = _field() * SIZE
                gradient = scratch + _field() * SCRATCH
                _gather(g, blocks, gradient, LAYOUT, WIDTH, COLUMNS, TILE, SUMS, WAIT > 0)
                tl.debug_barrier()  # all threads see the gradients, and have read the weights of this step
                _update(
                    gradient, weights + own, first + own, second + own, zero, rates + step * 3,
                    beta2, keep1, keep2, eps, l2, SIZE, 128,
                )  # fmt: skip
                tl.store(taken + _field(), step + 1)
                tl.debug_barrier()  # and see those of the next one
                going = step + 1 < steps
