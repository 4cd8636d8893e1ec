"""Posed views from a COLMAP text model: cameras.txt and images.txt (points3D.txt is not needed).

Poses there are world-to-camera with OpenCV axes (+x right, +y down, +z forward); pixel centres lie at +0.5, as here.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fitting.signals.lens import Lens
from fitting.signals.view_files import Frame, SceneFiles, in_order, inside
from neuralfields.render.cameras import from_opencv

FOLDERS = ("", "sparse/0", "sparse", "colmap/sparse/0", "colmap/text", "colmap_text", "text")
MODELS = {  # what stands after the size of the picture
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fl_x", "fl_y", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
}


def find_model(folder: Path) -> Path | None:
    """Return the folder of a scene's COLMAP model, the scene's own or sparse/0 and the like; None without one."""
    tried = [folder / name for name in FOLDERS]
    text = next((path for path in tried if (path / "cameras.txt").is_file()), None)
    return text or next((path for path in tried if (path / "cameras.bin").is_file()), None)


def read_colmap(folder: Path, model: Path) -> SceneFiles:
    """Read the views of a COLMAP text model; pictures lie in the folder's "images", or else in the folder itself.

    Raises ValueError for binary models, camera models other than those in MODELS, lines that are not COLMAP's and
    names that leave the folder.
    """
    if not (model / "cameras.txt").is_file():
        raise ValueError(f"source={str(model)!r}: a binary model; expected text (colmap model_converter writes it)")
    cameras = _cameras(model / "cameras.txt")
    root = folder / "images" if (folder / "images").is_dir() else folder
    frames: dict[str, Frame] = {}
    for where, line in _image_lines(model / "images.txt"):
        fields = line.split(maxsplit=9)
        if len(fields) != 10:
            raise ValueError(f"{where}: {len(fields)} values: expected ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        if fields[8] not in cameras:
            raise ValueError(f"{where}: camera {fields[8]!r}: expected one of cameras.txt")
        name, picture = inside(root, fields[9].strip(), where)
        if name in frames:
            raise ValueError(f"{where}: {name!r} is listed a second time")
        numbers = _numbers(where, fields[1:8])
        frames[name] = Frame(name, picture, _pose(where, numbers[:4], numbers[4:]), *cameras[fields[8]])
    if not frames:
        raise ValueError(f"source={str(model / 'images.txt')!r}: no images: expected at least one")
    ordered = in_order(frames.values())
    return SceneFiles(ordered, ordered)


def _pose(where: str, quaternion: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Camera-to-world pose (4, 4), OpenGL axes, of the inverse map x -> R(q) x + t with q = (w, x, y, z)."""
    length = np.linalg.norm(quaternion)
    if not length > 1e-6:
        raise ValueError(f"{where}: quaternion {quaternion.tolist()}: expected a length of 1")
    w, (x, y, z) = quaternion[0] / length, quaternion[1:] / length
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    rotation = np.eye(3) + 2.0 * w * cross + 2.0 * cross @ cross
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.T, -rotation.T @ translation
    return from_opencv(pose)


def _cameras(path: Path) -> dict[str, tuple[dict[str, float], Lens]]:
    """Intrinsics and lens of every camera by its id."""
    cameras: dict[str, tuple[dict[str, float], Lens]] = {}
    for where, line in _lines(path):
        if not line or line.startswith("#"):
            continue
        number, model, *rest = line.split() if len(line.split()) > 1 else (line, "")
        if model not in MODELS:
            raise ValueError(f"{where}: camera model {model!r}: expected one of {', '.join(MODELS)}")
        names: tuple[str, ...] = ("w", "h", *MODELS[model])
        if len(rest) != len(names):
            raise ValueError(f"{where}: {len(rest)} values for {model}: expected {' '.join(names)}")
        values: dict[str, float] = dict(zip(names, _numbers(where, rest).tolist(), strict=True))
        if "f" in values:
            values["fl_x"] = values["fl_y"] = values.pop("f")
        for name in ("fl_x", "fl_y", "w", "h"):
            if not values[name] > 0.0:
                raise ValueError(f"{where}: {name}={values[name]:g}: expected a positive number of pixels")
        lens = Lens(*(values.pop(name, 0.0) for name in ("k1", "k2", "p1", "p2")))
        cameras[number] = values, lens
    return cameras


def _image_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The first line of every image; the second, its points, may be empty and is passed over."""
    lines = _lines(path)
    for where, line in lines:
        if line and not line.startswith("#"):
            yield where, line
            next(lines, None)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"source={str(path)!r}: not a readable file ({' '.join(str(error).split())})") from error
    return ((f"{path.name}, line {i}", line.strip()) for i, line in enumerate(text.split("\n"), 1))


def _numbers(where: str, words: list[str]) -> np.ndarray:
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: {' '.join(words)}: expected finite numbers")
    return values
