"""Mesh and point cloud files: each read into one geometry, with one plain line for what cannot be used.

Legend: V vertices, F faces.
"""

import contextlib
import csv
import gzip
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MESH_SUFFIXES = (".obj", ".off", ".ply", ".stl", ".glb")
CLOUD_SUFFIXES = (".xyz", ".npy")
SUFFIXES = (*MESH_SUFFIXES, *CLOUD_SUFFIXES)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Triangles or points in space.

    vertices: (V, 3) float64; faces: (F, 3) int64, F = 0 for a point cloud; normals: (V, 3) float64 unit normals of the
    points of a cloud, None where there are none and for meshes. Raises ValueError for other shapes, coordinates that
    are not finite and faces that name no vertex.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, rows in (("vertices", self.vertices), ("faces", self.faces)):
            if rows.ndim != 2 or rows.shape[1] != 3:
                raise ValueError(f"{name} has shape {rows.shape}: expected (n, 3)")
        bad = int((~np.isfinite(self.vertices).all(1)).sum())
        if bad:
            raise ValueError(f"{bad:,} of {len(self.vertices):,} vertices have NaN or infinite coordinates")
        if len(self.faces) and not 0 <= int(self.faces.min()) <= int(self.faces.max()) < len(self.vertices):
            raise ValueError(
                f"faces name vertices {self.faces.min()} to {self.faces.max()}: expected 0 to {len(self.vertices) - 1}"
            )
        if self.normals is not None and self.normals.shape != self.vertices.shape:
            raise ValueError(f"normals has shape {self.normals.shape}: expected {self.vertices.shape}, one per point")

    @property
    def is_cloud(self) -> bool:
        """Whether this is a point cloud (it has no faces)."""
        return len(self.faces) == 0


def suffix_of(path: Path) -> str:
    """Suffix that says the format, in lower case: ".off" for "a.off.gz"."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def find_files(folder: Path) -> list[tuple[Path, str | None]]:
    """Return the shape files of a folder with the names of their classes, in a stable order.

    An index.csv with columns "class" and "file" decides when there is one; else sub-folders are classes (sorted), with
    every file below them; else all files are without a class. Numbers in names sort as numbers. Raises ValueError when
    there is no file.
    """
    index = folder / "index.csv"
    if index.is_file():
        found: list[tuple[Path, str | None]] = list(_from_index(index))
    else:
        inner = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        found = [(path, part.name) for part in inner for path in _files(_below(part))]
        found += [(path, None) for path in _files(sorted(folder.iterdir(), key=_natural))]
        if any(name is None for _, name in found):  # loose files: their folders are not classes
            found = [(path, None) for path, _ in found]
    if not found:
        raise ValueError(f"source={str(folder)!r}: no shape files; expected some of {', '.join(SUFFIXES)} (or .gz)")
    return found


def read_geometry(path: str | Path) -> Geometry:
    """Read one file: OBJ, OFF, PLY, STL or GLB (also .gz) through trimesh, XYZ or NPY as points (P, 3) or (P, 6).

    All parts of a scene become one mesh. Points carry normals in columns 3 to 5, or as nx, ny, nz of a PLY. Raises
    FileNotFoundError for a missing file and ValueError in one line for everything else that cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r}: no such file")
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name}: expected one of {', '.join(SUFFIXES)}, also compressed as .gz")
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        geometry = _read_cloud(data, suffix) if suffix in CLOUD_SUFFIXES else _read_mesh(data, suffix)
    except ModuleNotFoundError as error:
        raise ValueError(f"reading {suffix} needs {error.name}: pip install 'neuralfields[shapes]'") from None
    except _Refused as error:
        raise ValueError(f"{path.name}: {error}") from None
    except Exception as error:  # readers of foreign files raise anything
        raise ValueError(f"{path.name} is not a readable {suffix[1:].upper()} file: {_one_line(error)}") from None
    return geometry


class _Refused(Exception):
    """The file was read, and what it holds cannot be used."""


def _natural(path: Path) -> tuple:
    """Sort key under which 9.off comes before 10.off."""
    words = re.split(r"(\d+)", path.name)  # text and numbers in turn, text first
    return (path.parent.as_posix(), [int(word) if i % 2 else word for i, word in enumerate(words)], path.name)


def _below(folder: Path) -> list[Path]:
    """All that lies below a folder in natural order, without what hidden folders hold."""
    paths = sorted(folder.rglob("*"), key=_natural)
    return [p for p in paths if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def _files(paths: list[Path]) -> Iterator[Path]:
    return (p for p in paths if p.is_file() and suffix_of(p) in SUFFIXES and not p.name.startswith("."))


def _from_index(index: Path) -> Iterator[tuple[Path, str | None]]:
    with index.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = {"class", "file"} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{index}: no column {', '.join(sorted(missing))}; expected class and file")
        for row in rows:
            kind, name = row["class"] or "", row["file"] or ""
            path = Path(kind) / name
            if not kind or not name or path.is_absolute() or ".." in path.parts:
                raise ValueError(
                    f"{index}: line {rows.line_num} has class={kind!r}, file={name!r}: expected a file below the folder"
                )
            yield index.parent / path, kind


def _read_cloud(data: bytes, suffix: str) -> Geometry:
    if suffix == ".npy":
        rows = np.load(io.BytesIO(data), allow_pickle=False)
    else:
        rows = np.loadtxt(io.BytesIO(data), ndmin=2, comments="#")
    if rows.ndim != 2 or rows.shape[1] not in (3, 6) or not len(rows):
        raise _Refused(f"has shape {rows.shape}: expected (P, 3) points or (P, 6) points with normals")
    rows = rows.astype(np.float64)
    return _geometry(rows[:, :3], np.zeros((0, 3), np.int64), rows[:, 3:] if rows.shape[1] == 6 else None)


def _read_mesh(data: bytes, suffix: str) -> Geometry:
    import trimesh

    with _quiet():
        loaded = trimesh.load(
            io.BytesIO(data), file_type=suffix[1:], process=False, skip_materials=True, **_options(suffix)
        )
    if isinstance(loaded, trimesh.Scene):
        parts = [part for part in loaded.dump() if isinstance(part, trimesh.Trimesh)]
        if not parts:
            raise _Refused("holds no faces and no points")
        loaded = trimesh.util.concatenate(parts)
    vertices = np.asarray(loaded.vertices, np.float64).reshape(-1, 3)  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(loaded, trimesh.Trimesh) and len(loaded.faces):
        return _geometry(vertices, np.asarray(loaded.faces, np.int64), None)
    raw = loaded.metadata.get("_ply_raw", {})
    lost = [name for name in ("tristrips", "face") if name in raw and raw[name].get("length", 0)]
    if not len(vertices) or lost or suffix in (".off", ".stl"):
        why = f" (its {', '.join(lost)} cannot be read as triangles)" if lost else ""
        raise _Refused(f"has {len(vertices):,} vertices and no faces{why}: expected a mesh or a point cloud")
    points = raw.get("vertex", {}).get("data") if raw else None
    return _geometry(vertices, np.zeros((0, 3), np.int64), _ply_normals(points))


def _options(suffix: str) -> dict:
    # Split by object or material, a closed OBJ would come back as open parts.
    return {"split_objects": False, "group_material": False} if suffix == ".obj" else {}


def _ply_normals(points) -> np.ndarray | None:
    """Columns nx, ny, nz of a PLY's points: a structured array of a binary file, a dictionary of an ASCII one."""
    names = () if points is None else (points.keys() if isinstance(points, dict) else points.dtype.names or ())
    if points is None or not {"nx", "ny", "nz"} <= set(names):
        return None
    return np.stack([np.asarray(points[axis], np.float64).ravel() for axis in ("nx", "ny", "nz")], axis=1)


def _geometry(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray | None) -> Geometry:
    if normals is not None:
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        if not np.isfinite(normals).all() or float(length.min()) == 0.0:
            raise _Refused("has normals that are zero or not finite")
        normals = normals / length
    try:
        return Geometry(np.ascontiguousarray(vertices), np.ascontiguousarray(faces), normals)
    except ValueError as error:
        raise _Refused(str(error)) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep trimesh's own log lines away: what is wrong with a file is said once, in our words."""
    log = logging.getLogger("trimesh")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 120 else text[:117] + "..."
