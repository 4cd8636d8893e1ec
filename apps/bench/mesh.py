"""`nf bench mesh`: how fast fields become meshes, beside a dense evaluation and scikit-image's marching cubes."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apps.bench import rows as table
from apps.options import SHOWN, OutPath, Shown
from apps.output import Output

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields.batch import FieldBatch

_PACKAGES = ("torch", "scikit-image", "numpy", "neuralfields")
_STEPS, _POINTS, _RATE = 300, 4096, 1e-3
OURS, DENSE = "sparse", "dense"


@dataclass(frozen=True, kw_only=True)
class BenchMesh:
    """Time the extraction of one field's surface, in turns with a dense evaluation and scikit-image.

    The field is a sine field fitted for a moment to the distance to a ball in a ring, cut off at 0.1.
    """

    spec: str = "3-64-64-64-1"
    """Widths of the sine field."""
    resolution: tuple[int, ...] = (64, 128, 256)
    """Cells along the box, one or more numbers."""
    threads: int = min(2, table.usable_cores())
    """Threads of torch."""
    rounds: int = 3
    """Rounds; each times both sides once."""
    save: bool = False
    """Append the rows to mesh.csv in the folder `out`."""
    out: OutPath = "benchmarks"
    """Folder for --save."""
    output: Shown = SHOWN


@dataclass(frozen=True, kw_only=True)
class MeshRow:
    """One side at one resolution.

    seconds: median over rounds, p20 and p80 its quantiles; ratio: median over rounds of this side's time / that of
    `sparse`; points: at which the field was evaluated; farthest, mean: distance of this side's vertices to the nearest
    of the other side's, in cells.
    """

    spec: str
    resolution: int
    threads: int
    side: str
    seconds: float
    p20: float
    p80: float
    ratio: float
    points: int
    faces: int
    farthest: float
    mean: float
    rounds: int
    date: str
    cpu: str
    versions: str


@dataclass(frozen=True, eq=False)
class _Found:
    """What one side made: vertices (V, 3), number of faces, points evaluated, seconds of every round."""

    vertices: np.ndarray
    faces: int
    points: int
    seconds: list[float]


def run(options: BenchMesh) -> list[dict]:
    """Measure, print a table, save where asked, and return the rows as plain JSON values.

    Raises ValueError for numbers out of range, a spec that is not over three coordinates, rows that cannot be saved.
    """
    import torch

    if min(options.resolution, default=0) < 2 or options.rounds < 1 or options.threads < 1:
        given = f"resolution={options.resolution}, rounds={options.rounds}, threads={options.threads}"
        raise ValueError(f"{given}: expected cells of 2 or more and positive numbers")
    output, path = Output(quiet=options.output.quiet), Path(options.out) / "mesh.csv"
    if options.save:
        table.check_appendable(path, table.columns(MeshRow))
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        field = make_field(options.spec)
        output.say(f"{table.cpu_name()}; {options.rounds} round(s), both sides in each; ratio = time / {OURS} time")
        measured = []
        for resolution in options.resolution:
            rows = _rows(options, resolution, _measure(field, resolution, options.rounds))
            output.table(HEADER, [cells(row) for row in rows])
            measured += rows
            if options.save:  # at once: a higher resolution may not fit the machine
                append(path, rows)
    finally:
        torch.set_num_threads(before)
    if options.save:
        output.say(f"saved in {path}")
    return [asdict(row) for row in measured]


def make_field(spec: str, steps: int = _STEPS) -> "FieldBatch":
    """Fit one sine field to the distance to a ball in a ring, cut off at 0.1, by Adam on the absolute error."""
    import torch

    from neuralfields import inits
    from neuralfields.batch import FieldBatch
    from neuralfields.evaluate import evaluate
    from neuralfields.spec import SIREN

    dims = table.parse_dims(spec)
    if dims[0] != 3 or dims[-1] != 1:
        raise ValueError(f"spec={spec!r}: expected three coordinates and one value, such as 3-64-64-64-1")
    start = inits.initial(SIREN(3, 1, hidden=dims[1:-1]), np.arange(1, dtype=np.uint32), "random")
    weights = {name: value.clone().requires_grad_() for name, value in start.parameters.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=_RATE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        points = torch.rand(_POINTS, 3, generator=generator) * 2 - 1
        ring = ((points[:, :2].norm(dim=1) - 0.7).square() + points[:, 2].square()).sqrt() - 0.15
        target = torch.minimum(points.norm(dim=1) - 0.4, ring).clamp(-0.1, 0.1)
        loss = (evaluate(FieldBatch(start.spec, weights), points)[0, :, 0] - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return FieldBatch(start.spec, {name: value.detach() for name, value in weights.items()})


def _measure(field: "FieldBatch", resolution: int, rounds: int) -> dict[str, _Found]:
    """Run both sides in turns, the first of each untimed at a low resolution: it loads what they need."""
    import torch

    from neuralfields.evaluate import evaluate
    from neuralfields.render.isosurface import surface

    counted = [0]

    @torch.no_grad()
    def function(points: "Tensor") -> "Tensor":
        counted[0] += len(points)
        return evaluate(field, points)[0, :, 0]

    def sparse(cells: int) -> tuple[np.ndarray, np.ndarray]:
        mesh = surface(function, cells, cap=False)
        return mesh.vertices, mesh.faces

    sides: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
        OURS: sparse,
        DENSE: lambda cells: _dense(function, cells),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    last: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}
    for side in sides.values():
        side(16)
    for _ in range(rounds):
        for name, side in sides.items():
            counted[0] = 0
            begin = time.perf_counter()
            vertices, faces = side(resolution)
            seconds[name].append(time.perf_counter() - begin)
            last[name] = (vertices, faces, counted[0])
    return {name: _Found(v, len(f), points, seconds[name]) for name, (v, f, points) in last.items()}


def _dense(function: Callable[["Tensor"], "Tensor"], resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """The surface from values at all corners of the grid."""
    import torch
    from skimage.measure import marching_cubes

    from neuralfields.grids import product_grid

    size = resolution + 1
    values = torch.cat([function(part) for part in product_grid((size, size, size), "corners").split(1 << 20)])
    vertices, faces, _, _ = marching_cubes(values.view(size, size, size).numpy(), 0.0)
    return vertices * (2.0 / resolution) - 1.0, faces


def _rows(options: BenchMesh, resolution: int, found: dict[str, _Found]) -> list[MeshRow]:
    from scipy.spatial import KDTree

    rows = []
    for name, side in found.items():
        (other,) = (found[key] for key in found if key != name)
        away = KDTree(other.vertices).query(side.vertices)[0] * (resolution / 2)
        ratios = [a / b for a, b in zip(side.seconds, found[OURS].seconds, strict=True)]
        rows.append(
            MeshRow(
                spec=options.spec,
                resolution=resolution,
                threads=options.threads,
                side=name,
                seconds=round(table.quantile(side.seconds, 0.5), 4),
                p20=round(table.quantile(side.seconds, 0.2), 4),
                p80=round(table.quantile(side.seconds, 0.8), 4),
                ratio=round(table.quantile(ratios, 0.5), 3),
                points=side.points,
                faces=side.faces,
                farthest=round(float(away.max()), 4),
                mean=round(float(away.mean()), 6),
                rounds=options.rounds,
                date=table.now(),
                cpu=table.cpu_name(),
                versions=table.versions(*_PACKAGES),
            )
        )
    return rows


HEADER = ("spec", "cells", "threads", "side", "seconds", "p20-p80", "ratio", "points", "faces", "farthest")


def cells(row: MeshRow) -> tuple[str, ...]:
    """One row as text, in the order of HEADER."""
    return (
        row.spec,
        f"{row.resolution}^3",
        str(row.threads),
        row.side,
        f"{row.seconds:.3f}",
        f"{row.p20:.3f}-{row.p80:.3f}",
        f"{row.ratio:.2f}",
        f"{row.points:,}",
        f"{row.faces:,}",
        f"{row.farthest:.3f}",
    )


def append(path: Path, measured: list[MeshRow]) -> None:
    """Append rows, with a header if the file is new. Raises ValueError when the file has other columns."""
    table.append_records(path, table.columns(MeshRow), [asdict(row) for row in measured])
