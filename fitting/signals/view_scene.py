"""Read one scene of posed views: photographs or renderings with their cameras. Exported by `fitting.signals.views`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fitting.signals.colmap import find_model, read_colmap
from fitting.signals.image_files import SPLITS
from fitting.signals.lens import Lens
from fitting.signals.scene_box import SceneBox
from fitting.signals.view_files import Frame, SceneFiles, read_transforms
from fitting.signals.view_pictures import Colour, as_background, read_view, shrink
from fitting.signals.view_set import ViewSet, sees_box
from neuralfields.render.cameras import Camera

MAIN_FILES = ("transforms_train.json", "transforms.json")

Background = str | tuple[float, float, float]


def load(
    source: str | Path,
    split: str | None = None,
    scale: float = 1.0,
    background: Background = "white",
    holdout: int = 8,
    box: SceneBox | None = None,
) -> ViewSet:
    """Load one scene: a folder of nerf-synthetic or instant-ngp, a COLMAP text model with pictures, or a .json file.

    split: None for all views with the held-out ones marked, "train" or "test" for one part, "val" for the views of
    transforms_val.json. Held out are the views of transforms_test.json, or else every `holdout`-th view in the order of
    names, counting those whose picture is on disk (0: none). scale: 0 to 1, shrinks pictures by area averaging.
    background: what pictures with alpha are blended over.
    box: which part of the world becomes [-1, 1]^3. None takes [-1.5, 1.5]^3 for nerf-synthetic; otherwise the centre is
    the point nearest to all lines of sight, and the farthest camera lies at distance 1 from it (`box_around`), unless
    aabb_scale names a smaller box. So photographs of a scene without bounds, such as the fox, have their cameras in or
    just outside of the box, and what lies behind it is not represented.
    Views without a readable picture, of another size than most, or that see nothing of the box are left out and listed
    in `skipped`. Raises FileNotFoundError for a missing path and ValueError for everything that cannot be read.
    """
    _check(split, scale, holdout)
    colour = as_background(background)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"source={str(source)!r}: no such file or folder")
    files = _find_files(path, split)
    found = {frame.name: frame.find() for frame in files.frames}
    held = files.held_out
    if held is None:
        listed = [name for name, picture in found.items() if picture is not None]
        held = frozenset(listed[::holdout] if holdout else ())
    wanted = [f for f in files.frames if split is None or (f.name in held) == (split != "train")]
    if not wanted:
        raise ValueError(f"split={split!r}: {str(path)!r} has {len(files.frames)} views, none of them in this part")
    own_box = files.scene_box() if box is None else box
    views, skipped = _read_views(wanted, found, own_box, scale, colour)
    if not views:
        name, reason = next(iter(skipped.items()))
        raise ValueError(f"source={str(path)!r}: none of {len(wanted)} views can be used; {name!r}: {reason}")
    if split is None and all(view.name in held for view in views):
        raise ValueError(f"source={str(path)!r}: all {len(views)} views are held out; give holdout=0 or add views")
    return ViewSet(
        name=(path if path.is_dir() else path.parent).resolve().name,
        images=torch.from_numpy(np.stack([view.image for view in views])),
        cameras=tuple(view.camera for view in views),
        lenses=tuple(view.lens for view in views),
        names=tuple(view.name for view in views),
        held_out=np.array([view.name in held for view in views]),
        box=own_box,
        background=colour,
        skipped=skipped,
    )


@dataclass(frozen=True, eq=False)
class _View:
    name: str
    image: np.ndarray
    camera: Camera
    lens: Lens


def is_scene(folder: Path) -> bool:
    """Say whether a folder has the files of a scene: a transforms.json, transforms_train.json or a COLMAP model."""
    return any((folder / name).is_file() for name in MAIN_FILES) or find_model(folder) is not None


def picture_size(source: str | Path) -> tuple[int, int]:
    """(height, width) in pixels of a scene's first picture as it is on disk. Raises ValueError where none is there."""
    from PIL import Image

    paths = (frame.find() for frame in _find_files(Path(source), None).frames)
    first = next((path for path in paths if path is not None), None)
    if first is None:
        raise ValueError(f"source={str(source)!r}: none of its pictures is on disk; expected at least one")
    with Image.open(first) as picture:
        return picture.height, picture.width


def _check(split: str | None, scale: float, holdout: int) -> None:
    if split is not None and split not in SPLITS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)} or None")
    if not 0.0 < scale <= 1.0:
        raise ValueError(f"scale={scale!r}: expected a number above 0 and at most 1")
    if isinstance(holdout, bool) or not isinstance(holdout, int) or holdout < 0 or holdout == 1:
        raise ValueError(f"holdout={holdout!r}: expected 0 (hold out nothing) or an integer of at least 2")


def _find_files(path: Path, split: str | None) -> SceneFiles:
    """Find the reader of a scene: of one JSON file, of a folder with such files, of a COLMAP model."""
    validation = split in ("val", "validation")
    if path.is_file():
        if path.suffix.lower() != ".json" or validation:
            raise ValueError(f"source={str(path)!r}, split={split!r}: expected a folder, or a .json and train or test")
        return read_transforms(path)
    main = next((path / name for name in MAIN_FILES if (path / name).is_file()), None)
    model = find_model(path)
    if main is not None:
        test = path / ("transforms_val.json" if validation else "transforms_test.json")
        if validation and not test.is_file():
            raise ValueError(f"split={split!r}: {str(path)!r} has no transforms_val.json")
        return read_transforms(main, test if test.is_file() else None)
    if model is None or validation:
        expected = "transforms_val.json" if validation else "transforms.json, transforms_train.json or cameras.txt"
        raise ValueError(f"source={str(path)!r}, split={split!r}: no scene in this folder, expected {expected}")
    return read_colmap(path, model)


def _read_views(
    frames: Sequence[Frame], found: dict[str, Path | None], box: SceneBox, scale: float, background: Colour
) -> tuple[list[_View], dict[str, str]]:
    """Read what can be read, and say of the rest why not."""
    views: list[_View] = []
    skipped: dict[str, str] = {}
    for frame in frames:
        try:
            views.append(_read_one(frame, found[frame.name], box, scale, background))
        except ValueError as error:
            skipped[frame.name] = str(error)
    sizes = Counter(view.image.shape for view in views)
    if len(sizes) > 1:
        h, w = sizes.most_common(1)[0][0][:2]
        for view in [view for view in views if view.image.shape[:2] != (h, w)]:
            skipped[view.name] = f"picture is {view.camera.h}x{view.camera.w}, most are {h}x{w}"
        views = [view for view in views if view.name not in skipped]
    return views, skipped


def _read_one(frame: Frame, path: Path | None, box: SceneBox, scale: float, background: Colour) -> _View:
    if path is None:
        raise ValueError("no such file, nor with .png, .jpg or .jpeg at its end")
    full = read_view(path, background)
    camera = box.camera_to_scene(frame.camera((full.shape[0], full.shape[1])))
    if not sees_box(camera, frame.lens):
        raise ValueError("its camera sees nothing: no ray meets the box of the scene")
    image = shrink(full, scale)
    return _View(frame.name, image, camera.resized(image.shape[1], image.shape[0]), frame.lens)
