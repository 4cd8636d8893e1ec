"""FieldSpec: the architecture of a field, frozen, with an exact JSON round trip.

f(x) = scale * (W_L h_{L-1} + b_L) + offset,  h_l = act(W_l h_{l-1} + b_l),  h_0 = encoding(x)

A radiance field has a view head as well: then these layers are its trunk, over the position alone (view_head.py).

A spec says everything that weights alone do not: activation, w0, output scale and offset, and which coordinates the
pixels of an image have. Without these a stored checkpoint does not reconstruct its signal.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Literal, get_args

from neuralfields.encodings import TRAINED, Encoding, Positional, encoding_from_json
from neuralfields.hash_grid import HashGrid
from neuralfields.tri_plane import TriPlane
from neuralfields.view_head import ViewHead

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
    row, "xy" if it is the column; view: the head of a radiance field, (position in [-1, 1]^3, unit direction) -> (r, g,
    b, sigma), I = 6 and O = 4 without scale and offset. Raises ValueError for anything outside these.
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
    view: ViewHead | None = None
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
        self._check_view()
        if self.encoding is not None:
            self._shapes.update(self.encoding.shapes(self.encoded_dim))
        for layer, (rows, columns) in enumerate(zip(self.dims[1:], self.dims[:-1], strict=True)):
            self._shapes[f"weights.{layer}"] = (rows, columns)
            self._shapes[f"biases.{layer}"] = (rows,)
        self._shapes.update(self.view.shapes if self.view is not None else {})

    def _check_view(self) -> None:
        if self.view is None:
            return
        for name, expected in (("in_dim", 6), ("out_dim", 4), ("scale", (1.0,) * 4), ("offset", (0.0,) * 4)):
            if getattr(self, name) != expected:
                raise ValueError(f"{name}={getattr(self, name)}: expected {expected} for a field with a view head")

    @property
    def encoded_dim(self) -> int:
        """Number of coordinates that the encoding sees: I, or the 3 of the position for a field with a view head."""
        return self.in_dim if self.view is None else 3

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of every stage of the network: (encoded input, hidden..., O); with a view head those of the trunk,
        which ends in 1 + G outputs: raw density and geometry features."""
        encoded = self.encoded_dim if self.encoding is None else self.encoding.out_dim(self.encoded_dim)
        return (encoded, *self.hidden, self.out_dim if self.view is None else 1 + self.view.features)

    @property
    def trained_encoding(self) -> bool:
        """Whether the encoding has parameters, so that encoded coordinates are not the same for all fields."""
        return isinstance(self.encoding, TRAINED)

    def check_dense(self, what: str) -> None:
        """Raise ValueError unless weights.l and biases.l are all parameters; `what` names who needs that."""
        others = [name for name in self._shapes if not name.startswith(("weights.", "biases."))]
        if others:
            raise ValueError(f"{what} takes dense layers only: {self.describe()} also has {', '.join(others)}")

    @property
    def num_layers(self) -> int:
        """Number of linear layers, hidden ones plus the output."""
        return len(self.hidden) + 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter of one field, in storage order: those of the encoding, then weights.0,
        biases.0, weights.1, ..., then those of the view head."""
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
        del data["view"]  # left out where there is none, so that stores without it stay readable as they were
        if self.view is not None:
            data["view"] = self.view.to_json()
        return json.loads(json.dumps(data))

    @classmethod
    def from_json(cls, data: dict) -> "FieldSpec":
        """Read `to_json` output. Raises ValueError for unknown or missing keys and for values of another type."""
        known = {f.name for f in fields(cls) if f.init}
        unknown, missing = sorted(set(data) - known), sorted({"in_dim", "out_dim", "hidden"} - set(data))
        if unknown or missing:
            raise ValueError(f"spec: unknown keys {unknown}, missing keys {missing}; expected {sorted(known)}")
        encoding, view = data.get("encoding"), data.get("view")
        values = {**data, "encoding": None if encoding is None else encoding_from_json(encoding)}
        values["view"] = None if view is None else ViewHead.from_json(view)
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
        stages = "-".join(map(str, self.dims))
        stages += f" on {self.encoding.name}" if self.encoding is not None and self.trained_encoding else ""
        stages += f" with view head {'-'.join(map(str, self.view.dims))}" if self.view is not None else ""
        return f"{self.activation} {stages}, {self.num_params:,} parameters"


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


def HashField(
    in_dim: int, out_dim: int, hidden: tuple[int, ...] = (64, 64), encoding: HashGrid | None = None, **options
) -> FieldSpec:
    """ReLU field on a multiresolution hash grid over 2 or 3 coordinates, by default HashGrid().

    Mueller et al., "Instant neural graphics primitives with a multiresolution hash encoding", SIGGRAPH 2022.
    """
    return ReLUField(in_dim, out_dim, hidden, HashGrid() if encoding is None else encoding, **options)


def TriPlaneField(
    out_dim: int, hidden: tuple[int, ...] = (64, 64), encoding: TriPlane | None = None, **options
) -> FieldSpec:
    """ReLU field on three trained planes over 3 coordinates, by default TriPlane().

    Chan et al., "Efficient geometry-aware 3D generative adversarial networks", CVPR 2022.
    """
    return ReLUField(3, out_dim, hidden, TriPlane() if encoding is None else encoding, **options)


def NeRF(
    hidden: tuple[int, ...] = (64, 64, 64, 64), bands: int = 10, view: ViewHead | None = None, **options
) -> FieldSpec:
    """Radiance field: relu layers on `bands` octaves of the position; (position, unit direction) -> (r, g, b, sigma).

    Mildenhall et al., "NeRF: representing scenes as neural radiance fields for view synthesis", ECCV 2020.
    """
    return _radiance(hidden, Positional(bands), view, options)


def HashNeRF(
    hidden: tuple[int, ...] = (64,), encoding: HashGrid | None = None, view: ViewHead | None = None, **options
) -> FieldSpec:
    """Radiance field on a hash grid, by default HashGrid(). Mueller et al., SIGGRAPH 2022."""
    return _radiance(hidden, HashGrid() if encoding is None else encoding, view, options)


def TriPlaneNeRF(
    hidden: tuple[int, ...] = (64, 64), encoding: TriPlane | None = None, view: ViewHead | None = None, **options
) -> FieldSpec:
    """Radiance field on three trained planes, by default TriPlane(). Chan et al., CVPR 2022."""
    return _radiance(hidden, TriPlane() if encoding is None else encoding, view, options)


def _radiance(hidden: tuple[int, ...], encoding: Encoding, view: ViewHead | None, options: dict) -> FieldSpec:
    view = ViewHead() if view is None else view
    return ReLUField(6, 4, hidden, encoding, view=view, **options)
