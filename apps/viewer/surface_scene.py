"""SurfaceScene: surfaces side by side in one space, each with its name below and a slice through it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.viewer.stage import look

if TYPE_CHECKING:
    from viser import CameraHandle, ClientHandle

    from apps.viewer.slice_plane import SlicePlane
    from neuralfields.render.mesh import Mesh

NAME_AT = np.array([0.0, -1.08, 0.0])
STEP = 2.2  # from the middle of one box to that of the next
CLAY = (219, 205, 190)
FOV = math.radians(24.0)  # a long lens: things side by side look equally large
KEY, FILL, SKY = 2.4, 0.5, 1.4  # strengths of the lights
VIEWS = {
    "Corner": (0.4, 0.33, 1.0),
    "Front": (0.0, 0.0, 1.0),
    "Back": (0.0, 0.0, -1.0),
    "Top": (0.0, 1.0, 0.001),  # not quite: what is up in the picture must be known
}
FILLED = 0.92  # of the canvas


@dataclass(frozen=True, eq=False)
class Shown:
    """One thing in the scene. mesh: None while it is not known, or where there is no surface; colours: (V, 3) sRGB in
    [0, 1], None for clay; plane: a slice through it."""

    name: str
    mesh: "Mesh | None"
    colours: np.ndarray | None = None
    plane: "SlicePlane | None" = None
    smooth: bool = True


class SurfaceScene:
    """The nodes of one client."""

    def __init__(self, client: "ClientHandle") -> None:
        self._scene = client.scene
        self._nodes: dict[str, tuple[tuple, Any]] = {}  # what a node shows, and the node
        self._lights: list[Any] = []

    def show(self, things: Sequence[Shown]) -> None:
        """Show things in a row along x, the middle of the row at the origin, and nothing else."""
        new: dict[str, tuple[tuple, Callable[[], Any]]] = {}
        for number, thing in enumerate(things):
            place = np.array([STEP * (number - (len(things) - 1) / 2), 0.0, 0.0])
            new |= {f"/shapes/{number}/{name}": node for name, node in self._made_of(thing, number, place).items()}
        old, self._nodes = self._nodes, {}
        for name, (what, add) in new.items():
            known = name in old and same(old[name][0], what)  # an original is sent once, however the level moves
            self._nodes[name] = old[name] if known else (what, add())
        for name in old.keys() - new.keys():
            old[name][1].remove()

    def enter(self) -> None:
        """Light the scene: a sky, a key light from the left above and a weak one from the right behind."""
        scene = self._scene
        scene.configure_default_lights(enabled=False)
        scene.configure_environment_map(None)
        self._lights = [
            scene.add_light_hemisphere("/lights/sky", ground_color=(150, 145, 140), intensity=SKY),
            scene.add_light_directional("/lights/key", color=(255, 248, 238), intensity=KEY, position=(-3, 5, 4)),
            scene.add_light_directional("/lights/fill", color=(225, 236, 255), intensity=FILL, position=(4, 1, -3)),
        ]

    def clear(self) -> None:
        """Remove everything."""
        self.show([])
        for light in self._lights:
            light.remove()
        self._lights = []
        self._scene.configure_default_lights()

    def _made_of(self, thing: Shown, number: int, place: np.ndarray) -> dict[str, tuple[tuple, Callable[[], Any]]]:
        """Nodes of one thing: what each shows, and how it is added."""
        scene, mesh, at, root = self._scene, thing.mesh, tuple(place), f"/shapes/{number}"
        plain: dict[str, Any] = {"cast_shadow": False, "receive_shadow": False}
        nodes: dict[str, tuple[tuple, Callable[[], Any]]] = {}
        if mesh is not None and len(mesh.faces) and thing.colours is None:
            solid = {**plain, "color": CLAY, "side": "double", "flat_shading": not thing.smooth, "position": at}
            nodes["mesh"] = (
                (mesh, thing.smooth, at),
                lambda: scene.add_mesh_simple(f"{root}/mesh", mesh.vertices, mesh.faces, **solid),
            )
        elif mesh is not None and len(mesh.faces) and (colours := thing.colours) is not None:
            nodes["coloured"] = (
                (mesh, colours, thing.smooth, at),
                lambda: scene.add_glb(f"{root}/coloured", coloured(mesh, colours, thing.smooth), position=at, **plain),
            )
        if (plane := thing.plane) is not None:
            stands = {**plain, "wxyz": plane.rotation, "position": tuple(place + plane.position)}
            nodes["slice"] = (
                (plane, at),
                lambda: scene.add_image(f"{root}/slice", plane.picture, 2.0, 2.0, format="png", **stands),
            )
        below = tuple(place + NAME_AT)
        nodes["name"] = (
            (thing.name, at),
            lambda: scene.add_label(f"{root}/name", thing.name, position=below, anchor="top-center"),
        )
        return nodes


def same(a: tuple, b: tuple) -> bool:
    """Whether two nodes show the same: the same objects, the same words and numbers."""
    plain = (str, bool, tuple)
    return len(a) == len(b) and all(x is y or (isinstance(x, plain) and x == y) for x, y in zip(a, b, strict=True))


def coloured(mesh: "Mesh", colours: np.ndarray, smooth: bool = True) -> bytes:
    """A GLB file of a mesh with colours of its vertices (V, 3), sRGB in [0, 1]."""
    import trimesh

    from apps.viewer.surfaces import vertex_normals
    from neuralfields.render.mesh_picture import to_linear

    def matt(tree: dict) -> None:
        """Without a material it would be drawn as metal, which is black where nothing is mirrored in it."""
        tree["materials"] = [{"doubleSided": True, "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}}]
        for part in tree["meshes"]:
            for primitive in part["primitives"]:
                primitive["material"] = 0

    made = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=vertex_normals(mesh), process=False)
    shades = np.ones((len(mesh.vertices), 4))
    shades[:, :3] = to_linear(colours)
    made.visual.vertex_colors = np.round(255 * shades).astype(np.uint8)  # type: ignore[union-attr]
    return made.export(file_type="glb", include_normals=smooth, tree_postprocessor=matt)  # type: ignore[return-value]


def frame(camera: "CameraHandle", count: int, size: tuple[int, int], view: str = "Corner") -> None:
    """Put a browser's camera where it sees `count` boxes in a row fill a canvas of (height, width)."""
    outward = np.array(VIEWS[view]) / [count, 1, 1]  # less from the side where that would put one behind another
    outward /= np.linalg.norm(outward)
    right = np.cross([0.0, 1.0, 0.0], outward)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(outward, right), outward])
    half = np.array([1.0 + STEP * (count - 1) / 2, 1.0, 1.0])
    corners = np.array(np.meshgrid(*([-1.0, 1.0],) * 3)).reshape(3, -1).T * half @ axes.T
    tall = FILLED * math.tan(FOV / 2)
    wide = tall * size[1] / size[0]
    distance = (corners[:, 2] + np.maximum(np.abs(corners[:, 0]) / wide, np.abs(corners[:, 1]) / tall)).max()
    look(camera, outward * distance, np.zeros(3), np.array([0.0, 1.0, 0.0]), FOV)
