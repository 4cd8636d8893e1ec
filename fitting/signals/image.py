"""Image signals: pictures as what fields are fitted to. Exported as `fitting.images`.

Legend: N images, H rows, W columns, C channels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fitting.config import Loss
from fitting.metrics import psnr
from fitting.signals.image_arrays import RawImages, as_labels, as_pixels, check_range, number_names, resize_all, to_grey
from fitting.signals.image_files import SPLITS, find_idx, is_idx, read_idx, read_npz
from fitting.signals.image_folder import (
    SKIMAGE_ALIASES,
    SUFFIXES,
    read_folder,
    read_picture,
    read_skimage,
    skimage_files,
)
from fitting.signals.signal import Points
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import normalise
from neuralfields.grids import image_coords
from neuralfields.spec import FieldSpec

ID_OFFSETS = {None: 0, "train": 0, "test": 2**30, "val": 2**31, "validation": 2**31}
MAX_FITS, FIT_STRIDE = 64, 2**24  # of one image; 64 strides are the ids of a split
NUM_DIGITS_TRAIN = 1437  # the first four fifths of scikit-learn's 1,797 digits; the rest is the test part

Positions = slice | Sequence[int] | np.ndarray


@dataclass(frozen=True, eq=False)
class ImageSignals:
    """N images of one size.

    pixels (N, H, W, C): uint8, or float32 in [0, 1]; labels (N,) int64 or None; names: N of them; ids (N,) uint32: what
    the randomness of a field hangs on; classes: name of every label or None; groups (N,) uint32: ids of the images
    where each is there several times, else None. Raises ValueError for anything else.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...]
    ids: np.ndarray
    source: str = "array"
    split: str | None = None
    classes: tuple[str, ...] | None = None
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"pixels has shape {self.pixels.shape}, dtype {self.pixels.dtype}: "
                "expected (N, H, W, C) uint8 or float32; from_array() converts"
            )
        if len(self.pixels) and self.pixels.dtype == np.float32:
            check_range(self.pixels)
        for name in ("labels", "names", "ids", "groups"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.pixels):
                raise ValueError(f"{name} has {len(value)} entries: expected {len(self.pixels)}, one per image")
        if self.classes is not None and self.labels is not None and len(self.labels):
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= len(self.classes):
                raise ValueError(
                    f"labels run from {low} to {high}: expected 0 to {len(self.classes) - 1} for the classes"
                )

    def __len__(self) -> int:
        return len(self.pixels)

    def given_labels(self) -> np.ndarray:
        """Labels (N,) int64. Raises ValueError where there are none."""
        if self.labels is None:
            raise ValueError(f"source={self.source!r}, split {self.split}: expected images with labels")
        return self.labels

    @property
    def shape(self) -> tuple[int, int]:
        """Size of every image: (H, W)."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.pixels.shape[3]

    def select(self, positions: Positions) -> "ImageSignals":
        """Return the images at these positions (a slice, integers or a mask), with their ids kept."""
        rows = np.arange(len(self))[positions]
        labels = None if self.labels is None else self.labels[rows]
        names = tuple(self.names[row] for row in rows)
        groups = None if self.groups is None else self.groups[rows]
        pixels = self.pixels[positions]
        return replace(self, pixels=pixels, labels=labels, names=names, ids=self.ids[rows], groups=groups)

    def repeated(self, fits: int) -> "ImageSignals":
        """Every image `fits` times in a row, for as many fields with a start of their own, in one group.

        The first has the image's id, fit number k that plus k * 2^24. Raises ValueError for other than 1 to 64, and for
        ids that would meet.
        """
        if not 1 <= fits <= MAX_FITS:
            raise ValueError(f"fits={fits}: expected a whole number from 1 to {MAX_FITS}")
        if fits == 1:
            return self
        first = ID_OFFSETS[self.split]
        if self.groups is not None or int(self.ids.max()) - first >= FIT_STRIDE:
            raise ValueError(f"fits={fits}: expected images with ids below {FIT_STRIDE:,}, each there once")
        rows = np.repeat(np.arange(len(self)), fits)
        each = self.select(rows)
        numbers = np.tile(np.arange(fits, dtype=np.uint32), len(self))
        return replace(each, ids=each.ids + numbers * np.uint32(FIT_STRIDE), groups=each.ids)

    def values(self, positions: Positions = slice(None)) -> Tensor:
        """Return pixel values in [0, 1]: (n, H, W, C) float32, a copy."""
        pixels = self.pixels[positions]
        if pixels.dtype == np.uint8:
            return torch.from_numpy(pixels.astype(np.float32) / np.float32(255))
        return torch.from_numpy(np.array(pixels, order="C"))

    def coords(self, spec: FieldSpec) -> Tensor:
        """Return the coordinates of the pixels in the spec's convention, in [-1, 1]: (H * W, 2), rows first."""
        return image_coords(spec, self.shape)

    @property
    def losses(self) -> tuple[Loss, ...]:
        """Those of values."""
        return "mse", "l1"

    def targets(self, spec: FieldSpec, positions: Positions = slice(None)) -> Tensor:
        """Return what the raw outputs of fields have to be, (value - offset) / scale: (n, H * W, C) float32.

        Raises ValueError when the spec has another number of outputs than the images have channels.
        """
        if spec.out_dim != self.channels:
            raise ValueError(f"spec has out_dim={spec.out_dim}: expected {self.channels}, the channels of the images")
        return normalise(spec, self.values(positions).flatten(1, 2))

    def points(self, spec: FieldSpec) -> Points:
        """Return the pixels of all images as points, all images sharing their coordinates."""
        grid = self.shape if spec.axes == "ij" else None
        return Points(self.coords(spec), self.targets(spec), grid)

    def quality(self, fields: FieldBatch) -> dict[str, np.ndarray]:
        """Return the PSNR of every field in dB."""
        coords = self.coords(fields.spec).to(fields.weights[0].dtype)
        return {"psnr": psnr(fields, coords, self.values().flatten(1, 2)).numpy()}

    def columns(self) -> dict[str, np.ndarray]:
        """Return the groups of images that are there several times."""
        return {} if self.groups is None else {"group": self.groups}

    def describe(self) -> dict:
        """Return the JSON values that a store keeps about its signals."""
        return {
            "kind": "image",
            "shape": list(self.shape),
            "channels": self.channels,
            "source": self.source,
            "split": self.split,
            "classes": None if self.classes is None else list(self.classes),
            "sha256": hashlib.sha256(np.ascontiguousarray(self.pixels).data).hexdigest(),
        }


def from_array(
    pixels: np.ndarray | Tensor,
    labels: np.ndarray | Tensor | Sequence[int] | None = None,
    *,
    names: Sequence[str] | None = None,
    split: str | None = None,
    source: str = "array",
    classes: Sequence[str] | None = None,
) -> ImageSignals:
    """Make image signals from an array in memory: (N, H, W) or (N, H, W, C), uint8, uint16 or floats in [0, 1].

    Raises ValueError for other arrays (see `as_pixels`), labels of another length, unknown splits.
    """
    _check_split(split)
    array = as_pixels(np.asarray(pixels))
    count = len(array)
    own = None if labels is None else as_labels(np.asarray(labels), count)
    ids = (np.arange(count, dtype=np.int64) + ID_OFFSETS[split]).astype(np.uint32)
    given = number_names(split or "image", count) if names is None else tuple(names)
    return ImageSignals(array, own, given, ids, source, split, None if classes is None else tuple(classes))


def load(
    source: str | Path,
    split: str | None = None,
    limit: int | None = None,
    resize: tuple[int, int] | None = None,
    grey: bool = False,
    x_key: str | None = None,
    y_key: str | None = None,
) -> ImageSignals:
    """Load images: "mnist.npz", a folder, an idx file, a photograph, "digits", "skimage:camera" or just "camera".

    split: "train", "test", "val" or "validation"; None takes everything, or the training part where the source has
    parts, and the result says so. limit: the first so many images. resize: (H, W), antialiased. grey: one channel.
    x_key, y_key: arrays of an .npz. A built-in name wins over a folder of that name: write "./digits" for the folder.
    Ids are positions within the split plus 0 (train, None), 2^30 (test) or 2^31 (val), whatever the limit.
    Raises FileNotFoundError for a missing path and ValueError for everything that cannot be read as images.
    """
    _check_split(split)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit={limit!r}: expected a positive integer or None")
    if resize is not None and (len(resize) != 2 or min(resize) < 2):
        raise ValueError(f"resize={resize!r}: expected (H, W), each at least 2")
    raw, name = _read(source, split, limit, resize, x_key, y_key)
    pixels = as_pixels(raw.pixels, name)
    pixels = to_grey(pixels) if grey else pixels
    pixels = pixels if resize is None else resize_all(pixels, resize)
    return from_array(pixels, raw.labels, names=raw.names, split=raw.split, source=name, classes=raw.classes)


def _check_split(split: str | None) -> None:
    if split not in ID_OFFSETS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)} or None")


def _read(
    source: str | Path,
    split: str | None,
    limit: int | None,
    resize: tuple[int, int] | None,
    x_key: str | None,
    y_key: str | None,
) -> tuple[RawImages, str]:
    """Find the reader for a source; return what it read and the name to record (no folders: stores travel)."""
    path = Path(source)
    if (x_key or y_key) and path.suffix.lower() != ".npz":
        raise ValueError(f"x_key={x_key!r}, y_key={y_key!r}: expected an .npz source, got {str(source)!r}")
    if source == "digits":
        return _digits(split, limit), "digits"
    bare = isinstance(source, str) and SKIMAGE_ALIASES.get(source, source) in skimage_files()
    if bare or str(source).startswith("skimage:"):
        _no_split(source, split)
        name = str(source).removeprefix("skimage:")
        return read_skimage(name), f"skimage:{name}"
    if not path.exists():
        if isinstance(source, str) and not path.suffix and len(path.parts) < 2:
            raise ValueError(
                f"source={source!r}: no such file or folder, nor 'digits' or a picture inside scikit-image "
                "(camera, astronaut, ...); expected one of these, an .npz, an idx file, a PNG or JPEG"
            )
        raise FileNotFoundError(f"source={str(source)!r}: no such file or folder")
    if path.is_dir():
        idx = find_idx(path, split)
        raw = read_folder(path, split, limit, resize) if idx is None else read_idx(idx, split, limit)
        return raw, path.resolve().name
    return _read_file(path, split, limit, x_key, y_key), path.name


def _read_file(path: Path, split: str | None, limit: int | None, x_key: str | None, y_key: str | None) -> RawImages:
    if path.suffix.lower() == ".npz":
        return read_npz(path, split, limit, x_key, y_key)
    if is_idx(path):
        return read_idx(path, split, limit)
    if path.suffix.lower() in SUFFIXES:
        _no_split(path, split)
        return RawImages(read_picture(path)[None], None, (path.name,))
    raise ValueError(f"source={str(path)!r}: expected a folder, an .npz, an idx file, a PNG or a JPEG")


def _no_split(source: str | Path, split: str | None) -> None:
    if split is not None:
        raise ValueError(f"split={split!r}: {str(source)!r} is one picture and has no parts; expected None")


def _digits(split: str | None, limit: int | None) -> RawImages:
    """The 1,797 digits of 8 x 8 pixels inside scikit-learn, 17 grey levels scaled to [0, 1], in their own order."""
    from sklearn.datasets import load_digits

    if split not in (None, "train", "test"):
        raise ValueError(f"split={split!r}: 'digits' has train ({NUM_DIGITS_TRAIN:,} images), test and None (all)")
    images, labels = load_digits(return_X_y=True)
    part = {None: slice(None), "train": slice(NUM_DIGITS_TRAIN), "test": slice(NUM_DIGITS_TRAIN, None)}[split]
    pixels = (images[part][:limit].reshape(-1, 8, 8) / 16.0).astype(np.float32)
    names = number_names(split or "digit", len(pixels))
    return RawImages(pixels, np.asarray(labels)[part][:limit], names, split, tuple("0123456789"))
