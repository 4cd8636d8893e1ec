"""Posed views in files: one frame each, with its picture, pose and intrinsics, and the readers of transforms.json.

Legend: H rows, W columns.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from fitting.signals.lens import Lens
from fitting.signals.scene_box import SYNTHETIC_HALF, SceneBox, box_around
from neuralfields.render.cameras import Camera, check_pose

SUFFIXES = (".png", ".jpg", ".jpeg")
NGP_SCALE, NGP_OFFSET = 0.33, 0.5  # instant-ngp sees position * 0.33 + 0.5 in a cube of side aabb_scale about 0.5
CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "PERSPECTIVE")
OTHER_LENSES = (
    *("is_fisheye", "fisheye", "ftheta_p0", "latlong", "equirectangular", "orthographic", "rolling_shutter"),
    *("k3", "k4", "k5", "k6"),
)
LARGEST = 1e300  # JSON has integers beyond any float
INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_angle_y")


@dataclass(frozen=True, eq=False)
class Frame:
    """One view as files describe it: a picture, the pose (4, 4) of its camera (OpenGL axes, world), and its lens.

    intrinsics: whichever of fl_x, fl_y, cx, cy, w, h (pixels), camera_angle_x, camera_angle_y (radians) are known.
    """

    name: str
    path: Path
    pose: np.ndarray
    intrinsics: Mapping[str, float]
    lens: Lens

    def camera(self, shape: tuple[int, int]) -> Camera:
        """Return the camera of a picture of (H, W) pixels, intrinsics scaled to it.

        Without fl_x, fl_x = w / (2 tan(camera_angle_x / 2)); without fl_y the same or by camera_angle_y; without cx,
        cy the middle. Raises ValueError when the sides of picture and camera are not in proportion, within a pixel.
        """
        known, (h, w) = self.intrinsics, shape
        own_w, own_h = round(known.get("w", w)), round(known.get("h", h))
        if own_w < 1 or own_h < 1 or abs(w * own_h - h * own_w) > max(own_w, own_h):
            raise ValueError(f"picture is {h}x{w}, its camera {own_h}x{own_w}: expected the same proportions")
        fl_x, fl_y = known.get("fl_x"), known.get("fl_y")
        if fl_x is None:
            fl_x = 0.5 * own_w / math.tan(0.5 * known["camera_angle_x"])
        if fl_y is None and "camera_angle_y" in known and "fl_x" not in known:
            fl_y = 0.5 * own_h / math.tan(0.5 * known["camera_angle_y"])
        fl_y = fl_x if fl_y is None else fl_y
        middle = known.get("cx", 0.5 * own_w), known.get("cy", 0.5 * own_h)
        return Camera(self.pose, fl_x, fl_y, *middle, own_w, own_h).resized(w, h)

    def find(self) -> Path | None:
        """The picture on disk: the path as it is written, or else with one of the usual extensions; None without."""
        tried = [self.path, *(self.path.with_name(self.path.name + end) for end in SUFFIXES)]
        return next((path for path in tried if path.is_file()), None)


@dataclass(frozen=True, eq=False)
class SceneFiles:
    """What a scene's files say: frames in natural order of names, which names are held out (None: no one says so).

    main: the frames that tell where the scene is, the same whichever part is read; box: the box that the files name;
    fixed: whether it is to be taken as it is, whatever the cameras.
    """

    frames: tuple[Frame, ...]
    main: tuple[Frame, ...]
    held_out: frozenset[str] | None = None
    box: SceneBox | None = None
    fixed: bool = False

    def scene_box(self) -> SceneBox:
        """The box of the scene. Raises ValueError when neither files nor cameras tell."""
        if self.fixed and self.box is not None:
            return self.box
        return box_around([frame.pose for frame in self.main], self.box)


def read_transforms(path: Path, test: Path | None = None) -> SceneFiles:
    """Read a transforms.json as of instant-ngp or nerf-synthetic; `test`: the file of its held-out views.

    A frame's own intrinsics win over the file's. Files of nerf-synthetic (camera_angle_x and nothing else) have the
    box [-1.5, 1.5]^3; aabb_scale names the box that instant-ngp would use, about 1.5 aabb_scale half the side.
    Raises ValueError for files that are not of this kind, lens models other than OpenCV's k1, k2, p1, p2, and picture
    paths outside the folder of the file.
    """
    content = _read_json(path)
    main = _frames(path, content)
    frames, held_out = {frame.name: frame for frame in main}, None
    if test is not None:
        held = {frame.name: frame for frame in _frames(test, _read_json(test))}
        frames, held_out = {**frames, **held}, frozenset(held)
    box = _named_box(path, content)
    synthetic = box is None and path.stem != "transforms" and not {"fl_x", "w"} & set(content)
    if synthetic:
        box = SceneBox((0.0, 0.0, 0.0), SYNTHETIC_HALF)
    return SceneFiles(in_order(frames.values()), in_order(main), held_out, box, synthetic)


def in_order(frames: Any) -> tuple[Frame, ...]:
    """Sort frames by name, numbers inside names by their value: r_2 before r_10."""

    def key(frame: Frame) -> list[tuple[int, int, str]]:
        parts = re.split(r"([0-9]+)", frame.name)
        return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]

    return tuple(sorted(frames, key=lambda frame: (key(frame), frame.name)))


def inside(folder: Path, written: str, where: str, whose: str = "the scene's folder") -> tuple[str, Path]:
    """Return the tidy name of a path written in a file, and the path. Raises ValueError when it leaves `folder`."""
    tidy = written.replace("\\", "/")
    pure = PurePosixPath(tidy)
    if not pure.name or pure.is_absolute() or PureWindowsPath(tidy).drive or ".." in pure.parts or "\0" in tidy:
        raise ValueError(f"{where}: {written!r} is not a path inside {whose}")
    return pure.as_posix(), folder / pure


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"source={str(path)!r}: not a readable JSON file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list) or not content["frames"]:
        raise ValueError(f"source={str(path)!r}: expected an object with a list of 'frames'")
    return content


def _frames(path: Path, content: dict[str, Any]) -> list[Frame]:
    frames: dict[str, Frame] = {}
    for i, entry in enumerate(content["frames"]):
        where = f"{path.name}: frames[{i}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
            raise ValueError(f"{where} has no file_path: expected the path of a picture")
        name, picture = inside(path.parent, entry["file_path"], f"{where}.file_path")
        if name in frames:
            raise ValueError(f"{where}: {name!r} is listed a second time")
        both = {**content, **entry}
        intrinsics, lens = _intrinsics(where, both), _lens(where, both)
        frames[name] = Frame(name, picture, _pose(where, entry.get("transform_matrix")), intrinsics, lens)
    return list(frames.values())


def _pose(where: str, value: Any) -> np.ndarray:
    try:
        matrix = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, (0.0, 0.0, 0.0, 1.0)])
    try:
        return check_pose(matrix)
    except ValueError as error:
        raise ValueError(f"{where}.transform_matrix: {error}") from error


def _number(where: str, entry: Mapping[str, Any], key: str) -> float:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
        raise ValueError(f"{where}: {key}={value!r}: expected a finite number")
    return float(value)


def _intrinsics(where: str, entry: Mapping[str, Any]) -> dict[str, float]:
    known = {key: _number(where, entry, key) for key in INTRINSICS if entry.get(key) is not None}
    if not {"fl_x", "camera_angle_x"} & set(known):
        raise ValueError(f"{where}: neither fl_x nor camera_angle_x: expected a focal length or an angle of view")
    for key in ("fl_x", "fl_y", "w", "h"):
        if not known.get(key, 1.0) > 0.0:
            raise ValueError(f"{where}: {key}={known[key]:g}: expected a positive number of pixels")
    for key in ("camera_angle_x", "camera_angle_y"):
        if not 0.0 < known.get(key, 1.0) < math.pi:
            raise ValueError(f"{where}: {key}={known[key]:g}: expected radians between 0 and pi")
    return known


def _lens(where: str, entry: Mapping[str, Any]) -> Lens:
    model = entry.get("camera_model", "OPENCV")
    if model not in CAMERA_MODELS:
        raise ValueError(f"{where}: camera_model={model!r}: expected one of {', '.join(CAMERA_MODELS)}")
    for key in OTHER_LENSES:
        value = entry.get(key)
        if any(value) if isinstance(value, list) else value:
            raise ValueError(f"{where}: {key}={value!r}: this lens is not read; expected k1, k2, p1, p2 at most")
    return Lens(*(_number(where, entry, key) if key in entry else 0.0 for key in ("k1", "k2", "p1", "p2")))


def _named_box(path: Path, content: dict[str, Any]) -> SceneBox | None:
    """The box of instant-ngp: where position * scale + offset is within aabb_scale / 2 of 0.5 on every axis."""
    if content.get("aabb_scale") is None:
        return None
    side = _number(path.name, content, "aabb_scale")
    scale = _number(path.name, content, "scale") if "scale" in content else NGP_SCALE
    offset = content.get("offset", [NGP_OFFSET] * 3)
    if not side > 0.0 or not scale > 0.0:
        raise ValueError(f"{path.name}: aabb_scale={side:g}, scale={scale:g}: expected positive numbers")
    if not isinstance(offset, list) or len(offset) != 3:
        raise ValueError(f"{path.name}: offset={offset!r}: expected three numbers")
    x, y, z = ((NGP_OFFSET - _number(path.name, {"offset": v}, "offset")) / scale for v in offset)
    return SceneBox((x, y, z), 0.5 * side / scale)
