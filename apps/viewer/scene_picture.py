"""Pictures of a radiance field from one place, made in pieces that a newer camera may interrupt."""

import zlib
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from fitting.signals.views import ViewSet
    from neuralfields import FieldBatch
    from neuralfields.render.cameras import Camera
    from neuralfields.render.occupancy_grid import OccupancyGrid
    from neuralfields.render.volume import RayBatch

CELLS, PROBES = 48, 2  # of occupancy grids: along the box, places looked at in each cell
KEPT = 6  # grids
PIECE = 2**17  # samples between two places where the work may be dropped
FAINT_OPACITY = 0.5  # what is less opaque has no depth
QUANTITIES = ("colour", "depth", "opacity")


@dataclass(frozen=True, eq=False)
class Seen:
    """What is seen: colour (H, W, 3) in [0, 1], opacity (H, W) in [0, 1], depth (H, W) from the camera."""

    colour: np.ndarray
    opacity: np.ndarray
    depth: np.ndarray

    def depths(self) -> tuple[float, float]:
        """Smallest and largest depth of what is mostly opaque; (0, 1) where nothing is."""
        found = self.depth[self.opacity > FAINT_OPACITY]
        low, high = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
        return (low, high) if high > low else (low, low + 1.0)

    def shown(self, quantity: str, depths: tuple[float, float]) -> np.ndarray:
        """Colours (H, W, 3) in [0, 1] of one of QUANTITIES; depth from light, near, to dark, white where nothing is."""
        from neuralfields.render.colours import colourise

        if quantity == "colour":
            return self.colour
        if quantity == "opacity":
            return colourise(self.opacity, 0.0, 1.0, "depth")
        picture = colourise(self.depth, *depths, "depth")
        return np.where((self.opacity > FAINT_OPACITY)[..., None], picture, 1.0)

    def along(self, camera: "Camera") -> np.ndarray:
        """Depth (H, W) along the camera's line of sight, far away where nothing is: what hides nodes of the scene."""
        from neuralfields.render.cameras import pixel_centres

        at = pixel_centres(camera).numpy()
        x, y = (at[..., 0] - camera.cx) / camera.fl_x, (at[..., 1] - camera.cy) / camera.fl_y
        return np.where(self.opacity > FAINT_OPACITY, self.depth / np.sqrt(1.0 + x**2 + y**2), 100.0)


class Grids:
    """Occupancy grids of the fields drawn last, by what their weights are."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, OccupancyGrid] = OrderedDict()

    def find(self, field: "FieldBatch", samples: int) -> "OccupancyGrid":
        """The grid of one field, made where it is not kept."""
        from neuralfields.render.view import occupancy

        key = samples
        for values in field.parameters.values():
            key = zlib.crc32(values.contiguous().numpy().data, key)
        if key not in self._kept:
            self._kept[key] = occupancy(field, CELLS, PROBES, samples)
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]


def of_camera(camera: "Camera") -> "RayBatch":
    """The rays through the pixels of a picture, within the box."""
    from neuralfields.render.cameras import rays
    from neuralfields.render.volume import RayBatch, box_range

    origins, directions = (values.reshape(1, -1, 3) for values in rays(camera))
    return RayBatch(origins, directions, *box_range(origins, directions))


def of_photograph(views: "ViewSet", number: int) -> "RayBatch":
    """The rays through the pixels of one photograph, bent by its lens."""
    from fitting.signals.views import rays
    from neuralfields.render.volume import RayBatch

    seen = rays(views.select([number]))
    return RayBatch(*(value.unsqueeze(0) for value in (seen.origins, seen.directions, seen.near, seen.far)))


def render(
    field: "FieldBatch",
    batch: "RayBatch",
    shape: tuple[int, int],
    samples: int,
    background: "Tensor | float",
    grid: "OccupancyGrid | None" = None,
) -> Generator[float, None, Seen]:
    """March rays through one field, yielding between pieces; returns what is seen in a picture of `shape` pixels."""
    import torch

    from neuralfields.render.view import radiance, render_rays

    step, parts = max(1, PIECE // samples), []
    for first in range(0, batch.near.shape[1], step):
        parts.append(render_rays(radiance(field), batch[slice(first, first + step)], samples, background, grid))
        yield 0.0
    colour, opacity, depth = (
        torch.cat([getattr(part, name) for part in parts], dim=1)[0].numpy() for name in ("colour", "opacity", "depth")
    )
    return Seen(colour.clip(0, 1).reshape(*shape, 3), opacity.reshape(shape), depth.reshape(shape))
