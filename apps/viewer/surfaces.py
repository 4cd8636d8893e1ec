"""Surfaces of fields of shapes for the viewer: extracted once, thinned where they are too large for a browser."""

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.viewer.collection import Part

if TYPE_CHECKING:
    from neuralfields import FieldBatch
    from neuralfields.render.mesh import Mesh
    from neuralfields.render.mesh_rays import HasTriangles, MeshScene

MOST_FACES = 300_000  # of a mesh that is sent to a browser
KEPT = 12  # meshes
LATTICE = 24  # points along each axis that the range of levels is taken from
REACH, STRONGEST = 0.25, 0.5  # shares of those points: within the range of the slider, of the colours of slices

ROOM = 1.5  # strongest colours are left for values beyond those of half the box


class Surfaces:
    """Meshes of fields by weights, level and cells; those asked for last are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, float, int], Mesh] = OrderedDict()

    def knows(self, field: "FieldBatch", level: float, cells: int) -> bool:
        """Whether `find` has nothing to do."""
        return (fingerprint(field), level, cells) in self._kept

    def find(self, field: "FieldBatch", level: float, inside: Any, cells: int) -> "Mesh":
        """The surface of one field at a level from cells^3 cells; without faces where there is none."""
        from apps.mesh import extract

        key = (fingerprint(field), level, cells)
        if key not in self._kept:
            self._kept[key] = extract(field, cells, level, inside)[0]
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]


class Original:
    """The shape that a field was fitted to, small enough for a browser, and distances to all of it."""

    def __init__(self, mesh: "HasTriangles") -> None:
        from neuralfields.render.mesh import Mesh

        self._whole = Mesh(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int64))
        self._rays: MeshScene | None = None
        self.mesh = thinned(self._whole)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Unsigned distances (V,) of points (V, 3) to its surface, in the units of the box."""
        return self._scene().distance(points)

    def _scene(self) -> "MeshScene":
        from neuralfields.render.mesh_rays import MeshScene

        self._rays = self._rays or MeshScene(self._whole)
        return self._rays


def fingerprint(field: "FieldBatch") -> int:
    """A number that two fields share only if their weights are the same."""
    return hash(tuple(value.detach().cpu().numpy().tobytes() for value in field.parameters.values()))


def stored_level(part: Part) -> tuple[float, Any]:
    """Level of the surface and side of the inside, as stored; 0 where the store does not say."""
    from apps.mesh import surface_of

    return surface_of(part, None if "level" in (part.meta.get("signal") or {}) else 0.0)


def reach(field: "FieldBatch", level: float) -> tuple[float, float]:
    """How far from a level the slider goes, and how far the colours of slices: 1, 2 or 5 times a power of ten.

    A quarter of the box has values within the first, about half of it within the second.
    """
    import torch

    from neuralfields.evaluate import evaluate
    from neuralfields.grids import product_grid
    from neuralfields.render.colours import nice

    with torch.no_grad():
        values = evaluate(field, product_grid((LATTICE,) * 3, "centers"))[0, :, 0]
    away = (values - level).abs()
    away = away[away.isfinite()]
    if not len(away):
        return 1.0, 1.0
    return nice(float(away.quantile(REACH))), nice(ROOM * float(away.quantile(STRONGEST)))


def thinned(mesh: "Mesh", most: int = MOST_FACES) -> "Mesh":
    """The mesh with no more than so many faces: where there are more, vertices that are near each other become one."""
    from neuralfields.render.mesh import Mesh

    cells = 512
    found = mesh
    while len(found.faces) > most and cells > 1:
        places = np.floor((mesh.vertices + 1.0) * (0.5 * cells)).astype(np.int64)
        _, first, groups = np.unique(places, axis=0, return_index=True, return_inverse=True)
        faces = groups.reshape(-1)[mesh.faces]
        a, b, c = faces.T
        found = Mesh(mesh.vertices[first], faces[(a != b) & (b != c) & (c != a)])
        cells = cells * 3 // 4
    return found


def cut(mesh: "Mesh", axis: int, offset: float, values: np.ndarray | None = None) -> "tuple[Mesh, np.ndarray | None]":
    """What of a mesh lies below a place on an axis, and values (V, C) of its vertices, mixed where an edge is cut."""
    from neuralfields.render.mesh import Mesh

    height = mesh.vertices[:, axis] - np.float32(offset)
    below = height < 0
    count = below[mesh.faces].sum(axis=1)
    crossed = mesh.faces[(count == 1) | (count == 2)]
    alone = below[crossed] == (below[crossed].sum(axis=1) == 1)[:, None]  # one corner is, on its side of the cut
    crossed = np.take_along_axis(crossed, (alone.argmax(axis=1)[:, None] + np.arange(3)) % 3, axis=1)
    edges = np.sort(np.concatenate([crossed[:, [0, 1]], crossed[:, [0, 2]]]), axis=1)
    edges, place = np.unique(edges, axis=0, return_inverse=True)
    first, second = edges.T
    share = (height[first] / (height[first] - height[second]))[:, None]
    b, c = len(mesh.vertices) + place.reshape(2, -1)  # where the edges from the lone corner are cut
    lone, left, right = crossed.T
    tips = np.stack([lone, b, c], axis=1)[below[lone]]
    rests = np.concatenate([np.stack([b, left, right], axis=1), np.stack([b, right, c], axis=1)])
    faces = np.concatenate([mesh.faces[count == 3], tips, rests[np.tile(~below[lone], 2)]])

    def mixed(at: np.ndarray) -> np.ndarray:
        return np.concatenate([at, at[first] + share * (at[second] - at[first])]).astype(np.float32)

    return Mesh(mixed(mesh.vertices), faces), None if values is None else mixed(values)


def vertex_normals(mesh: "Mesh") -> np.ndarray:
    """Unit normals of vertices (V, 3) float32: means of those of their faces, weighted by area; zero without faces."""
    from neuralfields.render.mesh_rays import unit

    a, b, c = mesh.vertices[mesh.faces.T]
    weighted = np.repeat(np.cross(b - a, c - a), 3, axis=0)
    at = mesh.faces.ravel()
    sums = [np.bincount(at, weighted[:, axis], minlength=len(mesh.vertices)) for axis in range(3)]
    return unit(np.stack(sums, axis=1).astype(np.float32))
