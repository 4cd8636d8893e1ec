"""Mesh: triangles in memory, and their files through trimesh.

Legend: V vertices, F faces.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SUFFIXES = (".obj", ".ply", ".glb", ".stl")


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles: vertices (V, 3) float32, faces (F, 3) int64, counter-clockwise seen from outside.

    Raises ValueError for other shapes or types and for faces that name no vertex.
    """

    vertices: np.ndarray
    faces: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in (("vertices", np.dtype(np.float32)), ("faces", np.dtype(np.int64))):
            value = getattr(self, name)
            if value.ndim != 2 or value.shape[1] != 3 or value.dtype != dtype:
                raise ValueError(f"{name} is {value.dtype} {value.shape}: expected {dtype} (n, 3)")
        if len(self.faces) and not 0 <= int(self.faces.min()) <= int(self.faces.max()) < len(self.vertices):
            raise ValueError(
                f"faces name vertices {self.faces.min()} to {self.faces.max()}: expected 0 to {len(self.vertices) - 1}"
            )

    @property
    def watertight(self) -> bool:
        """Whether every edge has one face on each side, running opposite ways along it: closed and oriented alike."""
        if not len(self.faces):
            return False
        start, end = self.faces.ravel(), np.roll(self.faces, -1, axis=1).ravel()
        forward = np.sort(start * len(self.vertices) + end)
        backward = np.sort(end * len(self.vertices) + start)
        return bool((forward == backward).all() and (np.diff(forward) > 0).all())

    @property
    def area(self) -> float:
        """Area of all faces, in square units of the vertices."""
        a, b, c = self._corners()
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)

    @property
    def volume(self) -> float:
        """Enclosed volume, V = 1/6 sum a . (b x c), positive where faces look outward; of closed meshes only."""
        a, b, c = self._corners()
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)

    def _corners(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Three corners of every face: (F, 3) float64 each."""
        a, b, c = self.vertices.astype(np.float64)[self.faces.T]
        return a, b, c

    def save(self, path: str | Path) -> None:
        """Write an OBJ, PLY, GLB or STL file, as the name ends, whole or not at all; missing folders are made.

        PLY, GLB and STL are binary; STL repeats shared vertices. Raises ValueError for other names, for a mesh without
        faces and where trimesh is not installed.
        """
        path = Path(path)
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"path={str(path)!r}: expected a name that ends in {', '.join(SUFFIXES)}")
        if not len(self.faces):
            raise ValueError(f"path={str(path)!r}: the mesh has no faces: expected a surface")
        try:
            import trimesh
        except ModuleNotFoundError:
            raise ValueError("mesh files need trimesh: pip install 'neuralfields[shapes]'") from None
        made = trimesh.Trimesh(self.vertices, self.faces, process=False).export(file_type=path.suffix[1:].lower())
        assert isinstance(made, str | bytes)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_bytes(made.encode() if isinstance(made, str) else made)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
