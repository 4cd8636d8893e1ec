"""Copies of a shape have one name, other shapes others."""

from collections import Counter

import numpy as np
import pytest
import trimesh

from fitting.signals.mesh_files import Geometry, find_files, read_geometry
from fitting.signals.mesh_repair import clean
from fitting.signals.shape_groups import TOLERANCE, groups, signature

SHAPES = {
    "sphere": trimesh.creation.icosphere(subdivisions=4),
    "torus": trimesh.creation.torus(1.0, 0.4, major_sections=64, minor_sections=32),
    "capsule": trimesh.creation.capsule(height=2.0, radius=0.5, count=[32, 32]),
    "ellipsoid": trimesh.creation.icosphere(subdivisions=4).apply_scale([1.0, 0.7, 0.4]),
}


def geometry(mesh: trimesh.Trimesh) -> Geometry:
    return Geometry(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))


def difference(first: Geometry, second: Geometry) -> float:
    return float(np.abs(signature(first) - signature(second)).max())


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", SHAPES)
def test_similarity_transforms_and_numbering_change_nothing(name, rng):
    mesh = geometry(SHAPES[name])
    turn = trimesh.transformations.random_rotation_matrix(rng.random(3))[:3, :3]
    moved = 37.0 * mesh.vertices @ turn.T + rng.normal(size=3) * 5
    new = rng.permutation(len(moved))
    vertices = np.empty_like(moved)
    vertices[new] = moved
    assert difference(mesh, Geometry(vertices, rng.permutation(new[mesh.faces]))) < 1e-3 * TOLERANCE


def test_points_of_a_cloud_change_nothing_either_when_moved(rng):
    points = rng.normal(size=(500, 3)) * [1, 2, 3]
    cloud = Geometry(points, np.zeros((0, 3), np.int64))
    moved = Geometry(rng.permutation(points)[:, [1, 2, 0]] * 0.01 - 4.0, cloud.faces)
    assert difference(cloud, moved) < 1e-3 * TOLERANCE
    assert np.array_equal(signature(cloud)[:2], [0, 0])


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - {"capsule"}))  # its sides are faces as long as itself
def test_finer_triangles_of_the_same_surface_are_a_copy(name):
    mesh = SHAPES[name]
    assert difference(geometry(mesh), geometry(mesh.subdivide())) < TOLERANCE


def test_different_shapes_differ():
    signatures = [signature(geometry(mesh)) for mesh in SHAPES.values()]
    assert len(set(groups(signatures))) == len(SHAPES)


def test_the_first_two_numbers_are_those_of_a_sphere():
    fine = signature(geometry(trimesh.creation.icosphere(subdivisions=5)))
    assert fine[0] == pytest.approx(np.sqrt(4 * np.pi) / 3, rel=1e-3)
    assert fine[1] == pytest.approx(np.cbrt(4 * np.pi / 3), rel=1e-3)
    assert fine[2:] == pytest.approx(np.ones(16), abs=2e-3)


def test_chains_are_one_group_and_a_gap_ends_it():
    row = np.linspace(0, 1, 18)
    steps = np.array([0.0, 0.9, 1.8, 2.7, 4.0]) * TOLERANCE
    names = groups([row + step for step in steps])
    assert len(set(names[:4])) == 1
    assert names[4] != names[0]


def test_one_number_beyond_the_tolerance_is_enough_to_part():
    row = np.linspace(0, 1, 18)
    for place in range(18):
        other = row.copy()
        other[place] += 1.1 * TOLERANCE
        assert len(set(groups([row, other]))) == 2
        other[place] = row[place] + 0.9 * TOLERANCE
        assert len(set(groups([row, other]))) == 1


def test_groups_and_their_names_do_not_depend_on_order(rng):
    middles = rng.random((12, 1, 18))
    table = (middles + rng.uniform(-0.4, 0.4, (12, 4, 18)) * TOLERANCE).reshape(-1, 18)
    expected = groups(list(table))
    assert Counter(Counter(expected).values()) == {4: 12}
    for _ in range(5):
        order = rng.permutation(len(table))
        assert groups(list(table[order])) == tuple(expected[i] for i in order)


def test_names_of_other_groups_stay_when_shapes_are_added(rng):
    table = rng.random((6, 18))
    assert groups(list(table))[:4] == groups(list(table[:4]))


def test_no_shapes_are_no_groups():
    assert groups([]) == ()


COPIES = {
    "bearing": [{341, 342, 343}, {355, 356}, {358, 359}],
    "bird": [{243, 251}],
    "fish": [{226, 227}],
    "glasses": [{54, 57}],
    "plier": [{207, 208}, {215, 216}],
}


def test_known_copies_among_real_shapes_end_in_one_group(shared_data):
    files = [(path, name) for path, name in find_files(shared_data / "shapes") if name in COPIES]
    names = groups([signature(clean(read_geometry(path))[0]) for path, _ in files])
    by_shape = {(kind, int(path.name.partition(".")[0])): name for (path, kind), name in zip(files, names, strict=True)}
    known = {(kind, number) for kind, sets in COPIES.items() for numbers in sets for number in numbers}
    for kind, sets in COPIES.items():
        for numbers in sets:
            assert len({by_shape[kind, number] for number in numbers}) == 1, (kind, numbers)
    sizes = Counter(names)
    alone = [shape for shape, name in by_shape.items() if sizes[name] == 1]
    assert len(alone) >= 0.8 * (len(by_shape) - len(known))
