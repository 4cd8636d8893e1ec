"""What the CUDA fitting kernels are compiled with: plain data, read by the launch and by the ahead-of-time check."""

from dataclasses import dataclass
from typing import Literal

from fitting.config import FitConfig, Precision
from neuralfields.kernels.layout import layout, padded
from neuralfields.kernels.resources import Choice
from neuralfields.spec import FieldSpec

MAX_RESIDENT_WIDTH = 64
MAX_DEPTH = 5
MAX_INPUTS = 64
MAX_OUTPUTS = 4
DEFAULT_PRECISION: Precision = "tf32x3"
_FLOATS = ("weights", "first", "second", "coords", "targets", "rates", "channels", "curves", "final", "scratch")
_COUNTS = ("num_points", "count", "coords_stride", "steps", "seed", "min_steps", "curve_every", "num_curves")
_RATES = ("target_mse", "beta2", "keep1", "keep2", "eps", "l2")
# What both fitting kernels are launched with, apart from their compile-time arguments.
SIGNATURE = {
    **dict.fromkeys(_FLOATS, "*fp32"),
    **dict.fromkeys(("ids", "taken", "zero"), "*i32"),
    **dict.fromkeys(_COUNTS, "i32"),
    **dict.fromkeys(_RATES, "fp32"),
}


@dataclass(frozen=True)
class Tile:
    """points: of one pass forward and backward; warps, stages: of the launch; scratch: whether activations below the
    top layer wait for the backward pass in memory (the nearest cache) instead of registers."""

    points: int
    warps: int
    scratch: bool = False
    stages: int = 1


# (width, hidden layers, precision) -> tile of the resident kernel: of those tried, the largest that spills nothing on
# any chip, as docs/triton-resources.md shows. What is not here, width 64 in float32 from two hidden layers on, is for
# the streamed kernel: a thread keeps all terms of a float32 sum in registers, and 64 of them are too many.
RESIDENT: dict[tuple[int, int, Precision], Tile] = {
    (16, 1, "tf32x3"): Tile(64, 4),
    (16, 2, "tf32x3"): Tile(64, 4),
    (16, 3, "tf32x3"): Tile(64, 4),
    (16, 4, "tf32x3"): Tile(64, 4, scratch=True),
    (16, 5, "tf32x3"): Tile(64, 4, scratch=True),
    (32, 1, "tf32x3"): Tile(64, 4),
    (32, 2, "tf32x3"): Tile(64, 4),
    (32, 3, "tf32x3"): Tile(32, 4, scratch=True),
    (32, 4, "tf32x3"): Tile(32, 4, scratch=True),
    (32, 5, "tf32x3"): Tile(64, 4, scratch=True),
    (64, 1, "tf32x3"): Tile(32, 8),
    (64, 2, "tf32x3"): Tile(64, 8),
    (64, 3, "tf32x3"): Tile(32, 8, scratch=True),
    (64, 4, "tf32x3"): Tile(64, 8, scratch=True),
    (64, 5, "tf32x3"): Tile(32, 8, scratch=True),
    (16, 1, "tf32"): Tile(64, 4),
    (16, 2, "tf32"): Tile(64, 4),
    (16, 3, "tf32"): Tile(64, 4),
    (16, 4, "tf32"): Tile(32, 4, scratch=True),
    (16, 5, "tf32"): Tile(64, 4, scratch=True),
    (32, 1, "tf32"): Tile(64, 4),
    (32, 2, "tf32"): Tile(64, 4),
    (32, 3, "tf32"): Tile(64, 4),
    (32, 4, "tf32"): Tile(64, 4, scratch=True),
    (32, 5, "tf32"): Tile(64, 4, scratch=True),
    (64, 1, "tf32"): Tile(64, 8),
    (64, 2, "tf32"): Tile(64, 8),
    (64, 3, "tf32"): Tile(32, 8, scratch=True),
    (64, 4, "tf32"): Tile(32, 8, scratch=True),
    (64, 5, "tf32"): Tile(32, 8, scratch=True),
    (16, 1, "bf16"): Tile(64, 4),
    (16, 2, "bf16"): Tile(64, 4),
    (16, 3, "bf16"): Tile(64, 4),
    (16, 4, "bf16"): Tile(64, 4, scratch=True),
    (16, 5, "bf16"): Tile(64, 4, scratch=True),
    (32, 1, "bf16"): Tile(64, 4),
    (32, 2, "bf16"): Tile(64, 4),
    (32, 3, "bf16"): Tile(64, 4),
    (32, 4, "bf16"): Tile(64, 4, scratch=True),
    (32, 5, "bf16"): Tile(64, 4, scratch=True),
    (64, 1, "bf16"): Tile(64, 8),
    (64, 2, "bf16"): Tile(64, 8),
    (64, 3, "bf16"): Tile(64, 8, scratch=True),
    (64, 4, "bf16"): Tile(64, 8, scratch=True),
    (64, 5, "bf16"): Tile(64, 8, scratch=True),
    (16, 1, "fp32"): Tile(64, 4),
    (16, 2, "fp32"): Tile(64, 4),
    (16, 3, "fp32"): Tile(16, 4, scratch=True),
    (16, 4, "fp32"): Tile(64, 8, scratch=True),
    (16, 5, "fp32"): Tile(64, 8, scratch=True),
    (32, 1, "fp32"): Tile(32, 8),
    (32, 2, "fp32"): Tile(32, 8),
    (32, 3, "fp32"): Tile(32, 8, scratch=True),
    (32, 4, "fp32"): Tile(32, 8, scratch=True),
    (32, 5, "fp32"): Tile(32, 8, scratch=True),
    (64, 1, "fp32"): Tile(16, 8),
}


def precision(config: FitConfig) -> Precision:
    """The precision of products that the config asks for."""
    asked = config.precision
    return DEFAULT_PRECISION if asked == "auto" else asked


def resident(spec: FieldSpec, precision: Precision) -> Tile | None:
    """The tile of the resident kernel for such fields, or None where they do not fit into the registers."""
    return RESIDENT.get((padded(max(spec.hidden)), len(spec.hidden), precision))


def scratch(spec: FieldSpec, tile: Tile) -> int:
    """Floats of scratch memory of one field."""
    return (len(spec.hidden) - 1) * 2 * tile.points * padded(max(spec.hidden)) if tile.scratch else 0


def constants(spec: FieldSpec, config: FitConfig) -> dict:
    """The compile-time arguments of the resident kernel. Raises ValueError where there is no tile for such fields."""
    tile = resident(spec, precision(config))
    if tile is None:
        raise ValueError(f"hidden={spec.hidden}, precision={precision(config)!r}: expected one that RESIDENT has")
    return _constants(spec, config, tile)


def _constants(spec: FieldSpec, config: FitConfig, tile: Tile) -> dict:
    return {
        "LAYOUT": layout(spec),
        "WIDTH": padded(max(spec.hidden)),
        "TILE": tile.points,
        "SINE": spec.activation == "sine",
        "LOSS": config.loss,
        "SAMPLED": config.batch > 0,
        "PRECISION": precision(config),
        "SCRATCH": tile.scratch,
    }


def shipped() -> list[Choice]:
    """Every tile with a sine field fitted to all points; in the default precision also with a ReLU field fitted to
    drawn ones. The list would be too long to compile with these in the other precisions, which few will ask for."""
    choices = []
    for key, tile in RESIDENT.items():
        choices.append(choice(key, tile, "sine"))
        if key[2] == DEFAULT_PRECISION:
            choices.append(choice(key, tile, "relu"))
    return choices


def choice(key: tuple[int, int, Precision], tile: Tile, activation: Literal["sine", "relu"]) -> Choice:
    """How the resident kernel would be shipped with a tile. key: as in RESIDENT."""
    width, depth, name = key
    spec = FieldSpec(in_dim=2, out_dim=1, hidden=(width,) * depth, activation=activation)
    drawn = FitConfig(loss="bce", batch=1024, precision=name)
    return Choice(
        label=f"{'-'.join(map(str, spec.dims))} {activation}, {name}",
        kernel="fitting.kernels.triton_resident:fit_resident",
        signature=SIGNATURE,
        constants=_constants(spec, drawn if activation == "relu" else FitConfig(precision=name), tile),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
