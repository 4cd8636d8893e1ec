"""Thumbnails: small pictures of fields, drawn when they are first seen and kept while there is room."""

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.collection import Part

if TYPE_CHECKING:
    from torch import Tensor

ROOM = 128 << 20  # bytes kept
CELLS, OCCUPANCY, SAMPLES = 56, 24, 48  # along the box of shapes, of scenes, and along a ray of scenes
AT_ONCE = {"pictures": 64, "shapes": 4, "scenes": 1}  # drawn between two looks at the gallery
STORE_OWNER = -1  # of the pictures that all browsers share
ABSENT = (232, 233, 236)


def owner_of(part: Part, client_id: int) -> int:
    """Who has the pictures of a part: all browsers those of the store, one browser those of what it made."""
    return STORE_OWNER if part.name == "store" else client_id


class Thumbnails:
    """uint8 (side, side, 3) by owner, field and side; shared by all sessions. The longest unseen go first."""

    def __init__(self, room: int = ROOM) -> None:
        self._room, self._used = room, 0
        self._kept: OrderedDict[tuple[int, tuple[str, int], int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, part: Part, row: int, side: int, owner: int = 0) -> np.ndarray | None:
        """The picture, if it is there. owner: of the part, so that parts made by two sessions are not mistaken."""
        key = (owner, part.key(row), side)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def draw(self, part: Part, rows: np.ndarray, side: int, owner: int = 0) -> list[np.ndarray]:
        """Draw the pictures of rows, and keep them."""
        pictures = list(thumbnails(part, rows, side))
        with self._lock:
            for row, picture in zip(rows.tolist(), pictures, strict=True):
                key = (owner, part.key(row), side)
                self._used += picture.nbytes if key not in self._kept else 0
                self._kept[key] = picture
                self._kept.move_to_end(key)
            while self._used > self._room and len(self._kept) > 1:
                self._used -= self._kept.popitem(last=False)[1].nbytes
        return pictures

    def forget(self, owner: int) -> None:
        """Drop what a session had made."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == owner]:
                self._used -= self._kept.pop(key).nbytes


def thumbnails(part: Part, rows: np.ndarray, side: int) -> np.ndarray:
    """Draw rows of a part: uint8 (n, side, side, 3), the whole of a picture in the middle."""
    import torch

    fields = part.fields[rows].to(torch.float32)
    if part.kind == "pictures":
        from neuralfields.render import image

        return padded(image(fields, fitted(part, side)), side)
    draw = _shape if part.kind == "shapes" else _scene
    return np.stack([draw(part, int(row), fields[n : n + 1], side) for n, row in enumerate(rows)])


def fitted(part: Part, side: int) -> tuple[int, int]:
    """(height, width) of pictures as large as fit into a square, in the proportion of those that were fitted."""
    height, width = part.size
    longest = max(height, width)
    return max(1, round(side * height / longest)), max(1, round(side * width / longest))


def padded(pictures: "Tensor", side: int) -> np.ndarray:
    """Pictures (n, H, W, C) in [0, 1] in the middle of squares uint8 (n, side, side, 3)."""
    found = pictures.expand(*pictures.shape[:-1], 3).nan_to_num(0.0).clamp(0, 1).mul(255).round().byte().cpu().numpy()
    count, height, width, _ = found.shape
    out = np.full((count, side, side, 3), ABSENT, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[:, top : top + height, left : left + width] = found
    return out


def _shape(part: Part, row: int, field, side: int) -> np.ndarray:
    from apps.mesh import extract
    from apps.viewer.surfaces import stored_level
    from neuralfields.render.mesh_picture import Look, mesh_picture
    from neuralfields.render.turntable import frame_camera

    mesh = extract(field, max(CELLS, side // 4), *stored_level(part))[0]
    if not len(mesh.faces):
        return np.full((side, side, 3), ABSENT, np.uint8)
    return mesh_picture(mesh, frame_camera(mesh, (side, side)), Look(supersample=2, ambient=0))[..., :3]


def _scene(part: Part, row: int, field, side: int) -> np.ndarray:
    from neuralfields.render.view import occupancy, view

    grid = occupancy(field, OCCUPANCY, 2, SAMPLES)  # a look at every cell costs less than all samples of empty ones
    return padded(view(field, scene_camera(part, row, (side, side)), SAMPLES, grid=grid).colour, side)[0]


def scene_camera(part: Part, row: int, size: tuple[int, int]):
    """The first camera of a scene, for pictures of a size; one half to the right and above where it has none."""
    from apps.render_views import camera_of, scene
    from neuralfields.render.cameras import look_at, pinhole

    try:
        return camera_of(scene(part, row), size)
    except ValueError:  # fields that were made here, or imported, know no cameras
        return pinhole(look_at((1.7, 1.2, 2.2)), size)
