"""FieldSpec: the architecture of a field, frozen, with an exact JSON round trip.

f(x) = scale * (W_L h_{L-1} + b_L) + offset,  h_l = act(W_l h_{l-1} + b_l),  h_0 = encoding(x)

A spec says everything that weights alone do not: activation, w0, output scale and offset, and which coordinates the
pixels of an image have. Without these a stored checkpoint does not reconstruct its signal.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Literal, get_args

from neuralfields.encodings import Encoding, encoding_from_json

Activation = Literal["sine", "relu", "tanh", "gauss", "gabor", "finer"]
Grid = Literal["centers", "corners"]
Axes = Literal["ij", "xy"]
PERIODIC = ("sine", "finer", "gabor")


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """Architecture of a coordinate network f: R^I -> R^O.

    in_dim I, out_dim O; hidden: width of each hidden layer; w0_first, w0_hidden: frequency of sine, finer and gabor
    layers, multiplying W x + b (the bias too); width: the factor s0 of gauss and gabor layers; encoding: applied to the
    coordinates first; scale, offset: value = scale * output + offset, one number per channel; grid: pixels of an H x W
    image at cell "centers" ((i + 0.5) / H * 2 - 1) or "corners" (linspace(-1, 1, H)); axes: "ij" if coordinate 0 is the
    row, "xy" if it is the column. Raises ValueError for anything outside these.
    """

    in_dim: int
    out_dim: int
    hidden: tuple[int, ...]
    activation: Activation = "sine"
    w0_first: float = 30.0
    w0_hidden: float = 30.0
    width: float = 10.0
    encoding: Encoding | None = None
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    grid: Grid = "centers"
    axes: Axes = "ij"
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.hidden or any(int(width) != width or width < 1 for width in self.hidden):
            raise ValueError(f"hidden={self.hidden}: expected at least one width, all positive integers")
        object.__setattr__(self, "hidden", tuple(int(width) for width in self.hidden))
        _check_positive("in_dim", self.in_dim)
        _check_positive("out_dim", self.out_dim)
        object.__setattr__(self, "scale", _per_channel("scale", self.scale, self.out_dim, 1.0))
        object.__setattr__(self, "offset", _per_channel("offset", self.offset, self.out_dim, 0.0))
        for name, allowed in (("activation", Activation), ("grid", Grid), ("axes", Axes)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(get_args(allowed))}")
        for name in ("w0_first", "w0_hidden", "width"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}={getattr(self, name)}: expected a positive number")
        for layer, (rows, columns) in enumerate(zip(self.dims[1:], self.dims[:-1], strict=True)):
            self._shapes[f"weights.{layer}"] = (rows, columns)
            self._shapes[f"biases.{layer}"] = (rows,)

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of every stage of the network: (encoded input, hidden..., O)."""
        encoded = self.in_dim if self.encoding is None else self.encoding.out_dim(self.in_dim)
        return (encoded, *self.hidden, self.out_dim)

    @property
    def num_layers(self) -> int:
        """Number of linear layers, hidden ones plus the output."""
        return len(self.hidden) + 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter of one field, in storage order: weights.0, biases.0, weights.1, ..."""
        return dict(self._shapes)

    @property
    def num_params(self) -> int:
        """Number of parameters P of one field."""
        return sum(math.prod(shape) for shape in self._shapes.values())

    def w0(self, layer: int) -> float:
        """Frequency of hidden layer `layer` (0 is the first)."""
        return self.w0_first if layer == 0 else self.w0_hidden

    def to_json(self) -> dict:
        """Return plain JSON values; `from_json` gives back an equal spec."""
        data = asdict(self)
        del data["_shapes"]
        data["encoding"] = None if self.encoding is None else self.encoding.to_json()
        return json.loads(json.dumps(data))

    @classmethod
    def from_json(cls, data: dict) -> "FieldSpec":
        """Read `to_json` output. Raises ValueError for unknown or missing keys and for values of another type."""
        known = {f.name for f in fields(cls) if f.init}
        unknown, missing = sorted(set(data) - known), sorted({"in_dim", "out_dim", "hidden"} - set(data))
        if unknown or missing:
            raise ValueError(f"spec: unknown keys {unknown}, missing keys {missing}; expected {sorted(known)}")
        encoding = data.get("encoding")
        values = {**data, "encoding": None if encoding is None else encoding_from_json(encoding)}
        try:
            for name in ("hidden", "scale", "offset"):
                values[name] = tuple(values.get(name, ()))
            return cls(**values)
        except TypeError as error:  # a number where a list should be, a string where a number should be
            raise ValueError(f"spec: {error}; expected values of the types that to_json writes") from None
        except ValueError as error:
            raise ValueError(f"spec: {error}") from None

    def describe(self) -> str:
        """One short phrase for people: 'sine 2-32-32-1, 1,185 parameters'."""
        return f"{self.activation} {'-'.join(map(str, self.dims))}, {self.num_params:,} parameters"


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: expected a positive integer")


def _per_channel(name: str, values: tuple[float, ...], channels: int, default: float) -> tuple[float, ...]:
    values = tuple(float(v) for v in values) or (default,) * channels
    if len(values) == 1:
        values = values * channels
    if len(values) != channels or not all(map(math.isfinite, values)):
        raise ValueError(f"{name}={values}: expected {channels} finite numbers, one per channel")
    return values


def SIREN(in_dim: int, out_dim: int, hidden: tuple[int, ...] = (32, 32), w0: float = 30.0, **options) -> FieldSpec:
    """Sine field: h = sin(w0 (W x + b)).

    `w0` sets every layer; `w0_hidden` in options overrides the hidden ones. Sitzmann et al., "Implicit neural
    representations with periodic activation functions", NeurIPS 2020.
    """
    options = {"w0_first": w0, "w0_hidden": w0, **options}
    return FieldSpec(in_dim=in_dim, out_dim=out_dim, hidden=hidden, activation="sine", **options)


def ReLUField(
    in_dim: int, out_dim: int, hidden: tuple[int, ...] = (64, 64), encoding: Encoding | None = None, **options
) -> FieldSpec:
    """ReLU field on encoded coordinates, such as Positional(10) or GaussianFourier(64, std=10.0, seed=0).

    Mildenhall et al., "NeRF", ECCV 2020; Tancik et al., "Fourier features let networks learn high frequency
    functions in low dimensional domains", NeurIPS 2020.
    """
    return FieldSpec(in_dim=in_dim, out_dim=out_dim, hidden=hidden, activation="relu", encoding=encoding, **options)
