"""nf mesh: the surfaces of shape fields as mesh files."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import arg

from apps.options import SHOWN, OutPath, Shown, StorePath
from apps.output import Output, duration
from apps.progress import Progress
from apps.selection import Positions, positions

if TYPE_CHECKING:
    from apps.viewer.collection import Part
    from neuralfields import FieldBatch, FieldStore
    from neuralfields.render.mesh import Mesh

FORMATS = ("obj", "ply", "glb", "stl")
AT_ONCE = 16
DENSITY = 10.0  # of a radiance field, in 1 / length: a ray of a tenth of the box's side loses 87 % of its light


@dataclass(frozen=True, kw_only=True)
class MeshFields:
    """Extract the surfaces of fields of STORE and write one mesh file per field.

    Meshes are in the units of the files that the fields were fitted to, or in the box [-1, 1] with --normalised. Of
    radiance fields it is the surface of one density, in the box.
    """

    store: StorePath
    """Folder of a store of shape fields."""
    out: OutPath
    """Folder of the mesh files."""
    fields: Positions = None
    """Positions of the fields to extract."""
    count: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Number of fields, spread evenly over the store, when --fields is not given."""
    resolution: int = 128
    """Cells along the box."""
    level: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: as stored, density 10)")] = None
    """Value of the field on the surface."""
    format: Annotated[str, arg(metavar="{obj,ply,glb,stl}")] = "ply"
    """File format."""
    normalised: bool = False
    """Leave the meshes in the box."""
    output: Shown = SHOWN


def mesh(options: MeshFields, output: Output) -> None:
    """Run `nf mesh`."""
    from neuralfields.store import open_store

    if options.format not in FORMATS:
        raise ValueError(f"format={options.format!r}: expected one of {', '.join(FORMATS)}")
    store = open_store(options.store)
    rows = positions(store, options.fields, options.count if options.count is not None else max(len(store), 1))
    level, inside = surface_of(store, options.level)
    every = file_names(store.column("name"))
    names = [every[row] for row in rows]
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    started, found, empty = time.perf_counter(), [], []
    with Progress("mesh", "fields", options.output.quiet) as bar:
        for first in range(0, len(rows), AT_ONCE):
            part = rows[first : first + AT_ONCE]
            meshes = extract(store[part], options.resolution, level, inside)
            for row, name, item in zip(part, names[first:], meshes, strict=False):
                path = folder / f"{name}.{options.format}"
                if not len(item.faces):
                    empty.append(name)
                    continue
                item = item if options.normalised else original_units(store, int(row), item)
                item.save(path)
                found.append({"name": name, "faces": len(item.faces), "watertight": item.watertight, "out": str(path)})
            bar.update(first + len(part), len(rows), f"{first + len(part):,} of {len(rows):,}")
    seconds = time.perf_counter() - started
    closed = sum(entry["watertight"] for entry in found)
    report = f"{len(found):,} of {len(rows):,} fields at {options.resolution}^3 in {duration(seconds)}"
    output.facts([("meshes", report), ("watertight", f"{closed:,} of {len(found):,}"), ("out", options.out)])
    for name in empty:
        output.say(f"  failed: {name}: has no surface at level {level:g}")
    output.record(meshes=found, failures=[{"name": n, "reason": f"no surface at level {level:g}"} for n in empty])
    output.record(fields=len(rows), seconds=seconds, resolution=options.resolution, level=level, out=options.out)
    if not found:
        raise ValueError(f"level={level:g}: none of the {len(rows):,} fields has a surface there")


def extract(fields: "FieldBatch", resolution: int, level: float, inside: Any) -> list["Mesh"]:
    """Surfaces of fields of three coordinates, or of the density of radiance fields."""
    from neuralfields.evaluate import density
    from neuralfields.render.isosurface import isosurface, surface

    if fields.spec.view is None:
        return isosurface(fields, resolution, level, inside=inside)
    return [surface(lambda at, one=one: density(one, at)[0], resolution, level, inside=inside) for one in fields]


def surface_of(store: "FieldStore | Part", level: float | None) -> tuple[float, Any]:
    """Level of the surface and side of the inside, as stored. Raises ValueError for fields that are no shapes."""
    signal = store.meta.get("signal") or {}
    if store.spec.view is not None:
        return (DENSITY if level is None else level), "above"
    if store.spec.in_dim != 3:
        raise ValueError(f"{store.path} holds fields of {store.spec.in_dim} coordinates: expected 3 for a surface")
    if level is None and "level" not in signal:
        raise ValueError(f"{store.path} does not say where its surfaces are: give --level")
    return (signal["level"] if level is None else level), signal.get("inside", "below")


def original_units(store: "FieldStore | Part", row: int, item: "Mesh") -> "Mesh":
    """The mesh moved from the box back to where its source was; as it is where the store does not say."""
    from neuralfields.render.mesh import Mesh

    about = ((store.meta.get("signal") or {}).get("shapes") or {}).get(str(store.column("name")[row]))
    if about is None:
        return item
    scale, offset = about["transform"]["scale"], np.array(about["transform"]["offset"])
    return Mesh((item.vertices.astype(np.float64) / scale + offset).astype(np.float32), item.faces)


def file_names(names: Iterable[str]) -> list[str]:
    """File names for the fields of a store, without a suffix, all different even where case does not count.

    Each is the field's name below the source, with folders joined by dashes and without the suffix of a shape's file;
    fields that would share one have their positions added.
    """
    stems = [_stem(str(name)) or f"field-{row}" for row, name in enumerate(names)]
    shared = Counter(stem.casefold() for stem in stems)
    taken = {word for word, count in shared.items() if count == 1}
    for row, stem in enumerate(stems):
        if shared[stem.casefold()] == 1:
            continue
        stem += f"-{row}"
        while stem.casefold() in taken:
            stem += f"-{row}"
        stems[row] = stem
        taken.add(stem.casefold())
    return stems


def _stem(name: str) -> str:
    from fitting.signals.mesh_files import SUFFIXES, suffix_of

    path = Path(name)
    suffix = suffix_of(path)
    compressed = ".gz" if path.suffix.lower() == ".gz" else ""
    last = path.name[: -len(suffix + compressed)] if suffix in SUFFIXES else path.name
    return "-".join(part for part in (*path.parts[:-1], last) if part not in ("", "/", "..", "."))
