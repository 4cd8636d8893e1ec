"""ScenePane: a radiance field as the browser's own camera sees it, coarse at once and finer once the camera rests."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.field_pane import FieldPane
from apps.viewer.jobs import Job
from apps.viewer.scene_cameras import SAME, Place, camera_of, go, mean_up, of_photographs, pose_of, stored
from apps.viewer.scene_nodes import SceneNodes
from apps.viewer.scene_page import Tile, full_page, tile_size, tiles_page
from apps.viewer.scene_picture import QUANTITIES, Grids, of_camera, of_photograph, render
from apps.viewer.session import Session

if TYPE_CHECKING:
    from fitting.signals.views import ViewSet
    from neuralfields import FieldBatch
    from neuralfields.render.cameras import Camera

LEVELS = (96, 192, 400)  # rows of the pictures, one after another
REST_S = 0.15  # before the second of them
COARSE_SAMPLES = 48  # along a ray, of the first of them, at most
FREE: str = "from anywhere"


class ScenePane(FieldPane):
    """One radiance field over all of the canvas; beside altered ones and a photograph where there are any."""

    @classmethod
    def suits(cls, session: Session) -> bool:
        """Fields with a view head."""
        return session.viewer.part.kind == "scenes"

    def build_view(self) -> None:
        """Controls: what is shown, how finely, from where, and what else stands in the scene."""
        gui = self.session.gui
        self._quantity = gui.add_dropdown("Quantity", QUANTITIES)
        self._samples = gui.add_slider("Samples", min=16, max=256, step=16, initial_value=96, hint="Along every ray")
        self._view = gui.add_dropdown("View", (FREE,), hint="Places that the scene was seen from")
        self._cameras = gui.add_checkbox("Cameras", False)
        self._surface = gui.add_button("Surface", hint="Show the surface of one density as a mesh, or remove it")
        self._difference = gui.add_checkbox("Difference", True, visible=self.session.viewer.truth is not None)
        gui.add_markdown("Drag to turn, the wheel moves closer, the right button moves across.")
        self._view.on_update(lambda event: self._picked(str(event.target.value)) if event.client else None)
        self._cameras.on_update(lambda _: self.session.do("nodes", self._show_nodes))
        self._surface.on_click(lambda _: self.session.do("surface", self._toggle_surface))
        for handle in (self._quantity, self._samples, self._difference):
            handle.on_update(lambda _: self.redraw())
        self._grids, self._nodes = Grids(), SceneNodes(self.session.client, self._picked)
        self._places: list[Place] = []
        self._photographs: ViewSet | None = None
        self._place: Place | None = None  # where the browser stands, while it stands at one of them
        self._at_places = True  # whether that is of interest
        self._scene: tuple[str, int] | None = None  # the field whose places these are
        self._left: Camera | None = None

    def enter(self) -> None:
        """Go where the camera was before, or to the first place that the scene was seen from."""
        if self._left is not None:
            self._go(self._left)
        self._follow(first=self._left is None)
        self.session.do("nodes", self._show_nodes)

    def leave(self) -> None:
        """Take the nodes away, and remember the camera."""
        self._left = camera_of(self.session.client.camera, self.session.stage.size)
        self._nodes.clear()
        self._surface.label = "Surface"

    def moved(self) -> None:
        """Draw what is seen now."""
        self.redraw()

    def _follow(self, first: bool = False) -> None:
        """Take over the places of the field that is open, and go there where it is another scene."""
        part, row = self.session.collection.place(self.session.position)
        if self._scene == part.key(row) and not first:
            return
        before, self._scene = self._places, part.key(row)
        self._photographs, self._place, self._at_places = None, None, True
        self._set_places(stored(part, row))
        self._nodes.clear()
        self._surface.label = "Surface"
        if first or not same_place(before, self._places):
            self._go(self._places[0].camera if self._places else self._anywhere())
        if self.session.viewer.truth is not None and part.name == "store":
            self.session.do("photographs", self._read_photographs)
        self.session.do("nodes", self._show_nodes)

    def _anywhere(self) -> "Camera":
        from apps.viewer.thumbnails import scene_camera

        return scene_camera(*self.session.collection.place(self.session.position), self.session.stage.size)

    def _set_places(self, places: list[Place]) -> None:
        self._places = places
        self._view.options = (FREE, *(place.name for place in places))
        self._view.value = FREE

    def _read_photographs(self) -> None:
        part, row = self.session.collection.place(self.session.position)
        assert self.session.viewer.truth is not None
        if part.name != "store":
            return
        with self.session.telling("Reading the photographs of the scene"):
            self._photographs = self.session.viewer.truth.photographs(part, row)
        self._set_places(of_photographs(self._photographs))
        self._place = self._standing()
        self._view.value = FREE if self._place is None else self._place.name
        self._show_nodes()
        self.redraw()

    def _standing(self) -> Place | None:
        """The place that the browser looks from, to the precision of browsers; None where none is asked for."""
        if not self._at_places:
            return None
        pose = pose_of(self.session.client.camera)
        return next((place for place in self._places if np.abs(place.camera.pose - pose).max() < SAME), None)

    def _picked(self, name: str) -> None:
        self.session.do("go", lambda: self._go_to(name))

    def _go_to(self, name: str) -> None:
        place = next((place for place in self._places if place.name == name), None)
        self._place, self._at_places = place, place is not None
        if place is not None:
            self._go(place.camera)
        self._view.value = name
        self._show_nodes()
        self.redraw()

    def _go(self, camera: "Camera") -> None:
        go(self.session.client.camera, camera, self.session.stage.size, mean_up(self._places))

    def _show_nodes(self) -> None:
        if self.session.pane is self:
            self._nodes.show_cameras(self._places if self._cameras.value else [], self._place)
            self.redraw()

    def _toggle_surface(self) -> Job:
        if self._nodes.remove_surface():
            self._surface.label = "Surface"
        else:
            part, _ = self.session.collection.place(self.session.position)
            yield 0.0
            with self.session.telling("Extracting the surface"):
                self._nodes.add_surface(part, self.session.collection.field(self.session.position))
            self._surface.label = "Remove the surface"
        self.redraw()

    def draw_view(self, field: "FieldBatch", altered: "list[tuple[str, FieldBatch]]") -> Job:
        """Coarse at once, then finer. A page of several pictures where altered fields or a photograph are beside."""
        self._follow()
        standing = self._standing()
        if standing is not self._place:
            self._place = standing
            self._view.value = FREE if standing is None else standing.name
            self._nodes.show_cameras(self._places if self._cameras.value else [], standing)
        fields = [("field", field), *altered]
        number = None if standing is None else standing.number
        with_photograph = number is not None and self._photographs is not None
        self._nodes.show(len(fields) == 1 and not with_photograph)
        if number is not None and self._photographs is not None:
            yield from self._draw_beside(fields, self._photographs, number)
        else:
            yield from self._draw_free(fields)

    def _sampling(self, height: int) -> int:
        samples = int(self._samples.value)
        return min(samples, COARSE_SAMPLES) if height == LEVELS[0] else samples

    def _draw_free(self, fields: "list[tuple[str, FieldBatch]]") -> Job:
        """The fields as the browser sees them: one over all of the canvas, several side by side."""
        stage, quantity = self.session.stage, str(self._quantity.value)
        size = stage.size if len(fields) == 1 else tile_size(stage.size, len(fields), stage.size)
        for level in LEVELS:
            height = min(level, size[0])
            camera = camera_of(stage.client.camera, (height, max(1, round(height * size[1] / size[0]))))
            seen = []
            for _, field in fields:
                seen.append((yield from self._render(field, of_camera(camera), camera.shape, height)))
            depths = seen[0].depths()
            if len(fields) > 1:
                tiles = [Tile(name, one.shown(quantity, depths)) for (name, _), one in zip(fields, seen, strict=True)]
                stage.backdrop(tiles_page(stage.size, self._title(), tiles, size, quantity, depths))
            else:
                page = full_page(stage.size, self._title(), seen[0].shown(quantity, depths), quantity, depths)
                hiding = seen[0].along(camera) if self._nodes.hidden_by_depth else None
                stage.backdrop(page, hiding)
            yield REST_S if level == LEVELS[0] else 0.0

    def _draw_beside(self, fields: "list[tuple[str, FieldBatch]]", views: "ViewSet", number: int) -> Job:
        """The fields from where a photograph was taken, with it and the difference."""
        from apps.viewer.photographs import smaller
        from apps.viewer.scene_page import beside

        stage, quantity = self.session.stage, str(self._quantity.value)
        with_difference = bool(self._difference.value)
        own = views.select([number])
        size = tile_size(stage.size, len(fields) + 1 + with_difference, own.shape)
        for level in LEVELS:
            small = smaller(own, min(level, max(size[0], LEVELS[0])))
            seen = []
            for name, field in fields:
                batch = of_photograph(small, 0)
                seen.append((name, (yield from self._render(field, batch, small.shape, small.shape[0]))))
            depths = seen[0][1].depths()
            tiles = beside(seen, small.images[0].numpy(), quantity, depths, with_difference, level == LEVELS[-1])
            stage.backdrop(tiles_page(stage.size, self._title(), tiles, size, quantity, depths))
            yield REST_S if level == LEVELS[0] else 0.0

    def _render(self, field: "FieldBatch", batch, shape: tuple[int, int], height: int):
        part, row = self.session.collection.place(self.session.position)
        samples = self._sampling(height)
        near = float((part.meta.get("config") or {}).get("near") or 0.0)  # fog before the cameras is not shown
        batch = replace(batch, near=batch.near.clamp_min(near))
        grid = self._grids.find(field, int(self._samples.value))
        return (yield from render(field, batch, shape, samples, background_of(part, row), grid))

    def _title(self) -> str:
        return self.session.collection.name(self.session.position)


def background_of(part, row: int):
    """What rays see that meet nothing: the colour (3,) that the scene was fitted with, or white, 1."""
    import torch

    from apps import render_views

    try:
        return torch.tensor(render_views.scene(part, row)["background"])
    except ValueError:  # fields that were made here, or imported
        return 1.0


def same_place(one: list[Place], other: list[Place]) -> bool:
    """Whether the first cameras of two scenes stand alike: then a browser may stay where it is."""
    return bool(one and other) and bool(np.abs(one[0].camera.pose - other[0].camera.pose).max() < SAME)
