"""From what a file holds to a mesh that distances can be measured to: cleaned, its defects counted, normalised.

Legend: V vertices, F faces, E edges.
"""

from dataclasses import asdict, dataclass

import numpy as np

from fitting.signals.mesh_files import Geometry

BOX = 0.9  # half the largest side of a normalised shape
FLAT = 1e-6  # thickness or enclosed volume, relative to the size, below which a mesh has no inside


@dataclass(frozen=True)
class Transform:
    """normalised = (original - offset) * scale, with one scale for all axes."""

    scale: float
    offset: tuple[float, float, float]

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Original units to the normalised box: (..., 3) -> (..., 3) float64."""
        return (np.asarray(points, np.float64) - self.offset) * self.scale

    def undo(self, points: np.ndarray) -> np.ndarray:
        """Normalised box to original units: (..., 3) -> (..., 3) float64."""
        return np.asarray(points, np.float64) / self.scale + self.offset


@dataclass(frozen=True)
class MeshReport:
    """What a geometry consists of and what is wrong with it.

    vertices, faces: after cleaning; merged, unreferenced: vertices dropped because another had the same position, or
    because no face named them; zero_area, duplicate: faces dropped; open_edges: edges of one face; nonmanifold_edges:
    edges of three or more; flipped_edges: edges of two faces that run the same way along them; parts: sets of faces
    connected by vertices; inward_parts: closed parts of negative volume (cavities, or meshes turned inside out);
    closed: every edge has an even number of faces; volume: enclosed, in the units of the file, the parts' absolute
    volumes summed, NaN unless closed; flat: all vertices lie in one plane.
    """

    vertices: int
    faces: int
    merged: int = 0
    unreferenced: int = 0
    zero_area: int = 0
    duplicate: int = 0
    open_edges: int = 0
    nonmanifold_edges: int = 0
    flipped_edges: int = 0
    parts: int = 0
    inward_parts: int = 0
    closed: bool = False
    volume: float = float("nan")
    flat: bool = False

    def to_json(self) -> dict:
        """Return plain JSON values."""
        return asdict(self)

    @property
    def outward(self) -> bool:
        """Whether the order of the vertices says reliably that all faces look outward."""
        return self.closed and not (self.flipped_edges or self.inward_parts or self.nonmanifold_edges)

    def defects(self) -> str:
        """What is wrong in words, "" when nothing is: "12 open edges, 3 zero-area faces dropped"."""
        words = {
            "open_edges": "open edges",
            "nonmanifold_edges": "edges of more than two faces",
            "flipped_edges": "edges between faces that look opposite ways",
            "zero_area": "zero-area faces dropped",
            "duplicate": "duplicate faces dropped",
        }
        return ", ".join(f"{getattr(self, name):,} {text}" for name, text in words.items() if getattr(self, name))


def clean(geometry: Geometry) -> tuple[Geometry, MeshReport]:
    """Merge vertices at exactly the same position, drop what has no extent, and count the defects.

    Faces that name a vertex twice go before edges are counted. Other zero-area faces (three points of a line) are
    counted with the edges, since they may close a seam, and dropped after. Raises ValueError when nothing is left.
    """
    if geometry.is_cloud:
        return _clean_cloud(geometry)
    vertices, inverse = _merge(geometry.vertices)
    merged = len(geometry.vertices) - len(vertices)
    faces = inverse[geometry.faces]
    twice = (faces == np.roll(faces, 1, axis=1)).any(1)
    faces = faces[~twice]
    kept = _first_of_each(faces)
    duplicate = len(faces) - len(kept)
    faces = faces[kept]
    thin = _zero_area(vertices, faces)
    solid = faces[~thin]
    if not len(solid):
        raise ValueError(f"all {len(geometry.faces):,} faces have zero area")
    counts = _edges(faces, len(vertices))
    parts, inward, volume = _volumes(vertices, solid)
    used, index = np.unique(solid, return_inverse=True)
    result = Geometry(vertices[used], index.reshape(solid.shape))
    report = MeshReport(
        vertices=len(used),
        faces=len(solid),
        merged=merged,
        unreferenced=len(vertices) - len(used),
        zero_area=int(twice.sum() + thin.sum()),
        duplicate=duplicate,
        parts=parts,
        inward_parts=inward if counts["closed"] else 0,
        volume=volume if counts["closed"] else float("nan"),
        flat=_flat(result.vertices),
        **counts,
    )
    return result, report


def normalise_shape(geometry: Geometry) -> tuple[Geometry, Transform]:
    """Move the centre of the bounding box to 0 and scale its largest side to 1.8, so that all lies in [-0.9, 0.9]^3.

    Raises ValueError for a geometry without extent.
    """
    low, high = geometry.vertices.min(0), geometry.vertices.max(0)
    side = float((high - low).max())
    if side == 0.0:
        raise ValueError(f"all {len(geometry.vertices):,} vertices are at one position")
    transform = Transform(2 * BOX / side, tuple(((low + high) / 2).tolist()))
    return Geometry(transform.apply(geometry.vertices), geometry.faces, geometry.normals), transform


def require_inside(geometry: Geometry, report: MeshReport) -> None:
    """Raise ValueError unless the shape can have an inside: what SDF and occupancy need."""
    if geometry.is_cloud:
        if geometry.normals is None:
            raise ValueError("a point cloud without normals has no inside: expected normals, or signal 'udf'")
    elif report.flat:
        raise ValueError("a flat mesh encloses no volume: expected a solid one, or signal 'udf'")
    elif report.closed and report.volume <= FLAT * float(np.prod(_sides(geometry.vertices))):
        raise ValueError("a closed mesh of zero volume has no inside: expected a solid one, or signal 'udf'")


def face_normals(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return unit normals (F, 3) and areas (F,), float64."""
    a, b, c = (geometry.vertices[geometry.faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    length = np.linalg.norm(cross, axis=1)
    return cross / np.maximum(length, np.finfo(np.float64).tiny)[:, None], length / 2


def _clean_cloud(geometry: Geometry) -> tuple[Geometry, MeshReport]:
    if not len(geometry.vertices):
        raise ValueError("no points")
    _, first = np.unique(_rows(geometry.vertices), return_index=True)
    first.sort()
    normals = None if geometry.normals is None else geometry.normals[first]
    result = Geometry(geometry.vertices[first], geometry.faces, normals)
    merged = len(geometry.vertices) - len(first)
    return result, MeshReport(len(first), 0, merged=merged, flat=_flat(result.vertices))


def _rows(vertices: np.ndarray) -> np.ndarray:
    """Rows as single comparable values; -0 becomes 0."""
    exact = np.ascontiguousarray(vertices + 0.0)
    return exact.view([("", exact.dtype)] * 3).ravel()


def _merge(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct positions in the order of their first appearance, and the new number of every vertex."""
    _, first, inverse = np.unique(_rows(vertices), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return vertices[first[order]], rank[inverse.ravel()]


def _first_of_each(faces: np.ndarray) -> np.ndarray:
    """Positions of faces that no earlier one repeats (same vertices, same way round)."""
    start = faces.argmin(1)[:, None]
    turned = np.take_along_axis(faces, (start + np.arange(3)) % 3, axis=1)
    _, first = np.unique(np.ascontiguousarray(turned).view([("", turned.dtype)] * 3).ravel(), return_index=True)
    return np.sort(first)


def _zero_area(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Faces whose height is at most 1e-9 of their longest edge: beyond what coordinates of float32 can mean."""
    corners = vertices[faces]
    edges = corners[:, [1, 2, 0]] - corners
    longest = np.einsum("fij,fij->fi", edges, edges).max(1, initial=0.0)
    return np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) <= 1e-9 * longest


def _edges(faces: np.ndarray, num_vertices: int) -> dict:
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    low, high = np.minimum(start, end), np.maximum(start, end)
    _, edge, count = np.unique(low.astype(np.int64) * num_vertices + high, return_inverse=True, return_counts=True)
    forward = np.bincount(edge.ravel(), weights=start == low, minlength=len(count))
    return {
        "open_edges": int((count == 1).sum()),
        "nonmanifold_edges": int((count > 2).sum()),
        "flipped_edges": int(((count == 2) & (forward != 1)).sum()),
        "closed": bool((count % 2 == 0).all()),
    }


def _volumes(vertices: np.ndarray, faces: np.ndarray) -> tuple[int, int, float]:
    """Parts, parts of negative volume, sum of absolute volumes."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = (np.concatenate([faces[:, 0], faces[:, 1]]), np.concatenate([faces[:, 1], faces[:, 2]]))
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(len(vertices),) * 2)
    _, label = connected_components(graph, directed=False)
    _, part = np.unique(label[faces[:, 0]], return_inverse=True)
    a, b, c = (vertices[faces[:, i]] - vertices[faces[0, 0]] for i in range(3))
    volumes = np.bincount(part, weights=np.einsum("ij,ij->i", a, np.cross(b, c)) / 6)
    return len(volumes), int((volumes < 0).sum()), float(np.abs(volumes).sum())


def _flat(vertices: np.ndarray) -> bool:
    """Whether all points lie in one plane: the smallest singular value vanishes."""
    centred = vertices - vertices.mean(0)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(centred.T @ centred), 0))  # ascending
    return bool(values[0] <= FLAT * values[-1])


def _sides(vertices: np.ndarray) -> np.ndarray:
    return np.ptp(vertices, axis=0)
