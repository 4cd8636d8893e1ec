"""The box of a scene: which part of the world becomes [-1, 1]^3, and where rays cross it.

Legend: V views, B rays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralfields.render.cameras import Camera
from neuralfields.render.volume import box_range

SYNTHETIC_HALF = 1.5  # nerf-synthetic: objects lie within [-1.5, 1.5]^3, cameras at distance 4
OUTWARD_RADIUS = 0.25  # cameras that look outwards keep to this part of the box: the rest is for what they see


@dataclass(frozen=True)
class SceneBox:
    """A cube of the world, centre and half its side in world units: scene = (world - centre) / half, in [-1, 1]^3.

    Directions stay as they are; lengths are divided by `half`. Raises ValueError unless both are finite, half > 0.
    """

    centre: tuple[float, float, float]
    half: float

    def __post_init__(self) -> None:
        if len(self.centre) != 3 or not all(map(math.isfinite, self.centre)):
            raise ValueError(f"centre={self.centre}: expected three finite numbers")
        if not 0.0 < self.half < math.inf:
            raise ValueError(f"half={self.half}: expected a positive length")

    def to_scene(self, positions: np.ndarray) -> np.ndarray:
        """Map world positions (..., 3) to scene coordinates."""
        return (np.asarray(positions, np.float64) - self.centre) / self.half

    def to_world(self, positions: np.ndarray) -> np.ndarray:
        """Map scene coordinates (..., 3) back to world positions."""
        return np.asarray(positions, np.float64) * self.half + self.centre

    def camera_to_scene(self, camera: Camera) -> Camera:
        """Return the camera with its position in scene coordinates."""
        pose = camera.pose.copy()
        pose[:3, 3] = self.to_scene(pose[:3, 3])
        return camera.at(pose)

    def camera_to_world(self, camera: Camera) -> Camera:
        """Return a camera of the scene with its position in the world."""
        pose = camera.pose.copy()
        pose[:3, 3] = self.to_world(pose[:3, 3])
        return camera.at(pose)


def near_far(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return at which distances rays enter and leave [-1, 1]^3: two (B,), 0 <= near < far; a miss has near = far = 0.

    origins, directions: (B, 3). From inside the box near is 0. Kay and Kajiya, "Ray tracing complex scenes", 1986.
    """
    near, far = box_range(origins, directions)
    hit = near < far
    return torch.where(hit, near, 0.0), torch.where(hit, far, 0.0)


def box_around(poses: Sequence[np.ndarray], largest: SceneBox | None = None) -> SceneBox:
    """Choose the box of photographs from the poses (4, 4) of their cameras; V of them, OpenGL axes.

    The centre is the point nearest to all lines of sight (least squares), and half the side is the distance of the
    farthest camera from it: the cameras stand inside the box, on the unit sphere or within, and background beyond the
    box is not represented. Cameras that look away from their centre (an inside-out capture) are kept within 0.25 of
    it instead, about the mean of their positions. largest: the box that the files name; the smaller of the two is
    taken. Raises ValueError for cameras that leave the centre open: fewer than two, or all with parallel views.
    """
    matrices = np.stack(poses)
    positions, forward = matrices[:, :3, 3], -matrices[:, :3, 2]
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    normal = across.mean(axis=0)
    if np.linalg.eigvalsh(normal)[0] < 1e-5:
        if largest is not None:
            return largest
        raise ValueError(
            f"box=None: {len(matrices)} cameras with parallel views do not tell the centre: expected two that look in"
            " other directions, or a box (in Python, views.load)"
        )
    centre = np.linalg.solve(normal, (across @ positions[:, :, None])[:, :, 0].mean(axis=0))
    inward = ((centre - positions) * forward).sum(axis=1) > 0.0
    shrink = 1.0
    if inward.mean() < 0.5:
        centre, shrink = positions.mean(axis=0), OUTWARD_RADIUS
    half = float(np.linalg.norm(positions - centre, axis=1).max()) / shrink
    if largest is not None and largest.half <= half:
        return largest
    if half <= 1e-9 * (1.0 + float(np.abs(centre).max())):
        raise ValueError(
            "box=None: all cameras stand at one place, which tells no size: expected others, or a box (in Python,"
            " views.load)"
        )
    return SceneBox((float(centre[0]), float(centre[1]), float(centre[2])), half)
