"""Every format gives the same triangles, every file that cannot be used one line."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import trimesh

from fitting.signals.mesh_files import Geometry, find_files, read_geometry
from fitting.signals.mesh_repair import clean

VERTICES = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 3], [-1.5, 0.25, 0.5]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 4], [3, 2, 4], [2, 0, 4]])
NORMALS = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, -1], [0.6, 0.8, 0], [0, -1, 0]])
OFF = "OFF\n5 6 0\n" + "".join(
    " ".join(map(str, row)) + "\n" for row in (*VERTICES.tolist(), *np.insert(FACES, 0, 3, axis=1).tolist())
)


def triangles(geometry: Geometry) -> list:
    """Corner positions of all faces, each turned to start at its least corner: neither numbering nor order counts."""
    corners = [face.tolist() for face in geometry.vertices[geometry.faces]]
    return sorted(c[c.index(min(c)) :] + c[: c.index(min(c))] for c in corners)


EXPECTED = triangles(Geometry(VERTICES, FACES))


def mesh(process: bool = False) -> trimesh.Trimesh:
    return trimesh.Trimesh(VERTICES, FACES, process=process)


def header(*elements: str, form: str = "ascii") -> str:
    return "\n".join(["ply", f"format {form} 1.0", *elements, "end_header", ""])


def corners(kind: str = "float") -> str:
    return f"element vertex {len(VERTICES)}\n" + "\n".join(f"property {kind} {axis}" for axis in "xyz")


def text(rows) -> str:
    return "".join(" ".join(map(str, np.asarray(row).tolist())) + "\n" for row in rows)


def no_mesh(suffix: str) -> bytes:
    return b"Dear Sir or Madam,\nthis is a letter and no mesh.\n" * (1 if suffix != "stl" else 3)


FORMATS = {
    "a.obj": lambda: mesh().export(file_type="obj"),
    "a.off": lambda: mesh().export(file_type="off"),
    "A.OFF": lambda: mesh().export(file_type="off"),
    "a.off.gz": lambda: gzip.compress(OFF.encode()),
    "a.obj.gz": lambda: gzip.compress(str(mesh().export(file_type="obj")).encode()),
    "binary.ply": lambda: mesh().export(file_type="ply"),
    "ascii.ply": lambda: mesh().export(file_type="ply", encoding="ascii"),
    "binary.stl": lambda: mesh().export(file_type="stl"),
    "ascii.stl": lambda: mesh().export(file_type="stl_ascii"),
    "a.glb": lambda: mesh().export(file_type="glb"),
}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_triangles(name, tmp_path):
    geometry = read_geometry(write(tmp_path / name, FORMATS[name]()))
    assert triangles(geometry) == EXPECTED
    assert geometry.vertices.dtype == np.float64
    assert geometry.faces.dtype == np.int64
    assert not geometry.is_cloud
    assert geometry.normals is None


def test_the_parts_of_a_scene_become_one_mesh_where_the_scene_places_them(tmp_path):
    scene = trimesh.Scene()
    moves = [np.eye(4), trimesh.transformations.translation_matrix([10.0, 0, 0])]
    for i, move in enumerate(moves):
        scene.add_geometry(mesh(), geom_name=f"part{i}", transform=move)
    geometry = read_geometry(write(tmp_path / "scene.glb", scene.export(file_type="glb")))
    moved = triangles(Geometry(VERTICES + np.array([10.0, 0, 0]), FACES))
    assert triangles(geometry) == sorted(EXPECTED + moved)


def test_an_obj_of_several_objects_and_materials_is_one_mesh(tmp_path):
    lines = ["mtllib none.mtl", *(f"v {row}" for row in text(VERTICES).splitlines())]
    for i, face in enumerate(FACES + 1):
        lines += [f"o part{i}", f"usemtl m{i}", "f " + " ".join(map(str, face))]
    geometry = read_geometry(write(tmp_path / "a.obj", "\n".join(lines)))
    assert triangles(geometry) == EXPECTED
    assert clean(geometry)[1].vertices == len(VERTICES)


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "a.obj": "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 2 2 2\nf -5//1 -4//1 -3//1 -2//1\nf 3 4 5\n",
        "a.off": "OFF\n5 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n2 2 2\n4 0 1 2 3\n3 2 3 4\n",
        "a.ply": "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
        "0 0 0\n1 0 0\n1 1 0\n0 1 0\n2 2 2\n4 0 1 2 3\n3 2 3 4\n",
    }.items(),
)
def test_squares_beside_triangles_are_cut_and_none_is_lost(name, content, tmp_path):
    geometry = read_geometry(write(tmp_path / name, content))
    a, b, c = (geometry.vertices[geometry.faces[:, i]] for i in range(3))
    twice = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    assert len(twice) == 3
    assert np.sort(twice) == pytest.approx([1, 1, np.sqrt(5)])  # twice the areas


CLOUDS = {
    "plain.xyz": ("# a comment\n" + text(VERTICES), False),
    "normals.xyz": (text(np.hstack([VERTICES, 5 * NORMALS])), True),
    "normals.xyz.gz": (gzip.compress(text(np.hstack([VERTICES, NORMALS])).encode()), True),
    "plain.ply": (header(corners()) + text(VERTICES), False),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds_of_text(name, tmp_path):
    content, has_normals = CLOUDS[name]
    check_cloud(read_geometry(write(tmp_path / name, content)), has_normals)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("has_normals", [True, False])
def test_clouds_of_npy(kind, has_normals, tmp_path):
    rows = np.hstack([VERTICES, 2 * NORMALS]) if has_normals else VERTICES
    np.save(tmp_path / "a.npy", rows.astype(kind))
    check_cloud(read_geometry(str(tmp_path / "a.npy")), has_normals)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_clouds_of_ply_carry_their_normals(form, tmp_path):
    start = header(corners(), *(f"property float {n}" for n in ("nx", "ny", "nz")), form=form).encode()
    rows = np.hstack([VERTICES, 2 * NORMALS])
    body = text(rows).encode() if form == "ascii" else rows.astype("<f4" if "little" in form else ">f4").tobytes()
    check_cloud(read_geometry(write(tmp_path / "a.ply", start + body)), has_normals=True)


def check_cloud(geometry: Geometry, has_normals: bool) -> None:
    assert geometry.is_cloud
    assert geometry.faces.shape == (0, 3)
    assert np.array_equal(geometry.vertices, VERTICES)
    if has_normals:
        assert geometry.normals is not None
        assert np.allclose(geometry.normals, NORMALS, atol=1e-6)
    else:
        assert geometry.normals is None


STRIPS = (
    header(corners(), "element tristrips 1", "property list int int vertex_indices") + text(VERTICES) + "4 0 1 2 3\n"
)
LONG_FACE = header(corners(), "element face 1", "property list uchar int vertex_indices") + text(VERTICES) + "3 0 1 9\n"
BAD = {
    "a.stp": (b"", r"expected one of \.obj, .* also compressed as \.gz"),
    "a.obj.zip": (b"", "expected one of"),
    "truncated.off.gz": (gzip.compress(OFF.encode())[:-12], "truncated.off.gz is not a readable OFF file"),
    "plain.off.gz": (OFF, "is not a readable OFF file"),
    "half.off": (OFF[: len(OFF) // 2], "half.off"),
    "letter.obj": (no_mesh("obj"), "letter.obj"),
    "letter.off": (no_mesh("off"), "letter.off"),
    "letter.ply": (no_mesh("ply"), "letter.ply"),
    "letter.stl": (no_mesh("stl"), "letter.stl"),
    "letter.glb": (no_mesh("glb"), "letter.glb"),
    "letter.xyz": (no_mesh("xyz"), "not a readable XYZ file"),
    "letter.npy": (no_mesh("npy"), "not a readable NPY file"),
    "empty.obj": (b"", "empty.obj"),
    "empty.off": (b"OFF\n0 0 0\n", "0 vertices and no faces"),
    "nothing.off": (b"", "nothing.off"),
    "empty.ply": (b"", "empty.ply"),
    "empty.stl": (b"", "empty.stl"),
    "empty.glb": (b"", "empty.glb"),
    "empty.xyz": (b"", "empty.xyz"),
    "empty.npy": (b"", "empty.npy"),
    "comment.xyz": (b"# nothing\n", "comment.xyz"),
    "points.off": (b"OFF\n2 0 0\n0 0 0\n1 1 1\n", "2 vertices and no faces: expected a mesh or a point cloud"),
    "strips.ply": (STRIPS, r"its tristrips cannot be read as triangles"),
    "nan.off": (OFF.replace("2.0 0.0 0.0", "nan 0.0 0.0"), "1 of 5 vertices have NaN or infinite coordinates"),
    "inf.obj": ("v 0 0 0\nv inf 0 0\nv 0 1 0\nf 1 2 3\n", "1 of 3 vertices have NaN or infinite"),
    "nan.xyz": ("0 0 0\nnan 0 1\n", "1 of 2 vertices"),
    "range.off": (OFF.replace("3 2 0 4", "3 2 0 5"), "range.off"),
    "range.obj": ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "range.obj"),
    "range.ply": (LONG_FACE, "faces name vertices 0 to 9: expected 0 to 4"),
    "two.xyz": ("0 0\n1 1\n", r"shape \(2, 2\): expected \(P, 3\) points or \(P, 6\)"),
    "ragged.xyz": ("0 0 0\n1 1\n", "not a readable XYZ file"),
    "zero.xyz": ("0 0 0 0 0 0\n1 1 1 1 0 0\n", "normals that are zero or not finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_said_in_one_line(name, tmp_path):
    content, match = BAD[name]
    refused(write(tmp_path / name, content), match)


@pytest.mark.parametrize("shape", [(0, 3), (3,), (4, 2), (2, 3, 3), (4, 5)])
def test_arrays_of_other_shapes_are_refused(shape, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    refused(tmp_path / "a.npy", r"a\.npy: has shape .*: expected \(P, 3\) points")


def test_arrays_of_objects_and_words_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([[1, 2, None]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array([["a", "b", "c"]]))
    np.save(tmp_path / "complex.npy", np.array([[1j, 2, 3]]))
    refused(tmp_path / "objects.npy", "objects.npy is not a readable NPY file")
    refused(tmp_path / "words.npy", "words.npy")
    refused(tmp_path / "complex.npy", "complex.npy")


def test_a_missing_file_and_a_folder_are_no_files(tmp_path):
    for path in (tmp_path / "no.off", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file") as caught:
            read_geometry(path)
        assert "\n" not in str(caught.value)


def refused(path: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        read_geometry(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 240


def test_a_geometry_refuses_normals_of_another_number():
    with pytest.raises(ValueError, match=r"normals has shape \(2, 3\): expected \(5, 3\)"):
        Geometry(VERTICES, FACES[:0], NORMALS[:2])
    with pytest.raises(ValueError, match=r"vertices has shape \(5, 2\)"):
        Geometry(VERTICES[:, :2], FACES)
    with pytest.raises(ValueError, match=r"faces has shape \(6, 2\)"):
        Geometry(VERTICES, FACES[:, :2])
    with pytest.raises(ValueError, match="faces name vertices -1 to 4: expected 0 to 4"):
        Geometry(VERTICES, np.where(FACES == 0, -1, FACES))


def listing(folder: Path) -> list[tuple[str, str | None]]:
    return [(path.relative_to(folder).as_posix(), name) for path, name in find_files(folder)]


def test_folders_are_classes_and_numbers_in_names_sort_as_numbers(tmp_path):
    names = (
        "fish/10.off.gz",
        "fish/9.off",
        "bird/part10.ply",
        "bird/part9.ply",
        "bird/2/b.stl",
        "bird/²x.off",
        "bird/².off",
    )
    for name in names:
        write(tmp_path / name, "")
    for name in (".hidden/1.off", "fish/.1.off", "fish/._9.off", "fish/.old/1.off", "fish/notes.txt", "fish/a.mtl"):
        write(tmp_path / name, "")
    found = listing(tmp_path)
    assert [pair for pair in found if pair[1] == "fish"] == [("fish/9.off", "fish"), ("fish/10.off.gz", "fish")]
    assert sorted(name for name, _ in found) == sorted(names)
    order = [name for name, _ in found]
    assert order.index("bird/part9.ply") < order.index("bird/part10.ply")
    assert [name for _, name in found] == ["bird"] * 5 + ["fish"] * 2


def test_loose_files_have_no_class_even_beside_folders(tmp_path):
    for name in ("10.obj", "9.obj", "more/1.obj"):
        write(tmp_path / name, "")
    found = listing(tmp_path)
    assert {name for _, name in found} == {None}
    assert [name for name, _ in found if "/" not in name] == ["9.obj", "10.obj"]
    assert ("more/1.obj", None) in found


def test_an_index_decides_where_there_is_one(tmp_path):
    write(tmp_path / "other" / "3.off", "")
    write(tmp_path / "index.csv", "file,class,faces\n2.off,fish,1\n1.off,bird,1\n")
    assert listing(tmp_path) == [("fish/2.off", "fish"), ("bird/1.off", "bird")]


def test_an_index_without_its_columns_is_refused(tmp_path):
    write(tmp_path / "index.csv", "name,class\n2.off,fish\n")
    with pytest.raises(ValueError, match="no column file; expected class and file"):
        find_files(tmp_path)


@pytest.mark.parametrize("inside", [(), ("notes.txt",), ("sub/notes.txt",), (".hidden/a.off",)])
def test_a_folder_without_shapes_is_refused(inside, tmp_path):
    for name in inside:
        write(tmp_path / name, "")
    with pytest.raises(ValueError, match=r"no shape files; expected some of \.obj, .* \(or \.gz\)"):
        find_files(tmp_path)


@pytest.mark.parametrize("row", ["chair", "chair,", ",a.off", "chair,/tmp/a.off", "..,a.off", "chair,../../a.off"])
def test_a_row_of_an_index_that_names_no_file_below_the_folder_is_refused(row, tmp_path):
    write(tmp_path / "index.csv", f"class,file\nchair,1.off\n{row}\n")
    with pytest.raises(ValueError, match=r"index\.csv: line 3 has class=.*: expected a file below the folder"):
        listing(tmp_path)


def test_an_index_without_rows_is_refused(tmp_path):
    write(tmp_path / "index.csv", "class,file\n")
    with pytest.raises(ValueError, match="no shape files"):
        find_files(tmp_path)
