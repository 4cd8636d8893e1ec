"""Photographs that radiance fields were fitted to, found again at their source, in the size that was fitted."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from apps.viewer.collection import Part
    from fitting.signals.views import ViewSet
    from neuralfields import FieldStore


def photographs(part: "FieldStore | Part", row: int, source: str, scale: float = 1.0) -> "ViewSet":
    """All photographs of a field's scene, those that were held out marked, in the box of the store.

    scale: of the size that was fitted. Raises ValueError for a source without the scene and for pictures larger than
    its own, FileNotFoundError for one that is not there.
    """
    from apps.render_views import scene
    from fitting.signals.view_scene import load, picture_size
    from fitting.signals.views import SceneBox

    about, signal = scene(part, row), part.meta.get("signal") or {}
    path = scene_path(Path(source), signal.get("split"), str(part.column("name")[row]))
    fitted = (signal.get("reading") or {}).get("scale") or min(1.0, about["shape"][0] / picture_size(path)[0])
    if not 0.0 < scale * fitted <= 1.0:
        raise ValueError(f"scale={scale}: expected above 0 and at most {1.0 / fitted:g}, the size of the photographs")
    box = SceneBox(tuple(about["box"]["centre"]), about["box"]["half"])
    views = load(path, None, scale * fitted, tuple(about["background"]), 0, box)
    held = set(about["held_out"])
    return replace(views, held_out=np.array([name in held for name in views.names]))


def scene_path(source: Path, split: str | None, name: str) -> Path:
    """Where one scene of a source lies: the source itself, or a folder in it or in its split.

    Raises FileNotFoundError for a source that is not there, ValueError for one without the scene and for a name that
    leads out of it.
    """
    from fitting.signals.image_files import SPLITS
    from fitting.signals.view_files import inside
    from fitting.signals.view_scene import is_scene

    if not source.exists():
        raise FileNotFoundError(f"beside={str(source)!r}: no such file or folder")
    if source.is_file() or is_scene(source):
        return source
    inside(source, name, f"beside={str(source)!r}: name", "the folder")  # names come with the store
    words = SPLITS[split or "train"]
    folders = [source, *(folder for folder in source.iterdir() if folder.name.lower() in words)]
    found = next((folder / name for folder in folders if (folder / name).is_dir() and is_scene(folder / name)), None)
    if found is None:
        raise ValueError(f"beside={str(source)!r}: has no scene {name!r}; expected those of the store")
    return found


def smaller(views: "ViewSet", height: int) -> "ViewSet":
    """The same photographs with at most so many rows of pixels, shrunk by area."""
    import torch

    from fitting.signals.view_pictures import shrink

    if views.shape[0] <= height:
        return views
    pictures = np.stack([shrink(picture.numpy(), height / views.shape[0]) for picture in views.images])
    rows, columns = pictures.shape[1:3]
    cameras = tuple(camera.resized(columns, rows) for camera in views.cameras)
    return replace(views, images=torch.from_numpy(pictures), cameras=cameras)
