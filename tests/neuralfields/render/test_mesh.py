"""Meshes measure themselves rightly and come back from their files."""

from pathlib import Path

import numpy as np
import pytest

from neuralfields.render.mesh import SUFFIXES, Mesh


@pytest.fixture
def tetrahedron() -> Mesh:
    """The corner of a unit cube: volume 1/6."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    return Mesh(vertices, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))


def test_area_and_volume(tetrahedron: Mesh) -> None:
    assert tetrahedron.area == pytest.approx(1.5 + np.sqrt(3) / 2)
    assert tetrahedron.volume == pytest.approx(1 / 6)
    assert Mesh(tetrahedron.vertices, tetrahedron.faces[:, ::-1]).volume == pytest.approx(-1 / 6)


def test_only_closed_and_consistent_meshes_are_watertight(tetrahedron: Mesh) -> None:
    faces, vertices = tetrahedron.faces, tetrahedron.vertices
    turned = np.concatenate([faces[:1, ::-1], faces[1:]])
    assert tetrahedron.watertight
    assert not Mesh(vertices, faces[:3]).watertight
    assert not Mesh(vertices, turned).watertight
    assert not Mesh(vertices, np.concatenate([faces, faces])).watertight
    assert not Mesh(vertices, faces[:0]).watertight


@pytest.mark.parametrize("kind", SUFFIXES)
def test_files_keep_the_surface(tetrahedron: Mesh, kind: str, tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    tetrahedron.save(tmp_path / f"a{kind}")
    back = trimesh.load(tmp_path / f"a{kind}", force="mesh")
    assert back.is_watertight
    assert back.volume == pytest.approx(1 / 6, rel=1e-5)
    assert np.allclose(np.sort(back.bounds, axis=0), [[0, 0, 0], [1, 1, 1]])


def test_the_same_mesh_makes_the_same_bytes(tetrahedron: Mesh, tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    for kind in SUFFIXES:
        tetrahedron.save(tmp_path / f"a{kind}")
        tetrahedron.save(tmp_path / f"b{kind}")
        assert (tmp_path / f"a{kind}").read_bytes() == (tmp_path / f"b{kind}").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{name}{kind}" for name in "ab" for kind in SUFFIXES)


def test_what_is_no_mesh_is_refused(tetrahedron: Mesh, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vertices is float64 \(4, 3\): expected float32"):
        Mesh(tetrahedron.vertices.astype(np.float64), tetrahedron.faces)
    with pytest.raises(ValueError, match="faces name vertices 0 to 3: expected 0 to 2"):
        Mesh(tetrahedron.vertices[:3], tetrahedron.faces)
    with pytest.raises(ValueError, match=r"expected a name that ends in \.obj, \.ply"):
        tetrahedron.save(tmp_path / "a.xyz")
    with pytest.raises(ValueError, match="no faces: expected a surface"):
        Mesh(tetrahedron.vertices, tetrahedron.faces[:0]).save(tmp_path / "a.ply")
