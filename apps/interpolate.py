"""nf interpolate: pictures along the path between two fields, and how far their values leave the straight line."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import numpy as np
from tyro.conf import arg

from apps.mesh import surface_of
from apps.options import SHOWN, Shown, Size, StorePath, Threads
from apps.output import Output
from apps.progress import Progress
from apps.render import kind_of, picture_size
from apps.render_shapes import tiles_to_tensor
from apps.selection import positions
from apps.training import limit_threads

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields import FieldBatch, FieldStore
    from neuralfields.render.mesh import Mesh
    from wsnets.latents import Embedding

Walk: TypeAlias = "Callable[[np.ndarray], FieldBatch]"  # the fields of a path at shares (T,) of the way
SUFFIXES = (".png", ".mp4", ".gif")
FILM_SIDE, SHEET_SIDE = 256, 160  # pixels along the longer side
POINTS_OF_SHAPES = 32  # along each side of the box, where values are compared
FPS = 12
LEAST_ERROR = 1e-10
MOST_LINES, MOST_IN_A_ROW = 13, 13  # of the table, which --json has whole; of pictures
WORDS = {
    "weights": "weights",
    "aligned": "weights, the second field aligned to the first",
    "latent": "latents",
}


@dataclass(frozen=True, kw_only=True)
class Interpolate:
    """Draw the fields on the path between two fields of STORE, as a row of pictures or as a film.

    The path is straight in the weights, in the weights once the second field is brought next to the first by its
    symmetries, or in the latents of an embedding. Beside every picture stands how far its values are from the mixture
    of the values of both ends: a path on which they stay close has no barrier.
    """

    store: StorePath
    """Folder of a store of pictures or of shapes."""
    out: Annotated[str, arg(metavar="FILE")]
    """File to write: .png for a row of pictures, .mp4 or .gif for a film."""
    fields: Annotated[tuple[int, int], arg(metavar="A B")]
    """Positions of the two fields."""
    through: Literal["weights", "aligned", "latent"] = "weights"
    """Where the path is straight."""
    network: Annotated[str | None, arg(metavar="EMBEDDING", help_behavior_hint="(default: none)")] = None
    """Folder that `nf train embed` wrote, for --through latent."""
    frames: int = 11
    """Fields on the path, both ends included."""
    size: Size = None
    """Height and width of a picture."""
    fps: float = FPS
    """Pictures a second of a film."""
    resolution: int = 96
    """Cells along the box when surfaces are extracted."""
    level: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: as stored)")] = None
    """Value of the fields on the surface."""
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def interpolate(options: Interpolate, output: Output) -> None:
    """Run `nf interpolate`."""
    from neuralfields.store import open_store
    from wsnets.data import check_finite

    limit_threads(options.threads)
    store, out = open_store(options.store), Path(options.out)
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"out={options.out!r}: expected a file name that ends in {' or '.join(SUFFIXES)}")
    if options.frames < 2:
        raise ValueError(f"frames={options.frames}: expected at least 2, the ends")
    rows = positions(store, options.fields, 2)
    if store.spec.view is not None or store.spec.in_dim not in (2, 3):
        raise ValueError(f"{store.path} holds {store.spec.describe()}: expected fields of pictures or of shapes")
    check_meaning(options, kind_of(store))
    ends = store[rows]
    check_finite(ends, store.ids[rows])
    shares = np.linspace(0.0, 1.0, options.frames)
    path = along(ends, shares, options)
    errors = departures(path, ends, shares, store, options.size)
    captions = [_caption(share, error, store) for share, error in zip(shares, errors, strict=True)]
    out.parent.mkdir(parents=True, exist_ok=True)
    draw = _pictures if store.spec.in_dim == 2 else _surfaces
    write(out, draw(path, store, options), captions, options)
    report(rows, shares, errors, store, options, output)


def check_meaning(options: Interpolate, kind: str) -> None:
    """Raise ValueError for an option that was given and says nothing of what is to be drawn."""
    film, shapes = Path(options.out).suffix.lower() != ".png", kind == "shapes"
    drawn = ("films of " if film else "") + kind
    meanings = {"level": (shapes, "shapes"), "resolution": (shapes, "shapes"), "fps": (film, "films")}
    for name, (has_meaning, expected) in meanings.items():
        value = getattr(options, name)
        if value != getattr(Interpolate, name) and not has_meaning:
            raise ValueError(f"{name}={value!r}: expected only for {expected}; these are {drawn}")


def along(ends: "FieldBatch", shares: np.ndarray, options: Interpolate) -> "FieldBatch":
    """The fields on the path from the first to the second of two fields, at shares (T,) from 0 to 1 of the way."""
    if (options.network is not None) != (options.through == "latent"):
        raise ValueError(
            f"through={options.through!r}, network={options.network!r}: expected --network with --through latent, only"
        )
    if options.through != "latent":
        return straight(ends, options.through == "aligned")(shares)
    from wsnets.latents import Embedding

    return through_latents(ends, Embedding.load(options.network or ""))(shares)


def straight(ends: "FieldBatch", is_aligned: bool) -> Walk:
    """The path that is straight in the weights, of the second of two fields as it is or aligned to the first."""
    import torch

    from neuralfields import FieldBatch
    from wsnets.align import aligned, lerp

    first, second = (ends[end].to(torch.float32) for end in (0, 1))
    if is_aligned:
        second = aligned(second, first)

    def walk(shares: np.ndarray) -> "FieldBatch":
        a, b = (FieldBatch.cat([end] * len(shares)) for end in (first, second))
        return lerp(a, b, torch.from_numpy(shares))

    return walk


def through_latents(ends: "FieldBatch", network: "Embedding") -> Walk:
    """The path that is straight in the latents of two fields. Raises ValueError for fields of another spec."""
    import torch

    a, b = (network.encode(ends[end].to(torch.float32)) for end in (0, 1))

    def walk(shares: np.ndarray) -> "FieldBatch":
        t = torch.from_numpy(shares).to(a).view(-1, 1, 1)
        return network.decode(a * (1 - t) + b * t)

    return walk


def departures(
    path: "FieldBatch",
    ends: "FieldBatch",
    shares: np.ndarray,
    store: "FieldStore",
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Mean squared difference of the values at shares t from (1 - t) f_a + t f_b: (T,).

    f_a, f_b: values of the ends as stored; pictures clipped to [0, 1] at their stored size, or at `size` where the
    store has none, shapes on a grid. Raises ValueError for pictures of no known size.
    """
    stored = (store.meta.get("signal") or {}).get("shape")
    size = picture_size(store, size if stored is None else None, None) if store.spec.in_dim == 2 else None
    return departure(compared(path, size), compared(ends, size), shares)


def compared(fields: "FieldBatch", size: tuple[int, int] | None) -> "Tensor":
    """Values (N, V) of fields: pictures of a size, clipped to [0, 1], or where it is None values on a grid."""
    import torch

    from neuralfields.evaluate import evaluate
    from neuralfields.render import image

    fields = fields.to(torch.float32)
    if size is not None:
        return image(fields, size).flatten(1)
    axis = (torch.arange(POINTS_OF_SHAPES) + 0.5) / POINTS_OF_SHAPES * 2 - 1
    with torch.no_grad():
        return evaluate(fields, torch.cartesian_prod(axis, axis, axis)).flatten(1)


def departure(values: "Tensor", truth: "Tensor", shares: np.ndarray) -> np.ndarray:
    """Mean squared difference (T,) of values (T, V) at shares t from the mixture of those of both ends (2, V)."""
    import torch

    t = torch.from_numpy(shares).to(values).unsqueeze(1)
    return (values - (1 - t) * truth[0] - t * truth[1]).square().double().mean(dim=1).numpy()


def write(out: Path, pictures: Iterator[np.ndarray], captions: Sequence[str], options: Interpolate) -> None:
    """Write pictures, uint8 (H, W, 3) of one size, as a row with captions or as a film, with a progress bar."""
    from neuralfields.render.sheet import save_png, sheet
    from neuralfields.render.video import save_video

    with Progress("draw", "pictures", options.output.quiet) as bar:

        def watched() -> Iterator[np.ndarray]:
            for number, frame in enumerate(pictures, 1):
                bar.update(number, options.frames, f"{number} of {options.frames}")
                yield frame

        if out.suffix.lower() == ".png":
            tiles = tiles_to_tensor(list(watched()))
            save_png(out, sheet(tiles, captions=captions, scale=1, columns=min(options.frames, MOST_IN_A_ROW)))
        else:
            save_video(out, watched(), fps=options.fps)


def report(
    rows: np.ndarray,
    shares: np.ndarray,
    errors: np.ndarray,
    store: "FieldStore",
    options: Interpolate,
    output: Output,
) -> None:
    """Print the departure along the path, and where it is largest."""
    worst = int(errors.argmax())
    output.facts([("path", f"from field {rows[0]} to {rows[1]}, straight in the {WORDS[options.through]}")])
    output.facts([("compared", "values on the path, with the mixture of those of both ends")])
    names = ("at", "RMS") if store.spec.in_dim == 3 else ("at", "RMS", "PSNR")
    shown = np.unique(np.linspace(0, len(shares) - 1, min(len(shares), MOST_LINES)).round().astype(int))
    figures = [(f"{shares[k]:.2f}", f"{errors[k] ** 0.5:.4f}", _decibels(float(errors[k]))) for k in shown]
    output.table(names, [line[: len(names)] for line in figures])
    output.facts([("largest", f"RMS {errors[worst] ** 0.5:.4f} at {shares[worst]:.2f}"), ("out", options.out)])
    output.record(positions=rows, through=options.through, frames=options.frames, out=options.out)
    output.record(shares=shares, mse=errors, largest_mse=errors[worst], largest_at=shares[worst])


def _pictures(path: "FieldBatch", store: "FieldStore", options: Interpolate) -> Iterator[np.ndarray]:
    """Pictures of the fields, grey or in colour."""
    from neuralfields.render import image

    stored = picture_size(store, options.size, None)
    side = FILM_SIDE if Path(options.out).suffix.lower() != ".png" else SHEET_SIDE
    size = stored if options.size is not None else picture_size(store, None, max(1.0, side / max(stored)))
    for field in path:
        picture = image(field, size)[0]
        if picture.shape[-1] not in (1, 3):
            raise ValueError(f"{store.path} holds fields of {picture.shape[-1]} channels: expected 1 or 3 to draw them")
        yield np.ascontiguousarray(picture.expand(*size, 3).mul(255).round().byte().numpy())


def _surfaces(path: "FieldBatch", store: "FieldStore", options: Interpolate) -> Iterator[np.ndarray]:
    """Shaded surfaces of the fields, all from the same place; the bare background where there is none."""
    from neuralfields.render.isosurface import isosurface
    from neuralfields.render.mesh_picture import mesh_picture
    from neuralfields.render.turntable import frame_camera

    level, inside = surface_of(store, options.level)
    side = FILM_SIDE if Path(options.out).suffix.lower() != ".png" else SHEET_SIDE
    size = options.size or (side, side)
    with Progress("mesh", "fields", options.output.quiet) as bar:
        meshes = isosurface(
            path, options.resolution, level, inside=inside, progress=lambda k, n: bar.update(k, n, f"{k} of {n}")
        )
    there = [made for made in meshes if len(made.faces)]
    if not there:
        raise ValueError(f"level={level:g}: none of the {len(meshes)} fields on the path has a surface there")
    camera = frame_camera(together(there), size)
    for made in meshes:
        yield mesh_picture(made, camera)[..., :3] if len(made.faces) else np.full((*size, 3), 235, np.uint8)


def together(meshes: "list[Mesh]") -> "Mesh":
    """All triangles as one mesh."""
    from neuralfields.render.mesh import Mesh

    first = np.cumsum([0] + [len(made.vertices) for made in meshes])
    faces = [made.faces + start for made, start in zip(meshes, first[:-1], strict=True)]
    return Mesh(np.concatenate([made.vertices for made in meshes]), np.concatenate(faces))


def _caption(share: float, error: float, store: "FieldStore") -> str:
    return f"{share:.2f}   {_decibels(error)} dB" if store.spec.in_dim == 2 else f"{share:.2f}   {error**0.5:.4f}"


def _decibels(error: float) -> str:
    """PSNR of values in [0, 1], -10 log10 of the mean squared difference, at most 100."""
    return f"{-10 * np.log10(max(error, LEAST_ERROR)):.1f}"
