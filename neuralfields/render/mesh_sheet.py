"""Contact sheets of reconstructions: original, reconstruction and where they differ, side by side.

Legend: V vertices, F faces, H rows, W columns.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralfields.render.cameras import Camera
from neuralfields.render.colours import colour_bar, nice, number
from neuralfields.render.mesh_picture import BACKGROUND, LOOK, Look, error_picture, mesh_picture
from neuralfields.render.mesh_rays import HasTriangles, MeshScene
from neuralfields.render.sheet import PAPER, sheet
from neuralfields.render.turntable import frame_camera

HEADERS = ("original", "reconstruction", "error")
BAR = 560  # pixels that the colour bar is wide at most
QUANTILE = 99.0  # percent of the vertices that the colours tell apart


@dataclass(frozen=True, eq=False)
class MeshPair:
    """One row: a name, the original mesh and its reconstruction, None or without faces where there is no surface."""

    name: str
    original: HasTriangles
    reconstruction: HasTriangles | None


@dataclass(frozen=True, eq=False)
class Difference:
    """How far a reconstruction lies from its original, in the units of the meshes.

    errors (V,): unsigned distance of every vertex of the reconstruction to the surface of the original; mean: of these
    over the area of the reconstruction; largest: of these; missed: largest distance of a vertex of the original to the
    reconstruction, large where a part was left out.
    """

    errors: np.ndarray
    mean: float
    largest: float
    missed: float


def difference(original: HasTriangles | MeshScene, reconstruction: HasTriangles | MeshScene) -> Difference:
    """Measure a reconstruction against its original, both ways. Raises ValueError for a mesh without faces or area."""
    truth, found = (m if isinstance(m, MeshScene) else MeshScene(m) for m in (original, reconstruction))
    errors = truth.distance(found.vertices)
    edges = found.triangles[:, 1:] - found.triangles[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    if not area.sum() > 0.0:
        raise ValueError(f"reconstruction has {len(found.faces)} faces without area: expected a surface")
    mean = np.average(errors[found.faces].mean(axis=1, dtype=np.float64), weights=area)
    missed = found.distance(truth.vertices).max()
    return Difference(errors, float(mean), float(errors.max()), float(missed))


def mesh_sheet(
    pairs: Sequence[MeshPair],
    size: int | tuple[int, int] = 256,
    limit: float | None = None,
    units: str = "units of the meshes",
    title: str | None = None,
    columns: int | None = None,
    look: Look = LOOK,
) -> np.ndarray:
    """Draw every pair as original | reconstruction | error, names and distances below: uint8 (H', W', 3).

    The three pictures of a pair share one camera, that shows all of both meshes. Errors are distances of the vertices
    of the reconstruction to the original surface, in one scale for the whole sheet, on a bar at the bottom: 0 to
    `limit`, by default the largest 99th percentile of a pair, rounded up to 1, 2 or 5 times a power of ten. size:
    (H, W) of a picture or one number, in pixels. units: what the bar says. columns: pairs in a row, by default what
    makes the page about three by two. A reconstruction without faces leaves its pictures empty, and its caption says
    so. Raises ValueError for no pairs, originals without faces and a limit that is not positive.
    """
    if not pairs:
        raise ValueError("pairs is empty: expected at least one")
    if look.background is None:
        raise ValueError("look.background=None: expected a colour, sheets are not transparent")
    scenes = [(MeshScene(pair.original), _scene(pair.reconstruction)) for pair in pairs]
    found = [None if made is None else difference(truth, made) for truth, made in scenes]
    if limit is None:
        limit = nice(max((float(np.percentile(d.errors, QUANTILE)) for d in found if d is not None), default=0.0))
    rows = [_row(*scene, d, limit, size, look) for scene, d in zip(scenes, found, strict=True)]
    captions = [_caption(pair.name, d) for pair, d in zip(pairs, found, strict=True)]
    stacks = [_tiles([row[k] for row in rows]) for k in range(3)]
    page = sheet(stacks, columns=columns, scale=1, captions=captions, headers=HEADERS, title=title)
    return _with_bar(page, limit, f"distance of the reconstruction to the original surface, {units}")


def _scene(mesh: HasTriangles | None) -> MeshScene | None:
    return None if mesh is None or len(np.asarray(mesh.faces)) == 0 else MeshScene(mesh)


def _row(
    truth: MeshScene,
    made: MeshScene | None,
    found: Difference | None,
    limit: float,
    size: int | tuple[int, int],
    look: Look,
) -> list[np.ndarray]:
    """The three pictures (H, W, 3) of a pair."""
    camera = _camera(truth, made, size, look)
    first = mesh_picture(truth, camera, look)
    if made is None or found is None:
        empty = np.empty_like(first)
        empty[:] = np.round(np.array(look.background or BACKGROUND) * 255.0)
        return [first, empty, empty]
    return [first, mesh_picture(made, camera, look), error_picture(made, found.errors, camera, limit, look, None)]


def _camera(truth: MeshScene, made: MeshScene | None, size: int | tuple[int, int], look: Look) -> Camera:
    """A camera that shows both: a reconstruction with specks far away must not look good."""
    both = truth if made is None else _Union(truth, made)
    return frame_camera(both, size, up=look.up)


class _Union:
    """The triangles of two meshes as one."""

    def __init__(self, first: MeshScene, second: MeshScene) -> None:
        self.vertices = np.concatenate([first.vertices, second.vertices])
        self.faces = np.concatenate([first.faces, second.faces + len(first.vertices)])


def _caption(name: str, found: Difference | None) -> str:
    if found is None:
        return f"{name}   no surface"
    shown = {"mean": found.mean, "max": found.largest, "missed": found.missed}
    return "   ".join([name, *(f"{word} {number(value)}" for word, value in shown.items())])


def _tiles(pictures: list[np.ndarray]) -> Tensor:
    """Pictures as sheet() takes them: (N, H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).float() / 255.0


def _with_bar(page: np.ndarray, limit: float, title: str) -> np.ndarray:
    bar = colour_bar(min(page.shape[1], BAR), 0.0, limit, "error", title)
    foot = np.empty((len(bar), page.shape[1], 3), np.uint8)
    foot[:] = PAPER
    left = math.floor(0.5 * (page.shape[1] - bar.shape[1]))
    foot[:, left : left + bar.shape[1]] = bar
    return np.concatenate([page, foot])
