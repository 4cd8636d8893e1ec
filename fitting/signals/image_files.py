"""Read images from array files: .npz archives and the idx files of MNIST."""

import gzip
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fitting.signals.image_arrays import RawImages, as_labels, number_names

SPLITS = {  # the words that name a split in keys, files and folders
    "train": ("train",),
    "test": ("test", "t10k"),
    "val": ("val", "validation"),
    "validation": ("validation", "val"),
}
SPLIT_KEYS = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}"), ("{}_x", "{}_y"))
PLAIN_KEYS = (("x", "y"), ("images", "labels"), ("image", "label"), ("data", "target"), ("data", "labels"))


def read_npz(path: Path, split: str | None, limit: int | None, x_key: str | None, y_key: str | None) -> RawImages:
    """Read images and labels from an .npz archive, without pickle.

    Keys are found by name: x_<split> and y_<split>, <split>_images and <split>_labels, ...; with split=None x and y,
    images and labels, ..., or else the training part, and the split that was found is kept. `x_key` and `y_key` name
    the arrays instead. An array "classes" of strings names the labels. Raises ValueError.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"source={str(path)!r}: not a readable .npz archive (not a zip file)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = list(archive.files)
            x_name, y_name, split = _find_keys(path, keys, split, x_key, y_key)
            pixels = _array(archive, path, x_name)
            labels = None if y_name is None else _array(archive, path, y_name)
            classes = _array(archive, path, "classes") if "classes" in keys else None
    except (zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"source={str(path)!r}: not a readable .npz archive ({_one_line(error)})") from error
    labels = None if labels is None else as_labels(labels, len(pixels), f"{path.name}[{y_name!r}]")
    if limit is not None and limit < len(pixels):
        pixels, labels = pixels[:limit].copy(), None if labels is None else labels[:limit]
    text = None if classes is None or classes.ndim != 1 else tuple(str(c) for c in classes)
    return RawImages(pixels, labels, number_names(split or "image", len(pixels)), split, text)


def _find_keys(
    path: Path, keys: list[str], split: str | None, x_key: str | None, y_key: str | None
) -> tuple[str, str | None, str | None]:
    for name, key in (("x_key", x_key), ("y_key", y_key)):
        if key is not None and key not in keys:
            raise ValueError(f"{name}={key!r}: {path.name} has no such array; it has {', '.join(sorted(keys))}")
    by_lower = {key.lower(): key for key in keys}
    wanted: list[tuple[str, str, str | None]] = []
    if split is None or x_key is not None:
        wanted += [(x, y, split) for x, y in PLAIN_KEYS]
    for part in [split] if split is not None else ["train", *([] if x_key is None else ["test", "val"])]:
        wanted += [(x.format(word), y.format(word), part) for word in SPLITS[part] for x, y in SPLIT_KEYS]
    for x, y, part in wanted:
        if x in by_lower and x_key in (None, by_lower[x]):
            return by_lower[x], y_key if y_key is not None else by_lower.get(y), part
    if x_key is not None:
        return x_key, y_key, split
    tried = ", ".join(dict.fromkeys(x for x, _, _ in wanted))
    raise ValueError(
        f"split={split!r}: {path.name} has none of {tried}; it has {', '.join(sorted(keys))} (name one with x_key)"
    )


def _array(archive: Any, path: Path, key: str) -> np.ndarray:
    try:
        array = archive[key]
    except ValueError as error:
        raise ValueError(f"{path.name}[{key!r}] is not a plain array: expected numbers, not Python objects") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path.name}[{key!r}] is not an array: expected one saved by numpy")
    return array


def is_idx(path: Path) -> bool:
    """Say whether a file name is that of an idx image file, as in train-images-idx3-ubyte.gz or digits.idx."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith((".idx", "-ubyte", ".idx3-ubyte")) or "idx3" in name


def read_idx(path: Path, split: str | None, limit: int | None) -> RawImages:
    """Read an idx image file and, when it is there, the labels file of the same name ('images' -> 'labels').

    A name with the word train, test, t10k or val tells the split. Raises ValueError when that contradicts `split`, and
    for files that are not idx3 of unsigned bytes or shorter than their header says.
    """
    told = next((name for name, words in SPLITS.items() if _words(path) & set(words)), None)
    if split is not None and told is not None and told not in SPLITS[split]:
        raise ValueError(f"split={split!r}: {path.name} is named as the {told} part")
    split = split or told
    pixels = _idx_array(path, 3, limit)
    beside = _labels_beside(path)
    labels = None
    if beside is not None:
        labels = as_labels(_idx_array(beside, 1, None), _idx_count(path), beside.name)[: len(pixels)]
    return RawImages(pixels, labels, number_names(split or "image", len(pixels)), split)


def find_idx(folder: Path, split: str | None) -> Path | None:
    """Return the idx image file of a split in a folder (split=None: the training part), None without one."""
    wanted = set(SPLITS[split or "train"])
    found = [p for p in sorted(folder.iterdir()) if p.is_file() and is_idx(p) and "images" in _words(p)]
    return next((p for p in found if _words(p) & wanted), None)


def _words(path: Path) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", path.name.lower()))


def _labels_beside(path: Path) -> Path | None:
    stem = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    if stem == path.name.removesuffix(".gz"):
        return None
    return next((p for p in (path.with_name(stem), path.with_name(stem + ".gz")) if p.is_file()), None)


def _idx_bytes(path: Path, size: int) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"source={str(path)!r}: not a readable idx file ({_one_line(error)})") from error


def _idx_count(path: Path) -> int:
    return int.from_bytes(_idx_bytes(path, 8)[4:8], "big")


def _idx_array(path: Path, ndim: int, limit: int | None) -> np.ndarray:
    head = _idx_bytes(path, 4 + 4 * ndim)
    if len(head) < 4 + 4 * ndim or head[:4] != bytes((0, 0, 8, ndim)):
        raise ValueError(
            f"source={str(path)!r}: header {head[:4].hex()} is not that of an idx{ndim} file of unsigned bytes "
            f"(0000080{ndim})"
        )
    shape = [int.from_bytes(head[4 + 4 * d : 8 + 4 * d], "big") for d in range(ndim)]
    shape[0] = shape[0] if limit is None else min(limit, shape[0])
    count = int(np.prod(shape, dtype=np.int64))
    data = _idx_bytes(path, len(head) + count)[len(head) :]
    if len(data) != count:
        raise ValueError(f"source={str(path)!r}: holds {len(data):,} values, its header promises {count:,}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
