"""nf render: pictures of fields, at any size, beside the originals."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from tyro.conf import OmitArgPrefixes, arg

from apps.options import SHOWN, ImageOptions, OriginalOptions, Originals, Shown, Size, StorePath
from apps.output import Output
from apps.render_shapes import ShapeDrawing, render_shapes
from apps.render_views import render_views
from apps.selection import Positions, positions

if TYPE_CHECKING:
    from torch import Tensor

    from fitting.signals.image import ImageSignals
    from neuralfields import FieldStore

SUFFIXES = {False: (".png",), True: (".png", ".mp4", ".gif")}  # of what lies in space: also films
MOST_VALUES = 1 << 28  # of all pictures of a sheet: a GiB in single precision
HASHED_AT_ONCE = 4096  # images


@dataclass(frozen=True, kw_only=True)
class Render:
    """Draw fields of STORE as one picture: a sheet with captions, or the bare picture of a single field.

    Fields of shapes are drawn as shaded surfaces or slices, radiance fields from a new place or, with --beside, from
    where held-out photographs were taken; one of either as a film where --out is a video.
    """

    store: StorePath
    """Folder of a store."""
    out: Annotated[str, arg(metavar="FILE.png")]
    """Picture to write, or of a shape or a scene FILE.mp4 or FILE.gif."""
    fields: Positions = None
    """Positions of the fields to draw."""
    count: int = 64
    """Number of fields, spread evenly over the store, when --fields is not given."""
    size: Size = None
    """Height and width at which each field is drawn."""
    scale: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: 1)")] = None
    """Draw at so many times the stored size."""
    beside: Annotated[str | None, arg(metavar="SOURCE", help_behavior_hint="(default: none)")] = None
    """Where the originals are, to show them beside their fields; as the SOURCE that was fitted."""
    images: Originals = field(default_factory=OriginalOptions)
    shapes: Annotated[ShapeDrawing, OmitArgPrefixes] = field(default_factory=ShapeDrawing)
    output: Shown = SHOWN


def render(options: Render, output: Output) -> None:
    """Run `nf render`."""
    from neuralfields.render import image
    from neuralfields.render.sheet import save_png, sheet
    from neuralfields.store import open_store

    store = open_store(options.store)
    accepted = SUFFIXES[store.spec.in_dim != 2]
    if Path(options.out).suffix.lower() not in accepted:
        raise ValueError(f"out={options.out!r}: expected a file name that ends in {' or '.join(accepted)}")
    check_meaning(options, kind_of(store))
    rows = positions(store, options.fields, options.count)
    if options.size is not None:
        scaled(options.size, options.size, options.scale, len(rows))
    if store.spec.in_dim == 3:
        return render_shapes(options, store, rows, output)
    if store.spec.view is not None:
        return render_views(options, store, rows, output)
    size = picture_size(store, options.size, options.scale, len(rows))
    pictures = image(store[rows], size)
    columns, headers = [pictures], None
    if options.beside is not None:
        columns.insert(0, enlarge(originals(store, rows, options.beside, options.images), size))
        headers = ["original", "field"]
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    if len(rows) == 1 and options.beside is None and pictures.shape[-1] in (1, 3):
        bare = pictures[0].expand(*size, 3).mul(255).round().byte().numpy()
        save_png(options.out, np.ascontiguousarray(bare))
    else:
        save_png(options.out, sheet(columns, captions=captions(store, rows), headers=headers))
    output.facts([("drawn", f"{len(rows):,} of {len(store):,} fields at {size[0]}x{size[1]}"), ("out", options.out)])
    output.record(fields=len(rows), positions=rows, size=size, out=options.out)


def kind_of(store: "FieldStore") -> str:
    """What the fields show: pictures, shapes or scenes."""
    return "scenes" if store.spec.view is not None else "shapes" if store.spec.in_dim == 3 else "pictures"


def check_meaning(options: Render, kind: str) -> None:
    """Raise ValueError for an option that was given and says nothing of what is to be drawn."""
    film, beside = Path(options.out).suffix.lower() != ".png", options.beside is not None
    shapes, sliced = kind == "shapes", options.shapes.slice is not None
    photographs = kind == "scenes" and beside
    meanings = {  # option -> whether it has a meaning here, and what it has one for
        **dict.fromkeys(vars(options.images), (kind == "pictures" and beside, "pictures with --beside")),
        "slice": (shapes and not film, "shapes drawn to a .png"),
        "style": (shapes and not (sliced or film), "surfaces of shapes, neither slices nor films"),
        "resolution": (shapes and not sliced, "surfaces of shapes, not slices"),
        "level": (shapes, "shapes"),
        "offset": (shapes and sliced, "shapes with --slice"),
        "frames": (film, "films of a shape or a scene"),
        "scale": (not shapes, "pictures and scenes"),
        "size": (not (sliced or photographs), "what is neither a slice nor beside photographs, which take --scale"),
        "beside": (not (sliced or film), "what is neither a slice nor a film"),
    }
    defaults = {**vars(ImageOptions()), **vars(ShapeDrawing())}
    given = {**vars(options.images), **vars(options.shapes), **vars(options)}
    drawn = ("films of " if film else "slices of " if sliced and shapes else "") + kind
    for name, (has_meaning, expected) in meanings.items():
        if given[name] != defaults.get(name) and not has_meaning:
            raise ValueError(f"{name}={given[name]!r}: expected only for {expected}; these are {drawn}")


def picture_size(
    store: "FieldStore", size: tuple[int, int] | None, scale: float | None, count: int = 1
) -> tuple[int, int]:
    """Height and width to draw `count` pictures: as given, or the stored size times scale."""
    stored = (store.meta.get("signal") or {}).get("shape") or size
    if stored is None:
        raise ValueError(f"{store.path} does not say how large its pictures were: give --size H W")
    return scaled(stored, size, scale, count)


def scaled(stored: Sequence[int], size: tuple[int, int] | None, scale: float | None, count: int = 1) -> tuple[int, int]:
    """The size as given, or the stored one times scale. Raises ValueError for both, and for more than a sheet holds."""
    if size is not None and scale is not None:
        raise ValueError("size and scale are both given: expected one of them")
    sides = tuple(size or stored) if scale is None else tuple(scale * side for side in stored)
    said = f"size={sides}" if scale is None else f"scale={scale}"
    if not all(math.isfinite(side) and round(side) >= 1 for side in sides):
        raise ValueError(f"{said}: expected a finite size, at least one pixel each way")
    if 3 * count * sides[0] * sides[1] > MOST_VALUES:
        raise ValueError(f"{said}, drawn {count:,} times: expected at most {MOST_VALUES:,} values, three a pixel")
    return round(sides[0]), round(sides[1])


def captions(store: "FieldStore", rows: np.ndarray) -> list[str]:
    """One text per field: class and PSNR as far as they are known, else the position."""
    classes = (store.meta.get("signal") or {}).get("classes") or []
    psnr = store.column("psnr")[rows] if "psnr" in store.index.column_names else np.full(len(rows), np.nan)
    texts = []
    for row, label, quality in zip(rows, store.labels[rows], psnr, strict=True):
        name = f"#{row}" if label < 0 else str(classes[label]) if label < len(classes) else str(label)
        texts.append(f"{name}, {quality:.1f} dB" if np.isfinite(quality) else name)
    return texts


def originals(store: "FieldStore", rows: np.ndarray, source: str, options: ImageOptions) -> "Tensor":
    """The images that fields were fitted to, found by id: (n, H, W, C).

    Raises ValueError when some are not there, and when they are known to be others than were fitted.
    """
    found = source_images(store.meta, source, options)
    chosen = places(found, store.groups[rows], source)
    check_fitted(store, found, source, options)
    return found.values(chosen)


def places(found: "ImageSignals", ids: np.ndarray, source: str) -> np.ndarray:
    """Where the images with these ids (n,) are among those found at a source. Raises ValueError for one not there."""
    place = {int(number): position for position, number in enumerate(found.ids)}
    missing = [int(number) for number in ids if int(number) not in place]
    if missing:
        raise ValueError(
            f"beside={source!r}: has no image with id {missing[0]}; expected those the fields were fitted to"
        )
    return np.array([place[int(number)] for number in ids])


def check_fitted(store: "FieldStore", found: "ImageSignals", source: str, options: ImageOptions) -> None:
    """Raise ValueError where the checksum of a store says that the images found are not those that were fitted.

    Only a fit's own store is compared, with images as it read them: options may ask for fewer, larger or grey ones.
    """
    signal = store.meta.get("signal") or {}
    # Stores without statistics were cut or made from others: what they hold is not all that the checksum is of.
    whole = store.complete and bool(store.statistics) and signal.get("source") != "array"
    alike = [*found.shape, found.channels] == [*(signal.get("shape") or ()), signal.get("channels")]
    partial = options.limit is not None or options.split not in (None, signal.get("split"))
    if signal.get("sha256") is None or not whole or ((options.resize or options.grey) and not alike):
        return
    if partial and not np.isin(store.groups, found.ids).all():
        return
    rows, digest = places(found, store.groups, source), hashlib.sha256()
    for start in range(0, len(rows), HASHED_AT_ONCE):
        digest.update(np.ascontiguousarray(found.pixels[rows[start : start + HASHED_AT_ONCE]]).data)
    if digest.hexdigest() != signal["sha256"]:
        said = f"sha256 of its images is {digest.hexdigest()[:12]}..., expected {signal['sha256'][:12]}..."
        raise ValueError(f"beside={source!r}: {said}, the images that were fitted")


def source_images(meta: dict, source: str, options: ImageOptions) -> "ImageSignals":
    """The images at a source; the split, size and channels are those of a store's meta unless options say otherwise."""
    from fitting import images

    signal = meta.get("signal") or {}
    shape, channels = signal.get("shape"), signal.get("channels")
    options = replace(options, split=options.split or signal.get("split"))
    found = images.load(source, **vars(options))
    if shape is not None and list(found.shape) != list(shape) and options.resize is None:
        found = images.load(source, **vars(replace(options, resize=tuple(shape))))
    if channels == 1 and found.channels == 3:
        found = images.load(source, **vars(replace(options, grey=True, resize=options.resize or found.shape)))
    return found


def enlarge(pictures: "Tensor", size: tuple[int, int]) -> "Tensor":
    """Nearest-neighbour enlargement (n, H, W, C) to another size, so that the pixels of an original stay visible."""
    from torch.nn.functional import interpolate

    if tuple(pictures.shape[1:3]) == size:
        return pictures
    return interpolate(pictures.permute(0, 3, 1, 2), size=size, mode="nearest-exact").permute(0, 2, 3, 1)
