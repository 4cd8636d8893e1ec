"""Pinhole cameras: poses, intrinsics and rays.

Conventions: a pose is camera-to-world, 4 x 4, OpenGL axes as in transforms.json (the camera looks along its -z, +x
is right, +y is up in the picture). Pixel (row i, column j) has its centre at (j + 0.5, i + 0.5); the top left corner of
the picture is (0, 0). Lengths are in the units of the scene, focal lengths and principal points in pixels.

Legend: N cameras, B points, H rows, W columns.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

Vector = Sequence[float] | np.ndarray
FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL camera axes <-> OpenCV camera axes: its own inverse
UP = (0.0, 1.0, 0.0)
GOLDEN_ANGLE = math.pi * (3.0 - math.sqrt(5.0))


@dataclass(frozen=True, eq=False)
class Camera:
    """One pinhole camera without distortion.

    pose (4, 4) float64: camera-to-world, OpenGL axes, a rotation and a position; fl_x, fl_y: focal lengths, cx, cy:
    principal point, w, h: size of the picture, all in pixels and named as in transforms.json. Raises ValueError for a
    pose that is not a rigid motion and for sizes or focal lengths that are not positive.
    """

    pose: np.ndarray
    fl_x: float
    fl_y: float
    cx: float
    cy: float
    w: int
    h: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "pose", check_pose(self.pose))
        for name in ("w", "h"):
            value = getattr(self, name)
            if value != int(value) or value < 1:
                raise ValueError(f"{name}={value}: expected a positive whole number of pixels")
            object.__setattr__(self, name, int(value))
        for name in ("fl_x", "fl_y"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: expected a positive focal length in pixels")
        for name in ("cx", "cy"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: expected a finite number of pixels")

    @property
    def position(self) -> np.ndarray:
        """Where the camera stands in the world: (3,) float64."""
        return self.pose[:3, 3]

    @property
    def forward(self) -> np.ndarray:
        """Unit direction in which the camera looks: (3,) float64."""
        return -self.pose[:3, 2]

    @property
    def shape(self) -> tuple[int, int]:
        """Size of the picture: (H, W)."""
        return self.h, self.w

    @property
    def angle_x(self) -> float:
        """Horizontal field of view in radians, 2 atan(w / (2 fl_x)): `camera_angle_x` of transforms.json."""
        return 2.0 * math.atan(0.5 * self.w / self.fl_x)

    def resized(self, w: int, h: int) -> "Camera":
        """Return the camera of the same view in w x h pixels; intrinsics scale with the size of the picture."""
        x, y = w / self.w, h / self.h
        return replace(self, fl_x=self.fl_x * x, fl_y=self.fl_y * y, cx=self.cx * x, cy=self.cy * y, w=w, h=h)

    def at(self, pose: np.ndarray) -> "Camera":
        """Return the camera with these intrinsics at another pose (4, 4)."""
        return replace(self, pose=pose)

    def intrinsics(self) -> dict[str, Any]:
        """Return the intrinsics under their names in transforms.json."""
        names = ("fl_x", "fl_y", "cx", "cy", "w", "h")
        return {"camera_angle_x": self.angle_x, **{name: getattr(self, name) for name in names}}


def pinhole(pose: np.ndarray, size: int | tuple[int, int], angle_x: float = math.radians(40.0)) -> Camera:
    """Return a camera with square pixels and its principal point in the middle; fl = w / (2 tan(angle_x / 2)).

    size: (H, W) or one number for both. angle_x: horizontal field of view in radians, between 0 and pi.
    """
    h, w = (size, size) if isinstance(size, int) else size
    if not 0.0 < angle_x < math.pi:
        raise ValueError(f"angle_x={angle_x}: expected radians between 0 and pi")
    focal = 0.5 * w / math.tan(0.5 * angle_x)
    return Camera(pose, focal, focal, 0.5 * w, 0.5 * h, w, h)


def check_pose(pose: Any) -> np.ndarray:
    """Return a pose as (4, 4) float64. Raises ValueError unless it is a rotation (within 1e-3) and a position."""
    matrix = np.array(pose, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"pose has shape {matrix.shape}: expected (4, 4), finite")
    rotation = matrix[:3, :3]
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0.0:
        raise ValueError(f"pose={rotation.round(3).tolist()}: expected a rotation in its first three rows and columns")
    if np.abs(matrix[3] - (0.0, 0.0, 0.0, 1.0)).max() > 1e-6:
        raise ValueError(f"pose has last row {matrix[3].tolist()}: expected 0 0 0 1")
    return matrix


def look_at(eye: Vector, target: Vector = (0.0, 0.0, 0.0), up: Vector = UP) -> np.ndarray:
    """Return the pose (4, 4) of a camera at `eye` that looks at `target`, `up` being up in its picture.

    Raises ValueError where eye and target coincide or the view is along `up` (within 1e-4 radians).
    """
    eye, target, up = (np.asarray(v, np.float64) for v in (eye, target, up))
    backward = eye - target
    distance = np.linalg.norm(backward)
    if not distance > 0.0:
        raise ValueError(f"eye={eye.tolist()}: expected a place other than target")
    backward = backward / distance
    right = np.cross(up, backward)
    length = np.linalg.norm(right)
    if not length > 1e-4 * np.linalg.norm(up):
        raise ValueError(f"up={up.tolist()}: expected a direction other than the view, {(-backward).tolist()}")
    right = right / length
    pose = np.eye(4)
    pose[:3, :4] = np.stack([right, np.cross(backward, right), backward, eye], axis=1)
    return pose


def orbit(
    count: int,
    radius: float,
    target: Vector = (0.0, 0.0, 0.0),
    elevation: float = math.radians(20.0),
    up: Vector = UP,
    start: float = math.radians(30.0),
) -> np.ndarray:
    """Return poses (N, 4, 4) on a circle around `target`, evenly spread, the circle closing after the last.

    radius: distance to the target; elevation: radians above the plane across `up`, within a quarter turn; start:
    radians of the first camera about `up` (for y up: 0 is +z and a quarter turn is +x). Raises ValueError for others.
    """
    _check_count(count)
    if not abs(elevation) < 0.5 * math.pi:
        raise ValueError(f"elevation={elevation}: expected radians between -pi/2 and pi/2, both excluded")
    angles = start + 2.0 * math.pi * np.arange(count) / count
    around = np.stack([np.sin(angles), np.cos(angles)], axis=1) * math.cos(elevation)
    return _poses(np.insert(around, 1, math.sin(elevation), axis=1), radius, target, up)


def fibonacci_sphere(
    count: int,
    radius: float,
    target: Vector = (0.0, 0.0, 0.0),
    up: Vector = UP,
    lowest: float = -0.95,
    highest: float = 0.95,
    phase: float = 0.0,
) -> np.ndarray:
    """Return poses (N, 4, 4) spread evenly over a sphere around `target`: heights in equal steps, golden angle between.

    lowest, highest: heights of the band that is used, sines of the elevation, -1 to 1 (0 and 1: a hemisphere).
    phase: radians by which all are turned about `up`, so that two sets of views do not coincide.
    Gonzalez, "Measurement of areas on a sphere using Fibonacci and latitude-longitude lattices", 2010.
    """
    _check_count(count)
    if not -1.0 <= lowest < highest <= 1.0:
        raise ValueError(f"lowest={lowest}, highest={highest}: expected -1 <= lowest < highest <= 1")
    height = lowest + (highest - lowest) * (np.arange(count) + 0.5) / count
    angle = phase + GOLDEN_ANGLE * np.arange(count)
    around = np.sqrt(1.0 - height**2)
    return _poses(np.stack([around * np.sin(angle), height, around * np.cos(angle)], axis=1), radius, target, up)


def up_frame(up: Vector) -> np.ndarray:
    """Return a rotation (3, 3), rows: the world axes that stand for x, y (= up) and z of a y-up frame.

    Raises ValueError for `up` without a direction.
    """
    y = np.asarray(up, np.float64)
    if y.shape != (3,) or not np.isfinite(y).all() or not y.any():
        raise ValueError(f"up={y.tolist()}: expected three finite numbers, not all zero")
    y = y / np.linalg.norm(y)
    z = np.roll(np.eye(3)[np.abs(y).argmax()], 1)  # y up: z; z up: x; a right-handed frame follows
    z = z - y * (z @ y)
    z = z / np.linalg.norm(z)
    return np.stack([np.cross(y, z), y, z])


def to_opencv(pose: np.ndarray) -> np.ndarray:
    """Turn OpenGL camera axes into OpenCV's (+z forward, +y down), or back: pose (..., 4, 4), still camera-to-world."""
    return np.asarray(pose, np.float64) @ FLIP_YZ


def from_opencv(pose: np.ndarray) -> np.ndarray:
    """Turn a camera-to-world pose (..., 4, 4) with OpenCV axes (+z forward, +y down), as COLMAP's, into OpenGL axes."""
    return to_opencv(pose)


def pixel_centres(camera: Camera) -> Tensor:
    """Return where the pixels lie in the picture: (H, W, 2) float64, x then y, (j + 0.5, i + 0.5)."""
    y, x = np.meshgrid(np.arange(camera.h) + 0.5, np.arange(camera.w) + 0.5, indexing="ij")
    return torch.from_numpy(np.stack([x, y], axis=-1))


def rays(camera: Camera, pixels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return origins and unit directions in the world of the rays through pixels: two (..., 3) float32.

    d = R ((x - cx) / fl_x, -(y - cy) / fl_y, -1), divided by its length. pixels (..., 2): positions x, y in the
    picture, by default the centres of all pixels, (H, W, 2).
    """
    at = pixel_centres(camera) if pixels is None else pixels.to(torch.float64)
    x, y = (at[..., 0] - camera.cx) / camera.fl_x, (at[..., 1] - camera.cy) / camera.fl_y
    local = torch.stack([x, -y, -torch.ones_like(x)], dim=-1)
    return world_rays(camera, local)


def world_rays(camera: Camera, local: Tensor) -> tuple[Tensor, Tensor]:
    """Turn directions in camera axes (..., 3), of any length, into origins and unit directions in the world."""
    pose = torch.from_numpy(camera.pose)
    directions = torch.nn.functional.normalize(local.to(torch.float64) @ pose[:3, :3].T, dim=-1)
    return pose[:3, 3].expand_as(directions).float().contiguous(), directions.float()


def project(camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where world points (B, 3) fall in the picture, (B, 2) x and y in pixels, and their depth along the view.

    Points at depth <= 0 lie behind the camera and have no picture: x and y are NaN.
    """
    pose = camera.pose
    local = (np.asarray(points, np.float64) - pose[:3, 3]) @ pose[:3, :3]
    depth = -local[:, 2]
    safe = np.where(depth > 0.0, depth, np.nan)
    x = camera.cx + camera.fl_x * local[:, 0] / safe
    y = camera.cy - camera.fl_y * local[:, 1] / safe
    return np.stack([x, y], axis=-1), depth


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"count={count}: expected at least one camera")


def _poses(outward: np.ndarray, radius: float, target: Vector, up: Vector) -> np.ndarray:
    """Poses looking at the target from directions (N, 3) given with y up."""
    if not 0.0 < radius < math.inf:
        raise ValueError(f"radius={radius}: expected a positive distance")
    eyes = np.asarray(target, np.float64) + radius * outward @ up_frame(up)
    return np.stack([look_at(eye, target, up) for eye in eyes])
