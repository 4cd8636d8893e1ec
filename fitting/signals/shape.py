"""Shape signals: meshes and point clouds as what fields are fitted to. Exported as `fitting.shapes`.

Legend: N shapes, M points of a pool, T test points.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from fitting.config import Loss
from fitting.shape_metrics import compare, iou
from fitting.signals.mesh_files import find_files
from fitting.signals.shape_cache import Prepared, default_cache, prepare
from fitting.signals.shape_groups import groups
from fitting.signals.shape_pool import PoolConfig, held_out_points
from fitting.signals.signal import Points
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate, normalise
from neuralfields.render.isosurface import isosurface
from neuralfields.spec import FieldSpec

Signal = Literal["sdf", "occupancy", "udf", "tsdf"]
# What each can be fitted with: distances are values, the other two are sides, whose raw outputs are logits.
LOSSES: dict[str, tuple[Loss, ...]] = {
    "sdf": ("mse", "l1"),
    "occupancy": ("bce",),
    "udf": ("mse", "l1"),
    "tsdf": ("bce",),
}
CHAMFER_RESOLUTION = 128  # cells along the box at which fields become meshes to be measured
SURFACE_FIGURES = ("chamfer_l1", "f_score", "normal_consistency")
CHAMFER_SAMPLES = 30_000  # points on each of the two surfaces
UDF_LEVEL = 0.01  # distance at which the surface of an unsigned field is drawn: it has no side to change

# (shapes done, shapes in all, name of the last one)
OnPrepared = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class ShapeSignals:
    """N shapes in the box [-1, 1]^3, each with a pool of points and distances on disk.

    shapes: as prepared; labels (N,) int64 or None; ids (N,) uint32: positions in the source, whatever failed; group
    (N,) uint32: the same for copies of one shape; kind: sdf (distance, negative inside, clipped to +-truncate),
    occupancy (1 inside, 0 outside; raw outputs are logits), udf (distance, clipped to truncate) or tsdf ((clipped
    distance + truncate) / (2 truncate) in [0, 1]; raw outputs are logits, De Luigi et al., ICLR 2023); failures:
    (name, reason) of the files that could not be used.
    """

    shapes: tuple[Prepared, ...]
    labels: np.ndarray | None
    ids: np.ndarray
    group: np.ndarray
    kind: Signal
    pool: PoolConfig
    truncate: float
    source: str
    classes: tuple[str, ...] | None = None
    failures: tuple[tuple[str, str], ...] = ()
    split: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Signal):
            raise ValueError(f"signal={self.kind!r}: expected one of {', '.join(get_args(Signal))}")
        if not self.truncate > 0:
            raise ValueError(f"truncate={self.truncate}: expected a positive distance")

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def names(self) -> tuple[str, ...]:
        """Path of every shape below the source."""
        return tuple(shape.name for shape in self.shapes)

    @property
    def channels(self) -> int:
        """One value per point."""
        return 1

    @property
    def losses(self) -> tuple[Loss, ...]:
        """Those of distances or those of logits."""
        return LOSSES[self.kind]

    @property
    def level(self) -> float:
        """Value of the fields on the surface."""
        return UDF_LEVEL if self.kind == "udf" else 0.0

    @property
    def inside(self) -> Literal["below", "above"]:
        """On which side of the level the inside is."""
        return "above" if self.kind == "occupancy" else "below"

    def select(self, positions: slice) -> "ShapeSignals":
        """Return the shapes at these positions, with their ids kept."""
        labels = None if self.labels is None else self.labels[positions]
        group = self.group[positions]
        return replace(self, shapes=self.shapes[positions], labels=labels, ids=self.ids[positions], group=group)

    def points(self, spec: FieldSpec) -> Points:
        """Return the pools, read from disk: every shape has its own points."""
        pools = [shape.pool() for shape in self.shapes]
        distance = np.stack([pool.distance for pool in pools])[..., None]
        if self.kind == "occupancy":
            targets = torch.from_numpy((distance < 0).astype(np.float32))
        elif self.kind == "tsdf":
            targets = torch.from_numpy(np.clip(distance / (2 * self.truncate) + 0.5, 0.0, 1.0))
        else:
            away = np.abs(distance) if self.kind == "udf" else distance
            targets = normalise(spec, torch.from_numpy(np.clip(away, -self.truncate, self.truncate)))
        # An unsigned distance has no slope where the surface is.
        known = self.pool.surface > 0 and self.kind != "udf"
        normals = torch.from_numpy(np.stack([pool.normals for pool in pools])) if known else None
        bound = self.truncate / abs(spec.scale[0]) if self.kind in ("sdf", "udf") else math.inf
        coords = torch.from_numpy(np.stack([pool.points for pool in pools]))
        return Points(coords, targets, normals=normals, bound=bound)

    @torch.no_grad()
    def quality(self, fields: FieldBatch) -> dict[str, np.ndarray]:
        """Return how well each field stands for its shape.

        iou: of the insides on T uniform points of the box that no pool holds (not for udf); chamfer_l1, f_score,
        normal_consistency: of the field's surface, extracted at 128 cells along the box, and the shape's, from 30,000
        points on each, in units of the box whose side is 2 (`shape_metrics.compare`). NaN where the field has no
        surface; normal_consistency is NaN of a cloud.
        """
        columns: dict[str, np.ndarray] = {}
        fields = fields.to(torch.float32)
        if self.kind != "udf":
            columns["iou"] = np.array([self._iou(fields[i], shape) for i, shape in enumerate(self.shapes)])
        meshes = isosurface(fields, CHAMFER_RESOLUTION, self.level, inside=self.inside)
        found = [
            compare(mesh, shape.geometry(), CHAMFER_SAMPLES) if len(mesh.faces) else {}
            for mesh, shape in zip(meshes, self.shapes, strict=True)
        ]
        return columns | {name: np.array([row.get(name, np.nan) for row in found]) for name in SURFACE_FIGURES}

    def columns(self) -> dict[str, np.ndarray]:
        """Return group, and closed, whether the mesh is so."""
        return {"group": self.group, "closed": np.array([shape.report.closed for shape in self.shapes], bool)}

    def describe(self) -> dict:
        """Return the JSON values that a store keeps about its signals."""
        return {
            "kind": self.kind,
            "level": self.level,
            "inside": self.inside,
            "truncate": self.truncate,
            "pool": self.pool.to_json(),
            "source": self.source,
            "classes": None if self.classes is None else list(self.classes),
            "shapes": {shape.name: {**shape.to_json(), "sha256": shape.digest} for shape in self.shapes},
            "failures": [list(failure) for failure in self.failures],
        }

    def warnings(self) -> list[str]:
        """What a person should know about single shapes before trusting their inside, one line each."""
        return [f"{shape.name}: {note}" for shape in self.shapes if (note := shape.warning()) is not None]

    def _iou(self, field: FieldBatch, shape: Prepared) -> float:
        tests = torch.from_numpy(held_out_points(self.pool, shape.key))
        value = evaluate(field, tests)[0, :, 0].numpy()
        found = value > self.level if self.inside == "above" else value < self.level
        return iou(found, shape.pool().inside)


def load(
    source: str | Path,
    signal: Signal = "sdf",
    pool: PoolConfig | None = None,
    truncate: float = 0.1,
    limit: int | None = None,
    cache: str | Path | None = None,
    progress: OnPrepared | None = None,
) -> ShapeSignals:
    """Load shapes, a file or a folder of them, and draw their pools, or find them in the cache.

    A folder's classes are its sub-folders, or the column "class" of its index.csv. Shapes that cannot be used are
    listed in `failures` and the others go on. limit: the first so many. cache: folder of the pools, by default in the
    user's cache; an interrupted preparation goes on where it was. Raises FileNotFoundError for a missing source and
    ValueError when no shape can be used.
    """
    if signal not in get_args(Signal):
        raise ValueError(f"signal={signal!r}: expected one of {', '.join(get_args(Signal))}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: expected a positive number")
    root, files = _files(Path(source))
    files, pool = files[:limit], pool or PoolConfig()
    folder = default_cache() if cache is None else Path(cache)
    shapes, failures, rows = [], [], []
    for number, (path, _) in enumerate(files):
        name = path.relative_to(root).as_posix()
        try:
            shapes.append(prepare(path, name, pool, folder, needs_inside=signal != "udf"))
            rows.append(number)
        except (ValueError, FileNotFoundError) as error:
            reason = str(error)
            failures.append((name, reason.removeprefix(f"{path.name}: ")))
        if progress is not None:
            progress(number + 1, len(files), name)
    if not shapes:
        name, reason = failures[0]
        rest = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        raise ValueError(f"source={str(source)!r}: no shape can be used; {name}: {reason}{rest}")
    labels, classes = _labels([files[row][1] for row in rows], [name for _, name in files])
    ids = np.array(rows, np.uint32)
    group = np.array([int(name[:8], 16) for name in groups([shape.signature for shape in shapes])], np.uint32)
    return ShapeSignals(
        tuple(shapes), labels, ids, group, signal, pool, truncate, Path(source).resolve().name, classes, tuple(failures)
    )


def _files(source: Path) -> tuple[Path, list[tuple[Path, str | None]]]:
    """The folder that names are relative to, and the files with the names of their classes."""
    if source.is_dir():
        return source, find_files(source)
    if not source.is_file():
        raise FileNotFoundError(f"source={str(source)!r}: no such file or folder")
    return source.parent, [(source, None)]


def _labels(
    names: Sequence[str | None], known: Sequence[str | None]
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels of the shapes and the names of all classes of the source, also of those whose shapes all failed."""
    classes = sorted({name for name in known if name is not None})
    if not classes:
        return None, None
    return np.array([classes.index(name) if name else -1 for name in names], np.int64), tuple(classes)
