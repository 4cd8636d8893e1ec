"""The GPU fitting benchmark itself: ours in every precision beside torch.func and JAX, in turns, by device events."""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from apps.bench.gpu_rows import GpuRow, measured
from apps.bench.gpu_sides import Case, Jax, Ours, Side, TorchFunc, build
from apps.bench.gpu_time import fill, matmul_of
from apps.bench.rows import quantile
from fitting.kernels import step_torch

# Peers multiply in tf32, the fastest they have for float32 data, so that the ratio flatters no one.
PEER_PRECISION = "tf32"
PEERS = ("torch.func", "jax", "torch.func compiled")
_COMPILING_S = {"torch.func": 3.0, "jax": 15.0, "torch.func compiled": 45.0}  # what each takes before its first step
# Distance of the weights after a few steps of a few fields from those of float32 torch, over the way they went.
STRAY = {"fp32": 2e-3, "tf32x3": 2e-3, "tf32": 0.15, "mixed": 0.15, "bf16": 0.4}
_FEW, _FEW_STEPS = 4, 20
_SLICE_S = 0.25
_CASE_S = 12.0  # about what the rounds of one case may take


@dataclass(frozen=True)
class Slice:
    """What one side does in one round: action fits `fields` fields for `steps` steps."""

    side: str
    precision: str
    fields: int
    steps: int
    action: Callable[[], object]


def usable_peers() -> dict[str, str | None]:
    """Peer -> why it cannot run here, or None."""
    return {name: "jax is not installed" if name == "jax" and find_spec("jax") is None else None for name in PEERS}


def measure(
    case: Case,
    precisions: tuple[str, ...],
    peers: tuple[str, ...],
    matmul: dict[str, float],
    rounds: int,
    timed: Callable[[Callable], float],
    broke: Callable[[str], object],
    left: float = math.inf,
) -> Iterator[list[GpuRow]]:
    """Rows of one case, our default precision first; the ratio is that of the side's time to the default's.

    Given as they are found: ours by one round, one precision more each time, before the peers take their time to
    compile, then all by as many of the rounds as there are seconds for. A peer that does not run here, or
    not in the seconds left, is left out, with a line that says why; so is a precision of ours, whose line goes to
    `broke`. A fit of ours that strays from float32 torch is a line for `broke` too, and measured all the same. The
    default precision raises whatever it raises.

    precisions: of ours, the default first; peers: some of PEERS; matmul: rate by precision; timed: runs an action and
    returns its seconds on the device.
    """
    end = time.monotonic() + left
    work = build(case, case.fields)
    slices: list[Slice] = []
    once: list[list[float]] = []
    for name in precisions:
        side = Ours(work, name)
        piece = _slice("triton", name, side, case.steps)
        try:
            side.advance(1)  # copies and compilation are not what is measured
            seconds = timed(piece.action)
        except Exception as error:
            if name == precisions[0]:
                raise
            broke(f"fit {case.name}: triton, {name}: {_one_line(error)}")
            continue
        slices.append(piece)
        once.append([seconds / (piece.fields * piece.steps)])
        stray = strays(case, name)
        if stray is not None:
            broke(f"fit {case.name}: triton, {name}: {stray}")
        yield rows(case, slices, once, matmul)
    round_s = sum(seconds * piece.fields * piece.steps for (seconds,), piece in zip(once, slices, strict=True))
    turns = max(1, min(rounds, int(min(_CASE_S, end - time.monotonic()) / round_s)))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        for name in peers:
            spare = end - time.monotonic() - turns * round_s - _COMPILING_S[name]
            if spare < 0:
                print(f"{case.name}: {name} is left out: it would take {-spare:.0f} s too long", flush=True)
                continue
            slices += _peer(name, case, timed)
        yield rows(case, slices, take_turns(slices, turns, timed), matmul)
    finally:
        torch.set_float32_matmul_precision(before)


def _peer(name: str, case: Case, timed: Callable[[Callable], float]) -> list[Slice]:
    """What a peer does in one round; nothing, and a line that says why, where it does not run here."""
    try:
        side = make_peer(name, case)
        side.advance(1)
        steps = fill(lambda: side.advance(1), timed, _SLICE_S, least=2)
    except Exception as error:  # of a library that is not ours, and no reason to lose what is
        print(f"{case.name}: {name} is left out: {_one_line(error)}", flush=True)
        return []
    return [_slice(name, PEER_PRECISION, side, steps)]


def strays(case: Case, precision: str) -> str | None:
    """How far twenty steps of a few fields end from those of float32 torch, where that is too far, else None."""
    ours = Ours(build(case, _FEW), precision)
    ours.advance(_FEW_STEPS)
    exact = step_torch.run(ours.task(_FEW_STEPS, "fp32")).fields.flat()
    assert ours.result is not None
    start = ours.work.start.flat()
    moved, off = ((exact - other).square().mean().sqrt().item() for other in (start, ours.result.flat()))
    allowed = STRAY[precision]
    return None if off <= allowed * moved else f"off by {off / moved:.2g} of its way, expected at most {allowed:g}"


def make_peer(name: str, case: Case) -> Side:
    """Build a peer by name. Raises ValueError for an unknown one."""
    if name not in PEERS:
        raise ValueError(f"peer={name!r}: expected one of {', '.join(PEERS)}")
    work = build(case, case.peers)
    if name == "jax":
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # it would take most of the card for itself
        return Jax(work)
    return TorchFunc(work, compiled=name.endswith("compiled"))


def take_turns(slices: list[Slice], rounds: int, timed: Callable[[Callable], float]) -> list[list[float]]:
    """Seconds per field and step of every slice in every round; each round starts with another one."""
    seconds: list[list[float]] = [[] for _ in slices]
    for turn in range(rounds):
        for place in range(len(slices)):
            index = (turn + place) % len(slices)
            piece = slices[index]
            seconds[index].append(timed(piece.action) / (piece.fields * piece.steps))
    return seconds


def rows(case: Case, slices: list[Slice], seconds: list[list[float]], matmul: dict[str, float]) -> list[GpuRow]:
    """Rows of the slices, from the seconds per field and step of every round."""
    found = []
    for piece, each in zip(slices, seconds, strict=True):
        units = piece.fields * piece.steps
        row = measured(
            [value * units for value in each],
            units,
            case.flop * units,
            part="fit",
            case=case.name,
            side=piece.side,
            precision=piece.precision,
            fields=piece.fields,
            steps=piece.steps,
            unit="field-steps",
            ratio=quantile([a / b for a, b in zip(each, seconds[0], strict=True)], 0.5),
        )
        row = matmul_of(row, matmul)
        found.append(replace(row, note="host copies included") if piece.side == "triton" else row)
    return found


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _slice(name: str, precision: str, side: Side, steps: int) -> Slice:
    return Slice(name, precision, side.fields, steps, lambda: side.advance(steps))
