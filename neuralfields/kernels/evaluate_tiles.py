"""What the CUDA evaluation kernels are compiled with: plain data, read by the launch and by the ahead-of-time check."""

from dataclasses import dataclass

from neuralfields.kernels.layout import layout, padded
from neuralfields.kernels.resources import Choice
from neuralfields.spec import FieldSpec

MAX_WIDTH = 256
MAX_DEPTH = 5
MAX_INPUTS = 64
MAX_OUTPUTS = 4
PRECISIONS = ("fp32", "tf32x3", "tf32", "bf16")
DEFAULT_PRECISION = "tf32x3"
# Weight gradients are summed per chunk of points; how many there are depends on the points alone, never on the fields,
# and enough of them keep a chip busy with one field.
CHUNK = 512
_MAX_CHUNKS = 64


@dataclass(frozen=True)
class Tile:
    """points: of one pass through the layers; block: columns of a layer in one product; scratch: whether layers pass by
    memory (the nearest caches) instead of registers; warps, stages: of the launch."""

    points: int
    block: int
    scratch: bool
    warps: int = 4
    stages: int = 1


# Products of 32 columns: larger operands, in high and low halves, are more than a thread has registers for.
_COLUMNS = 32
# What a thread may take. Without it the assembler moves values to memory to have room for one more block of threads.
REGISTERS = 255
# Padded width -> tile of the forward kernel.
FORWARD = {
    16: Tile(64, 16, scratch=False),
    32: Tile(64, 32, scratch=False),
    64: Tile(64, 32, scratch=False),
    128: Tile(64, 32, scratch=True),
    256: Tile(64, 32, scratch=True),
}
# Padded width -> tile of the backward kernel; 64 points of deep fields are just too many for sm_80.
BACKWARD = {
    16: Tile(64, 16, scratch=True),
    32: Tile(32, 32, scratch=True),
    64: Tile(32, 32, scratch=True),
    128: Tile(32, 32, scratch=True),
    256: Tile(32, 32, scratch=True),
}


def forward_tile(spec: FieldSpec) -> Tile:
    """The tile of the forward kernel for such fields."""
    return FORWARD[padded(max(spec.hidden))]


def backward_tile(spec: FieldSpec) -> Tile:
    """The tile of the backward kernel for such fields."""
    return BACKWARD[padded(max(spec.hidden))]


def chunk(num_points: int, tile: Tile) -> int:
    """Points whose gradients one program sums: a multiple of the tile's."""
    chunks = max(1, min(_MAX_CHUNKS, num_points // CHUNK))
    return -(-num_points // (chunks * tile.points)) * tile.points


def scratch(spec: FieldSpec, tile: Tile, backward: bool) -> int:
    """Floats of scratch memory of one program of the wide kernels."""
    return (len(spec.hidden) if backward else 1) * 2 * tile.points * padded(max(spec.hidden))


def forward_constants(spec: FieldSpec, precision: str) -> dict:
    """Compile-time arguments of the forward kernel that `forward_tile` means."""
    return _constants(spec, precision, forward_tile(spec))


def backward_constants(spec: FieldSpec, precision: str, weights: bool, inputs: bool) -> dict:
    """Compile-time arguments of the backward kernel. weights, inputs: which gradients."""
    tile = backward_tile(spec)
    return {**_constants(spec, precision, tile), "WEIGHTS": weights, "INPUTS_TOO": inputs}


def _constants(spec: FieldSpec, precision: str, tile: Tile) -> dict:
    constants = {
        "LAYOUT": layout(spec),
        "COLUMNS": min(_COLUMNS, padded(spec.dims[0] + 1)),  # and a column for the bias
        "BLOCK": tile.block,
        "TILE": tile.points,
        "SINE": spec.activation == "sine",
        "PRECISION": precision,
    }
    return {**constants, "WIDTH": padded(max(spec.hidden))} if tile.scratch else constants


def shipped() -> list[Choice]:
    """Every tile with the deepest fields it is for, in the two precisions that take the most of a chip: tf32 is one of
    the three products of tf32x3, and bf16 has operands of half the size."""
    choices = []
    for precision in ("fp32", "tf32x3"):
        for width in FORWARD:
            spec = FieldSpec(in_dim=3, out_dim=1, hidden=(width,) * MAX_DEPTH)
            choices += [_forward_choice(spec, precision), _backward_choice(spec, precision)]
    return choices


def _forward_choice(spec: FieldSpec, precision: str) -> Choice:
    tile = forward_tile(spec)
    kernel = "triton_wide:evaluate_forward_wide" if tile.scratch else "triton_forward:evaluate_forward"
    pointers = ("flat", "encoded", "raw") + (("scratch",) if tile.scratch else ())
    integers = ("num_points",) + (("items", "zero") if tile.scratch else ())
    return Choice(
        label=f"evaluate {'-'.join(map(str, spec.dims))}, {precision}",
        kernel=f"neuralfields.kernels.{kernel}",
        signature=_signature(pointers, integers),
        constants=forward_constants(spec, precision),
        num_warps=tile.warps,
        num_stages=tile.stages,
        maxnreg=REGISTERS,
    )


def _backward_choice(spec: FieldSpec, precision: str) -> Choice:
    tile = backward_tile(spec)
    pointers = ("flat", "encoded", "d_raw", "partial", "d_encoded", "scratch")
    return Choice(
        label=f"gradients {'-'.join(map(str, spec.dims))}, {precision}",
        kernel="neuralfields.kernels.triton_wide:evaluate_backward",
        signature=_signature(pointers, ("num_points", "chunk", "items", "zero")),
        constants=backward_constants(spec, precision, weights=True, inputs=True),
        num_warps=tile.warps,
        num_stages=tile.stages,
        maxnreg=REGISTERS,
    )


def _signature(pointers: tuple[str, ...], integers: tuple[str, ...]) -> dict[str, str]:
    return {**dict.fromkeys(pointers, "*fp32"), **dict.fromkeys(integers, "i32"), "encoded_stride": "i64"}
