"""Posed views as signals: scenes of photographs or renderings with their cameras, for radiance fields.

One scene is a `ViewSet`, read by `load`; many are `ViewSignals`, read by `load_many`.

Legend: N scenes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fitting.signals.image import ID_OFFSETS
from fitting.signals.image_files import SPLITS
from fitting.signals.lens import Lens as Lens
from fitting.signals.scene_box import SceneBox as SceneBox
from fitting.signals.scene_box import near_far as near_far
from fitting.signals.view_scene import Background, is_scene
from fitting.signals.view_scene import load as load
from fitting.signals.view_set import Rays as Rays
from fitting.signals.view_set import ViewSet as ViewSet
from fitting.signals.view_set import rays as rays


@dataclass(frozen=True, eq=False)
class ViewSignals:
    """N scenes, each what one field is fitted to.

    scenes: N view sets; labels (N,) int64 or None; names: N of them; ids (N,) uint32: what the randomness of a field
    hangs on; classes: name of every label or None; failed: scenes that could not be read, with the reason; reading: how
    pictures were read, `scale` and `holdout` as in `load`, empty where that is not known. Raises ValueError for other
    lengths.
    """

    scenes: tuple[ViewSet, ...]
    labels: np.ndarray | None
    names: tuple[str, ...]
    ids: np.ndarray
    source: str = "views"
    split: str | None = None
    classes: tuple[str, ...] | None = None
    failed: dict[str, str] = field(default_factory=dict)
    reading: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("labels", "names", "ids"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.scenes):
                raise ValueError(f"{name} has {len(value)} entries: expected {len(self.scenes)}, one per scene")

    def __len__(self) -> int:
        return len(self.scenes)

    def __iter__(self) -> Iterator[ViewSet]:
        return iter(self.scenes)

    def __getitem__(self, position: int) -> ViewSet:
        return self.scenes[position]

    @property
    def channels(self) -> int:
        """Number of values per pixel: 3."""
        return 3

    def select(self, positions: slice | Sequence[int] | np.ndarray) -> "ViewSignals":
        """Return the scenes at these positions (a slice, integers or a mask), with their ids kept."""
        rows = np.arange(len(self))[positions]
        return replace(
            self,
            scenes=tuple(self.scenes[row] for row in rows),
            labels=None if self.labels is None else self.labels[rows],
            names=tuple(self.names[row] for row in rows),
            ids=self.ids[rows],
        )

    def describe(self) -> dict:
        """Return the JSON values that a store keeps about its signals."""
        return {
            "kind": "views",
            "source": self.source,
            "split": self.split,
            "classes": None if self.classes is None else list(self.classes),
            "scenes": [scene.describe() for scene in self.scenes],
            "failed": self.failed,
            "reading": self.reading,
        }


def from_scenes(
    scenes: Sequence[ViewSet],
    labels: Sequence[int] | None = None,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    source: str = "views",
    reading: dict[str, float] | None = None,
) -> ViewSignals:
    """Make a population of scenes in memory; ids are positions plus 0 (train, None), 2^30 (test) or 2^31 (val).

    Raises ValueError for labels of another length and unknown splits.
    """
    if split not in ID_OFFSETS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)} or None")
    ids = (np.arange(len(scenes), dtype=np.int64) + ID_OFFSETS[split]).astype(np.uint32)
    own = None if labels is None else np.asarray(labels, np.int64)
    names = tuple(scene.name for scene in scenes)
    words = None if classes is None else tuple(classes)
    return ViewSignals(tuple(scenes), own, names, ids, source, split, words, reading=reading or {})


def load_many(
    folder: str | Path,
    split: str | None = None,
    limit: int | None = None,
    scale: float = 1.0,
    background: Background = "white",
    holdout: int = 8,
    box: SceneBox | None = None,
) -> ViewSignals:
    """Load a folder of scenes, each a sub-folder that `load` reads, or of classes with such sub-folders in them.

    split: "train", "test" or "val" reads the scenes in the sub-folder of that name; None reads all, or the "train" part
    where all sub-folders are named after splits. Every scene comes with all its views, held-out ones marked. limit: the
    first so many scenes; scale, background, holdout, box: as in `load` (one box for all makes fields comparable).
    A scene that cannot be read is listed in `failed` and the others go on. Ids are positions among all scenes of the
    part, failed ones included, plus 0 (train, None), 2^30 (test) or 2^31 (val). A folder that is itself a scene is a
    population of one. Raises FileNotFoundError for a missing folder, and ValueError where no scene can be read.
    """
    root = Path(folder)
    if split not in ID_OFFSETS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)} or None")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit={limit!r}: expected a positive integer or None")
    if not root.is_dir():
        raise FileNotFoundError(f"folder={str(folder)!r}: no such folder")
    parts = _parts(root)
    if split is None and len(parts) == len(_folders(root)) and "train" in parts:
        split = "train"
    part = root if split is None else next((parts[word] for word in SPLITS[split] if word in parts), None)
    if part is None:
        raise ValueError(f"split={split!r}: {str(folder)!r} has no sub-folder of that name")
    found, labelled = _find_scenes(part)
    if not found:
        raise ValueError(f"folder={str(part)!r}: no scenes: expected sub-folders with transforms.json or cameras.txt")
    everywhere = [part] if split is None else list(parts.values())
    classes = sorted({scene.parent.name for p in everywhere for scene in _find_scenes(p)[0]}) if labelled else None
    scenes: dict[int, ViewSet] = {}
    failed: dict[str, str] = {}
    names = [scene.relative_to(part).as_posix() if scene != part else part.resolve().name for scene in found]
    for i, path in enumerate(found[:limit]):
        try:
            scenes[i] = load(path, None, scale, background, holdout, box)
        except (ValueError, OSError) as error:
            failed[names[i]] = " ".join(str(error).split())
    if not scenes:
        name, reason = next(iter(failed.items()))
        raise ValueError(f"folder={str(part)!r}: none of {len(failed)} scenes can be read; {name!r}: {reason}")
    return ViewSignals(
        scenes=tuple(scenes.values()),
        labels=None if classes is None else np.array([classes.index(found[i].parent.name) for i in scenes], np.int64),
        names=tuple(names[i] for i in scenes),
        ids=(np.array(list(scenes), np.int64) + ID_OFFSETS[split]).astype(np.uint32),
        source=root.resolve().name,
        split=split,
        classes=None if classes is None else tuple(classes),
        failed=failed,
        reading={"scale": scale, "holdout": holdout},
    )


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _parts(root: Path) -> dict[str, Path]:
    """Sub-folders that hold the scenes of a split, by that word; none where the folder is itself a scene."""
    words = {word for names in SPLITS.values() for word in names}
    return {} if is_scene(root) else {p.name.lower(): p for p in _folders(root) if p.name.lower() in words}


def _find_scenes(root: Path) -> tuple[list[Path], bool]:
    """Folders of scenes, and whether they lie in folders of classes. Raises ValueError for scenes beside classes."""
    if is_scene(root):
        return [root], False
    direct = [p for p in _folders(root) if is_scene(p)]
    nested = [p for parent in _folders(root) if not is_scene(parent) for p in _folders(parent) if is_scene(p)]
    if direct and nested:
        raise ValueError(f"folder={str(root)!r}: scene {direct[0].name!r} lies beside classes; put it into one of them")
    return direct or nested, bool(nested)
