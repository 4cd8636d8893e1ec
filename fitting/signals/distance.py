"""Distances to a shape and on which side of its surface a point lies.

Distances come from Open3D's ray-casting scene (exact to float32), or from the nearest point of a cloud. The side comes
from counting crossings of rays for closed meshes, which does not care which way faces look, and from the generalised
winding number (libigl) for everything else: Jacobson et al., "Robust inside-outside segmentation using generalized
winding numbers", SIGGRAPH 2013; Barill et al., "Fast winding numbers for soups and clouds", SIGGRAPH 2018.

Legend: Q queries.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fitting.signals.mesh_files import Geometry
from fitting.signals.mesh_repair import MeshReport, face_normals

SignRule = Literal["rays", "winding", "none"]
RAYS = 3  # crossings are counted along so many rays, and most of them decide
NEIGHBOURS = 8  # of a point of a cloud: how far they are says what area it stands for


@dataclass(frozen=True)
class SignReport:
    """How inside was told from outside: rule ("none" for unsigned distances of what has no inside), why it was chosen,
    and the share of `checked` points near and far on which the other rule disagrees (NaN where there is no other)."""

    rule: SignRule
    why: str
    disagree: float = float("nan")
    checked: int = 0

    def to_json(self) -> dict:
        """Return plain JSON values."""
        return asdict(self)


class ShapeDistance:
    """A cleaned, normalised geometry prepared for queries in its own units."""

    def __init__(self, geometry: Geometry, report: MeshReport) -> None:
        self.geometry, self.report = geometry, report
        self._scene: Any = None if geometry.is_cloud else _scene(geometry)
        self._tree: Any = _tree(geometry.vertices) if geometry.is_cloud else None
        self._winding: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def rule(self) -> SignRule:
        """Which rule tells inside from outside."""
        if self.geometry.is_cloud:
            return "none" if self.geometry.normals is None else "winding"
        if self.report.flat:
            return "none"
        return "rays" if self.report.closed else "winding"

    def distance(self, queries: np.ndarray) -> np.ndarray:
        """Return unsigned distances to the surface: (Q, 3) -> (Q,) float32."""
        if self._tree is not None:
            return self._tree.query(queries, workers=-1)[0].astype(np.float32)
        return self._scene.compute_distance(np.ascontiguousarray(queries, np.float32)).numpy()

    def inside(self, queries: np.ndarray, rule: SignRule | None = None) -> np.ndarray:
        """Return which queries lie inside, by the rule of the shape or another: (Q, 3) -> (Q,) bool.

        Raises ValueError for a rule that this geometry does not allow.
        """
        rule = self.rule if rule is None else rule
        if rule == "rays" and self._scene is not None:
            rows = np.ascontiguousarray(queries, np.float32)
            return self._scene.compute_occupancy(rows, nsamples=RAYS).numpy() > 0.5
        if rule == "winding" and self.rule != "none":
            if self._winding is None:
                self._winding = _winding(self.geometry)
            return self._winding(queries) > 0.5
        raise ValueError(f"rule={rule!r}: this geometry has rule {self.rule!r}")

    def signed(self, queries: np.ndarray) -> np.ndarray:
        """Return distances, negative inside: (Q, 3) -> (Q,) float32; unsigned where there is no inside."""
        away = self.distance(queries)
        return away if self.rule == "none" else np.where(self.inside(queries), -away, away)

    def sign_report(self, queries: np.ndarray) -> SignReport:
        """Compare the two rules on these points (Q, 3) and say which one decides and why."""
        rule = self.rule
        if rule == "none":
            return SignReport("none", "a cloud without normals" if self.geometry.is_cloud else "a flat mesh")
        if self.geometry.is_cloud:
            return SignReport("winding", "a cloud with normals")
        why = "closed" if rule == "rays" else f"not closed: {self.report.defects()}"
        other: SignRule = "winding" if rule == "rays" else "rays"
        differ = float((self.inside(queries, rule) != self.inside(queries, other)).mean())
        return SignReport(rule, why, differ, len(queries))


def _scene(geometry: Geometry) -> Any:
    try:
        import open3d
    except ModuleNotFoundError:
        raise ValueError("distances to meshes need open3d: pip install 'neuralfields[shapes]'") from None
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(geometry.vertices.astype(np.float32), geometry.faces.astype(np.uint32))
    return scene


def _tree(points: np.ndarray) -> Any:
    from scipy.spatial import KDTree

    return KDTree(points)


def _winding(geometry: Geometry) -> Callable[[np.ndarray], np.ndarray]:
    """Winding numbers (Q, 3) -> (Q,), about 1 inside; a surface that looks inward as a whole is turned."""
    try:
        import igl
    except ModuleNotFoundError:
        raise ValueError("the inside of what is not closed needs libigl: pip install 'neuralfields[shapes]'") from None
    vertices = np.ascontiguousarray(geometry.vertices, np.float64)
    if geometry.is_cloud:
        assert geometry.normals is not None
        count = min(NEIGHBOURS, len(vertices) - 1)
        reach = _tree(vertices).query(vertices, k=count + 1, workers=-1)[0][:, -1] if count else np.zeros(1)
        areas = np.pi * reach**2 / max(count, 1)
        normals = geometry.normals * _outward(vertices, geometry.normals, areas)
        return lambda queries: np.asarray(
            igl.fast_winding_number(vertices, normals, areas, queries.astype(np.float64, copy=False))
        )
    turn = _outward(vertices[geometry.faces].mean(1), *face_normals(geometry))
    faces = np.ascontiguousarray(geometry.faces if turn > 0 else geometry.faces[:, ::-1])
    return lambda queries: np.asarray(igl.fast_winding_number(vertices, faces, queries.astype(np.float64, copy=False)))


def _outward(centres: np.ndarray, normals: np.ndarray, areas: np.ndarray) -> int:
    """1 where normals look away from the middle of the surface, by the flux of the position through it, else -1."""
    middle = areas @ centres / areas.sum()
    return 1 if float(np.einsum("i,ij,ij->", areas, centres - middle, normals)) >= 0 else -1
