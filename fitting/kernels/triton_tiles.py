"""What the CUDA fitting kernels are compiled with: plain data, read by the launch and by the ahead-of-time check."""

import math
from dataclasses import dataclass

import numpy as np

from fitting.config import FitConfig
from neuralfields.spec import FieldSpec

MAX_RESIDENT_WIDTH = 64
MAX_DEPTH = 5
MAX_INPUTS = 64
MAX_OUTPUTS = 4
DEFAULT_PRECISION = "tf32x3"


@dataclass(frozen=True)
class Tile:
    """points: of one pass forward and backward; warps, stages: of the launch; scratch: whether activations below the
    top layer wait for the backward pass in memory (the nearest cache) instead of registers."""

    points: int
    warps: int
    scratch: bool = False
    stages: int = 1


# (width, hidden layers) -> tile of the resident kernel.
RESIDENT = {(width, depth): Tile(64, 4) for width in (16, 32, 64) for depth in range(1, MAX_DEPTH + 1)}


def precision(config: FitConfig) -> str:
    """The precision of products that the config asks for."""
    asked = getattr(config, "precision", "auto")
    return DEFAULT_PRECISION if asked == "auto" else asked


def resident(spec: FieldSpec, precision: str) -> Tile:
    """The tile of the resident kernel for such fields."""
    return RESIDENT[padded(max(spec.hidden)), len(spec.hidden)]


def scratch(spec: FieldSpec, tile: Tile) -> int:
    """Floats of scratch memory of one field."""
    return (len(spec.hidden) - 1) * 2 * tile.points * padded(max(spec.hidden)) if tile.scratch else 0


def constants(spec: FieldSpec, config: FitConfig) -> dict:
    """The compile-time arguments of the resident kernel."""
    return {
        "LAYOUT": layout(spec),
        "WIDTH": padded(max(spec.hidden)),
        "TILE": resident(spec, precision(config)).points,
        "SINE": spec.activation == "sine",
        "LOSS": config.loss,
        "SAMPLED": config.batch > 0,
        "PRECISION": precision(config),
        "SCRATCH": resident(spec, precision(config)).scratch,
    }


def padded(width: int) -> int:
    """Width of the blocks that hold a layer of this many units: a power of two from 16."""
    return max(16, 1 << (width - 1).bit_length())


def layout(spec: FieldSpec) -> tuple[tuple[int | float, ...], ...]:
    """Per layer: (inputs, outputs, place of the weights, place of the biases, w0, w0 / pi high, w0 / pi low).

    Places count floats in the flat parameters of one field; the last three are 1, 1, 0 where there is no sine.
    """
    layers, place = [], 0
    for layer, (inputs, outputs) in enumerate(zip(spec.dims[:-1], spec.dims[1:], strict=True)):
        sine = spec.activation == "sine" and layer < len(spec.hidden)
        w0 = spec.w0(layer) if sine else 1.0
        turns = w0 / math.pi if sine else 1.0
        high = float(np.float32(turns))
        bias = place + inputs * outputs
        layers.append((inputs, outputs, place, bias, w0, high, turns - high))
        place = bias + outputs
    return tuple(layers)
