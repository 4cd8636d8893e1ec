"""What a viewer writes of single fields: pictures, meshes and films; and the names of all that it writes.

Functions that draw are generators: they yield where the work may be dropped, and return what they made.
"""

import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.viewer.collection import Part
from apps.viewer.thumbnails import fitted, scene_camera

if TYPE_CHECKING:
    from neuralfields import FieldBatch
    from neuralfields.render.mesh import Mesh

Say = Callable[[str], None]  # told how far the work is
FRAMES = 72  # of a film
PIXELS_AT_ONCE = 1 << 17
CELLS = 128  # along the box of a shape in a picture
SAMPLES = 96  # along a ray of a scene


def reserved(folder: Path, stem: str, suffix: str) -> Path:
    """A new empty file, or where suffix is "" a new empty folder, that was not there before: its path.

    It is called stem + suffix, or with a number behind the stem where that is taken; folder is made where it is
    missing. stem and suffix are words of this program, never of a browser.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1_000_000):
        path = folder / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
        try:
            if suffix:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            else:
                path.mkdir()
        except FileExistsError:
            continue
        return path
    raise ValueError(f"exports={str(folder)!r}: has every number of {stem}{suffix}; expected an emptier folder")


def discard(path: Path) -> None:
    """Take back what was reserved and did not come to be."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def picture(
    part: Part, row: int, longest: int | None, level: float | None = None
) -> Generator[float, None, np.ndarray]:
    """One field as uint8 (H, W, 3), `longest` pixels along its longer side; None: as large as it was fitted.

    level: of the surface of a shape, None for the stored one. Raises ValueError where no size is known.
    """
    field = one(part, row)
    if part.kind == "pictures":
        if longest is None and part.size == (1, 1):
            raise ValueError(f"{part.path} does not say how large its pictures were: expected a size")
        return (yield from _flat(field, part.size if longest is None else fitted(part, longest)))
    side = longest or 512
    if part.kind == "shapes":
        from apps.render_shapes import picture as shaded

        yield 0.0
        found = mesh(part, row, CELLS, level, False)
        yield 0.0
        return np.ascontiguousarray(shaded(found, (side, side), "shaded")[..., :3])
    about = _scene(part, row)
    height, width = about["shape"] if about else (1, 1)
    size = max(1, round(side * height / max(height, width))), max(1, round(side * width / max(height, width)))
    return (yield from _seen(field, scene_camera(part, row, size), about, _grid(field)))


def mesh(part: Part, row: int, cells: int, level: float | None = None, is_original: bool = True) -> "Mesh":
    """The surface of one field, in the units of the file that it was fitted to where is_original, else in the box.

    Raises ValueError where it has no surface at the level.
    """
    from apps.mesh import extract, original_units

    at, inside = _level(part, level)
    found = extract(one(part, row), cells, at, inside)[0]
    if not len(found.faces):
        raise ValueError(f"level={at:g}: field {row} has no surface there")
    return original_units(part, row, found) if is_original else found


def film(part: Part, row: int, side: int, level: float | None, say: Say) -> Generator[float, None, list[np.ndarray]]:
    """Pictures uint8 (H, W, 3) of a turn about a shape, or of a flight along the cameras of a scene, side high."""
    frames: list[np.ndarray] = []
    if part.kind == "shapes":
        from neuralfields.render.turntable import turntable

        found = mesh(part, row, CELLS, level, False)
        for number, frame in enumerate(turntable(found, FRAMES, side), 1):
            frames.append(frame)
            say(f"picture {number} of {FRAMES}")
            yield 0.0
        return frames
    from apps.render_views import camera_of, path, scene

    about, field = scene(part, row), one(part, row)
    height, width = about["shape"]
    camera, grid = camera_of(about, (side, max(2, round(side * width / height)))), _grid(field)
    for number, pose in enumerate(path(about, FRAMES), 1):
        frames.append((yield from _seen(field, camera.at(pose), about, grid)))
        say(f"picture {number} of {FRAMES}")
    return frames


def one(part: Part, row: int) -> "FieldBatch":
    """One field, in float32."""
    import torch

    return part.fields[row : row + 1].to(torch.float32)


def _flat(field: "FieldBatch", size: tuple[int, int]) -> Generator[float, None, np.ndarray]:
    from apps.viewer.picture_pane import evaluated

    rows, shown = (np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1]
    bands, step = [], max(1, PIXELS_AT_ONCE // size[1])
    for first in range(0, size[0], step):
        bands.append(evaluated(field, rows[first : first + step], shown, size))
        yield 0.0
    return _bytes(np.concatenate(bands))


def _seen(field: "FieldBatch", camera: Any, about: dict, grid: Any) -> Generator[float, None, np.ndarray]:
    import torch

    from apps.viewer.scene_picture import of_camera, render

    background = torch.tensor(about.get("background") or [1.0, 1.0, 1.0])
    seen = yield from render(field, of_camera(camera), camera.shape, SAMPLES, background, grid)
    return _bytes(seen.colour)


def _grid(field: "FieldBatch") -> Any:
    from apps.viewer.scene_picture import CELLS, PROBES
    from neuralfields.render.view import occupancy

    return occupancy(field, CELLS, PROBES, SAMPLES)


def _scene(part: Part, row: int) -> dict[str, Any]:
    """What is kept of a field's scene; {} where nothing is."""
    from apps.render_views import scene

    try:
        return scene(part, row)
    except ValueError:  # fields that were made here, or imported
        return {}


def _level(part: Part, level: float | None) -> tuple[float, Any]:
    from apps.mesh import surface_of
    from apps.viewer.surfaces import stored_level

    return surface_of(part, level) if level is not None or part.kind == "scenes" else stored_level(part)


def _bytes(values: np.ndarray) -> np.ndarray:
    """Values (H, W, C) in [0, 1] as uint8 (H, W, 3)."""
    shown = np.broadcast_to(np.clip(np.nan_to_num(values), 0, 1), (*values.shape[:2], 3))
    return np.ascontiguousarray(np.round(shown * 255).astype(np.uint8))
