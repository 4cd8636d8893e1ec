"""Distances and insides against shapes whose answers are known in closed form."""

import numpy as np
import pytest
import trimesh

from fitting.signals.distance import ShapeDistance
from fitting.signals.mesh_files import Geometry
from fitting.signals.mesh_repair import clean

NO_FACES = np.zeros((0, 3), np.int64)


@pytest.fixture
def queries() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (4000, 3)).astype(np.float32)


def prepared(mesh: trimesh.Trimesh) -> ShapeDistance:
    return ShapeDistance(*clean(Geometry(np.asarray(mesh.vertices, float), np.asarray(mesh.faces, np.int64))))


def sphere(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x, axis=1) - 0.7


def box(x: np.ndarray) -> np.ndarray:
    q = np.abs(x) - np.array([0.3, 0.5, 0.7])
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)


def torus(x: np.ndarray) -> np.ndarray:
    return np.hypot(np.hypot(x[:, 0], x[:, 1]) - 0.6, x[:, 2]) - 0.25


MESHES = {
    "sphere": (trimesh.creation.icosphere(subdivisions=6, radius=0.7), sphere),
    "box": (trimesh.creation.box((0.6, 1.0, 1.4)), box),
    "torus": (trimesh.creation.torus(0.6, 0.25, major_sections=256, minor_sections=128), torus),
}


@pytest.mark.parametrize("name", MESHES)
def test_signed_distances_of_analytic_shapes(name, queries):
    mesh, exact = MESHES[name]
    shape = prepared(mesh)
    assert shape.rule == "rays"
    assert np.abs(shape.signed(queries) - exact(queries)).max() < 1e-3
    report = shape.sign_report(queries)
    assert report.checked == len(queries)
    assert report.disagree <= 2e-3


def test_a_mesh_that_looks_inward_has_the_same_inside(queries):
    mesh, exact = MESHES["torus"]
    turned = trimesh.Trimesh(mesh.vertices, mesh.faces[:, ::-1], process=False)
    shape = prepared(turned)
    far = np.abs(exact(queries)) > 2e-3
    assert np.array_equal(shape.inside(queries)[far], exact(queries)[far] < 0)
    assert np.array_equal(shape.inside(queries, "winding")[far], exact(queries)[far] < 0)


@pytest.mark.parametrize("turn", [1, -1])
def test_what_is_not_closed_goes_by_winding_number_whichever_way_it_looks(turn, queries):
    mesh, exact = MESHES["sphere"]
    faces = mesh.faces[mesh.triangles_center[:, 2] < 0.66][:, ::turn]
    shape = prepared(trimesh.Trimesh(mesh.vertices, faces, process=False))
    assert shape.rule == "winding"
    clear = np.abs(exact(queries)) > 0.05
    assert (shape.inside(queries)[clear] == (exact(queries)[clear] < 0)).mean() > 0.999
    report = shape.sign_report(queries)
    assert report.why.startswith("not closed: ")
    assert 0 < report.disagree < 0.2


def test_clouds_need_normals_for_an_inside(queries):
    mesh, exact = MESHES["sphere"]
    points = np.asarray(mesh.vertices, float)
    bare = ShapeDistance(*clean(Geometry(points, NO_FACES)))
    assert bare.rule == "none"
    assert np.abs(bare.signed(queries) - np.abs(exact(queries))).max() < 0.02
    with pytest.raises(ValueError, match="rule='winding': this geometry has rule 'none'"):
        bare.inside(queries, "winding")
    oriented = ShapeDistance(*clean(Geometry(points, NO_FACES, -points / 0.7)))
    assert oriented.rule == "winding"
    clear = np.abs(exact(queries)) > 0.03
    assert np.array_equal(oriented.inside(queries)[clear], exact(queries)[clear] < 0)
