"""nf render for shape fields: shaded sheets beside the originals, slices, turntables."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import arg

from apps.mesh import extract, surface_of
from apps.output import Output
from apps.progress import Progress

if TYPE_CHECKING:
    from apps.render import Render
    from apps.viewer.collection import Part
    from neuralfields import FieldStore

STYLES = ("shaded", "normals", "depth")
SHEET_SIZE, FILM_SIZE, SINGLE_SIZE = 224, 512, 768
SLICE_RESOLUTION = 256
FPS = 24


@dataclass(frozen=True, kw_only=True)
class ShapeDrawing:
    """How fields of shapes are drawn."""

    style: Annotated[str, arg(metavar="{shaded,normals,depth}")] = "shaded"
    """What the picture of a surface shows."""
    resolution: int = 128
    """Cells along the box when surfaces are extracted."""
    level: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: as stored)")] = None
    """Value of the field on the surface."""
    slice: Annotated[str | None, arg(metavar="{x,y,z}", help_behavior_hint="(default: none)")] = None
    """Draw the values on a slice across this axis instead of surfaces."""
    offset: float = 0.0
    """Where on the axis the slice lies, from -1 to 1."""
    frames: int = 72
    """Pictures of a turntable, which --out FILE.mp4 or FILE.gif asks for."""


def render_shapes(options: "Render", store: "FieldStore", rows: np.ndarray, output: Output) -> None:
    """Run `nf render` on a store of shape fields."""
    from neuralfields.render.sheet import save_png

    drawing, out = options.shapes, Path(options.out)
    if drawing.style not in STYLES:
        raise ValueError(f"style={drawing.style!r}: expected one of {', '.join(STYLES)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if drawing.slice is not None:
        save_png(out, slices(store, rows, drawing))
        what = f"slices of {len(rows):,} of {len(store):,} fields across {drawing.slice} at {drawing.offset:g}"
    elif out.suffix.lower() == ".png":
        save_png(out, surfaces(options, store, rows))
        what = f"{len(rows):,} of {len(store):,} fields from {drawing.resolution}^3 cells"
    else:
        what = film(options, store, rows, out)
    output.facts([("drawn", what), ("out", options.out)])
    output.record(fields=len(rows), positions=rows, resolution=drawing.resolution, out=options.out)


def meshes(store: "FieldStore", rows: np.ndarray, drawing: ShapeDrawing, quiet: bool) -> list[Any]:
    """Surfaces of the fields in the box, with a progress bar."""
    level, inside = surface_of(store, drawing.level)
    found: list[Any] = []
    with Progress("mesh", "fields", quiet) as bar:
        for first in range(0, len(rows), 8):
            part = rows[first : first + 8]
            found += extract(store[part], drawing.resolution, level, inside)
            bar.update(len(found), len(rows), f"{len(found):,} of {len(rows):,}")
    return found


def surfaces(options: "Render", store: "FieldStore", rows: np.ndarray) -> np.ndarray:
    """One page: the surfaces, or original | reconstruction | error where the originals are given."""
    from neuralfields.render.mesh_sheet import MeshPair, mesh_sheet
    from neuralfields.render.sheet import sheet

    drawing = options.shapes
    found = meshes(store, rows, drawing, options.output.quiet)
    names = [str(name) for name in store.column("name")[rows]]
    size = options.size or (SHEET_SIZE, SHEET_SIZE)
    if options.beside is not None:
        if drawing.style != "shaded":
            raise ValueError(f"style={drawing.style!r} with beside={options.beside!r}: expected shaded")
        pairs = [
            MeshPair(name, original(options.beside, name, fitted(store, name)), made if len(made.faces) else None)
            for name, made in zip(names, found, strict=True)
        ]
        return mesh_sheet(pairs, size, units="of the box, whose side is 2")
    if len(rows) == 1 and len(found[0].faces):
        return picture(found[0], options.size or (SINGLE_SIZE, SINGLE_SIZE), drawing.style)
    tiles = [_tile(picture(made, size, drawing.style) if len(made.faces) else None, size) for made in found]
    return sheet(tiles_to_tensor(tiles), captions=captions(store, rows, names), scale=1)


def captions(store: "FieldStore", rows: np.ndarray, names: list[str]) -> list[str]:
    """Name of every shape and its IoU where that is known."""
    if "iou" not in store.index.column_names:
        return names
    return [f"{name}, IoU {value:.3f}" for name, value in zip(names, store.column("iou")[rows], strict=True)]


def picture(mesh: Any, size: tuple[int, int], style: str) -> np.ndarray:
    """One mesh from half to the right and a little above: uint8 (H, W, 3)."""
    from neuralfields.render.mesh_picture import depth_picture, mesh_picture, normal_picture
    from neuralfields.render.turntable import frame_camera

    camera = frame_camera(mesh, size)
    return {"shaded": mesh_picture, "normals": normal_picture, "depth": depth_picture}[style](mesh, camera)


def fitted(store: "FieldStore | Part", name: str) -> str | None:
    """The sha256 of the file that the field of a name was fitted to; None where the store does not say."""
    about = ((store.meta.get("signal") or {}).get("shapes") or {}).get(name) or {}
    return about.get("sha256")


def original(source: str, name: str, sha256: str | None = None) -> Any:
    """The shape that a field was fitted to, normalised, found by its name below the source.

    sha256: of the file that was fitted, where it is known. Raises ValueError for a name that leads out of the source,
    and for a file that is not there or another.
    """
    from fitting.signals.mesh_files import read_geometry
    from fitting.signals.mesh_repair import clean, normalise_shape
    from fitting.signals.view_files import inside
    from neuralfields.store_files import digest

    path = Path(source)
    if path.is_dir():  # names come with the store, which may be anybody's
        path = inside(path, name, f"beside={source!r}: name", "the folder")[1]
    if not path.is_file():
        raise ValueError(f"beside={source!r}: has no shape {name!r}")
    if sha256 is not None and (found := digest(path)) != sha256:
        raise ValueError(
            f"beside={source!r}: sha256 of shape {name!r} is {found[:12]}..., expected {sha256[:12]}..., the file that "
            "was fitted"
        )
    return normalise_shape(clean(read_geometry(path))[0])[0]


def slices(store: "FieldStore", rows: np.ndarray, drawing: ShapeDrawing) -> np.ndarray:
    """Values on a slice of every field, side by side."""
    import torch

    from neuralfields.evaluate import evaluate
    from neuralfields.render.sheet import sheet
    from neuralfields.render.slices import slice_picture, slice_points

    level, inside = surface_of(store, drawing.level)
    points = slice_points(drawing.slice or "z", drawing.offset, SLICE_RESOLUTION)
    with torch.no_grad():
        values = evaluate(store[rows].to(torch.float32), points.flatten(0, 1))[..., 0] - level
    values = (values if inside == "below" else -values).view(-1, *points.shape[:2])
    if len(rows) == 1:
        return slice_picture(values[0], title="value above the level, negative inside")
    limit = float(values.abs().max())
    pages = [slice_picture(value, limit=limit, title=None) for value in values]
    return sheet(tiles_to_tensor(pages), captions=[str(name) for name in store.column("name")[rows]], scale=1)


def film(options: "Render", store: "FieldStore", rows: np.ndarray, out: Path) -> str:
    """Write a turntable of one field as a video."""
    from neuralfields.render.turntable import turntable
    from neuralfields.render.video import save_video

    if len(rows) != 1:
        raise ValueError(f"out={options.out!r}: a video shows one field, got {len(rows)}; expected --fields N")
    drawing = options.shapes
    made = meshes(store, rows, drawing, options.output.quiet)[0]
    if not len(made.faces):
        raise ValueError(f"fields={list(rows)}: has no surface at this level")
    with Progress("draw", "pictures", options.output.quiet) as bar:

        def watched():
            pictures = turntable(made, drawing.frames, options.size or FILM_SIZE)
            for number, frame in enumerate(pictures, 1):
                bar.update(number, drawing.frames, f"{number} of {drawing.frames}")
                yield frame

        save_video(out, watched(), fps=FPS)
    return f"turntable of field {rows[0]}, {drawing.frames} pictures"


def tiles_to_tensor(tiles: list[np.ndarray]) -> Any:
    """Pictures of one size as (N, H, W, 3) in [0, 1]."""
    import torch

    return torch.from_numpy(np.stack(tiles).astype(np.float32) / 255)


def _tile(made: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), 235, np.uint8) if made is None else made[..., :3]
