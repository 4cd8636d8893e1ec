"""ShapePane: the surface of a field at any level, a slice through it, and the original beside it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.viewer.field_pane import BLANK, FieldPane
from apps.viewer.jobs import Job
from apps.viewer.markdown import plain
from apps.viewer.session import Session
from apps.viewer.slice_plane import AXES, slice_plane
from apps.viewer.stage import look
from apps.viewer.surface_scene import FOV, VIEWS, Shown, SurfaceScene, frame
from apps.viewer.surfaces import Original, Surfaces, cut, reach, stored_level, thinned, vertex_normals

if TYPE_CHECKING:
    from neuralfields import FieldBatch
    from neuralfields.render.mesh import Mesh

COARSE, FINE = 40, ("64", "128", "192")  # cells along the box while a slider moves, and when it rests
REST_S = 0.25
PIXELS = {True: 192, False: 96}  # of a slice, fine and coarse
STEPS = 100  # of the level, to either side of the stored one
CLAY, NORMALS, ERROR = "clay", "normals", "distance to the original"
NONE = "none"
FAR = 99.0  # percent of the distances that the colours tell apart
BAR = 320  # pixels


@dataclass(frozen=True, eq=False)
class Level:
    """A level to look at. stored: where the surface lies; inside: its solid side; limit: of the colours of slices."""

    value: float
    stored: float
    inside: Any
    limit: float


class ShapePane(FieldPane):
    """Field, altered fields and original in one space, seen by one camera."""

    @classmethod
    def suits(cls, session: Session) -> bool:
        """Fields over three coordinates."""
        return session.viewer.part.kind == "shapes"

    def build_view(self) -> None:
        """Controls: level, colours, slice, and what stands beside."""
        gui, has_truth = self.session.gui, self.session.viewer.truth is not None
        self._scene, self._surfaces = SurfaceScene(self.session.client), Surfaces()
        self._camera: tuple[np.ndarray, ...] | None = None
        self._framed = 0  # things that the camera was put for
        self._original: tuple[tuple[str, int], Original] | None = None
        level = stored_level(self.session.viewer.part)[0]
        self._level = gui.add_slider("Level", min=level - 1.0, max=level + 1.0, step=0.01, initial_value=level)
        self._stored = gui.add_button("Level as stored")
        self._words = gui.add_markdown("")
        views = gui.add_button_group("Look from", tuple(VIEWS))
        views.on_click(lambda event: self.session.do("view", lambda: self._look_from(str(event.target.value))))
        self._colour = gui.add_dropdown("Colour", (CLAY, NORMALS, *(ERROR,) * has_truth))
        self._bar = gui.add_image(BLANK, visible=False)
        self._beside = gui.add_checkbox("Original", True, visible=has_truth)
        self._smooth = gui.add_checkbox("Smooth", True)
        self._fine = gui.add_dropdown("Fine", FINE, initial_value=FINE[1])
        self._axis = gui.add_dropdown("Slice", (NONE, *AXES))
        self._offset = gui.add_slider("At", min=-1.0, max=1.0, step=0.01, initial_value=0.0, visible=False)
        self._open = gui.add_checkbox("Cut open", True, visible=False)
        self._axis.on_update(lambda _: self._show_slice_controls())
        self._stored.on_click(lambda _: self.session.do("level", self._reset_level))
        shown = (self._colour, self._beside, self._smooth, self._fine, self._axis, self._open)
        for handle in (*shown, self._level, self._offset):
            # What the server sets is drawn by what sets it.
            handle.on_update(lambda event: self.redraw() if event.client else None)

    @property
    def level(self) -> float:
        """The level that is looked at."""
        return float(self._level.value)

    def enter(self) -> None:
        """Where the camera was when the pane was left."""
        self.session.stage.space()
        self._scene.enter()
        if self._camera is not None:
            look(self.session.client.camera, *self._camera, fov=FOV)

    def leave(self) -> None:
        """Keep the camera, take everything away."""
        self._scene.clear()
        if self._framed:
            camera = self.session.client.camera
            self._camera = tuple(np.array(v) for v in (camera.position, camera.look_at, camera.up_direction))

    def _look_from(self, view: str) -> None:
        frame(self.session.client.camera, max(self._framed, 1), self.session.stage.size, view)

    def _show_slice_controls(self) -> None:
        self._offset.visible = self._open.visible = self._axis.value != NONE

    def _reset_level(self) -> None:
        self._level.value = stored_level(self.session.collection.place(self.session.position)[0])[0]
        self.redraw()

    def draw_view(self, field: "FieldBatch", altered: "list[tuple[str, FieldBatch]]") -> Job:
        """Coarse at once, fine when no slider has moved for a moment; fine at once where it is known."""
        level, fields, cells = self._take_level(field), [("field", field), *altered], int(self._fine.value)
        count = len(fields) + self._shows_original()
        if count != self._framed:
            self._framed = count
            self._look_from("Corner")
        if not all(self._surfaces.knows(one, level.value, cells) for _, one in fields):
            self._show(fields, level, COARSE)
            yield REST_S
        self._read_original()
        for _, one in fields:
            self._surfaces.find(one, level.value, level.inside, cells)
            yield 0.0
        self._show(fields, level, cells)

    def _shows_original(self) -> bool:
        """Whether the original stands beside the field."""
        part, _ = self.session.collection.place(self.session.position)
        return self.session.viewer.truth is not None and part.name == "store" and bool(self._beside.value)

    def _known_original(self) -> Original | None:
        """The original of the open field, if it has been read."""
        part, row = self.session.collection.place(self.session.position)
        known = self._original
        return known[1] if known is not None and known[0] == part.key(row) else None

    def _read_original(self) -> None:
        """Read the original of the open field where it is asked for: to be seen, or to measure distances to."""
        part, row = self.session.collection.place(self.session.position)
        asked = self._shows_original() or self._colour.value == ERROR
        truth = self.session.viewer.truth
        if asked and truth is not None and part.name == "store" and self._known_original() is None:
            self._original = (part.key(row), Original(truth.mesh(part, row)))

    def _take_level(self, field: "FieldBatch") -> Level:
        """Let the slider reach the levels that this field has; its value stays, if that is one of them."""
        stored, inside = stored_level(self.session.collection.place(self.session.position)[0])
        away, limit = reach(field, stored)
        low, high, step = stored - away, stored + away, away / STEPS
        slider = self._level
        if (slider.min, slider.max, slider.step) != (low, high, step):
            value = min(max(float(slider.value), low), high)
            slider.min, slider.max, slider.step = low, high, step
            slider.precision = max(0, 2 - int(np.floor(np.log10(away))))
            if slider.value != value:
                slider.value = value
        return Level(float(slider.value), stored, inside, limit)

    def _show(self, fields: "list[tuple[str, FieldBatch]]", level: Level, cells: int) -> None:
        meshes = [thinned(self._surfaces.find(one, level.value, level.inside, cells)) for _, one in fields]
        original = self._known_original()
        colours = self._colours(meshes, original)
        axis, things = str(self._axis.value), []
        for (name, one), mesh, shades in zip(fields, meshes, colours, strict=True):
            plane = None
            if axis != NONE:
                at, fine = float(self._offset.value), PIXELS[cells > COARSE]
                plane = slice_plane(one, axis, at, level.value, level.inside, level.limit, fine)
            things.append(Shown(name, *self._cut(mesh, shades), plane, bool(self._smooth.value)))
        if self._shows_original():
            whole = None if original is None else self._cut(original.mesh)[0]
            things.append(Shown("original", whole, smooth=bool(self._smooth.value)))
        self._scene.show(things)
        self._words.content = told(fields, meshes, level.value, cells)  # last: who reads it sees the surface, too

    def _cut(self, mesh: "Mesh", colours: np.ndarray | None = None) -> "tuple[Mesh, np.ndarray | None]":
        axis = str(self._axis.value)
        if axis == NONE or not self._open.value:
            return mesh, colours
        return cut(mesh, AXES[axis], float(self._offset.value), colours)

    def _colours(self, meshes: "list[Mesh]", original: Original | None) -> list[np.ndarray | None]:
        """Colours (V, 3) of every mesh, None for clay; the colour bar of distances."""
        from neuralfields.render.colours import colour_bar, colourise, nice

        by = str(self._colour.value)
        known = by == ERROR and original is not None and len(meshes[0].faces) > 0
        self._bar.visible = known
        if known and original is not None:
            errors = [original.distance(mesh.vertices) for mesh in meshes]
            limit = nice(float(np.percentile(errors[0], FAR)))
            self._bar.image = colour_bar(BAR, 0.0, limit, "error", "distance; the box has a side of 2", (1.0, 1.0, 1.0))
            return [colourise(one, 0.0, limit, "error") for one in errors]
        if by == NORMALS:
            return [0.5 + 0.5 * vertex_normals(mesh) for mesh in meshes]
        return [None] * len(meshes)


def told(fields: "list[tuple[str, FieldBatch]]", meshes: "list[Mesh]", level: float, cells: int) -> str:
    """What there is to say of surfaces, as markdown."""
    lines = [f"level **{level:.4g}**, {cells} cells along the box"]
    for (name, _), mesh in zip(fields, meshes, strict=True):
        if not len(mesh.faces):
            lines.append(f"{plain(name)}: no surface at this level")
            continue
        closed = "watertight" if mesh.watertight else "not watertight"
        lines.append(f"{plain(name)}: **{len(mesh.vertices):,}** vertices, {len(mesh.faces):,} faces, {closed}")
    return "  \n".join(lines)
