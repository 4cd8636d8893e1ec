"""Render posed views of every mesh of a folder, one scene each, for fitting radiance fields.

    python data/posed_views/prepare.py MESHES --out DIR --views 24 --test-views 4 --size 64

Legend: V vertices, H rows, W columns.
"""

import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from fitting.signals.mesh_files import find_files, read_geometry, suffix_of
from fitting.signals.mesh_repair import clean, normalise_shape
from neuralfields.render.cameras import Camera, fibonacci_sphere, pinhole
from neuralfields.render.mesh_picture import Look, mesh_picture
from neuralfields.render.mesh_rays import MeshScene

ANGLE_X = 0.6911112070083618  # horizontal field of view of the nerf-synthetic scenes, radians
FILL = 0.95  # part of the picture that the sphere around a shape may take
GREY, TINT = 0.68, 0.22  # albedo = GREY + TINT * normal: never black, never clipped
RELIEF = 0.75  # shaded, but no side so dark that a background of black hides it
VERSION = 1  # of the pictures: raised when the same settings give others


@dataclass(frozen=True)
class Settings:
    """What is rendered, and where to."""

    meshes: tyro.conf.Positional[Path]
    """Folder of meshes (OBJ, OFF, PLY, STL, GLB, also .gz), sub-folders being classes."""
    out: Path
    """Folder for the scenes: out/<sub-folders>/<name of the mesh>."""
    views: int = 24
    """Training views per mesh, 1 or more."""
    test_views: int = 4
    """Views held out per mesh, 1 or more."""
    size: int = 64
    """Width and height in pixels, 8 to 4096."""
    supersample: int = 3
    """Rays per pixel along each side, 1 to 8."""
    white: bool = False
    """RGB on white instead of RGBA."""
    limit: int | None = None
    """Number of meshes, taken in turn from all classes; by default all."""

    def check(self) -> None:
        """Raise ValueError for values outside the ranges above; not at construction, where tyro would draw a box."""
        ranges = {"views": (1, 10_000), "test_views": (1, 10_000), "size": (8, 4096), "supersample": (1, 8)}
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)}: expected {least} to {most}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit={self.limit}: expected 1 or more")
        if not self.meshes.is_dir():
            raise ValueError(f"meshes={str(self.meshes)!r}: expected a folder")

    def pictures(self) -> dict[str, Any]:
        """What decides the bytes of a scene besides the mesh: stored with it."""
        names = ("views", "test_views", "size", "supersample", "white")
        return {"version": VERSION, **{name: getattr(self, name) for name in names}}


class Finished(Exception):
    """The scene is there already."""


def prepare(settings: Settings, console: Console) -> dict[str, str]:
    """Render all scenes that are not there yet and return those that failed: mesh -> reason."""
    settings.check()
    files = choose(settings.meshes, settings.limit)
    failed: dict[str, str] = {}
    rendered, start = 0, time.perf_counter()
    for number, path in enumerate(files, 1):
        began = time.perf_counter()
        try:
            render_scene(path, scene_folder(settings, path), settings)
            rendered += 1
            note = f"{time.perf_counter() - began:.1f} s"
        except Finished:
            note = "there already"
        except (ValueError, OSError) as error:
            failed[str(path)] = str(error)
            note = f"failed: {error}"
        say(console, f"{number:>{len(str(len(files)))}}/{len(files)}  {path}  {note}")
    took = time.perf_counter() - start
    counts = f"{rendered} rendered, {len(files) - rendered - len(failed)} there already, {len(failed)} failed"
    say(console, f"{settings.out}: {counts}, {took:.1f} s")
    for name, reason in failed.items():
        say(console, f"failed: {name}: {reason}")
    return failed


def choose(folder: Path, limit: int | None) -> list[Path]:
    """Return the first `limit` meshes of a folder, taken in turn from its classes, so that few of them are of all."""
    taken: dict[str | None, int] = {}
    turns = []
    for order, (path, label) in enumerate(find_files(folder)):
        turns.append((taken.get(label, 0), order, path))
        taken[label] = taken.get(label, 0) + 1
    return [path for _, _, path in sorted(turns)][:limit]


def scene_folder(settings: Settings, path: Path) -> Path:
    """Return where the scene of a mesh goes: its place below the folder of meshes, without the suffix.

    Raises ValueError for meshes outside that folder.
    """
    inner = path.relative_to(settings.meshes)
    if ".." in inner.parts:
        raise ValueError(f"{path} lies outside {settings.meshes}")
    return settings.out / inner.parent / path.name[: path.name.lower().rindex(suffix_of(path))]


def render_scene(path: Path, folder: Path, settings: Settings) -> None:
    """Render one mesh into a folder, under a temporary name that is then changed: the scene is whole or not there.

    Raises Finished where it is there already with the same settings, ValueError where with others, and for meshes that
    cannot be used.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    about = {"mesh": path.name, "sha256": digest, **settings.pictures()}
    if folder.exists():
        require_same(folder, about)
        raise Finished
    geometry, _ = clean(read_geometry(path))
    if geometry.is_cloud:
        raise ValueError(f"{path.name} is a point cloud: expected a mesh with faces")
    shape, transform = normalise_shape(geometry)
    scene = MeshScene(shape)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        look = Look(
            background=(1.0, 1.0, 1.0) if settings.white else None,
            lights="world",
            relief=RELIEF,
            supersample=settings.supersample,
        )
        colours = normal_colours(scene)
        frames: dict[str, list[dict[str, Any]]] = {}
        cameras = {name: list(views(scene, settings, name == "test")) for name in ("train", "test")}
        for name, list_ in cameras.items():
            (part / name).mkdir(parents=True)
            frames[name] = [
                save_view(part, f"{name}/r_{index}", mesh_picture(scene, camera, look, colours), camera)
                for index, camera in enumerate(list_)
            ]
        write_transforms(part, frames, cameras["train"][0], {**about, "shape": vars(transform)})
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def require_same(folder: Path, about: dict[str, Any]) -> None:
    """Raise ValueError unless the scene in a folder was rendered from that mesh with those settings."""
    try:
        there = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))["rendering"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder} is there and is not a scene of this program: expected a new folder") from None
    other = [f"{name}={there.get(name)!r}" for name, value in about.items() if there.get(name) != value]
    if other:
        raise ValueError(f"{folder} is there with {', '.join(other)}: expected another --out or the same settings")


def views(scene: MeshScene, settings: Settings, test: bool) -> Iterator[Camera]:
    """Yield cameras all around, at the distance from which the sphere around the shape fills the picture."""
    radius = scene.radius / math.sin(0.5 * FILL * ANGLE_X)
    count = settings.test_views if test else settings.views
    # Test views start elsewhere, so that none of them is a training view.
    for pose in fibonacci_sphere(count, radius, scene.centre, phase=1.0 if test else 0.0):
        yield pinhole(pose, settings.size, ANGLE_X)


def normal_colours(scene: MeshScene) -> np.ndarray:
    """Return colours of the vertices from their normals, GREY + TINT n: (V, 3) float32 in [0, 1]."""
    normals = np.zeros_like(scene.vertices)
    normals[scene.faces] = scene.corner_normals(crease=math.pi)  # smooth everywhere: every corner of a vertex alike
    return GREY + TINT * normals


def save_view(folder: Path, name: str, picture: np.ndarray, camera: Camera) -> dict[str, Any]:
    """Write one picture (H, W, 3 or 4) as PNG and return its frame as nerf-synthetic writes it."""
    from PIL import Image

    Image.fromarray(picture).save(folder / f"{name}.png", format="PNG")
    return {"file_path": f"./{name}", "transform_matrix": camera.pose.tolist()}


def write_transforms(
    folder: Path, frames: dict[str, list[dict[str, Any]]], camera: Camera, about: dict[str, Any]
) -> None:
    """Write transforms_train.json and transforms_test.json, and transforms.json with all frames and all intrinsics."""
    for name, list_ in frames.items():
        write_json(folder / f"transforms_{name}.json", {"camera_angle_x": camera.angle_x, "frames": list_})
    every = [{**frame, "file_path": f"{frame['file_path']}.png"} for list_ in frames.values() for frame in list_]
    write_json(folder / "transforms.json", {**camera.intrinsics(), "rendering": about, "frames": every})


def say(console: Console, line: str) -> None:
    """Print one line as it is: no markup, no wrapping."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write one JSON file; it belongs to a folder that is renamed when all of it is there."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run from the command line: 0 done, 1 some meshes failed, 2 bad input."""
    try:
        return 1 if prepare(tyro.cli(Settings, args=argv, description=__doc__), Console()) else 0
    except (ValueError, OSError) as error:
        say(Console(stderr=True), f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
