"""Pictures of meshes without OpenGL or a display: shaded, normals, depth, error on the surface.

Legend: V vertices, H rows, W columns, S rays per pixel along a side, B rays, M rays that hit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from neuralfields.render.cameras import UP, Camera, rays, up_frame
from neuralfields.render.colours import colour_bar, colourise, to_bytes
from neuralfields.render.mesh_rays import HasTriangles, Hits, MeshScene, unit

Colour = tuple[float, float, float]
Paint = Callable[[Hits, np.ndarray, np.ndarray], np.ndarray]  # hits, directions (M, 3), cells (M,) -> colours (M, 3)

BACKGROUND: Colour = (0.905, 0.912, 0.920)
CLAY: Colour = (0.86, 0.82, 0.77)
BACK: Colour = (0.76, 0.44, 0.38)
KEY, FILL = (-0.58, 0.62, 0.53), (0.90, -0.05, 0.42)  # towards the lights: right, up, to the viewer
KEY_LIGHT, FILL_LIGHT = (0.98, 0.94, 0.88), (0.10, 0.13, 0.17)  # a warm light and a weak cool one, linear
SKY_LIGHT, GROUND_LIGHT = (0.34, 0.36, 0.40), (0.13, 0.12, 0.11)
ERROR_RELIEF = 0.45  # errors are read off by their colour: just enough shading to see the shape
BAND = 1 << 18  # rays cast at a time: bounds the memory, whatever the size of the picture


@dataclass(frozen=True)
class Look:
    """How meshes are drawn.

    colour: of the front, back: of faces seen from behind, background: None leaves it transparent; sRGB in [0, 1].
    flat: one normal per face instead of smooth ones that keep edges sharper than `crease` radians. ambient: rays per
    sample for ambient occlusion, 0 for none, reaching `reach` times the radius of the mesh. supersample: rays per pixel
    along each side. up: where the sky is. lights: "camera" moves them with the viewer, "world" leaves them with the
    mesh, so that a place of the surface has one colour from everywhere. relief: from 0, the bare colours, to 1, lit.
    Raises ValueError for values outside these ranges.
    """

    colour: Colour = CLAY
    back: Colour = BACK
    background: Colour | None = BACKGROUND
    flat: bool = False
    crease: float = math.radians(40.0)
    ambient: int = 4
    reach: float = 0.6
    supersample: int = 3
    up: tuple[float, float, float] = UP
    lights: Literal["camera", "world"] = "camera"
    relief: float = 1.0

    def __post_init__(self) -> None:
        if self.supersample < 1 or self.ambient < 0 or not self.reach > 0.0:
            given = f"supersample={self.supersample}, ambient={self.ambient}, reach={self.reach}"
            raise ValueError(f"{given}: expected at least 1, at least 0 and a positive number")
        if not 0.0 <= self.relief <= 1.0:
            raise ValueError(f"relief={self.relief}: expected a number from 0 to 1")
        if self.lights not in ("camera", "world"):
            raise ValueError(f"lights={self.lights!r}: expected camera or world")
        for name in ("colour", "back", "background"):
            value = getattr(self, name)
            if value is not None and (len(value) != 3 or min(value) < 0.0 or max(value) > 1.0):
                raise ValueError(f"{name}={value}: expected three numbers from 0 to 1")


LOOK = Look()


def mesh_picture(
    mesh: HasTriangles | MeshScene, camera: Camera, look: Look = LOOK, colours: np.ndarray | None = None
) -> np.ndarray:
    """Draw a mesh, shaded: uint8 (H, W, 3), or (H, W, 4) with straight alpha where the look has no background.

    c = a (A sky(n) + (1 + A)/2 key max(0, n.l) + fill max(0, n.m)) in linear light: a the albedo, A the openness in
    [0, 1] (ambient occlusion), sky between a bright zenith along look.up and a darker ground, lights l and m fixed to
    the camera or the world; n faces the viewer. Then sRGB, then the mean over the samples of a pixel. The same input
    gives the same bytes. colours: albedo (V, 3), sRGB in [0, 1], instead of that of the look. Raises ValueError for
    meshes without faces.
    """
    scene = as_scene(mesh)
    if colours is not None and colours.shape != scene.vertices.shape:
        raise ValueError(f"colours has shape {colours.shape}: expected {scene.vertices.shape}, one colour per vertex")
    corners = None if look.flat else scene.corner_normals(look.crease)
    turn = camera.pose[:3, :3] if look.lights == "camera" else up_frame(look.up).T
    key, fill, up = (unit(np.asarray(v, np.float64)).astype(np.float32) for v in (turn @ KEY, turn @ FILL, look.up))

    def paint(hits: Hits, directions: np.ndarray, cells: np.ndarray) -> np.ndarray:
        normals, behind = facing_normals(scene, hits, directions, corners)
        if colours is None:
            albedo = np.where(behind[:, None], _row(look.back), _row(look.colour))
        else:
            albedo = mix(colours.astype(np.float32), scene.faces[hits.face], hits.weights)
        openness = np.ones(len(normals), np.float32)
        if look.ambient:
            sets, reach = (look.supersample**2, look.ambient), look.reach * scene.radius
            openness = scene.openness(hits.point, normals, cells, sets, reach)
        light = illuminate(normals, openness, key, fill, up)
        return to_srgb(to_linear(albedo) * (1.0 + look.relief * (light - 1.0)))

    return draw(scene, camera, look, paint)


def normal_picture(mesh: HasTriangles | MeshScene, camera: Camera, look: Look = LOOK) -> np.ndarray:
    """Draw the normals of a mesh in camera axes as colours 0.5 + 0.5 n: uint8 (H, W, 3) or (H, W, 4).

    Red grows to the right, green upwards, blue towards the viewer. Faces seen from behind show the normal that faces
    the viewer.
    """
    scene = as_scene(mesh)
    corners = None if look.flat else scene.corner_normals(look.crease)
    turn = camera.pose[:3, :3].astype(np.float32)

    def paint(hits: Hits, directions: np.ndarray, cells: np.ndarray) -> np.ndarray:
        return 0.5 + 0.5 * facing_normals(scene, hits, directions, corners)[0] @ turn

    return draw(scene, camera, look, paint)


def depth_picture(
    mesh: HasTriangles | MeshScene,
    camera: Camera,
    look: Look = LOOK,
    near: float | None = None,
    far: float | None = None,
) -> np.ndarray:
    """Draw the depth along the view as colours, light (near) to dark (far): uint8 (H, W, 3) or (H, W, 4).

    near, far: the range of the colours in units of the scene, by default that of what is seen at the pixel centres.
    """
    scene = as_scene(mesh)
    seen = depth_map(scene, camera)
    seen = seen[np.isfinite(seen)]
    near = float(seen.min(initial=math.inf)) if near is None else near
    far = float(seen.max(initial=-math.inf)) if far is None else far
    if not len(seen):
        near, far = 0.0, 1.0  # nothing to colour

    def paint(hits: Hits, directions: np.ndarray, cells: np.ndarray) -> np.ndarray:
        depth = (hits.point - camera.position.astype(np.float32)) @ camera.forward.astype(np.float32)
        return colourise(depth, near, max(far, near + 1e-6), "depth")

    return draw(scene, camera, look, paint)


def error_picture(
    mesh: HasTriangles | MeshScene,
    errors: np.ndarray,
    camera: Camera,
    limit: float,
    look: Look = LOOK,
    title: str | None = "distance to the original",
) -> np.ndarray:
    """Draw errors of vertices (V,), 0 to limit, as colours on the mesh: uint8 (H + 58, W, 3) with a colour bar below.

    limit: the error of the darkest red, in the units of the errors; larger ones look the same. title: text of the bar,
    with the unit; None for no bar: (H, W, 3). A look without background gets four channels. The shading is weak, so
    that colours stay comparable with the bar. Raises ValueError for another number of errors, NaN,
    or a limit that is not positive.
    """
    scene = as_scene(mesh)
    if errors.shape != (len(scene.vertices),):
        raise ValueError(f"errors has shape {errors.shape}: expected ({len(scene.vertices)},), one per vertex")
    if not 0.0 < limit < math.inf:
        raise ValueError(f"limit={limit}: expected a positive number")
    look = replace(look, relief=ERROR_RELIEF * look.relief)
    page = mesh_picture(scene, camera, look, colourise(errors, 0.0, limit, "error"))
    if title is None:
        return page
    bar = colour_bar(camera.w, 0.0, limit, "error", title, look.background)
    if page.shape[-1] == 4:
        bar = np.concatenate([bar, np.full((*bar.shape[:2], 1), 255, np.uint8)], axis=-1)
    return np.concatenate([page, bar])


def depth_map(mesh: HasTriangles | MeshScene, camera: Camera) -> np.ndarray:
    """Return the depth along the view at the pixel centres: (H, W) float32, scene units, inf where nothing is."""
    hits = _cast_pixels(as_scene(mesh), camera)
    out = np.full(camera.h * camera.w, np.inf, np.float32)
    out[hits.rays] = (hits.point - camera.position.astype(np.float32)) @ camera.forward.astype(np.float32)
    return out.reshape(camera.shape)


def normal_map(mesh: HasTriangles | MeshScene, camera: Camera, flat: bool = False) -> np.ndarray:
    """Return world normals at the pixel centres, as the mesh is oriented: (H, W, 3) float32, zero where nothing is."""
    scene = as_scene(mesh)
    hits = _cast_pixels(scene, camera)
    out = np.zeros((camera.h * camera.w, 3), np.float32)
    out[hits.rays] = surface_normals(scene, hits, None if flat else scene.corner_normals())
    return out.reshape(*camera.shape, 3)


def draw(scene: MeshScene, camera: Camera, look: Look, paint: Paint) -> np.ndarray:
    """Cast S x S rays per pixel, paint what they meet, take means: uint8 (H, W, 3), or (H, W, 4) without background."""
    side = look.supersample
    fine = camera.resized(camera.w * side, camera.h * side)
    band = max(1, BAND // (fine.w * side)) * side  # rows of samples
    pixels = np.empty((camera.h, camera.w, 4), np.float32)
    for top in range(0, fine.h, band):
        rows = min(band, fine.h - top)
        origins, directions = _band(fine, top, rows)
        hits = scene.cast(origins, directions)
        samples = np.zeros((rows * fine.w, 4), np.float32)
        row, column = np.divmod(hits.rays, fine.w)
        cells = row % side * side + column % side
        samples[hits.rays, :3] = paint(hits, directions[hits.rays], cells)
        samples[hits.rays, 3] = 1.0
        blocks = samples.reshape(rows // side, side, camera.w, side, 4)
        pixels[top // side : (top + rows) // side] = blocks.mean(axis=(1, 3))
    covered = pixels[..., 3:]
    if look.background is not None:
        return to_bytes(pixels[..., :3] + (1.0 - covered) * _row(look.background))
    pixels[..., :3] /= np.maximum(covered, np.float32(1e-6))
    return to_bytes(pixels)


def illuminate(
    normals: np.ndarray, openness: np.ndarray, key: np.ndarray, fill: np.ndarray, up: np.ndarray
) -> np.ndarray:
    """Return the light on normals (M, 3) under lights from key, fill and up (3,): linear (M, 3)."""
    above = (0.5 + 0.5 * (normals @ up))[:, None]
    sky = _row(GROUND_LIGHT) * (1.0 - above) + _row(SKY_LIGHT) * above
    direct = (0.4 + 0.6 * openness) * np.maximum(normals @ key, 0.0)
    weak = openness * np.maximum(normals @ fill, 0.0)
    return openness[:, None] * sky + direct[:, None] * _row(KEY_LIGHT) + weak[:, None] * _row(FILL_LIGHT)


def as_scene(mesh: HasTriangles | MeshScene) -> MeshScene:
    """Return the mesh ready for rays; a MeshScene is returned as it is."""
    return mesh if isinstance(mesh, MeshScene) else MeshScene(mesh)


def surface_normals(scene: MeshScene, hits: Hits, corners: np.ndarray | None) -> np.ndarray:
    """Return unit normals (M, 3) as the mesh is oriented: of corners (F, 3, 3) mixed, or flat for None."""
    if corners is None:
        return scene.face_normals[hits.face]
    return unit(np.einsum("mc,mcx->mx", hits.weights, corners[hits.face]))


def facing_normals(
    scene: MeshScene, hits: Hits, directions: np.ndarray, corners: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return normals (M, 3) turned to the viewer and which faces are seen from behind (M,)."""
    behind = (scene.face_normals[hits.face] * directions).sum(axis=1) > 0.0
    return surface_normals(scene, hits, corners) * np.where(behind, -1.0, 1.0).astype(np.float32)[:, None], behind


def mix(values: np.ndarray, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return values (V, C) of vertices interpolated with barycentric weights (M, 3) at corners (M, 3): (M, C)."""
    return np.einsum("mc,mcx->mx", weights, values[corners])


def to_linear(colour: np.ndarray) -> np.ndarray:
    """Turn sRGB values in [0, 1] into linear light (IEC 61966-2-1)."""
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Turn linear light, clipped to [0, 1], into sRGB values (IEC 61966-2-1)."""
    light = np.clip(light, 0.0, 1.0)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1.0 / 2.4) - 0.055)


def _row(colour: Colour) -> np.ndarray:
    return np.array(colour, np.float32)


def _band(camera: Camera, top: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rays through the pixels of some rows: two (rows * W, 3) float32."""
    part = Camera(camera.pose, camera.fl_x, camera.fl_y, camera.cx, camera.cy - top, camera.w, rows)
    origins, directions = rays(part)
    return origins.numpy().reshape(-1, 3), directions.numpy().reshape(-1, 3)


def _cast_pixels(scene: MeshScene, camera: Camera) -> Hits:
    return scene.cast(*_band(camera, 0, camera.h))
