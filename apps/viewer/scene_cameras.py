"""Cameras of scenes and of browsers: where a browser looks from as one of our cameras, and how it is moved to one.

A browser's camera has OpenCV axes (+z forward, -y up), ours have OpenGL axes (-z forward, +y up).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.stage import look

if TYPE_CHECKING:
    from viser import CameraHandle

    from apps.viewer.collection import Part
    from fitting.signals.views import ViewSet
    from neuralfields.render.cameras import Camera

SAME = 2e-3  # two poses are one where no number of theirs differs by more: browsers compute in float32
LEVEL = 0.05  # a camera that leans further from the scene's up is turned about its own


@dataclass(frozen=True, eq=False)
class Place:
    """A place that a scene was seen from. name: for people; number: of its photograph, None where none is known."""

    name: str
    camera: "Camera"
    held_out: bool = False
    number: int | None = None


def pose_of(camera: "CameraHandle") -> np.ndarray:
    """The pose (4, 4) of a browser's camera, with our axes."""
    from viser.transforms import SO3

    from neuralfields.render.cameras import from_opencv

    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = SO3(np.asarray(camera.wxyz, np.float64)).as_matrix(), camera.position
    return from_opencv(pose)


def quaternion(pose: np.ndarray) -> np.ndarray:
    """The rotation (w, x, y, z) of a browser's camera that stands as ours does at a pose (4, 4)."""
    from viser.transforms import SO3

    from neuralfields.render.cameras import to_opencv

    return np.asarray(SO3.from_matrix(to_opencv(pose)[:3, :3]).wxyz, np.float64)


def camera_of(camera: "CameraHandle", size: tuple[int, int]) -> "Camera":
    """What a browser sees, as one of our cameras, for pictures of (height, width); its field of view is upright."""
    from neuralfields.render.cameras import Camera

    height, width = size
    focal = 0.5 * height / math.tan(0.5 * camera.fov)
    return Camera(pose_of(camera), focal, focal, 0.5 * width, 0.5 * height, width, height)


def angle_of(camera: "Camera", size: tuple[int, int]) -> float:
    """Upright field of view, in radians, of a canvas (height, width) in which all of the camera's picture is seen."""
    upright, across = 0.5 * camera.h / camera.fl_y, 0.5 * camera.w / camera.fl_x
    return 2.0 * math.atan(max(upright, across * size[0] / size[1]))


def go(camera: "CameraHandle", goal: "Camera", size: tuple[int, int], up: np.ndarray) -> None:
    """Move a browser to one of our cameras; it then turns about the point of its line of sight next to the middle."""
    pose = goal.pose
    away = max(float(-goal.position @ goal.forward), 0.3)
    look(camera, goal.position, goal.position + away * goal.forward, turning_up(pose, up), angle_of(goal, size))


def turning_up(pose: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The direction nearest to `up` that is up in the picture of a pose: what orbits can turn about, without a roll."""
    right, own = pose[:3, 0], pose[:3, 1]
    level = up - (up @ right) * right
    return level / np.linalg.norm(level) if level @ own > LEVEL else own


def mean_up(places: list[Place]) -> np.ndarray:
    """What is up in most pictures: the mean of the cameras' own, +y where there are none or they cancel out."""
    total = sum((place.camera.pose[:3, 1] for place in places), np.zeros(3))
    length = float(np.linalg.norm(total))
    return total / length if length > LEVEL * max(len(places), 1) else np.array([0.0, 1.0, 0.0])


def stored(part: "Part", row: int) -> list[Place]:
    """The places that a store keeps of a field's scene, some of those it was fitted to; empty where it keeps none."""
    from apps import render_views

    try:
        about = render_views.scene(part, row)
    except ValueError:  # fields that were made here, or imported, know no cameras
        return []
    camera = render_views.camera_of(about, None)
    return [Place(f"camera {n}", camera.at(np.array(pose))) for n, pose in enumerate(about["poses"], 1)]


def of_photographs(views: "ViewSet") -> list[Place]:
    """The places of all photographs of a scene."""
    return [
        Place(f"{name}, held out" if held else name, camera, bool(held), number)
        for number, (name, camera, held) in enumerate(zip(views.names, views.cameras, views.held_out, strict=True))
    ]
