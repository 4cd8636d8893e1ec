"""Cameras that frame a mesh, and turntables."""

import math
from collections.abc import Iterator

import numpy as np

from neuralfields.render.cameras import UP, Camera, Vector, look_at, orbit, pinhole
from neuralfields.render.mesh_picture import LOOK, Look, as_scene, mesh_picture
from neuralfields.render.mesh_rays import HasTriangles, MeshScene

ANGLE = math.radians(30.0)  # a long lens: little distortion


def frame_camera(
    mesh: HasTriangles | MeshScene,
    size: int | tuple[int, int],
    direction: Vector | None = None,
    up: Vector = UP,
) -> Camera:
    """Return a camera that shows the whole mesh from `direction` (towards the camera), filling the picture.

    The distance is the smallest at which every vertex lies within 94 % of the picture. direction: by default half to
    the right and a little from above. size: (H, W) or one number for both, in pixels. Raises ValueError for a direction
    along `up` or of length zero.
    """
    scene = as_scene(mesh)
    outward = orbit(1, 1.0, up=up)[0, :3, 3] if direction is None else np.asarray(direction, np.float64)
    pose = look_at(outward, (0.0, 0.0, 0.0), up)
    camera = pinhole(pose, size, ANGLE)
    distance = _distance(scene.vertices - scene.centre, camera)
    pose[:3, 3] = scene.centre + distance * pose[:3, 2]
    return camera.at(pose)


def turntable(
    mesh: HasTriangles | MeshScene,
    count: int = 72,
    size: int | tuple[int, int] = 512,
    look: Look = LOOK,
    elevation: float = math.radians(20.0),
    colours: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Yield `count` pictures (H, W, 3) uint8 of one full turn about look.up, at one distance that fits them all.

    colours: albedo (V, 3) as in `mesh_picture`. Lights stay with the camera.
    """
    scene = as_scene(mesh)
    poses = orbit(count, 1.0, elevation=elevation, up=look.up)
    cameras = [pinhole(pose, size, ANGLE) for pose in poses]
    distance = max(_distance(scene.vertices - scene.centre, camera) for camera in cameras)
    for camera in cameras:
        pose = camera.pose.copy()
        pose[:3, 3] = scene.centre + distance * pose[:3, 2]
        yield mesh_picture(scene, camera.at(pose), look, colours)


def _distance(points: np.ndarray, camera: Camera, part: float = 0.94) -> float:
    """Smallest distance from the origin, along the view of the camera, at which points (V, 3) fill `part` of it."""
    local = points.astype(np.float64) @ camera.pose[:3, :3]
    x, y = part * 0.5 * camera.w / camera.fl_x, part * 0.5 * camera.h / camera.fl_y
    return float((local[:, 2] + np.maximum(np.abs(local[:, 0]) / x, np.abs(local[:, 1]) / y)).max())
