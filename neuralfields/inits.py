"""Initial weights: each formula with its paper, drawn from counters so that an init never depends on its batch."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch

from neuralfields import philox
from neuralfields.batch import FieldBatch
from neuralfields.encodings import TRAINED
from neuralfields.spec import FieldSpec

Scheme = Literal["siren", "dws", "linear", "kaiming", "finer"]
# Field ids are below this; a shared init is the init of this one extra id.
SHARED_ID = 2**32 - 1

# A bound function: (spec, layer, fan_in) -> (half-width of the weights' uniform, half-width of the biases').
_Bounds = Callable[[FieldSpec, int, int], tuple[float, float]]


def _siren(spec: FieldSpec, layer: int, fan_in: int) -> tuple[float, float]:
    weight = 1.0 / fan_in if layer == 0 else math.sqrt(6.0 / fan_in) / spec.w0_hidden
    return weight, 1.0 / math.sqrt(fan_in)


def _dws(spec: FieldSpec, layer: int, fan_in: int) -> tuple[float, float]:
    if layer == spec.num_layers - 1:
        return _linear(spec, layer, fan_in)
    return math.sqrt(6.0 / fan_in) / spec.w0(layer), 0.0


def _linear(spec: FieldSpec, layer: int, fan_in: int) -> tuple[float, float]:
    return 1.0 / math.sqrt(fan_in), 1.0 / math.sqrt(fan_in)


def _kaiming(spec: FieldSpec, layer: int, fan_in: int) -> tuple[float, float]:
    return math.sqrt(6.0 / fan_in), 0.0


def _finer(spec: FieldSpec, layer: int, fan_in: int) -> tuple[float, float]:
    weight, bias = _siren(spec, layer, fan_in)
    return weight, 1.0 if layer == 0 else bias


SCHEMES: dict[str, _Bounds] = {
    "siren": _siren,
    "dws": _dws,
    "linear": _linear,
    "kaiming": _kaiming,
    "finer": _finer,
}


def default_scheme(spec: FieldSpec) -> Scheme:
    """The usual scheme of an activation: siren for sine and gabor, finer for finer, kaiming for relu, else linear."""
    by_activation: dict[str, Scheme] = {"sine": "siren", "gabor": "siren", "finer": "finer", "relu": "kaiming"}
    return by_activation.get(spec.activation, "linear")


def draw(spec: FieldSpec, ids: np.ndarray, seed: int = 0, scheme: Scheme | None = None) -> FieldBatch:
    """Draw the initial weights of the fields with these ids: uniform in +-bound, one bound per tensor.

    siren: first layer 1/I, hidden and last sqrt(6/I)/w0, biases 1/sqrt(I) (Sitzmann et al., NeurIPS 2020, and its
    code). dws: every sine layer sqrt(6/I)/w0 with zero biases, last layer as linear (the populations of Navon et
    al., ICML 2023). linear: 1/sqrt(I) for both (torch's nn.Linear). kaiming: sqrt(6/I), zero biases (He et al., ICCV
    2015). finer: siren with first biases in +-1 (Liu et al., CVPR 2024). A trained encoding has its own range whatever
    the scheme, and a view head, being of relu layers, kaiming. ids: (N,) in [0, 2^32).
    """
    scheme = default_scheme(spec) if scheme is None else scheme
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r}: expected one of {', '.join(get_args(Scheme))}")
    parameters = {}
    for index, (name, shape) in enumerate(spec.shapes.items()):
        low, high = _range(spec, name, scheme)
        unit = philox.uniform(seed, ids, philox.STREAM_INIT, index, math.prod(shape))
        # Symmetric ranges as +-bound: their values in stores of old depend on this rounding.
        values = (unit * 2 - 1) * np.float32(high) if low == -high else unit * np.float32(high - low) + np.float32(low)
        parameters[name] = torch.from_numpy(values).view(len(ids), *shape)
    return FieldBatch(spec, parameters)


def _range(spec: FieldSpec, name: str, scheme: Scheme) -> tuple[float, float]:
    """The range of one tensor's initial values."""
    if isinstance(spec.encoding, TRAINED) and name in spec.encoding.shapes(spec.encoded_dim):
        return spec.encoding.init_range(name)
    *owner, kind, number = name.split(".")
    layer = int(number)
    bounds, dims = (_kaiming, spec.view.dims) if owner and spec.view is not None else (SCHEMES[scheme], spec.dims)
    bound = bounds(spec, layer, dims[layer])[kind == "biases"]
    return -bound, bound


def initial(
    spec: FieldSpec, ids: np.ndarray, mode: str = "shared", seed: int = 0, scheme: Scheme | None = None
) -> FieldBatch:
    """Initial weights of a population: "shared" (one init for all) or "random" (one per field id)."""
    if mode == "shared":
        one = draw(spec, np.array([SHARED_ID], np.uint32), seed, scheme)
        return FieldBatch(spec, {n: v.expand(len(ids), *v.shape[1:]).clone() for n, v in one.parameters.items()})
    if mode == "random":
        if len(ids) and int(np.max(ids)) >= SHARED_ID:
            raise ValueError(f"ids up to {np.max(ids)}: expected below 2^32 - 1, the shared init")
        return draw(spec, ids, seed, scheme)
    raise ValueError(f"init={mode!r}: expected shared, random or a stored population's path")


def from_field(fields: FieldBatch, spec: FieldSpec, count: int) -> FieldBatch:
    """Start `count` fields from one stored field. Raises ValueError when it is not exactly one of the same spec."""
    if len(fields) != 1:
        raise ValueError(f"fields has {len(fields)} fields: expected 1 to start from")
    if fields.spec != spec:
        pairs = ((name, value, getattr(spec, name)) for name, value in vars(fields.spec).items())
        different = ", ".join(f"{name}={theirs!r}: expected {ours!r}" for name, theirs, ours in pairs if theirs != ours)
        raise ValueError(f"init field has {different}")
    return FieldBatch(spec, {n: v.expand(count, *v.shape[1:]).clone() for n, v in fields.parameters.items()})
