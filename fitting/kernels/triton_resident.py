"""The resident CUDA fitting kernel: one program fits one field from its first step to its last in a single launch.

A tile of points goes forward and backward through all layers in registers; gradients stay there until the last tile.
Weights and moments are touched once a step (weights once a tile) at the field's own place, which the nearest caches
hold: no other program reads it, and nothing is added atomically, so that a field's result is its own.
"""

import triton
import triton.language as tl

from neuralfields.kernels import interpreter
from neuralfields.kernels.triton_dot import dot
from neuralfields.kernels.triton_math import sample_words, sine_cosine

_INTEGERS = ["num_points", "count", "coords_stride", "steps", "seed", "min_steps", "curve_every", "num_curves"]

_INTERPRETED = tl.constexpr(interpreter.ACTIVE)


@triton.jit
def _here():
    """Zero, which the compiler must take for another number wherever it is used.

    It would else load the weights of all layers before the first tile of points, or at least compute where they are,
    and these are more than there are registers.
    """
    if _INTERPRETED:
        return 0
    return tl.inline_asm_elementwise("mov.u32 $0, 0;", "=r", [], tl.int32, False, 1)


@triton.jit
def _field():
    """Number of the program's field, not kept in a register."""
    return (tl.program_id(0) + _here()).to(tl.int64)


@triton.jit
def _first(LAYOUT: tl.constexpr, WIDTH: tl.constexpr, PAD: tl.constexpr):
    """Offsets of the first layer's weights with the bias as one more column, as a padded block, and which exist."""
    row, column = tl.arange(0, WIDTH)[:, None], tl.arange(0, PAD)[None, :]
    at = tl.where(column < LAYOUT[0][0], LAYOUT[0][2] + row * LAYOUT[0][0] + column, LAYOUT[0][3] + row)
    return at, (row < LAYOUT[0][1]) & (column <= LAYOUT[0][0])


@triton.jit
def _hidden(LAYOUT: tl.constexpr, l: tl.constexpr, WIDTH: tl.constexpr):
    """The same for the weights of hidden layer l, (out, in)."""
    row, column = tl.arange(0, WIDTH)[:, None], tl.arange(0, WIDTH)[None, :]
    return LAYOUT[l][2] + row * LAYOUT[l][0] + column, (row < LAYOUT[l][1]) & (column < LAYOUT[l][0])


@triton.jit
def _last(LAYOUT: tl.constexpr, WIDTH: tl.constexpr):
    """The same for the weights of the output layer, (in, out)."""
    l: tl.constexpr = len(LAYOUT) - 1
    row, column = tl.arange(0, WIDTH)[:, None], tl.arange(0, 16)[None, :]
    return LAYOUT[l][2] + column * LAYOUT[l][0] + row, (row < LAYOUT[l][0]) & (column < LAYOUT[l][1])


@triton.jit
def _bias(LAYOUT: tl.constexpr, l: tl.constexpr, PAD: tl.constexpr):
    """The same for the biases of layer l, a vector."""
    entry = tl.arange(0, PAD)
    return LAYOUT[l][3] + entry, entry < LAYOUT[l][1]


@triton.jit
def _activate(z, SINE: tl.constexpr, W0: tl.constexpr, TURNS: tl.constexpr, TURNS_LOW: tl.constexpr):
    """act(z) and its derivative; sine: W0 / pi = TURNS + TURNS_LOW makes half turns of z."""
    if SINE:
        s, c = sine_cosine(z * TURNS + z * TURNS_LOW)
        return s, c * W0
    else:
        return tl.where(z < 0.0, 0.0, z), tl.where(z > 0.0, 1.0, 0.0)


@triton.jit
def _loss(y, target, LOSS: tl.constexpr):
    """Loss of each output and its derivative, before the mean."""
    error = y - target
    if LOSS == "mse":
        return error * error, 2.0 * error
    elif LOSS == "l1":
        return tl.abs(error), tl.where(error > 0.0, 1.0, tl.where(error < 0.0, -1.0, error))
    else:
        tail = tl.exp(-tl.abs(y))
        sigmoid = tl.where(y < 0.0, tail, 1.0) / (1.0 + tail)
        return tl.where(y < 0.0, 0.0, y) - y * target + tl.log(1.0 + tail), sigmoid - target


@triton.jit
def _points(start, count, num_points, seed, field, step, SAMPLED: tl.constexpr, TILE: tl.constexpr):
    """Positions of a tile's points among the field's, and which of them are in the batch."""
    place = start + tl.arange(0, TILE)
    inside = place < count
    if SAMPLED:
        a, b, c, d = sample_words(seed, field, step, start // 4 + tl.arange(0, TILE // 4))
        words = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
        place = tl.umulhi(words, tl.zeros_like(words) + num_points.to(tl.uint32)).to(tl.int32)
    return tl.where(inside, place, 0), inside


@triton.jit
def _inputs(x, place, inside, INPUTS: tl.constexpr, PAD: tl.constexpr):
    """Inputs of a tile's points, then a column of ones for the bias, then zeros: (TILE, PAD)."""
    column = tl.arange(0, PAD)[None, :]
    value = tl.load(x + place[:, None] * INPUTS + column, mask=inside[:, None] & (column < INPUTS), other=0.0)
    return tl.where(column == INPUTS, 1.0, value)


@triton.jit
def _output(
    h, place, inside, weights, targets, channels, inverse,
    LAYOUT: tl.constexpr, LOSS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The output layer and the loss: dL/dy (TILE, 16), and the tile's sums of losses and squared errors."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    at, mask = _last(LAYOUT, h.shape[1])
    y = _product(h, tl.load(weights + _here() + at, mask=mask, other=0.0), PRECISION)
    at, real = _bias(LAYOUT, LAST, 16)
    y += tl.load(weights + _here() + at, mask=real, other=0.0)[None, :]
    column = tl.arange(0, 16)[None, :]
    exists = inside[:, None] & (column < LAYOUT[LAST][1])
    target = tl.load(targets + place[:, None] * LAYOUT[LAST][1] + column, mask=exists, other=0.0)
    loss, dy = _loss(y, target, LOSS)
    scale = tl.load(channels + tl.arange(0, 16), mask=real, other=0.0)[None, :]
    losses = tl.sum(tl.where(exists, loss, 0.0))
    values = tl.sum(tl.where(exists, (y - target) * (y - target) * scale, 0.0))
    return tl.where(exists, dy * inverse, 0.0), losses, values


@triton.jit
def _adam(at, mask, gradient, weights, first, second, rates, beta2, keep1, keep2, eps, l2):
    """One Adam update of the entries at weights + at; rates: (3,), see fit_resident."""
    value = tl.load(weights + at, mask=mask, other=0.0)
    g = gradient + l2 * value
    m = tl.load(first + at, mask=mask, other=0.0)
    v = tl.load(second + at, mask=mask, other=0.0)
    m += (g - m) * keep1
    v = v * beta2 + g * g * keep2
    update = tl.load(rates) * m / (tl.sqrt_rn(v) * tl.load(rates + 1) + eps)
    tl.store(first + at, m, mask=mask)
    tl.store(second + at, v, mask=mask)
    tl.store(weights + at, value * tl.load(rates + 2) - update, mask=mask)


@triton.jit
def _zeros(LAYOUT: tl.constexpr, WIDTH: tl.constexpr, IN_PAD: tl.constexpr):
    """Gradients of all layers: the first with its bias; weights and biases of the others."""
    g = (tl.zeros((WIDTH, IN_PAD), tl.float32),)
    for _ in tl.static_range(len(LAYOUT) - 2):
        g = g + (tl.zeros((WIDTH, WIDTH), tl.float32), tl.zeros((WIDTH,), tl.float32))
    return g + (tl.zeros((WIDTH, 16), tl.float32), tl.zeros((16,), tl.float32))


@triton.jit
def _put(scratch, l: tl.constexpr, h, slope):
    """Keep h and slope of layer l of a tile in the program's scratch memory."""
    at = tl.arange(0, h.shape[0])[:, None] * h.shape[1] + tl.arange(0, h.shape[1])[None, :]
    tl.store(scratch + _here() + (2 * l * (h.shape[0] * h.shape[1]) + at), h)
    tl.store(scratch + _here() + ((2 * l + 1) * (h.shape[0] * h.shape[1]) + at), slope)


@triton.jit
def _take(scratch, k: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr):
    """Block k of the scratch memory."""
    at = tl.arange(0, TILE)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    return tl.load(scratch + _here() + (k * TILE * WIDTH + at))


@triton.jit
def _high(x):
    """The first 11 significant bits of x: what a tensor core multiplies exactly."""
    return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _product(a, b, PRECISION: tl.constexpr, g=None):
    """a times b plus g, as triton_dot.dot, in a loop of its own.

    Of products that follow one another in one region the compiler gives every warp whole rows, and with them all
    columns of b; alone, a product is split both ways, and its operands fit into registers. For the same reason the
    three products of tf32x3 are turns of the loop: low by high, high by low, high by high.
    """
    if g is None:
        g = tl.zeros((a.shape[0], b.shape[1]), tl.float32)
    if PRECISION == "tf32x3":
        for turn in tl.range(_here(), 3, disable_licm=True):
            left = tl.where(turn == 0, a - _high(a), _high(a))
            right = tl.where(turn == 1, b - _high(b), _high(b))
            g = dot(left, right, "tf32", g)
    else:
        for _ in tl.range(_here(), 1, disable_licm=True):
            g = dot(a, b, PRECISION, g)
    return g


@triton.jit
def _tile(
    g, coords, place, inside, weights, targets, channels, inverse, scratch,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, IN_PAD: tl.constexpr, SINE: tl.constexpr, LOSS: tl.constexpr,
    PRECISION: tl.constexpr, SCRATCH: tl.constexpr,
):  # fmt: skip
    """One tile of points forward and backward: g with its gradients, and its sums of losses and squared errors."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    # Coordinates keep all their bits in every precision: w0 and the layers after magnify what they lose.
    EXACT: tl.constexpr = "fp32" if PRECISION == "fp32" else "tf32x3"
    x = _inputs(coords, place, inside, LAYOUT[0][0], IN_PAD)
    at, mask = _first(LAYOUT, WIDTH, IN_PAD)
    z = _product(x, tl.load(weights + _here() + at, mask=mask, other=0.0).trans(), EXACT)
    h, slope = _activate(z, SINE, LAYOUT[0][4], LAYOUT[0][5], LAYOUT[0][6])
    hs, slopes = (h,), (slope,)
    if SCRATCH:
        tl.debug_barrier()  # all threads have taken what the tile before has put
    for l in tl.static_range(1, LAST):
        if SCRATCH:
            _put(scratch, l - 1, h, slope)
        at, mask = _hidden(LAYOUT, l, WIDTH)
        z = _product(h, tl.load(weights + _here() + at, mask=mask, other=0.0).trans(), PRECISION)
        at, mask = _bias(LAYOUT, l, WIDTH)
        z += tl.load(weights + _here() + at, mask=mask, other=0.0)[None, :]
        h, slope = _activate(z, SINE, LAYOUT[l][4], LAYOUT[l][5], LAYOUT[l][6])
        if not SCRATCH:
            hs, slopes = hs + (h,), slopes + (slope,)
    dy, losses, values = _output(h, place, inside, weights, targets, channels, inverse, LAYOUT, LOSS, PRECISION)
    new = (_product(h.trans(), dy, PRECISION, g[2 * LAST - 1]), g[2 * LAST] + tl.sum(dy, axis=0))
    at, mask = _last(LAYOUT, WIDTH)
    d = _product(dy, tl.load(weights + _here() + at, mask=mask, other=0.0).trans(), PRECISION)
    if SCRATCH:
        tl.debug_barrier()  # what one thread has put there another one takes
    d = d * slope
    for l in tl.static_range(LAST - 1, 0, -1):
        below = _take(scratch, 2 * l - 2, d.shape[0], WIDTH) if SCRATCH else hs[l - 1]
        dw = _product(d.trans(), below, PRECISION, g[2 * l - 1])
        new = (dw, g[2 * l] + tl.sum(d, axis=0)) + new
        at, mask = _hidden(LAYOUT, l, WIDTH)
        d = _product(d, tl.load(weights + _here() + at, mask=mask, other=0.0), PRECISION)
        d = d * (_take(scratch, 2 * l - 1, d.shape[0], WIDTH) if SCRATCH else slopes[l - 1])
    return (_product(d.trans(), x, PRECISION, g[0]),) + new, losses, values


@triton.jit
def _update(g, weights, first, second, rates, beta2, keep1, keep2, eps, l2, LAYOUT: tl.constexpr):
    """One Adam update of all layers."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    WIDTH: tl.constexpr = g[0].shape[0]
    at, mask = _first(LAYOUT, WIDTH, g[0].shape[1])
    _adam(at, mask, g[0], weights, first, second, rates, beta2, keep1, keep2, eps, l2)
    for l in tl.static_range(1, LAST):
        at, mask = _hidden(LAYOUT, l, WIDTH)
        _adam(at, mask, g[2 * l - 1], weights, first, second, rates, beta2, keep1, keep2, eps, l2)
        at, mask = _bias(LAYOUT, l, WIDTH)
        _adam(at, mask, g[2 * l], weights, first, second, rates, beta2, keep1, keep2, eps, l2)
    at, mask = _last(LAYOUT, WIDTH)
    _adam(at, mask, g[2 * LAST - 1], weights, first, second, rates, beta2, keep1, keep2, eps, l2)
    at, mask = _bias(LAYOUT, LAST, 16)
    _adam(at, mask, g[2 * LAST], weights, first, second, rates, beta2, keep1, keep2, eps, l2)


@triton.jit(do_not_specialize=_INTEGERS)
def fit_resident(
    weights, first, second, coords, targets, ids, rates, channels, taken, curves, final, scratch, zero,
    num_points, count, coords_stride, steps, seed, min_steps, curve_every, num_curves,
    target_mse, beta2, keep1, keep2, eps, l2,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, SINE: tl.constexpr, LOSS: tl.constexpr,
    SAMPLED: tl.constexpr, PRECISION: tl.constexpr, SCRATCH: tl.constexpr,
):  # fmt: skip
    """Fit field program_id(0) of N.

    weights, first, second: (N, P) parameters and moments, changed in place; coords (M, E), or (N, M, E) with
    coords_stride = M * E (else 0); targets (N, M, O); ids (N,) int32; rates (S, 3): lr / (1 - beta1^t), 1 / sqrt(1 -
    beta2^t), 1 - lr * decoupled decay; channels (O,): squared value scale; taken (N,) int32, curves (N, num_curves),
    final (N,): squared error in value space. count points a step, drawn where SAMPLED. LAYOUT: triton_tiles.layout.
    """
    LAST: tl.constexpr = len(LAYOUT) - 1
    INPUTS: tl.constexpr = LAYOUT[0][0]
    OUTPUTS: tl.constexpr = LAYOUT[LAST][1]
    SIZE: tl.constexpr = LAYOUT[LAST][3] + OUTPUTS
    IN_PAD: tl.constexpr = 16 if INPUTS < 16 else 32 if INPUTS < 32 else 64 if INPUTS < 64 else 128
    SCRATCH_SIZE: tl.constexpr = (LAST - 1) * 2 * TILE * WIDTH
    seed = seed.to(tl.uint32, bitcast=True)
    going = steps > 0
    tl.store(taken + _field(), steps)
    # Nothing may be hoisted from these loops: the addresses of all layers are more than the registers there are.
    for step in tl.range(0, steps, disable_licm=True):
        if going:
            g = _zeros(LAYOUT, WIDTH, IN_PAD)
            losses, values = 0.0, 0.0
            for start in tl.range(0, count, TILE, disable_licm=True):
                field = _field()
                inverse = 1.0 / ((count + _here()) * OUTPUTS)
                field_id = tl.load(ids + field).to(tl.uint32, bitcast=True)
                place, inside = _points(start, count, num_points, seed, field_id, step, SAMPLED, TILE)
                g, loss, value = _tile(
                    g, coords + field * coords_stride, place, inside, weights + field * SIZE,
                    targets + field * num_points * OUTPUTS, channels, inverse, scratch + field * SCRATCH_SIZE,
                    LAYOUT, WIDTH, IN_PAD, SINE, LOSS, PRECISION, SCRATCH,
                )  # fmt: skip
                losses += loss
                values += value
            mse = values / (count * OUTPUTS)
            tl.store(final + _field(), mse)
            if step % curve_every == 0:
                tl.store(curves + _field() * num_curves + step // curve_every, losses / (count * OUTPUTS))
            going = (mse > target_mse) | (step < min_steps) | (mse != mse)
            if going:
                tl.debug_barrier()  # all threads have read the weights of this step
                own = _field() * SIZE
                _update(
                    g, weights + own, first + own, second + own, rates + step * 3, beta2, keep1, keep2, eps, l2, LAYOUT
                )
                tl.debug_barrier()  # and see those of the next one
            else:
                tl.store(taken + _field(), step)
