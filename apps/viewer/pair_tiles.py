"""Pictures of two fields and of those between them, side by side; shapes all from one place."""

from typing import TYPE_CHECKING, Any

import numpy as np

from apps.viewer.collection import Part
from apps.viewer.surfaces import stored_level
from apps.viewer.thumbnails import ABSENT

if TYPE_CHECKING:
    from neuralfields import FieldBatch
    from neuralfields.render.cameras import Camera
    from neuralfields.render.mesh import Mesh

COARSE, FINE = 48, 96  # cells along the box of shapes
BACK = 0.3  # that the camera stands further away than the ends need: what lies between may be larger
FEWER = 2  # times fewer pixels each way in a coarse picture of a shape


class Tiles:
    """Draws fields of one spec in one size. part: tells the level of surfaces; ends: two fields, which are drawn once
    and whose surfaces the camera of shapes is placed for."""

    def __init__(self, part: Part, ends: "FieldBatch") -> None:
        self._part, self._ends = part, ends
        self.is_solid = part.kind == "shapes"
        self._camera: Camera | None = None
        self._kept: dict[tuple[int, tuple[int, int], bool], np.ndarray] = {}

    def end(self, number: int, size: tuple[int, int], is_fine: bool) -> np.ndarray:
        """One of the two ends, 0 or 1: uint8 (H, W, 3); the fine picture once there is one."""
        if (kept := self._kept.get((number, size, True))) is not None:
            return kept
        key = (number, size, is_fine or not self.is_solid)
        if key not in self._kept:
            self._kept = {old: tile for old, tile in self._kept.items() if old[1] == size}
            self._kept[key] = self.draw(self._ends[number], size, is_fine)
        return self._kept[key]

    def draw(self, field: "FieldBatch", size: tuple[int, int], is_fine: bool) -> np.ndarray:
        """One field: uint8 (H, W, 3); the colour of nothing for a shape without a surface."""
        if not self.is_solid:
            from neuralfields.render import image

            return _bytes(image(field, size))
        return self._solid(field, size, is_fine)

    def _solid(self, field: "FieldBatch", size: tuple[int, int], is_fine: bool) -> np.ndarray:
        from neuralfields.render.mesh_picture import Look, mesh_picture

        camera = self._placed()
        mesh = self._mesh(field, FINE if is_fine else COARSE)
        if not len(mesh.faces):
            return np.full((*size, 3), ABSENT, np.uint8)
        few = FEWER if not is_fine else 1
        height, width = size[0] // few, size[1] // few
        look = Look(supersample=2 if is_fine else 1, ambient=0)
        drawn = mesh_picture(mesh, camera.resized(width, height), look)[..., :3]
        rows, columns = np.arange(size[0]) * height // size[0], np.arange(size[1]) * width // size[1]
        return drawn[rows][:, columns]

    def _placed(self) -> "Camera":
        """The camera that shows both ends whole; the box where neither has a surface."""
        from apps.interpolate import together
        from neuralfields.render.mesh import Mesh
        from neuralfields.render.turntable import frame_camera

        if self._camera is None:
            found = [mesh for end in self._ends if len((mesh := self._mesh(end, FINE)).faces)]
            box = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
            seen = together(found) if found else Mesh(box, np.array([[0, 1, 2], [5, 6, 7]]))
            camera = frame_camera(seen, (256, 256))
            pose = camera.pose.copy()
            pose[:3, 3] += BACK * pose[:3, 2]
            self._camera = camera.at(pose)
        return self._camera

    def _mesh(self, field: "FieldBatch", cells: int) -> "Mesh":
        from apps.mesh import extract

        level, inside = stored_level(self._part)
        return extract(field, cells, level, inside)[0]


def _bytes(picture: Any) -> np.ndarray:
    """A picture (1, H, W, C) in [0, 1] as uint8 (H, W, 3)."""
    shown = picture[0].expand(*picture.shape[1:3], 3)
    return shown.nan_to_num(0.0).clamp(0, 1).mul(255).round().byte().cpu().numpy()
