"""Where the parameters of a field lie in its flat vector: what every Triton kernel is compiled with, as plain data."""

import math

import numpy as np

from neuralfields.spec import FieldSpec


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
