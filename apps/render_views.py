"""nf render for radiance fields: views from new places, held-out views beside photographs, films along a path."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.output import Output
from apps.progress import Progress

if TYPE_CHECKING:
    from apps.render import Render
    from apps.viewer.collection import Part
    from fitting.signals.views import ViewSet
    from neuralfields import FieldStore
    from neuralfields.render.cameras import Camera

FPS = 24
MOST_BESIDE = 4  # held-out views of a scene on one sheet


def render_views(options: "Render", store: "FieldStore", rows: np.ndarray, output: Output) -> None:
    """Run `nf render` on a store of radiance fields."""
    from neuralfields.render.sheet import save_png, sheet

    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() != ".png":
        what = film(options, store, rows, out)
    elif options.beside is not None:
        columns, names = beside(options, store, rows)
        save_png(out, sheet(columns, captions=names, headers=["photograph", "field"], scale=options_scale(options)))
        what = f"{len(names):,} held-out views of {len(rows):,} fields"
    else:
        pictures = novel(options, store, rows)
        names = [str(name) for name in store.column("name")[rows]]
        save_png(out, sheet(pictures, captions=names, scale=options_scale(options)))
        what = f"new views of {len(rows):,} of {len(store):,} fields"
    output.facts([("drawn", what), ("out", options.out)])
    output.record(fields=len(rows), positions=rows, out=options.out)


def options_scale(options: "Render") -> int | None:
    """Pictures of a given size are not enlarged any more."""
    return None if options.size is None and options.scale is None else 1


def scene(store: "FieldStore | Part", row: int) -> dict[str, Any]:
    """What the store keeps of a field's scene. Raises ValueError where it keeps no cameras, or cannot say whose."""
    signal, name = store.meta.get("signal") or {}, str(store.column("name")[row])
    scenes, ends = signal.get("scenes") or [], (name, Path(name).name)
    found = [number for number, about in enumerate(scenes) if about["name"] in ends]
    if len(found) > 1:  # in several classes
        found = [number for number in found if number == number_of(store, row, name, signal.get("failed") or {})]
        if not found:
            raise ValueError(f"{store.path} has several scenes named {ends[1]!r}: expected an id to tell field {row}")
    about = scenes[found[0]] if found else {}
    if not about.get("camera"):
        raise ValueError(f"{store.path} keeps no cameras of field {row}: expected a store that `nf fit views` wrote")
    return about


def number_of(store: "FieldStore | Part", row: int, name: str, failed: dict[str, str]) -> int:
    """Which of the scenes that were read is that of a field: ids count those that could not be read, too."""
    from fitting.signals.image import ID_OFFSETS

    place = int(store.column("id")[row]) % ID_OFFSETS["test"]  # all splits begin at multiples of it
    return place - sum(Path(other) < Path(name) for other in failed)


def camera_of(about: dict[str, Any], size: tuple[int, int] | None) -> "Camera":
    """The scene's first camera, for pictures of its size or another."""
    from neuralfields.render.cameras import Camera

    own = about["camera"]
    names = ("fl_x", "fl_y", "cx", "cy", "w", "h")
    camera = Camera(np.array(about["poses"][0]), **{name: own[name] for name in names})
    if size is None:
        return camera
    # Square pixels and the whole height, whatever the shape of the picture.
    share = size[0] / camera.h
    wide = camera.resized(max(1, round(camera.w * share)), size[0])
    return Camera(camera.pose, wide.fl_x, wide.fl_y, size[1] / 2, wide.cy, size[1], size[0])


def drawn_size(options: "Render", about: dict[str, Any], count: int = 1) -> tuple[int, int] | None:
    """Height and width of a scene's picture, of which `count` are drawn; None for those of its photographs."""
    from apps.render import scaled

    size = scaled(about["shape"], options.size, options.scale, count)
    return None if options.size is None and options.scale is None else size


def path(about: dict[str, Any], count: int) -> np.ndarray:
    """Poses between those of the fit: (count, 4, 4). Raises ValueError for a scene of one pose."""
    from neuralfields.render.view import interpolate

    if len(about["poses"]) < 2:
        raise ValueError(f"scene {about['name']!r} was seen from one place: expected at least two for a path")
    return interpolate(np.array(about["poses"]), count)


def novel(options: "Render", store: "FieldStore", rows: np.ndarray) -> Any:
    """One view of every field from between two of its poses: (n, H, W, 3)."""
    import torch

    from neuralfields.render.view import view

    pictures = []
    with Progress("draw", "fields", options.output.quiet) as bar:
        for number, row in enumerate(rows, 1):
            about = scene(store, int(row))
            camera = camera_of(about, drawn_size(options, about, len(rows)))
            camera = camera.at(path(about, 2 * len(about["poses"]))[1]) if len(about["poses"]) > 1 else camera
            pictures.append(view(store[row], camera, background=torch.tensor(about["background"])).colour[0])
            bar.update(number, len(rows), f"{number:,} of {len(rows):,}")
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError("the scenes have pictures of several sizes: give --size H W")
    return torch.stack(pictures)


def beside(options: "Render", store: "FieldStore", rows: np.ndarray) -> tuple[list[Any], list[str]]:
    """Held-out photographs and what the fields show there: two (n, H, W, 3), and captions with the PSNR."""
    import torch

    from fitting.view_metrics import view_psnr
    from fitting.view_run import ViewFitConfig
    from fitting.views_fit import heldout_views

    config = ViewFitConfig()
    truth, shown, names = [], [], []
    with Progress("draw", "fields", options.output.quiet) as bar:
        for number, row in enumerate(rows, 1):
            views = held_out(store, int(row), str(options.beside), 1.0 if options.scale is None else options.scale)
            views = views.select(slice(0, MOST_BESIDE if len(rows) == 1 else 1))
            pictures = heldout_views(views, store[row], config)
            for picture, photograph in zip(pictures, views.images, strict=True):
                truth.append(photograph)
                shown.append(picture)
                names.append(f"{store.column('name')[row]}, {view_psnr(picture, photograph):.1f} dB")
            bar.update(number, len(rows), f"{number:,} of {len(rows):,}")
    if not truth:
        raise ValueError(f"{store.path} held out no views of its scenes: expected some to show beside {options.beside}")
    if len({picture.shape for picture in truth}) > 1:
        raise ValueError(f"beside={options.beside!r}: the scenes have pictures of several sizes; expected one")
    return [torch.stack(truth), torch.stack(shown)], names


def held_out(store: "FieldStore", row: int, source: str, scale: float) -> "ViewSet":
    """The photographs of a field's scene that the store says were held out, `scale` times as large as then.

    Raises ValueError where one of them is not at the source.
    """
    from apps.viewer.photographs import photographs

    views, names = photographs(store, row, source, scale).test, scene(store, row)["held_out"]
    missing = sorted(set(names) - set(views.names))
    if missing:
        name = str(store.column("name")[row])
        raise ValueError(f"beside={source!r}: scene {name!r} has no view {missing[0]!r}; expected those held out")
    return views


def film(options: "Render", store: "FieldStore", rows: np.ndarray, out: Path) -> str:
    """Write a film of one field along the path of its cameras."""
    from neuralfields.render.video import save_video
    from neuralfields.render.view import frames

    if len(rows) != 1:
        raise ValueError(f"out={options.out!r}: a video shows one field, got {len(rows)}; expected --fields N")
    about, count = scene(store, int(rows[0])), options.shapes.frames
    camera, poses = camera_of(about, drawn_size(options, about)), path(about, count)
    with Progress("draw", "pictures", options.output.quiet) as bar:

        def watched():
            shown = frames(store[rows[0]], camera, poses, background=float(about["background"][0]))
            for number, picture in enumerate(shown, 1):
                bar.update(number, count, f"{number} of {count}")
                yield picture[0]

        save_video(out, watched(), fps=FPS)
    return f"{count} pictures of field {rows[0]} along the path of its cameras"
