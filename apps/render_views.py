"""nf render for radiance fields: views from new places, held-out views beside photographs, films along a path."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.output import Output
from apps.progress import Progress

if TYPE_CHECKING:
    from apps.render import Render
    from apps.viewer.collection import Part
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
    return None if options.size is None else 1


def scene(store: "FieldStore | Part", row: int) -> dict[str, Any]:
    """What the store keeps of a field's scene. Raises ValueError where it keeps no cameras."""
    found = {about["name"]: about for about in (store.meta.get("signal") or {}).get("scenes") or []}
    about = found.get(Path(str(store.column("name")[row])).name) or found.get(str(store.column("name")[row]))
    if about is None or not about.get("camera"):
        raise ValueError(f"{store.path} keeps no cameras of field {row}: expected a store that `nf fit views` wrote")
    return about


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
            camera = camera_of(about, options.size)
            camera = camera.at(path(about, 2 * len(about["poses"]))[1]) if len(about["poses"]) > 1 else camera
            pictures.append(view(store[row], camera, background=torch.tensor(about["background"])).colour[0])
            bar.update(number, len(rows), f"{number:,} of {len(rows):,}")
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError("the scenes have pictures of several sizes: give --size H W")
    return torch.stack(pictures)


def beside(options: "Render", store: "FieldStore", rows: np.ndarray) -> tuple[list[Any], list[str]]:
    """Held-out photographs and what the fields show there: two (n, H, W, 3), and captions with the PSNR."""
    import torch

    from apps.fit_views import FitViews, load
    from fitting.view_metrics import view_psnr
    from fitting.view_run import ViewFitConfig
    from fitting.views_fit import heldout_views

    about = store.meta["signal"]["scenes"]
    background = "black" if about and about[0]["background"] == [0.0, 0.0, 0.0] else "white"
    scale = options.scale if options.scale is not None else 1.0
    signals = load(FitViews(source=str(options.beside), out="", scale=scale, background=background))
    config = ViewFitConfig()
    places = {name: place for place, name in enumerate(signals.names)}
    truth, shown, names = [], [], []
    with Progress("draw", "fields", options.output.quiet) as bar:
        for number, row in enumerate(rows, 1):
            name = str(store.column("name")[row])
            if name not in places:
                raise ValueError(f"beside={options.beside!r}: has no scene {name!r}")
            views = signals[places[name]].test
            views = views.select(slice(0, MOST_BESIDE if len(rows) == 1 else 1))
            pictures = heldout_views(views, store[row], config)
            for picture, photograph in zip(pictures, views.images, strict=True):
                truth.append(photograph)
                shown.append(picture)
                names.append(f"{name}, {view_psnr(picture, photograph):.1f} dB")
            bar.update(number, len(rows), f"{number:,} of {len(rows):,}")
    if not truth:
        raise ValueError(f"beside={options.beside!r}: its scenes hold out no views")
    if len({picture.shape for picture in truth}) > 1:
        raise ValueError(f"beside={options.beside!r}: the scenes have pictures of several sizes; expected one")
    return [torch.stack(truth), torch.stack(shown)], names


def film(options: "Render", store: "FieldStore", rows: np.ndarray, out: Path) -> str:
    """Write a film of one field along the path of its cameras."""
    from neuralfields.render.video import save_video
    from neuralfields.render.view import frames

    if len(rows) != 1:
        raise ValueError(f"out={options.out!r}: a video shows one field, got {len(rows)}; expected --fields N")
    about, count = scene(store, int(rows[0])), options.shapes.frames
    camera, poses = camera_of(about, options.size), path(about, count)
    with Progress("draw", "pictures", options.output.quiet) as bar:

        def watched():
            shown = frames(store[rows[0]], camera, poses, background=float(about["background"][0]))
            for number, picture in enumerate(shown, 1):
                bar.update(number, count, f"{number} of {count}")
                yield picture[0]

        save_video(out, watched(), fps=FPS)
    return f"{count} pictures of field {rows[0]} along the path of its cameras"
