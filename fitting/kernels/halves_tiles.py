"""What the CUDA fitting kernel of bfloat16 parts is compiled with, and the columns that make its first layer exact.

A float32 is the sum of three bfloat16 parts, x = x0 + x1 + x2. One product of bfloat16 matrices gives x w nearly as
float32 does, when every input has a column for each of TERMS and a bias has one for each of its own parts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.config import FitConfig, Precision
from fitting.kernels import triton_tiles
from neuralfields.kernels.layout import layout, padded
from neuralfields.kernels.resources import Choice
from neuralfields.spec import Activation, FieldSpec

MAX_INPUTS = 3
ACCEPTED = f"only on Hopper, with up to 64 units in each of up to 3 hidden layers and {MAX_INPUTS} inputs"
DEFAULT: Precision = "mixed"
PRECISIONS: tuple[Precision, ...] = ("mixed", "bf16")
# (part of the input, part of the weight); what is left out is below 2^-24 of the product. Gradients are the sums over
# the first two, 16 bits of the input, and over the column of the bias's first part, which is behind these.
TERMS = ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2))

# How every tile is compiled without a GPU: the precision, and whether points are drawn (for the longest of the losses).
SHIPPED: tuple[tuple[Precision, bool], ...] = (("mixed", False), ("mixed", True), ("bf16", False))
SIGNATURE = {
    **{name: kind for name, kind in triton_tiles.SIGNATURE.items() if name != "coords"},
    **{"inputs": "*bf16", "copies": "*bf16", "drawn": "*i32"},
}


@dataclass(frozen=True)
class HalvesTile:
    """points: of one pass forward and backward; warps: of the program that fits a field; wait: first layers
    whose activations wait for the backward pass in memory (the nearest caches) instead of registers; sums: whether
    gradients of hidden weights are summed there; registers: that a thread may have, fewer where more programs then
    fit on a multiprocessor; hide: whether places in memory are computed in every step instead of kept in registers."""

    points: int
    warps: int
    wait: int = 0
    sums: bool = False
    registers: int = 255
    hide: bool = False


# Chip -> (activation, padded width, hidden layers, columns of an input, most outputs) -> tile: of those that spill
# nothing there, the one that needs the fewest instructions for the warps it leaves room for.
Key = tuple[Activation, int, int, int, int]
HALVES: dict[int, dict[Key, HalvesTile]] = {
    90: {
        ("sine", 16, 1, 16, 1): HalvesTile(32, 1, registers=96),
        ("sine", 16, 1, 16, 4): HalvesTile(32, 1, registers=128),
        ("sine", 16, 1, 32, 1): HalvesTile(32, 1, registers=128),
        ("sine", 16, 1, 32, 4): HalvesTile(32, 1, registers=96),
        ("sine", 16, 2, 16, 4): HalvesTile(16, 1, registers=168),
        ("sine", 16, 2, 32, 1): HalvesTile(32, 1, registers=168),
        ("sine", 16, 2, 32, 4): HalvesTile(32, 1, registers=168),
        ("sine", 16, 3, 16, 1): HalvesTile(32, 1, registers=168),
        ("sine", 16, 3, 16, 4): HalvesTile(32, 1),
        ("sine", 16, 3, 32, 1): HalvesTile(32, 1),
        ("sine", 16, 3, 32, 4): HalvesTile(32, 1),
        ("sine", 32, 1, 16, 1): HalvesTile(32, 1, registers=168),
        ("sine", 32, 1, 16, 4): HalvesTile(32, 1, registers=168),
        ("sine", 32, 1, 32, 1): HalvesTile(32, 1, registers=168),
        ("sine", 32, 1, 32, 4): HalvesTile(32, 1, registers=168),
        ("sine", 32, 2, 16, 1): HalvesTile(32, 1, registers=168, hide=True),
        ("sine", 32, 2, 16, 4): HalvesTile(64, 2),
        ("sine", 32, 2, 32, 4): HalvesTile(64, 2),
        ("sine", 32, 3, 16, 4): HalvesTile(32, 2),
        ("sine", 32, 3, 32, 4): HalvesTile(32, 2),
        ("sine", 64, 1, 16, 4): HalvesTile(64, 4),
        ("sine", 64, 1, 32, 4): HalvesTile(64, 4),
        ("sine", 64, 2, 16, 4): HalvesTile(64, 4),
        ("sine", 64, 2, 32, 1): HalvesTile(64, 4),
        ("sine", 64, 2, 32, 4): HalvesTile(64, 4),
        ("sine", 64, 3, 16, 4): HalvesTile(64, 4, wait=1, hide=True),
        ("sine", 64, 3, 32, 4): HalvesTile(64, 4, wait=2, hide=True),
        ("relu", 16, 1, 16, 4): HalvesTile(32, 1, registers=128),
        ("relu", 16, 1, 32, 4): HalvesTile(32, 1, registers=96),
        ("relu", 16, 2, 16, 4): HalvesTile(32, 1, registers=168),
        ("relu", 16, 2, 32, 4): HalvesTile(32, 1, registers=168),
        ("relu", 16, 3, 16, 4): HalvesTile(32, 1),
        ("relu", 16, 3, 32, 4): HalvesTile(32, 1),
        ("relu", 32, 1, 16, 4): HalvesTile(32, 1, registers=168),
        ("relu", 32, 1, 32, 4): HalvesTile(32, 1, registers=168),
        ("relu", 32, 2, 16, 4): HalvesTile(64, 2),
        ("relu", 32, 2, 32, 4): HalvesTile(32, 2, registers=168),
        ("relu", 32, 3, 16, 4): HalvesTile(32, 2),
        ("relu", 32, 3, 32, 4): HalvesTile(32, 2),
        ("relu", 64, 1, 16, 4): HalvesTile(64, 4),
        ("relu", 64, 1, 32, 4): HalvesTile(64, 4),
        ("relu", 64, 2, 16, 4): HalvesTile(64, 4),
        ("relu", 64, 2, 32, 4): HalvesTile(64, 4),
        ("relu", 64, 3, 16, 4): HalvesTile(64, 4, wait=1, hide=True),
        ("relu", 64, 3, 32, 4): HalvesTile(64, 4, wait=2, sums=True, hide=True),
    },
}


def chip() -> int:
    """Whose tiles to take: 80, 90 or 100 for the first device; in Triton's interpreter, 90."""
    if not torch.cuda.is_available():
        return 90
    return min(10 * torch.cuda.get_device_capability()[0], 100)


def tile(spec: FieldSpec, precision: Precision) -> HalvesTile | None:
    """The tile for such fields on this machine's chip, or None where this kernel does not have them there."""
    if precision not in PRECISIONS or len(spec.shapes) != 2 * spec.num_layers or spec.dims[0] > MAX_INPUTS:
        return None
    *like, outputs = key(spec)
    tiles = HALVES.get(chip(), {})
    fitting = [other for other in tiles if [*other[:4]] == like and other[4] >= outputs]
    return tiles[min(fitting)] if fitting else None


def key(spec: FieldSpec) -> Key:
    """Under which a tile for such fields alone is found."""
    return spec.activation, padded(max(spec.hidden)), len(spec.hidden), columns(spec.dims[0]), spec.out_dim


def precision(spec: FieldSpec, config: FitConfig) -> Precision:
    """The precision that such fields are fitted in: the fastest good one where the config says "auto"."""
    if config.precision != "auto":
        return config.precision
    return DEFAULT if tile(spec, DEFAULT) is not None else triton_tiles.DEFAULT_PRECISION


def columns(inputs: int) -> int:
    """Columns of a row of inputs: one for every term of every input and every part of a bias, padded."""
    return padded(len(TERMS) * inputs + 3)


def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three bfloat16 parts of float32 x, as float32; their sum is x but for 2^-25 of it."""
    first = x.bfloat16().float()
    second = (x - first).bfloat16().float()
    return first, second, (x - first - second).bfloat16().float()


def spread(x: Tensor, gradients: int = 0) -> Tensor:
    """Inputs (..., I) as rows of columns (..., K + gradients), float32 with bfloat16 values: terms, ones for biases,
    zeros to K; then once more those of which there are gradients, two parts and ones, and zeros."""
    inputs, split = x.shape[-1], parts(x)
    wide, own = columns(inputs), 2 * inputs + 1
    rows = x.new_zeros(*x.shape[:-1], wide + gradients)
    for number, (part, _) in enumerate(TERMS):
        first = number * inputs + (number > 1)
        rows[..., first : first + inputs] = split[part]
    rows[..., [2 * inputs, 6 * inputs + 1, 6 * inputs + 2]] = 1.0
    if gradients:
        rows[..., wide : wide + own] = rows[..., :own]
    return rows


def narrow(spec: FieldSpec) -> int:
    """Columns of the matrix that all gradients but those of hidden weights are summed in, a row for every unit: two
    parts of every input, the biases of all hidden layers, the weights of all outputs, padded."""
    return 8 if 2 * spec.dims[0] + len(spec.hidden) + spec.out_dim <= 8 else 16


def copies(spec: FieldSpec, chosen: HalvesTile) -> int:
    """bfloat16 numbers of one field: its parameters as the products take them (triton_halves._copy), then the
    activations of a tile that wait in memory, and their derivatives."""
    width, wide, above = padded(max(spec.hidden)), columns(spec.dims[0]), len(spec.hidden) - 1
    waiting = 2 * chosen.wait * chosen.points * width
    return width * wide + above * (2 * width**2 + width * wide) + 16 * width + waiting


def scratch(spec: FieldSpec, chosen: HalvesTile) -> int:
    """Floats of scratch memory of one field: gradients as the parameters are; in blocks as the products make them;
    losses, squared errors and gradients of the outputs' biases by points of a tile."""
    width, depth = padded(max(spec.hidden)), len(spec.hidden)
    blocks = (depth - 1) * width**2 + width * narrow(spec)
    return -(-spec.num_params // 16) * 16 + blocks + (2 + spec.out_dim) * chosen.points


def constants(spec: FieldSpec, config: FitConfig, precision: Precision) -> dict:
    """The compile-time arguments of the kernel. Raises ValueError where there is no tile for such fields."""
    chosen = tile(spec, precision)
    if chosen is None:
        raise ValueError(f"hidden={spec.hidden}, precision={precision!r}: expected one that HALVES has")
    return _constants(spec, config, precision, chosen)


def _constants(spec: FieldSpec, config: FitConfig, precision: Precision, chosen: HalvesTile) -> dict:
    return {
        "LAYOUT": layout(spec),
        "WIDTH": padded(max(spec.hidden)),
        "COLUMNS": columns(spec.dims[0]),
        "TILE": chosen.points,
        "SINE": spec.activation == "sine",
        "LOSS": config.loss,
        "SAMPLED": config.batch > 0,
        "EXACT": precision == "mixed",
        "COPIES": copies(spec, chosen),
        "SCRATCH": scratch(spec, chosen),
        "WAIT": chosen.wait,
        "SUMS": chosen.sums,
        "HIDE": chosen.hide,
        "NARROW": narrow(spec),
    }


def shipped() -> list[Choice]:
    """Every tile for its chips: in both precisions fitted to all points, in mixed also to drawn ones."""
    chips: dict[tuple[Key, HalvesTile], list[int]] = {}
    for arch, tiles in HALVES.items():
        for key, chosen in tiles.items():
            chips.setdefault((key, chosen), []).append(arch)
    return [
        choice(key, chosen, precision, drawn, tuple(archs))
        for (key, chosen), archs in chips.items()
        for precision, drawn in SHIPPED
    ]


def choice(key: Key, chosen: HalvesTile, precision: Precision, drawn: bool, archs: tuple[int, ...]) -> Choice:
    """How the kernel is shipped with a tile, with as many inputs and outputs as the tile is for."""
    activation, width, depth, wide, outputs = key
    inputs = max(one for one in range(1, MAX_INPUTS + 1) if columns(one) == wide)
    spec = FieldSpec(in_dim=inputs, out_dim=outputs, hidden=(width,) * depth, activation=activation)
    config = FitConfig(loss="bce", batch=1024) if drawn else FitConfig()
    points = f"{chosen.points} {'drawn ' if drawn else ''}points"
    waiting = f", {chosen.wait} wait" if chosen.wait else ""
    memory = waiting + ", sums" * chosen.sums
    few = f", {chosen.registers} registers" if chosen.registers < 255 else ""
    return Choice(
        label=f"{'-'.join(map(str, spec.dims))} {activation}, {precision}, {points}{memory}{few}",
        kernel="fitting.kernels.triton_halves:fit_halves",
        signature=SIGNATURE,
        constants=_constants(spec, config, precision, chosen),
        num_warps=chosen.warps,
        num_stages=1,
        maxnreg=chosen.registers,
        archs=archs,
    )
