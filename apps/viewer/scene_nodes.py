"""SceneNodes: what stands in the scene of a radiance field beside its picture: cameras, and a surface."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from apps.viewer.scene_cameras import Place, quaternion
from apps.viewer.stage import ACCENT, FAINT

if TYPE_CHECKING:
    from viser import ClientHandle, SceneNodeHandle

    from apps.viewer.collection import Part
    from neuralfields import FieldBatch

HELD_OUT = (209, 104, 42)
SURFACE = (150, 160, 178)
CELLS = 96  # along the box, of a surface
SCALE = 0.08  # of the picture of a camera, in units of the box


class SceneNodes:
    """Nodes in the scene of one browser. picked: told of the name of a place whose camera was clicked."""

    def __init__(self, client: "ClientHandle", picked: Callable[[str], None]) -> None:
        self._client, self._picked = client, picked
        self._cameras: list[SceneNodeHandle] = []
        self._surface: SceneNodeHandle | None = None

    @property
    def hidden_by_depth(self) -> bool:
        """Whether there are nodes that the field can stand before; its own surface would only flicker."""
        return bool(self._cameras) and self._surface is None

    def show_cameras(self, places: list[Place], standing: Place | None) -> None:
        """Show the cameras of these places, and none else; not the one that is looked through."""
        for handle in self._cameras:
            handle.remove()
        self._cameras = []
        for number, place in enumerate(places):
            if place is standing:
                continue
            camera = place.camera
            handle = self._client.scene.add_camera_frustum(
                f"/cameras/{number}",
                2.0 * math.atan(0.5 * camera.h / camera.fl_y),
                camera.w / camera.h,
                scale=SCALE,
                thickness=1.5,
                thickness_units="screen",
                color=HELD_OUT if place.held_out else ACCENT if number == 0 else FAINT,
                wxyz=quaternion(camera.pose),
                position=camera.position,
                cast_shadow=False,
                receive_shadow=False,
            )
            handle.on_click(lambda _, name=place.name: self._picked(name))
            self._cameras.append(handle)

    def add_surface(self, part: "Part", field: "FieldBatch") -> None:
        """Show the surface of one density of a field. Raises ValueError where it has none."""
        from apps.mesh import extract, surface_of

        level, inside = surface_of(part, None)
        mesh = extract(field, CELLS, level, inside)[0]
        if not len(mesh.faces):
            raise ValueError(f"the field has no surface of density {level:g}: expected one that is fitted further")
        self._surface = self._client.scene.add_mesh_simple(
            "/surface", mesh.vertices, mesh.faces, color=SURFACE, side="double"
        )

    def remove_surface(self) -> bool:
        """Take the surface away; whether there was one."""
        there = self._surface is not None
        if self._surface is not None:
            self._surface.remove()
            self._surface = None
        return there

    def show(self, visible: bool) -> None:
        """Show or hide all of them: on a page of several pictures they would stand nowhere."""
        for handle in [*self._cameras, *([] if self._surface is None else [self._surface])]:
            handle.visible = visible

    def clear(self) -> None:
        """Take everything away."""
        self.show_cameras([], None)
        self.remove_surface()
