"""The streamed CUDA fitting kernel, for layers whose weights do not fit in registers: one program fits one field.

A tile of points goes forward and backward layer by layer; what a layer makes waits in a scratch area of the program's
own, which the second-level cache holds, and every product goes over blocks of rows and columns. Gradients are summed
in the same area by the same program, tile after tile: nothing is added atomically, and a field's result is its own.
"""

from dataclasses import dataclass, replace

import triton
import triton.language as tl

from fitting.config import FitConfig
from fitting.kernels import triton_tiles
from fitting.kernels.triton_resident import _INTEGERS, _activate, _adam, _inputs, _loss, _points
from neuralfields.kernels.resources import Choice
from neuralfields.kernels.triton_dot import PRECISIONS, dot
from neuralfields.spec import FieldSpec


@dataclass(frozen=True)
class StreamedTile:
    """points: whose activations are kept at a time, a multiple of rows; rows, columns: of a product at a time;
    inner: terms of its sums at a time, at most columns; warps, stages: of the launch."""

    points: int
    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


# Said to the assembler, which otherwise may halve it to run two programs at once, and spill.
MAX_REGISTERS = 255
# (padded width, precision) -> tile.
STREAMED = {
    (width, name): StreamedTile(128, 64, 32, 16, warps=8, stages=1 if name == "fp32" else 2)
    for width in (128, 256)
    for name in PRECISIONS
}


def tile(spec: FieldSpec, config: FitConfig) -> StreamedTile:
    """The tile of the streamed kernel for such fields."""
    return STREAMED[_padded(spec), triton_tiles.precision(config)]


def scratch(spec: FieldSpec, config: FitConfig) -> int:
    """Floats of scratch memory of one field: h and act' of a tile in every hidden layer, and all gradients."""
    return _scratch(len(spec.hidden), tile(spec, config).points, _padded(spec), spec.num_params)


def constants(spec: FieldSpec, config: FitConfig) -> dict:
    """The compile-time arguments of the streamed kernel."""
    chosen = tile(spec, config)
    return {
        "LAYOUT": triton_tiles.layout(spec),
        "WIDTH": _padded(spec),
        "POINTS": chosen.points,
        "ROWS": chosen.rows,
        "COLUMNS": chosen.columns,
        "INNER": chosen.inner,
        "SINE": spec.activation == "sine",
        "LOSS": config.loss,
        "SAMPLED": config.batch > 0,
        "PRECISION": triton_tiles.precision(config),
        "SCRATCH": scratch(spec, config),
    }


def _padded(spec: FieldSpec) -> int:
    return max(128, triton_tiles.padded(max(spec.hidden)))


def _scratch(depth: int, points: int, width: int, parameters: int) -> int:
    return points * (2 * depth * width + 16) + -(-parameters // 16) * 16


@triton.jit
def _hide(zero):
    """A zero that the compiler cannot see: else it computes the addresses of all layers before the first tile, and
    these alone are more than the registers there are."""
    return tl.load(zero, volatile=True)


@triton.jit
def _weights(LAYOUT: tl.constexpr, layer: tl.constexpr, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Offsets of a block of the weights of a layer, (out, in), and which exist."""
    rows, columns = (row + tl.arange(0, ROWS))[:, None], (column + tl.arange(0, COLUMNS))[None, :]
    return LAYOUT[layer][2] + rows * LAYOUT[layer][0] + columns, (rows < LAYOUT[layer][1]) & (
        columns < LAYOUT[layer][0]
    )


@triton.jit
def _first(LAYOUT: tl.constexpr, row, ROWS: tl.constexpr, PAD: tl.constexpr):
    """The same for rows of the first layer, with the bias as one more column."""
    rows, columns = (row + tl.arange(0, ROWS))[:, None], tl.arange(0, PAD)[None, :]
    at = tl.where(columns < LAYOUT[0][0], LAYOUT[0][2] + rows * LAYOUT[0][0] + columns, LAYOUT[0][3] + rows)
    return at, (rows < LAYOUT[0][1]) & (columns <= LAYOUT[0][0])


@triton.jit
def _last(LAYOUT: tl.constexpr, row, ROWS: tl.constexpr):
    """The same for rows of the output layer's weights, (in, out)."""
    layer: tl.constexpr = len(LAYOUT) - 1
    rows, columns = (row + tl.arange(0, ROWS))[:, None], tl.arange(0, 16)[None, :]
    return LAYOUT[layer][2] + columns * LAYOUT[layer][0] + rows, (rows < LAYOUT[layer][0]) & (
        columns < LAYOUT[layer][1]
    )


@triton.jit
def _bias(LAYOUT: tl.constexpr, layer: tl.constexpr, row, ROWS: tl.constexpr):
    """The same for biases of a layer, a vector."""
    rows = row + tl.arange(0, ROWS)
    return LAYOUT[layer][3] + rows, rows < LAYOUT[layer][1]


@triton.jit
def _kept(area, row, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr):
    """Where a block of a (POINTS, WIDTH) matrix of the scratch area is."""
    return area + (row + tl.arange(0, ROWS))[:, None] * WIDTH + (column + tl.arange(0, COLUMNS))[None, :]


@triton.jit
def _add(gradient, at, mask, value, chunk):
    """Add to gradients, which nothing has been added to before the points from chunk = 0."""
    before = tl.load(gradient + at, mask=mask & (chunk > 0), other=0.0)
    tl.store(gradient + at, before + value, mask=mask)


@triton.jit
def _forward(
    x, row, weights, scratch, zero,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, POINTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    INNER: tl.constexpr, SINE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile's points through all hidden layers, h and act' to scratch; the raw outputs (ROWS, 16)."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    MATRIX: tl.constexpr = POINTS * WIDTH
    # Coordinates keep all their bits in every precision: w0 and the layers after magnify what they lose.
    EXACT: tl.constexpr = "fp32" if PRECISION == "fp32" else "tf32x3"
    hide = _hide(zero)
    for n in tl.range(hide, LAYOUT[0][1], COLUMNS, disable_licm=True):
        at, mask = _first(LAYOUT, n, COLUMNS, x.shape[1])
        z = dot(x, tl.load(weights + at, mask=mask, other=0.0).trans(), EXACT)
        h, slope = _activate(z, SINE, LAYOUT[0][4], LAYOUT[0][5], LAYOUT[0][6])
        tl.store(_kept(scratch, row, n, ROWS, COLUMNS, WIDTH), h)
        tl.store(_kept(scratch + MATRIX, row, n, ROWS, COLUMNS, WIDTH), slope)
    tl.debug_barrier()
    for layer in tl.static_range(1, LAST):
        hide = _hide(zero)
        for n in tl.range(hide, LAYOUT[layer][1], COLUMNS, disable_licm=True):
            z = tl.zeros((ROWS, COLUMNS), tl.float32)
            for k in range(hide, LAYOUT[layer][0], INNER):
                h = tl.load(_kept(scratch + (2 * layer - 2) * MATRIX, row + hide, k, ROWS, INNER, WIDTH))
                at, mask = _weights(LAYOUT, layer, n, k, COLUMNS, INNER)
                z = dot(h, tl.load(weights + at, mask=mask, other=0.0).trans(), PRECISION, z)
            at, mask = _bias(LAYOUT, layer, n, COLUMNS)
            z += tl.load(weights + at, mask=mask, other=0.0)[None, :]
            h, slope = _activate(z, SINE, LAYOUT[layer][4], LAYOUT[layer][5], LAYOUT[layer][6])
            tl.store(_kept(scratch + 2 * layer * MATRIX, row + hide, n, ROWS, COLUMNS, WIDTH), h)
            tl.store(_kept(scratch + (2 * layer + 1) * MATRIX, row + hide, n, ROWS, COLUMNS, WIDTH), slope)
        tl.debug_barrier()  # what one thread has put there another one takes
    y = tl.zeros((ROWS, 16), tl.float32)
    hide = _hide(zero)
    for k in range(hide, LAYOUT[LAST][0], INNER):
        h = tl.load(_kept(scratch + (2 * LAST - 2) * MATRIX, row + hide, k, ROWS, INNER, WIDTH))
        at, mask = _last(LAYOUT, k, INNER)
        y = dot(h, tl.load(weights + at, mask=mask, other=0.0), PRECISION, y)
    at, mask = _bias(LAYOUT, LAST, hide, 16)
    return y + tl.load(weights + at, mask=mask, other=0.0)[None, :]


@triton.jit
def _compare(y, place, inside, targets, channels, inverse, OUTPUTS: tl.constexpr, LOSS: tl.constexpr):
    """dL/dy (ROWS, 16), and each point's sums of losses and squared errors."""
    column = tl.arange(0, 16)[None, :]
    exists = inside[:, None] & (column < OUTPUTS)
    target = tl.load(targets + place[:, None] * OUTPUTS + column, mask=exists, other=0.0)
    loss, dy = _loss(y, target, LOSS)
    scale = tl.load(channels + column, mask=column < OUTPUTS, other=0.0)
    losses = tl.sum(tl.where(exists, loss, 0.0), axis=1)
    values = tl.sum(tl.where(exists, (y - target) * (y - target) * scale, 0.0), axis=1)
    return tl.where(exists, dy * inverse, 0.0), losses, values


@triton.jit
def _backward(
    dy, row, weights, scratch, zero,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, POINTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile's dL/dz of all hidden layers, in scratch in the place of act', and its dL/dy after them."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    MATRIX: tl.constexpr = POINTS * WIDTH
    tl.store(_kept(scratch + 2 * LAST * MATRIX, row, 0, ROWS, 16, 16), dy)
    hide = _hide(zero)
    for n in tl.range(hide, LAYOUT[LAST][0], COLUMNS, disable_licm=True):
        at, mask = _last(LAYOUT, n, COLUMNS)
        d = dot(dy, tl.load(weights + at, mask=mask, other=0.0).trans(), PRECISION)
        slope = _kept(scratch + (2 * LAST - 1) * MATRIX, row + hide, n, ROWS, COLUMNS, WIDTH)
        tl.store(slope, d * tl.load(slope))
    tl.debug_barrier()
    for layer in tl.static_range(LAST - 1, 0, -1):
        hide = _hide(zero)
        for k in tl.range(hide, LAYOUT[layer][0], COLUMNS, disable_licm=True):
            d = tl.zeros((ROWS, COLUMNS), tl.float32)
            for n in range(hide, LAYOUT[layer][1], INNER):
                above = tl.load(_kept(scratch + (2 * layer + 1) * MATRIX, row + hide, n, ROWS, INNER, WIDTH))
                at, mask = _weights(LAYOUT, layer, n, k, INNER, COLUMNS)
                d = dot(above, tl.load(weights + at, mask=mask, other=0.0), PRECISION, d)
            slope = _kept(scratch + (2 * layer - 1) * MATRIX, row + hide, k, ROWS, COLUMNS, WIDTH)
            tl.store(slope, d * tl.load(slope))
        tl.debug_barrier()


@triton.jit
def _gradient_first(
    chunk, points, count, coords, num_points, seed, field, step, gradient, scratch, zero,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, POINTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    INNER: tl.constexpr, IN_PAD: tl.constexpr, SAMPLED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the gradients of the first layer, with its bias, from the points that are in scratch."""
    hide = _hide(zero)
    for n in tl.range(hide, LAYOUT[0][1], ROWS, disable_licm=True):
        g = tl.zeros((ROWS, IN_PAD), tl.float32)
        for row in range(hide, points, INNER):
            place, inside = _points(chunk + row, count, num_points, seed, field, step, SAMPLED, INNER)
            x = _inputs(coords, place, inside, LAYOUT[0][0], IN_PAD)
            d = tl.load(_kept(scratch + POINTS * WIDTH, row, n, INNER, ROWS, WIDTH))
            g = dot(d.trans(), x, PRECISION, g)
        at, mask = _first(LAYOUT, n, ROWS, IN_PAD)
        _add(gradient, at, mask, g, chunk)


@triton.jit
def _gradient_biases(
    d, chunk, points, gradient, zero,
    LAYOUT: tl.constexpr, layer: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """Add the gradients of the biases of a layer; d: where its dL/dz is."""
    hide = _hide(zero)
    for n in tl.range(hide, LAYOUT[layer][1], COLUMNS, disable_licm=True):
        g = tl.zeros((INNER, COLUMNS), tl.float32)
        for row in range(hide, points, INNER):
            g += tl.load(_kept(d, row, n, INNER, COLUMNS, STRIDE))
        at, mask = _bias(LAYOUT, layer, n, COLUMNS)
        _add(gradient, at, mask, tl.sum(g, axis=0), chunk)


@triton.jit
def _gradient(
    chunk, points, gradient, scratch, zero,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, POINTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the gradients of all layers but the first from the points that are in scratch."""
    LAST: tl.constexpr = len(LAYOUT) - 1
    MATRIX: tl.constexpr = POINTS * WIDTH
    for layer in tl.static_range(1, LAST):
        d = scratch + (2 * layer + 1) * MATRIX
        _gradient_biases(d, chunk, points, gradient, zero, LAYOUT, layer, COLUMNS, INNER, WIDTH)
        hide = _hide(zero)
        for n in tl.range(hide, LAYOUT[layer][1], ROWS, disable_licm=True):
            for k in tl.range(hide, LAYOUT[layer][0], COLUMNS, disable_licm=True):
                g = tl.zeros((ROWS, COLUMNS), tl.float32)
                for row in range(hide, points, INNER):
                    left = tl.load(_kept(d, row, n, INNER, ROWS, WIDTH))
                    right = tl.load(_kept(scratch + (2 * layer - 2) * MATRIX, row, k, INNER, COLUMNS, WIDTH))
                    g = dot(left.trans(), right, PRECISION, g)
                at, mask = _weights(LAYOUT, layer, n, k, ROWS, COLUMNS)
                _add(gradient, at, mask, g, chunk)
    d = scratch + 2 * LAST * MATRIX
    _gradient_biases(d, chunk, points, gradient, zero, LAYOUT, LAST, 16, INNER, 16)
    hide = _hide(zero)
    for k in tl.range(hide, LAYOUT[LAST][0], ROWS, disable_licm=True):
        g = tl.zeros((ROWS, 16), tl.float32)
        for row in range(hide, points, INNER):
            h = tl.load(_kept(scratch + (2 * LAST - 2) * MATRIX, row, k, INNER, ROWS, WIDTH))
            g = dot(h.trans(), tl.load(_kept(d, row, 0, INNER, 16, 16)), PRECISION, g)
        at, mask = _last(LAYOUT, k, ROWS)
        _add(gradient, at, mask, g, chunk)


@triton.jit
def _update(
    gradient, weights, first, second, zero, rates, beta2, keep1, keep2, eps, l2,
    SIZE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One Adam update of all parameters."""
    for start in range(_hide(zero), SIZE, CHUNK):
        at = start + tl.arange(0, CHUNK)
        g = tl.load(gradient + at, mask=at < SIZE, other=0.0)
        _adam(at, at < SIZE, g, weights, first, second, rates, beta2, keep1, keep2, eps, l2)


@triton.jit(do_not_specialize=_INTEGERS)
def fit_streamed(
    weights, first, second, coords, targets, ids, rates, channels, taken, curves, final, scratch, zero,
    num_points, count, coords_stride, steps, seed, min_steps, curve_every, num_curves,
    target_mse, beta2, keep1, keep2, eps, l2,
    LAYOUT: tl.constexpr, WIDTH: tl.constexpr, POINTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    INNER: tl.constexpr, SINE: tl.constexpr, LOSS: tl.constexpr, SAMPLED: tl.constexpr, PRECISION: tl.constexpr,
    SCRATCH: tl.constexpr,
):  # fmt: skip
    """Fit field program_id(0) of N; all arguments are those of fit_resident, and draws, losses and stops are its own.

    scratch: (N, SCRATCH), per field 2 (LAYERS - 1) matrices (TILE, WIDTH), then the gradients as the parameters are.
    """
    LAST: tl.constexpr = len(LAYOUT) - 1
    INPUTS: tl.constexpr = LAYOUT[0][0]
    OUTPUTS: tl.constexpr = LAYOUT[LAST][1]
    SIZE: tl.constexpr = LAYOUT[LAST][3] + OUTPUTS
    IN_PAD: tl.constexpr = 16 if INPUTS < 16 else 32 if INPUTS < 32 else 64 if INPUTS < 64 else 128
    field = tl.program_id(0).to(tl.int64)
    weights, first, second = weights + field * SIZE, first + field * SIZE, second + field * SIZE
    coords += field * coords_stride
    targets += field * num_points * OUTPUTS
    scratch += field * SCRATCH
    gradient = scratch + POINTS * (2 * LAST * WIDTH + 16)
    field_id = tl.load(ids + field).to(tl.uint32, bitcast=True)
    seed = seed.to(tl.uint32, bitcast=True)
    inverse = 1.0 / (count * OUTPUTS)
    step = 0
    mse = 0.0
    going = steps > 0
    while going:
        losses, values = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
        for chunk in tl.range(0, count, POINTS, disable_licm=True):
            points = tl.minimum(count - chunk, POINTS)
            for row in tl.range(0, points, ROWS, disable_licm=True):
                place, inside = _points(chunk + row, count, num_points, seed, field_id, step, SAMPLED, ROWS)
                x = _inputs(coords, place, inside, INPUTS, IN_PAD)
                y = _forward(
                    x, row, weights, scratch, zero, LAYOUT, WIDTH, POINTS, ROWS, COLUMNS, INNER, SINE, PRECISION
                )  # fmt: skip
                dy, loss, value = _compare(y, place, inside, targets, channels, inverse, OUTPUTS, LOSS)
                losses += loss
                values += value
                _backward(dy, row, weights, scratch, zero, LAYOUT, WIDTH, POINTS, ROWS, COLUMNS, INNER, PRECISION)
            _gradient(chunk, points, gradient, scratch, zero, LAYOUT, WIDTH, POINTS, ROWS, COLUMNS, INNER, PRECISION)
            _gradient_first(
                chunk, points, count, coords, num_points, seed, field_id, step, gradient, scratch, zero,
                LAYOUT, WIDTH, POINTS, ROWS, COLUMNS, INNER, IN_PAD, SAMPLED, PRECISION,
            )  # fmt: skip
            tl.debug_barrier()  # all threads have read these points' h and dL/dz, and see the gradients
        mse = tl.sum(values, axis=0) * inverse
        if step % curve_every == 0:
            tl.store(curves + field * num_curves + step // curve_every, tl.sum(losses, axis=0) * inverse)
        going = (mse > target_mse) | (step < min_steps) | (mse != mse)
        if going:
            _update(gradient, weights, first, second, zero, rates + step * 3, beta2, keep1, keep2, eps, l2, SIZE, 1024)
            tl.debug_barrier()  # all threads see the weights of the next step
            step += 1
            going = step < steps
    tl.store(taken + field, step)
    tl.store(final + field, mse)


def shipped() -> list[Choice]:
    """One choice for every entry of the tile table: the deepest fields, sine, sampled points."""
    floats = ("weights", "first", "second", "coords", "targets", "rates", "channels", "curves", "final", "scratch")
    scalars = ("target_mse", "beta2", "keep1", "keep2", "eps", "l2")
    signature = {
        **dict.fromkeys(floats, "*fp32"),
        **dict.fromkeys(("ids", "taken", "zero"), "*i32"),
        **dict.fromkeys(_INTEGERS, "i32"),
        **dict.fromkeys(scalars, "fp32"),
    }
    choices = []
    for (width, name), chosen in STREAMED.items():
        spec = FieldSpec(in_dim=2, out_dim=3, hidden=(width,) * triton_tiles.MAX_DEPTH)
        config = replace(FitConfig(batch=1024), precision=name)
        choices.append(
            Choice(
                label=f"streamed 2-{width}x{triton_tiles.MAX_DEPTH}-3, {name}",
                kernel="fitting.kernels.triton_streamed:fit_streamed",
                signature=signature,
                constants=constants(spec, config),
                num_warps=chosen.warps,
                num_stages=chosen.stages,
                maxnreg=MAX_REGISTERS,
            )
        )
    return choices
