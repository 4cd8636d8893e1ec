"""Posed views of one scene and the rays through their pixels, in the coordinates of the scene's box.

Legend: V views, H rows, W columns, B rays.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fitting.signals.lens import Lens
from fitting.signals.scene_box import SceneBox, near_far
from neuralfields.render.cameras import Camera, pixel_centres, world_rays

PATH = 8  # poses of a scene that a store keeps, for films along them

Positions = slice | Sequence[int] | np.ndarray


@dataclass(frozen=True, eq=False)
class Rays:
    """Rays through pixels with what is seen along them, in scene coordinates.

    origins, directions (unit), colours in [0, 1]: (B, 3); near, far: (B,), where they enter and leave [-1, 1]^3, both 0
    for a ray that misses it. All float32; B = V * H * W.
    """

    origins: Tensor
    directions: Tensor
    colours: Tensor
    near: Tensor
    far: Tensor


@dataclass(frozen=True, eq=False)
class ViewSet:
    """Posed views of one scene.

    images (V, H, W, 3) float32 in [0, 1], blended over `background`; cameras: V of them with positions in scene
    coordinates, lenses: how their pictures are distorted; held_out (V,) bool: views kept from the fit; box: which part
    of the world is [-1, 1]^3; skipped: views that were left out, with the reason. Raises ValueError for other shapes.
    """

    name: str
    images: Tensor
    cameras: tuple[Camera, ...]
    lenses: tuple[Lens, ...]
    names: tuple[str, ...]
    held_out: np.ndarray
    box: SceneBox
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    skipped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if len(shape) != 4 or shape[-1] != 3 or self.images.dtype != torch.float32:
            raise ValueError(f"images has shape {shape}, {self.images.dtype}: expected (V, H, W, 3) float32")
        for name in ("cameras", "lenses", "names", "held_out"):
            if len(getattr(self, name)) != shape[0]:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries: expected {shape[0]}, one per view")
        for name, camera in zip(self.names, self.cameras, strict=True):
            if camera.shape != shape[1:3]:
                raise ValueError(f"camera of {name!r} has {camera.h}x{camera.w} pixels: expected {shape[1]}x{shape[2]}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int]:
        """Size of every picture: (H, W)."""
        return self.images.shape[1], self.images.shape[2]

    @property
    def train(self) -> "ViewSet":
        """The views that a field is fitted to."""
        return self.select(~self.held_out)

    @property
    def test(self) -> "ViewSet":
        """The views that are held out."""
        return self.select(self.held_out)

    @property
    def near(self) -> float:
        """Distance from the nearest camera to the box, 0 from inside: no ray enters it before."""
        return min(float(np.linalg.norm(np.maximum(np.abs(c.position) - 1.0, 0.0))) for c in self.cameras)

    @property
    def far(self) -> float:
        """Largest distance from a camera to a corner of the box: no ray leaves it after."""
        return max(float(np.linalg.norm(np.abs(c.position) + 1.0)) for c in self.cameras)

    def select(self, positions: Positions) -> "ViewSet":
        """Return the views at these positions: a slice, integers or a mask."""
        rows = np.arange(len(self))[positions]
        return replace(
            self,
            images=self.images[torch.from_numpy(rows)],
            cameras=tuple(self.cameras[i] for i in rows),
            lenses=tuple(self.lenses[i] for i in rows),
            names=tuple(self.names[i] for i in rows),
            held_out=self.held_out[rows],
        )

    def describe(self) -> dict:
        """Return the JSON values that a store keeps about the scene; its poses, in scene coordinates, make a path."""
        return {
            "name": self.name,
            "views": len(self),
            "held_out": [name for name, held in zip(self.names, self.held_out, strict=True) if held],
            "shape": list(self.shape),
            "background": list(self.background),
            "box": {"centre": list(self.box.centre), "half": self.box.half},
            "camera": self.cameras[0].intrinsics() if len(self) else None,
            "poses": [self.cameras[row].pose.round(6).tolist() for row in _spread(len(self), PATH)],
            "skipped": self.skipped,
            "sha256": hashlib.sha256(self.images.contiguous().numpy().data).hexdigest(),
        }


def _spread(count: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist() if count else []


def rays(views: ViewSet) -> Rays:
    """Return the rays through all pixels of all views in scene coordinates, view by view and row by row.

    Pixel (i, j) of a picture is seen at (j + 0.5, i + 0.5), and the lens's distortion there is taken back. Raises
    ValueError for no views.
    """
    if not len(views):
        raise ValueError(f"views of {views.name!r} is empty: expected at least one view")
    local: dict[tuple, Tensor] = {}  # cameras of a scene mostly share their intrinsics
    both = []
    for camera, lens in zip(views.cameras, views.lenses, strict=True):
        key = (camera.fl_x, camera.fl_y, camera.cx, camera.cy, lens)
        if key not in local:
            local[key] = camera_directions(camera, lens, pixel_centres(camera).reshape(-1, 2))
        both.append(world_rays(camera, local[key]))
    origins = torch.cat([origin for origin, _ in both])
    directions = torch.cat([direction for _, direction in both])
    return Rays(origins, directions, views.images.reshape(-1, 3), *near_far(origins, directions))


def camera_directions(camera: Camera, lens: Lens, pixels: Tensor) -> Tensor:
    """Return directions in camera axes, (x, -y, -1), of what is seen at `pixels` (B, 2): (B, 3) float64.

    Raises ValueError where the lens shows nothing.
    """
    middle = torch.tensor([camera.cx, camera.cy], dtype=torch.float64)
    focal = torch.tensor([camera.fl_x, camera.fl_y], dtype=torch.float64)
    ideal = lens.undistort(((pixels.to(torch.float64) - middle) / focal).numpy())
    return torch.from_numpy(np.stack([ideal[:, 0], -ideal[:, 1], -np.ones(len(ideal))], axis=-1))


def sees_box(camera: Camera, lens: Lens) -> bool:
    """Say whether the ray of any pixel crosses [-1, 1]^3. Raises ValueError for a lens that folds the picture."""
    centres = pixel_centres(camera)
    sparse = max(1, math.isqrt(camera.h * camera.w) // 16)
    for step in (sparse, 1):  # nearly always a few pixels answer
        local = camera_directions(camera, lens, centres[::step, ::step].reshape(-1, 2))
        near, far = near_far(*world_rays(camera, local))
        if bool((near < far).any()):
            return True
    return False
