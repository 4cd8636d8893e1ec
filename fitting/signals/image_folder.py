"""Read images from picture files: one photograph, a folder of PNG or JPEG files, the pictures of scikit-image."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fitting.signals.image_arrays import RawImages, as_pixels, resize_image
from fitting.signals.image_files import SPLITS

SUFFIXES = (".png", ".jpg", ".jpeg")
GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "F")
SKIMAGE_ALIASES = {  # names of skimage.data functions whose file is called otherwise
    "cat": "chelsea",
    "checkerboard": "chessboard_GRAY",
    "clock": "clock_motion",
    "colorwheel": "color",
    "immunohistochemistry": "ihc",
    "shepp_logan_phantom": "phantom",
}


def read_picture(path: Path) -> np.ndarray:
    """Read one picture file: (H, W, 1) for grey and (H, W, 3) for colour, uint8, or float32 in [0, 1] from 16 bits.

    Palettes are resolved, the orientation that a camera noted is applied, an opaque alpha channel is dropped. Raises
    ValueError for a file that cannot be decoded or that has transparent pixels.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            file.load()
            picture = ImageOps.exif_transpose(file)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{str(path)!r} is not a readable picture ({' '.join(str(error).split())})") from error
    if picture.mode == "P" or "transparency" in picture.info:
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode in ("LA", "RGBA", "La", "RGBa", "PA"):
        picture = _drop_alpha(path, picture.convert("LA" if picture.mode in ("LA", "La") else "RGBA"))
    if picture.mode not in ("RGB", *GREY_MODES):
        picture = _convert(path, picture)
    if picture.mode == "1":
        picture = picture.convert("L")
    array = np.asarray(picture)
    return as_pixels(array[None], str(path))[0]


def _drop_alpha(path: Path, picture: Any) -> Any:
    if picture.getchannel("A").getextrema() != (255, 255):
        raise ValueError(f"{str(path)!r} has transparent pixels ({picture.mode}): convert it to RGB first")
    return picture.convert("L" if picture.mode == "LA" else "RGB")


def _convert(path: Path, picture: Any) -> Any:
    if picture.mode in ("CMYK", "YCbCr", "HSV", "LAB"):
        return picture.convert("RGB")
    raise ValueError(f"{str(path)!r} has pixels of mode {picture.mode}: expected 8 or 16 bit grey or 8 bit RGB")


def read_folder(folder: Path, split: str | None, limit: int | None, resize: tuple[int, int] | None) -> RawImages:
    """Read a folder of pictures, ordered by relative path; sub-folders, if any, are the classes.

    With `split`, the sub-folder of that name is read; without, and if all sub-folders are named after splits, the
    training part. Labels index the sorted class names of all parts together. Grey pictures among coloured ones become
    grey RGB. Raises ValueError for no pictures, several sizes without `resize`, pictures beside class folders.
    """
    root, split, roots = _split_root(folder, split)
    files = _pictures(root)
    if not files:
        raise ValueError(f"source={str(root)!r}: no PNG or JPEG files in this folder")
    first_parts = [f.relative_to(root).parts for f in files]
    loose = [p[0] for p in first_parts if len(p) == 1]
    labels, classes = None, None
    if len(loose) < len(files):
        if loose:
            raise ValueError(f"source={str(root)!r}: {loose[0]!r} lies beside class folders; put it into one of them")
        names = {f.relative_to(r).parts[0] for r in roots for f in _pictures(r) if f.parent != r}
        classes = tuple(sorted(names))
        position = {name: i for i, name in enumerate(classes)}
        labels = np.array([position[p[0]] for p in first_parts], np.int64)
    files = files[:limit]
    pixels = _stack(root, files, resize)
    names = tuple(f.relative_to(root).as_posix() for f in files)
    return RawImages(pixels, None if labels is None else labels[: len(files)], names, split, classes)


def _split_root(folder: Path, split: str | None) -> tuple[Path, str | None, list[Path]]:
    """Return the folder to read, its split, and the folders of all splits (they share one list of classes)."""
    inside = {p.name.lower(): p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    parts = [p for name, p in inside.items() if name in SPLITS]
    if split is None:
        if not parts or len(parts) < len(inside) or "train" not in inside:
            return folder, None, [folder]
        split = "train"
    found = next((inside[name] for name in SPLITS[split] if name in inside), None)
    if found is None:
        raise ValueError(f"split={split!r}: {str(folder)!r} has no sub-folder of that name")
    return found, split, parts


def _pictures(root: Path) -> list[Path]:
    found = [p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()]
    return sorted(found, key=lambda p: p.relative_to(root).as_posix())


def _stack(root: Path, files: list[Path], resize: tuple[int, int] | None) -> np.ndarray:
    """Read files one after another into one array: decoded pictures are never held twice."""
    first = _resized(files[0], resize)
    height, width, dtype = first.shape[0], first.shape[1], first.dtype
    pixels = np.empty((len(files), *first.shape), dtype)
    for row, path in enumerate(files):
        image = first if row == 0 else _resized(path, resize)
        names = f"{files[0].relative_to(root).as_posix()} is", f"{path.relative_to(root).as_posix()} is"
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"images differ in size: {names[0]} {height}x{width}, {names[1]} {image.shape[0]}x{image.shape[1]}; "
                "give resize=(H, W)"
            )
        if image.dtype != dtype:
            raise ValueError(
                f"images differ in depth: {names[0]} {dtype}, {names[1]} {image.dtype}; "
                "expected 8 bits in all of them or 16 bits in all of them"
            )
        if image.shape[-1] > pixels.shape[-1]:
            pixels = np.repeat(pixels, 3, axis=-1)
        pixels[row] = image  # a grey image broadcasts to three equal channels
    return pixels


def _resized(path: Path, resize: tuple[int, int] | None) -> np.ndarray:
    image = read_picture(path)
    return image if resize is None else resize_image(image, resize)


def read_skimage(name: str) -> RawImages:
    """Read a picture that is inside the scikit-image package, by the name of its skimage.data function.

    Nothing is downloaded. Raises ValueError for any other name, listing those that are there.
    """
    files = skimage_files()
    path = files.get(SKIMAGE_ALIASES.get(name, name))
    if path is None:
        raise ValueError(
            f"source='skimage:{name}': not among the pictures inside scikit-image (nothing is downloaded); "
            f"expected one of {', '.join(sorted(files)) or 'none, as scikit-image is not installed'}"
        )
    return RawImages(read_picture(path)[None], None, (name,))


def skimage_files() -> dict[str, Path]:
    """Picture files inside the scikit-image package by name; found without importing it, empty without it."""
    spec = find_spec("skimage")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return {p.stem: p for folder in folders for p in Path(folder, "data").glob("*") if p.suffix in SUFFIXES}
