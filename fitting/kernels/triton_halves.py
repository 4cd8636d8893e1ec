"""The CUDA fitting kernel of bfloat16 parts: one program fits one field, and tensor cores do all products.

Forward, a hidden product is that of high and low halves (mixed) or of high ones alone (bf16); first and last layer
and all biases keep their float32 bits (halves_tiles). Backward, all operands are bfloat16, for gradients need no more.
Weights are taken from copies that are already split, scaled by w0.
"""

import triton
import triton.language as tl

from fitting.kernels.triton_parts import activate, dot, half, halves, other, part_of, times
from fitting.kernels.triton_resident import _INTEGERS, _field, _here, _loss
from fitting.kernels.triton_streamed import _update
from neuralfields.kernels.triton_layers import taken, weights_block, written
from neuralfields.kernels.triton_math import sample_words

_CALLS = tl.constexpr(128)  # of Philox at once


@triton.jit
def _square(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def _bias_part(column, INPUTS: tl.constexpr):
    """Which part of a bias a column takes (halves_tiles.columns), or 3 where it takes none."""
    late = tl.where((column > 6 * INPUTS) & (column < 6 * INPUTS + 3), column - 6 * INPUTS, 3)
    return tl.where(column == 2 * INPUTS, 0, late)


@triton.jit
def _put_biases(weights, to, LAYOUT: tl.constexpr, l: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The biases of layer l, scaled, in three parts, in the columns where inputs have ones."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    part = _bias_part(column, LAYOUT[0][0])
    value = tl.load(weights + LAYOUT[l][3] + row + column * 0, mask=(row < LAYOUT[l][1]) & (part < 3), other=0.0)
    tl.store(to + _square(ROWS, COLUMNS), part_of(value * LAYOUT[l][4], part))


@triton.jit
def _zero(HIDE: tl.constexpr):
    """Zero, hidden from the compiler where places are better computed in every step than kept in registers."""
    return _here() if HIDE else 0


@triton.jit
def _put_halves(to, value, HIDE: tl.constexpr):
    """A block's high halves, and after them its low ones."""
    at = _zero(HIDE) + _square(value.shape[0], value.shape[1])
    high, low = halves(value)
    tl.store(to + at, high)
    tl.store(to + value.shape[0] * value.shape[1] + at, low)


@triton.jit
def _put_last(weights, to, LAYOUT: tl.constexpr, WIDTH: tl.constexpr, HIDE: tl.constexpr):
    """High halves of the last layer's weights in rows 0 to 3, their low halves in rows 4 to 7, zeros."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    row, column = _zero(HIDE) + tl.arange(0, 16)[:, None], tl.arange(0, WIDTH)[None, :]
    exists = (row < 8) & (row % 4 < LAYOUT[LAST][1]) & (column < LAYOUT[LAST][0])
    value = tl.load(weights + LAYOUT[LAST][2] + row % 4 * LAYOUT[LAST][0] + column, mask=exists, other=0.0)
    tl.store(to + _square(16, WIDTH), part_of(value, row // 4 + column * 0))


@triton.jit
def _copy(
    weights, copies, LAYOUT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, HIDE: tl.constexpr
):  # fmt: skip
    """Write what the products take of the weights, block after block: of the first layer and its biases (WIDTH,
    COLUMNS); of a hidden one high halves and low halves (WIDTH, WIDTH), biases (WIDTH, COLUMNS); of the last one
    (16, WIDTH), see _put_last."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    INPUTS: tl.constexpr = LAYOUT[0][0]
    row, column = _here() + tl.arange(0, WIDTH)[:, None], tl.arange(0, COLUMNS)[None, :]
    bias = _bias_part(column, INPUTS)
    late = column - 2 * INPUTS - 1
    part = tl.where(late < INPUTS, 0, tl.where(late < 3 * INPUTS, 1, 2))
    at = LAYOUT[0][2] + row * INPUTS + tl.where(late < 0, column, late) % INPUTS
    exists = (row < LAYOUT[0][1]) & ((bias < 3) | (column < 6 * INPUTS + 1))
    value = tl.load(weights + tl.where(bias < 3, LAYOUT[0][3] + row, at), mask=exists, other=0.0)
    tl.store(copies + _square(WIDTH, COLUMNS), part_of(value * LAYOUT[0][4], tl.where(bias < 3, bias, part)))
    copies += WIDTH * COLUMNS
    for l in tl.static_range(1, LAST):
        tl.debug_barrier()  # no block is loaded before the one before is written: registers are few
        block = weights_block(LAYOUT, l, _zero(HIDE), 0, WIDTH, WIDTH)
        _put_halves(copies, taken(weights, block) * LAYOUT[l][4], HIDE)
        _put_biases(weights, copies + 2 * WIDTH * WIDTH, LAYOUT, l, WIDTH, COLUMNS)
        copies += 2 * WIDTH * WIDTH + WIDTH * COLUMNS
    _put_last(weights, copies, LAYOUT, WIDTH, HIDE)


@triton.jit
def _take(memory, place: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A block; its place is hidden from the compiler, which would keep all blocks in registers."""
    return tl.load(memory + (_here() * 16 + place) + _square(ROWS, COLUMNS))


@triton.jit
def _hold(copies, LAYOUT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """The blocks of _copy as the products of a step take them, which the compiler keeps in shared memory: the first
    layer's; of every hidden layer low halves, biases, high halves, and these for the backward pass; the last layer's,
    and these for the backward pass."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    AREA: tl.constexpr = WIDTH * WIDTH
    FIRST: tl.constexpr = WIDTH * COLUMNS
    LAYER: tl.constexpr = 2 * AREA + FIRST
    held = (_take(copies, 0, WIDTH, COLUMNS).trans(),)
    for l in tl.static_range(1, LAST):
        held = held + (
            _take(copies, FIRST + (l - 1) * LAYER + AREA, WIDTH, WIDTH).trans(),
            _take(copies, FIRST + (l - 1) * LAYER + 2 * AREA, WIDTH, COLUMNS).trans(),
            _take(copies, FIRST + (l - 1) * LAYER, WIDTH, WIDTH).trans(),
            _take(copies, FIRST + (l - 1) * LAYER, WIDTH, WIDTH),
        )
    OUT: tl.constexpr = FIRST + (LAST - 1) * LAYER
    return held + (_take(copies, OUT, 8, WIDTH).trans(), _take(copies, OUT, 16, WIDTH))


@triton.jit
def _draw(drawn, ids, taken, count, num_points, seed):
    """Write which of the field's points are a step's batch: four for every call of Philox."""
    field, step = tl.load(ids + _field()).to(tl.uint32, bitcast=True), tl.load(taken + _field())
    to = drawn + _field() * count
    for first in tl.range(0, count, 4 * _CALLS, disable_licm=True):
        call = first // 4 + tl.arange(0, _CALLS)
        words = sample_words(seed, field, step, call)
        for n in tl.static_range(4):
            place = tl.umulhi(words[n], tl.zeros_like(words[n]) + num_points.to(tl.uint32)).to(tl.int32)
            tl.store(to + 4 * call + n, place, mask=4 * call + n < count)


@triton.jit
def _places(drawn, start, count, SAMPLED: tl.constexpr, TILE: tl.constexpr):
    """Where the points of a tile are among the field's, and which are in the batch; the others are at the first one."""
    at = start + tl.arange(0, TILE)
    inside = at < count
    return tl.load(drawn + _field() * count + at, mask=inside, other=0) if SAMPLED else tl.where(inside, at, 0), inside


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
def _compare(
    y, biases, points, later, place, inside, targets, channels, inverse,
    LAYOUT: tl.constexpr, LOSS: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """The loss of outputs, each the sum of two columns of y (TILE, 8) and a bias: dL/dy in bfloat16, as (TILE, NARROW)
    in the columns of the last layer's weights, and as (TILE, 16) in the first ones. Squared errors, losses, and dL/dy
    of every output are added to points."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    OUTPUTS: tl.constexpr = LAYOUT[LAST][1]
    FIRST: tl.constexpr = 2 * LAYOUT[0][0] + LAST
    own_column, narrow, wide = tl.arange(0, 8)[None, :], tl.arange(0, NARROW)[None, :], tl.arange(0, 16)[None, :]
    losses, values = place * 0.0, place * 0.0
    right, left = tl.zeros((y.shape[0], NARROW), tl.float32), tl.zeros((y.shape[0], 16), tl.float32)
    for o in tl.static_range(OUTPUTS):
        own = tl.sum(tl.where(own_column % 4 == o, y, 0.0), axis=1) + tl.load(biases + o)
        target = tl.load(targets + place * OUTPUTS + o)
        loss, dy = _loss(own, target, LOSS)
        losses += loss
        values += (own - target) * (own - target) * tl.load(channels + o)
        dy = tl.where(inside, dy * inverse, 0.0)
        _add(points, 2 + o, dy, later)
        right = tl.where(narrow == FIRST + o, dy[:, None], right)
        left = tl.where(wide == o, dy[:, None], left)
    _add(points, 0, tl.where(inside, values, 0.0), later)
    _add(points, 1, tl.where(inside, losses, 0.0), later)
    return half(right), half(left)


@triton.jit
def _tile(
    held, g, gradients, points, later, waiting, biases, inputs, place, inside, targets, channels, inverse,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr, SINE: tl.constexpr,
    LOSS: tl.constexpr, EXACT: tl.constexpr, WAIT: tl.constexpr, SUMS: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """One tile of points forward and backward: g with its gradients; what _compare adds to points.

    held: of _hold. Activations of the first WAIT layers wait in memory; where SUMS, gradients of hidden weights are
    added to `gradients`. later: whether there is something there to add to.
    """
    LAST: tl.constexpr = len(LAYOUT) - 1
    AREA: tl.constexpr = WIDTH * WIDTH
    slopes_at = waiting + WAIT * TILE * WIDTH
    highs, slopes = (), ()
    rows = inputs + place[:, None] * (COLUMNS + NARROW)
    x = tl.load(rows + tl.arange(0, COLUMNS)[None, :])
    h, slope = activate(dot(x, held[0]), SINE)
    high, low = halves(h)
    for l in tl.static_range(1, LAST):
        highs = _with(highs, waiting, l - 1, high, WAIT)
        slopes = _with(slopes, slopes_at, l - 1, slope, WAIT)
        z = dot(x, held[4 * l - 2])
        if EXACT:
            z = dot(low, held[4 * l - 1], dot(high, held[4 * l - 3], z))
        h, slope = activate(dot(high, held[4 * l - 1], z), SINE)
        high, low = halves(h)
    y = dot(high, held[4 * LAST - 3], dot(low, held[4 * LAST - 3]))
    right, left = _compare(
        y, biases, points, later, place, inside, targets, channels, inverse, LAYOUT, LOSS, NARROW
    )  # fmt: skip
    sums = dot(high.trans(), right, g[0])
    d = times(dot(left, held[4 * LAST - 2]), slope)
    column = tl.arange(0, NARROW)[None, :]
    hidden = ()
    if WAIT > 0:
        tl.debug_barrier()  # what one thread has put there another one takes
    for l in tl.static_range(LAST - 1, 0, -1):
        one = half(tl.where(_here() + column + tl.zeros((TILE, NARROW), tl.int32) == 2 * LAYOUT[0][0] + l, 1.0, 0.0))
        sums = dot(d.trans(), one, sums)
        below = _of(highs, waiting, l - 1, WAIT, TILE, WIDTH)
        if SUMS:
            at = _here() + (l - 1) * AREA + _square(WIDTH, WIDTH)
            before = tl.load(gradients + at, mask=(at >= 0) & later, other=0.0)
            tl.store(gradients + at, dot(d.trans(), below, before))
        else:
            hidden = (dot(other(d).trans(), other(below.trans()).trans(), g[l]),) + hidden
        d = times(dot(d, held[4 * l]), _of(slopes, slopes_at, l - 1, WAIT, TILE, WIDTH))
    return (dot(d.trans(), tl.load(rows + (_here() * 8 + COLUMNS) + column), sums),) + hidden


@triton.jit
def _zeros(LAYOUT: tl.constexpr, WIDTH: tl.constexpr, NARROW: tl.constexpr, SUMS: tl.constexpr):
    """Gradients: of all vectors of units, side by side (halves_tiles.narrow); weights of hidden layers, where they are
    not in memory."""
    g = (tl.zeros((WIDTH, NARROW), tl.float32),)
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
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, SUMS: tl.constexpr, HIDE: tl.constexpr,
    NARROW: tl.constexpr,
):  # fmt: skip
    """Write the gradients where the parameters are; hidden: memory for their blocks, those of hidden weights first."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    INPUTS: tl.constexpr = LAYOUT[0][0]
    OUTPUTS: tl.constexpr = LAYOUT[LAST][1]
    AREA: tl.constexpr = WIDTH * WIDTH
    narrow = hidden + (LAST - 1) * AREA
    tl.store(narrow + _here() + _square(WIDTH, NARROW), g[0])
    if not SUMS:
        for l in tl.static_range(1, LAST):
            tl.store(hidden + (_here() + (l - 1) * AREA) + _square(WIDTH, WIDTH), g[l])
    tl.debug_barrier()  # all threads see the blocks
    for o in tl.static_range(OUTPUTS):
        tl.store(to + LAYOUT[LAST][3] + o, _total(narrow + WIDTH * NARROW, 2 + o, TILE))
    unit = _here() + tl.arange(0, WIDTH)
    exists = unit < LAYOUT[0][1]
    for i in tl.static_range(INPUTS):
        total = tl.load(narrow + unit * NARROW + i) + tl.load(narrow + unit * NARROW + INPUTS + i)
        tl.store(to + LAYOUT[0][2] + unit * INPUTS + i, total * LAYOUT[0][4], mask=exists)
    for l in tl.static_range(LAST):
        value = tl.load(narrow + unit * NARROW + 2 * INPUTS + l) * LAYOUT[l][4]
        tl.store(to + LAYOUT[l][3] + unit, value, mask=unit < LAYOUT[l][1])
    for l in tl.static_range(1, LAST):
        tl.debug_barrier()  # as in _copy
        block = tl.load(hidden + (_here() + (l - 1) * AREA) + _square(WIDTH, WIDTH)) * LAYOUT[l][4]
        written(to, weights_block(LAYOUT, l, _zero(HIDE), 0, WIDTH, WIDTH), block)
    for o in tl.static_range(OUTPUTS):
        value = tl.load(narrow + unit * NARROW + 2 * INPUTS + LAST + o)
        tl.store(to + LAYOUT[LAST][2] + o * LAYOUT[LAST][0] + unit, value, mask=unit < LAYOUT[LAST][0])


@triton.jit(do_not_specialize=_INTEGERS)
def fit_halves(
    weights, first, second, inputs, targets, ids, rates, channels, taken, curves, final, scratch, copies, drawn, zero,
    num_points, count, coords_stride, steps, seed, min_steps, curve_every, num_curves, target_mse, beta2, keep1, keep2,
    eps, l2, LAYOUT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr, SINE: tl.constexpr,
    LOSS: tl.constexpr, SAMPLED: tl.constexpr, EXACT: tl.constexpr, COPIES: tl.constexpr, SCRATCH: tl.constexpr,
    WAIT: tl.constexpr, SUMS: tl.constexpr, NARROW: tl.constexpr, HIDE: tl.constexpr,
):  # fmt: skip
    """Fit field program_id(0) of N; what has the name of an argument of fit_resident is the same.

    inputs (M, E), or (N, M, E) with coords_stride = M * E (else 0): halves_tiles.spread of the coordinates, bfloat16,
    E = COLUMNS + NARROW; scratch (N, SCRATCH), copies (N, COPIES) bfloat16: see halves_tiles; drawn (N, count) int32.
    """
    LAST: tl.constexpr = len(LAYOUT) - 1
    OUTPUTS: tl.constexpr = LAYOUT[LAST][1]
    SIZE: tl.constexpr = LAYOUT[LAST][3] + OUTPUTS
    AREAS: tl.constexpr = (SIZE + 15) // 16 * 16
    WAITING: tl.constexpr = COPIES - 2 * WAIT * TILE * WIDTH
    POINTS: tl.constexpr = SCRATCH - AREAS - (2 + OUTPUTS) * TILE
    seed = seed.to(tl.uint32, bitcast=True)
    going = steps > 0
    while going:
        _copy(weights + _field() * SIZE, copies + _field() * COPIES, LAYOUT, WIDTH, COLUMNS, HIDE)
        if SAMPLED:
            _draw(drawn, ids, taken, count, num_points, seed)
        tl.debug_barrier()  # all threads see them
        held = _hold(copies + _field() * COPIES, LAYOUT, WIDTH, COLUMNS)
        g = _zeros(LAYOUT, WIDTH, NARROW, SUMS)
        for start in tl.range(0, count, TILE, disable_licm=True):
            field, inverse = _field(), 1.0 / ((count + _here()) * OUTPUTS)
            place, inside = _places(drawn, start, count, SAMPLED, TILE)
            blocks = scratch + field * SCRATCH + AREAS
            rows = inputs + (field * coords_stride >> 3) * 8  # said to be a multiple: rows are loaded whole
            tl.debug_barrier()  # all threads see the sums of the tile before
            g = _tile(
                held, g, blocks, blocks + POINTS, start > 0, copies + field * COPIES + WAITING,
                weights + (field * SIZE + LAYOUT[LAST][3]), rows, place, inside, targets + field * num_points * OUTPUTS,
                channels, inverse, LAYOUT, WIDTH, COLUMNS, TILE, SINE, LOSS, EXACT, WAIT, SUMS, NARROW,
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
            _gather(g, blocks, gradient, LAYOUT, WIDTH, TILE, SUMS, HIDE, NARROW)
            tl.debug_barrier()  # all threads see the gradients, and have read the weights of this step
            _update(
                gradient, weights + own, first + own, second + own, zero, rates + step * 3,
                beta2, keep1, keep2, eps, l2, SIZE, 128,
            )  # fmt: skip
            tl.store(taken + _field(), step + 1)
            tl.debug_barrier()  # and see those of the next one
            going = step + 1 < steps
