"""Stage: the canvas of one browser, which shows a flat picture as large as itself, or a scene in space."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from viser import CameraHandle, ClientHandle

PAPER, INK, FAINT, LINE, ACCENT = (247, 248, 250), (32, 35, 42), (112, 118, 130), (214, 218, 225), (34, 102, 204)
WRONG = (192, 57, 43)  # what differs from the truth
SIDES = 240, 2560  # pixels of a canvas, at least and at most
JPEG_QUALITY = 92
START = 4.0  # distance of the camera from what it looks at, where the zoom is 1
CLOSEST = 1 / 4096
FOV = math.radians(45.0)


@dataclass(frozen=True)
class Window:
    """What part of a flat page is seen: zoom, 1 for all of it; centre (row, column) as shares of its size."""

    zoom: float = 1.0
    centre: tuple[float, float] = (0.5, 0.5)

    def bounds(self) -> tuple[float, float, float, float]:
        """(top, left, bottom, right) as shares of the page."""
        half = 0.5 / self.zoom
        row, column = self.centre
        return row - half, column - half, row + half, column + half


class Stage:
    """The canvas of one client. A flat picture fills it; the wheel and the right button move a Window over it, and
    a click is told as shares (row, column) of the canvas. In space, the browser's own camera orbits."""

    def __init__(self, client: "ClientHandle") -> None:
        self.client = client
        self.is_flat = True

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the canvas in pixels."""
        camera = self.client.camera
        height, width = (min(max(int(n), SIDES[0]), SIDES[1]) for n in (camera.image_height, camera.image_width))
        return height, width

    def flat(self, picture: np.ndarray) -> None:
        """Show a picture uint8 (H, W, 3) over all of the canvas."""
        self.is_flat = True
        self.client.scene.set_background_image(picture, format="jpeg", jpeg_quality=JPEG_QUALITY)

    def space(self) -> None:
        """Show the nodes of the scene on a plain background."""
        self.is_flat = False
        self.client.scene.set_background_image(np.full((4, 4, 3), PAPER, np.uint8), format="png")

    def backdrop(self, picture: np.ndarray, depth: np.ndarray | None = None) -> None:
        """Show a picture uint8 (H, W, 3) over all of the canvas, behind the nodes of the scene, with the browser's own
        camera. depth (H, W): distance along the line of sight, hides what of the nodes lies behind it."""
        self.is_flat = False
        scene = self.client.scene
        scene.set_background_image(picture, format="jpeg", jpeg_quality=JPEG_QUALITY, depth=depth)

    def reset_window(self) -> None:
        """Put the camera where the window shows all of the page."""
        look(self.client.camera, np.array([0.0, 0.0, START]), np.zeros(3), np.array([0.0, 1.0, 0.0]))

    def zoom(self, factor: float) -> None:
        """Move the camera so that a page is seen so many times larger."""
        camera = self.client.camera
        camera.position, camera.look_at = camera.look_at + (camera.position - camera.look_at) / factor, camera.look_at

    def window(self) -> Window:
        """Where the wheel and the right button have moved the window of a flat page to."""
        camera = self.client.camera
        distance = float(np.linalg.norm(camera.position - camera.look_at))
        zoom = START / max(distance, START * CLOSEST)
        shown = 2 * math.tan(camera.fov / 2) * START  # height of the page in the units of the scene
        height, width = self.size
        column = 0.5 + camera.look_at[0] / (shown * width / height)
        row = 0.5 - camera.look_at[1] / shown
        return Window(max(zoom, 0.05), (float(row), float(column)))


def look(camera: "CameraHandle", position: np.ndarray, target: np.ndarray, up: np.ndarray, fov: float = FOV) -> None:
    """Move a browser's camera. fov: its upright field of view in radians."""
    camera.up_direction = up
    camera.position = position
    camera.look_at = target
    camera.fov = fov
    camera.min_orbit_distance = START * CLOSEST
