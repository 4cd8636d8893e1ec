"""Cleaning counts what is wrong with a mesh and leaves what is right alone."""

import json

import numpy as np
import pytest
import trimesh

from fitting.signals.mesh_files import Geometry, read_geometry
from fitting.signals.mesh_repair import MeshReport, Transform, clean, face_normals, normalise_shape, require_inside

NO_FACES = np.zeros((0, 3), np.int64)
BOX = trimesh.creation.box((2.0, 1.0, 3.0))
CORNERS = np.asarray(BOX.vertices, np.float64)
SIDES = np.asarray(BOX.faces, np.int64)
SQUARE = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])


def report_of(vertices, faces) -> MeshReport:
    return clean(Geometry(np.asarray(vertices, np.float64), np.asarray(faces, np.int64)))[1]


def joined(*parts: tuple) -> Geometry:
    """One geometry of several (vertices, faces)."""
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    faces = [faces + start for (_, faces), start in zip(parts, starts, strict=False)]
    return Geometry(np.concatenate([vertices for vertices, _ in parts]), np.concatenate(faces))


def test_a_sound_box_has_no_defects():
    mesh, report = clean(Geometry(CORNERS, SIDES))
    assert report == MeshReport(8, 12, parts=1, closed=True, volume=pytest.approx(6.0))
    assert report.defects() == ""
    assert report.outward
    assert json.loads(json.dumps(report.to_json())) == report.to_json()
    assert np.array_equal(mesh.vertices[mesh.faces], CORNERS[SIDES])
    require_inside(mesh, report)


def test_a_box_written_with_split_vertices_becomes_closed(tmp_path):
    (tmp_path / "box.stl").write_bytes(BOX.export(file_type="stl"))
    mesh, report = clean(read_geometry(tmp_path / "box.stl"))
    assert report.merged == 36 - 8
    assert report.vertices == len(mesh.vertices) == 8
    assert report.closed
    assert report.open_edges == 0


def test_only_exactly_equal_positions_merge_and_zero_has_no_sign():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [-0.0, 0, 0], [1, 0, 1e-12], [0, 1, 0]])
    mesh, report = clean(Geometry(vertices, np.array([[0, 1, 2], [3, 5, 4]])))
    assert report.merged == 2
    assert np.array_equal(mesh.vertices, vertices[[0, 1, 2, 4]])


def test_vertices_that_no_face_names_go():
    mesh, report = clean(Geometry(np.vstack([[[9.0, 9, 9]], CORNERS]), SIDES + 1))
    assert report.unreferenced == 1
    assert np.abs(mesh.vertices).max() == 1.5


def test_faces_without_area_are_dropped_and_counted():
    vertices = np.vstack([CORNERS, CORNERS[SIDES[0]].mean(0)])
    first, second, _ = SIDES[0]
    vertices[8] = (vertices[first] + vertices[second]) / 2
    faces = np.vstack([SIDES, [[first, first, second], [first, 8, second]]])
    mesh, report = clean(Geometry(vertices, faces))
    assert report.zero_area == 2
    assert report.faces == 12
    assert report.unreferenced == 1
    assert "2 zero-area faces dropped" in report.defects()
    assert face_normals(mesh)[1].min() > 0


def test_a_sliver_that_closes_a_seam_counts_as_an_edge_before_it_goes():
    a, b, c = SIDES[0].tolist()
    vertices = np.vstack([CORNERS, (CORNERS[a] + CORNERS[b]) / 2])
    split = [[a, 8, c], [8, b, c]]
    open_report = report_of(vertices, [*split, *SIDES[1:].tolist()])
    assert not open_report.closed
    assert open_report.open_edges == 3  # one side of the seam has one edge, the other two
    sewn = report_of(vertices, [*split, [a, b, 8], *SIDES[1:].tolist()])
    assert sewn.closed
    assert sewn.zero_area == 1
    assert sewn.volume == pytest.approx(6.0)


def test_duplicate_faces_go_whatever_corner_they_start_from():
    faces = np.vstack([SIDES, np.roll(SIDES[:3], 1, axis=1), SIDES[:1]])
    report = report_of(CORNERS, faces)
    assert report.duplicate == 4
    assert report.faces == 12
    assert report.closed


def test_a_face_and_its_other_side_are_no_duplicates():
    report = report_of(SQUARE[:3], [[0, 1, 2], [0, 2, 1]])
    assert (report.duplicate, report.faces, report.closed, report.flat) == (0, 2, True, True)


def test_a_hole_has_open_edges_and_no_volume():
    report = report_of(CORNERS, SIDES[1:])
    assert report.open_edges == 3
    assert not report.closed
    assert np.isnan(report.volume)
    assert report.inward_parts == 0
    assert report.defects() == "3 open edges"


def test_one_face_turned_over_has_three_flipped_edges():
    faces = SIDES.copy()
    faces[4] = faces[4, ::-1]
    report = report_of(CORNERS, faces)
    assert report.flipped_edges == 3
    assert report.closed
    assert not report.outward
    assert "3 edges between faces that look opposite ways" in report.defects()


def test_two_boxes_on_one_edge_share_a_nonmanifold_edge():
    cube = CORNERS * [0.5, 1, 1 / 3]  # sides 1
    other = cube + np.array([1.0, 1.0, 0.0])
    report = clean(joined((cube, SIDES), (other, SIDES)))[1]
    assert report.nonmanifold_edges == 1
    assert report.closed
    assert report.parts == 1
    assert report.merged == 2
    assert not report.outward


def test_an_inward_box_has_one_inward_part_and_a_positive_volume():
    report = report_of(CORNERS, SIDES[:, ::-1])
    assert report.inward_parts == 1
    assert report.flipped_edges == 0
    assert report.volume == pytest.approx(6.0)
    assert not report.outward


def test_the_parts_of_a_mesh_are_counted_and_their_volumes_summed():
    report = clean(joined((CORNERS, SIDES), (CORNERS + 10.0, SIDES[:, ::-1])))[1]
    assert (report.parts, report.inward_parts) == (2, 1)
    assert report.volume == pytest.approx(12.0)


def test_counts_do_not_depend_on_the_order_of_faces_and_vertices():
    rng = np.random.default_rng(0)
    faces = np.vstack([SIDES[1:], SIDES[2:4], [[0, 0, 1]]])
    faces[3] = faces[3, ::-1]
    expected = report_of(CORNERS, faces)
    for _ in range(5):
        new = rng.permutation(8)
        turned = np.stack([np.roll(face, rng.integers(3)) for face in new[faces]])
        vertices = np.empty_like(CORNERS)
        vertices[new] = CORNERS
        found = report_of(vertices, rng.permutation(turned))
        assert {**found.to_json(), "volume": 0} == {**expected.to_json(), "volume": 0}


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("height", [0.0, 1e-2])
def test_flat_in_any_plane(offset, height):
    turn = trimesh.transformations.random_rotation_matrix(np.array([0.3, 0.6, 0.2]))[:3, :3]
    vertices = np.vstack([SQUARE, [[0.5, 0.5, height]]]) @ turn.T + offset
    report = report_of(vertices, [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    assert report.flat == (height == 0.0)


def test_a_mesh_without_any_area_is_refused():
    for faces in ([[0, 0, 1], [1, 2, 2]], [[0, 1, 2]]):
        with pytest.raises(ValueError, match=f"all {len(faces)} faces have zero area"):
            report_of([[0, 0, 0], [1, 1, 1], [2, 2, 2]], faces)


def test_a_cloud_keeps_each_position_once_with_its_normal():
    points = np.vstack([CORNERS, CORNERS[:2]])
    cloud, report = clean(Geometry(points, NO_FACES, points / np.linalg.norm(points, axis=1, keepdims=True)))
    assert (report.vertices, report.faces, report.merged, report.flat) == (8, 0, 2, False)
    assert np.array_equal(cloud.vertices, CORNERS)
    assert cloud.normals is not None
    assert np.allclose(np.cross(cloud.normals, CORNERS), 0)


def test_a_cloud_without_points_is_refused():
    with pytest.raises(ValueError, match="no points"):
        clean(Geometry(CORNERS[:0], NO_FACES))


def test_normalising_centres_the_box_and_makes_its_largest_side_one_point_eight():
    moved = Geometry(CORNERS * 7 + [100.0, -20, 3], SIDES)
    result, transform = normalise_shape(moved)
    low, high = result.vertices.min(0), result.vertices.max(0)
    assert np.allclose(low + high, 0, atol=1e-12)
    assert (high - low).max() == pytest.approx(1.8, abs=1e-12)
    assert high == pytest.approx([0.6, 0.3, 0.9])  # one scale for all axes
    assert np.abs(transform.undo(result.vertices) - moved.vertices).max() < 1e-12 * 100
    assert np.array_equal(result.faces, SIDES)


def test_apply_and_undo_are_inverse():
    transform = Transform(0.37, (1.5, -2.0, 0.25))
    points = np.random.default_rng(0).normal(size=(4, 25, 3))
    assert np.abs(transform.undo(transform.apply(points)) - points).max() < 1e-12
    assert np.abs(transform.apply(transform.undo(points)) - points).max() < 1e-12
    assert transform.apply(points.astype(np.float32)).dtype == np.float64
    assert np.array_equal(transform.apply(np.array(transform.offset)), np.zeros(3))


def test_one_position_cannot_be_normalised():
    with pytest.raises(ValueError, match="all 4 vertices are at one position"):
        normalise_shape(Geometry(np.ones((4, 3)), NO_FACES))


def no_inside(geometry: Geometry) -> pytest.ExceptionInfo:
    mesh, report = clean(geometry)
    with pytest.raises(ValueError, match="or signal 'udf'") as caught:
        require_inside(mesh, report)
    assert "\n" not in str(caught.value)
    return caught


def test_what_has_no_inside_is_refused():
    assert "a point cloud without normals" in str(no_inside(Geometry(CORNERS, NO_FACES)).value)
    assert "a flat mesh" in str(no_inside(Geometry(SQUARE, np.array([[0, 1, 2], [0, 2, 3]]))).value)
    bent = np.vstack([SQUARE, [[0.5, 0.5, 1.0]]])
    sheet = np.array([[0, 1, 4], [1, 2, 4]])
    both = Geometry(bent, np.vstack([sheet, sheet[:, ::-1]]))  # every face and its other side
    assert clean(both)[1].closed
    assert "a closed mesh of zero volume" in str(no_inside(both).value)


def test_what_may_have_an_inside_is_not_refused():
    cloud = Geometry(CORNERS, NO_FACES, CORNERS / np.linalg.norm(CORNERS, axis=1, keepdims=True))
    for geometry in (cloud, Geometry(CORNERS, SIDES[1:]), Geometry(CORNERS, SIDES[:, ::-1])):
        require_inside(*clean(geometry))


def test_normals_of_a_box_look_outward_and_areas_sum_to_its_surface():
    normals, areas = face_normals(Geometry(CORNERS, SIDES))
    assert areas.sum() == pytest.approx(2 * (2 + 3 + 6))
    assert np.linalg.norm(normals, axis=1) == pytest.approx(np.ones(12))
    assert (np.einsum("ij,ij->i", normals, CORNERS[SIDES].mean(1)) > 0).all()
