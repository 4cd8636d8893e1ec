"""`python -m apps.bench.gpu_tiles`: the fastest tile of the fit in bfloat16 parts on this card, case by case.

Every tile of a grid is compiled ahead of time, as apps/bench/resources.py does; what spills nothing is fitted, in
turns. What is shipped is marked, and a faster line is what fitting/kernels/halves_tiles.py should say. Needs what
apps/bench/gpu.py needs. Exit status: 2 where there is no GPU, or none that has this kernel.
"""

import argparse
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from apps.bench import gpu, gpu_fit, gpu_rows, gpu_sides
from apps.bench.gpu_fit import Slice
from apps.bench.gpu_sides import Case, Ours, build
from apps.bench.gpu_time import event_seconds
from apps.bench.rows import quantile
from fitting.kernels import halves_tiles
from fitting.kernels.halves_tiles import HalvesTile
from neuralfields.kernels.layout import padded
from neuralfields.kernels.resources import Resources, compile_all
from neuralfields.spec import FieldSpec

PRECISION = halves_tiles.DEFAULT
# With these a quarter of a multiprocessor holds two, three, four and five warps.
_REGISTERS = (255, 168, 128, 96)


@dataclass(frozen=True)
class Candidate:
    """A tile, and what it takes of the chip it was compiled for."""

    tile: HalvesTile
    used: Resources

    def words(self, arch: int) -> str:
        """'32 points, 1 warp, 168 registers, 12 blocks'."""
        tile = self.tile
        waiting = f", {tile.wait} wait" if tile.wait else ", places hidden" if tile.hide else ""
        warps = "1 warp" if tile.warps == 1 else f"{tile.warps} warps"
        blocks = self.used.blocks(arch, tile.warps)
        return f"{tile.points} points, {warps}{waiting}, {self.used.registers} registers, {blocks} blocks"


def grid(spec: FieldSpec) -> list[HalvesTile]:
    """Tiles to try: points and warps around what the width is shipped with, every number of layers that wait, and for
    none of them places hidden or not."""
    narrow = padded(max(spec.hidden)) <= 32
    points, warps = ((16, 32, 64), (1, 2)) if narrow else ((32, 64, 128), (2, 4, 8))
    hides = [(0, False), *((wait, True) for wait in range(len(spec.hidden)))]
    found = itertools.product(points, warps, hides, _REGISTERS)
    return [HalvesTile(p, w, wait=wait, registers=r, hide=hide) for p, w, (wait, hide), r in found]


def usable(case: Case, tiles: Sequence[HalvesTile], arch: int, processes: int) -> list[Candidate]:
    """Tiles that compile for a chip, fit it and spill nothing; of those that come out alike, the first."""

    def take(tile: HalvesTile) -> Resources | None:
        choice = halves_tiles.choice(halves_tiles.key(case.spec), tile, PRECISION, case.batch > 0, (arch,))
        try:
            return compile_all([(choice, arch)])[0]
        except RuntimeError:  # such a tile is none for this kernel
            return None

    with ThreadPoolExecutor(processes) as pool:
        found = list(pool.map(take, tiles))
    distinct: dict[tuple, Candidate] = {}
    for tile, used in zip(tiles, found, strict=True):
        if used is not None and not used.spills and used.fits(arch):
            same = (tile.points, tile.warps, tile.wait, tile.hide, used.registers)
            distinct.setdefault(same, Candidate(tile, used))
    return list(distinct.values())


@contextlib.contextmanager
def only(spec: FieldSpec, tile: HalvesTile) -> Iterator[None]:
    """Fit such fields with this tile, until it ends."""
    chip = halves_tiles.chip()
    before = halves_tiles.HALVES.get(chip, {})
    halves_tiles.HALVES[chip] = {halves_tiles.key(spec): tile}
    try:
        yield
    finally:
        halves_tiles.HALVES[chip] = before


def warm(case: Case, tile: HalvesTile) -> None:
    """Compile a case with a tile into Triton's cache."""
    with only(case.spec, tile):
        Ours(build(case, 2), PRECISION).advance(1)


def sweep(
    case: Case, tiles: Sequence[HalvesTile], rounds: int, timed: Callable[[Callable], float]
) -> dict[HalvesTile, tuple[float, str | None]]:
    """Tile -> field-steps per second, median over rounds, and how its fit strays from float32 torch, if it does."""
    work, strays, slices = build(case, case.fields), list[str | None](), list[Slice]()

    def fit(tile: HalvesTile, side: Ours) -> None:
        with only(case.spec, tile):
            side.advance(case.steps)

    for tile in tiles:
        side = Ours(work, PRECISION)
        with only(case.spec, tile):
            strays.append(gpu_fit.strays(case, PRECISION))
            side.advance(1)
        slices.append(Slice(str(tile), PRECISION, case.fields, case.steps, partial(fit, tile, side)))
    seconds = gpu_fit.take_turns(slices, rounds, timed)
    rates = [1.0 / quantile(each, 0.5) for each in seconds]
    return dict(zip(tiles, zip(rates, strays, strict=True), strict=True))


def report(case: Case, candidates: Sequence[Candidate], arch: int, rounds: int, timed: Callable) -> list[str]:
    """Lines of one case, the fastest tile first, what is shipped with a star."""
    shipped = halves_tiles.tile(case.spec, PRECISION)
    found = sweep(case, [one.tile for one in candidates], rounds, timed)
    lines = []
    for one in sorted(candidates, key=lambda one: -found[one.tile][0]):
        rate, stray = found[one.tile]
        star = " *" if one.tile == shipped else ""
        lines.append(f"{rate / 1e6:10.3f} M  {one.words(arch)}{star}" + (f"  STRAYS: {stray}" if stray else ""))
    return lines


def one_case(case: Case, arch: int, rounds: int, processes: int) -> Iterator[str]:
    """Compile, measure, and say what was found."""
    shipped = halves_tiles.tile(case.spec, PRECISION)
    if shipped is None:
        yield f"{case.name}: left out, no tile is shipped"
        return
    tiles = [shipped, *(tile for tile in grid(case.spec) if tile != shipped)]
    candidates = usable(case, tiles, arch, processes)
    yield f"\n{case.name}, {len(tiles)} tiles, {len(candidates)} without spills"
    if shipped not in [one.tile for one in candidates]:
        yield f"{shipped} is shipped, but does not compile here without spills"
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(warm, case, one.tile) for one in candidates]:
            done.result()
    yield from report(case, candidates, arch, rounds, event_seconds)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; bad values end the program with a line."""
    parser = argparse.ArgumentParser(prog="python -m apps.bench.gpu_tiles", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds; each times every tile once")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="compilers at work at once")
    parser.add_argument("--deadline", type=float, default=240, help="seconds; a case after it is left out and named")
    options = parser.parse_args(arguments)
    for name in ("rounds", "processes", "deadline"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} {getattr(options, name)}: expected a positive number")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options, reason, arch = parse(arguments), gpu.no_gpu(), halves_tiles.chip()
    if reason is None and arch not in halves_tiles.HALVES:
        reason = f"chip sm_{arch}: expected one of {', '.join(f'sm_{one}' for one in halves_tiles.HALVES)}"
    if reason is not None:
        print(f"gpu-tiles: {reason}", file=sys.stderr)
        return 2
    begin = time.monotonic()
    print(f"{gpu_rows.card()}\nfield-steps a second, {PRECISION}; * is what is shipped", flush=True)
    for case in gpu_sides.CASES:
        if time.monotonic() - begin > options.deadline:
            print(f"{case.name}: left out, {options.deadline:g} s have passed", flush=True)
            continue
        for line in one_case(case, arch, options.rounds, options.processes):
            print(line, flush=True)
        print(f"{time.monotonic() - begin:.0f} s since the start", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
