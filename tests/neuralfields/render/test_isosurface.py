"""Laws of extracted surfaces: closed, outward, where the level is, and the same as a dense evaluation finds."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

import neuralfields as nf
from neuralfields import inits
from neuralfields.batch import FieldBatch
from neuralfields.render.isosurface import isosurface, surface
from neuralfields.render.mesh import Mesh

Function = Callable[[Tensor], Tensor]


def ball(points: Tensor) -> Tensor:
    return points.norm(dim=1) - 0.7


def torus(points: Tensor) -> Tensor:
    ring = points[:, :2].norm(dim=1) - 0.6
    return (ring.square() + points[:, 2].square()).sqrt() - 0.2


def plate(points: Tensor) -> Tensor:
    """Distance to a plate 0.02 thick, a third of a coarse cell, cut off at 0.1 as fitted fields are."""
    beyond = points.abs() - torch.tensor([0.81, 0.67, 0.01])
    outer = beyond.clamp_min(0).norm(dim=1)
    return (outer + beyond.amax(1).clamp_max(0)).clamp(-0.1, 0.1)


def lollipop(points: Tensor) -> Tensor:
    """-1 within a ball and a stick so thin that it passes between the corners of the coarse cells, 1 elsewhere."""
    stick = (points[:, 1:] - 1 / 32).norm(dim=1) < 0.025
    within = (points.norm(dim=1) < 0.3) | (stick & (points[:, 0].abs() < 0.9))
    return 1.0 - 2.0 * within


def shell(points: Tensor) -> Tensor:
    """Unsigned distance to a sphere: 0.01 away from it the solid is thinner than two cells."""
    return (points.norm(dim=1) - 0.6).abs()


def gyroid(points: Tensor) -> Tensor:
    p = 5.0 * points
    return (p.sin() * p[:, [1, 2, 0]].cos()).sum(1)


def noise(points: Tensor) -> Tensor:
    """Values without any order at the corners of 20 cells along the box: every kind of cell is there many times."""
    index = ((points.double() + 1) * 10).round().long()
    key = (index * torch.tensor([73856093, 19349663, 83492791])).sum(1)
    return (key * 2654435761 % 1000003).float() / 1000003 - 0.5


def dense(function: Function, resolution: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of scikit-image's marching cubes on all corners of the grid."""
    measure = pytest.importorskip("skimage.measure")
    axis = torch.linspace(-1, 1, resolution + 1)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    values = function(points).view(resolution + 1, resolution + 1, resolution + 1)
    vertices, faces, _, _ = measure.marching_cubes(values.numpy(), level)
    return vertices * (2 / resolution) - 1, faces


def farthest(a: np.ndarray, b: np.ndarray) -> float:
    """Directed distance: of the point of a that is farthest from all of b."""
    spatial = pytest.importorskip("scipy.spatial")
    return float(spatial.cKDTree(b).query(a)[0].max())


@pytest.fixture
def fields() -> FieldBatch:
    """Three random sine fields whose level sets are rough but wider than a coarse cell."""
    spec = nf.SIREN(3, 1, hidden=(32, 32), w0=12.0)
    return inits.initial(spec, np.arange(3, dtype=np.uint32), "random")


def euler(mesh: Mesh) -> int:
    """V - E + F: 2 for a sphere, 0 for a torus."""
    return len(np.unique(mesh.faces)) - len(mesh.faces) * 3 // 2 + len(mesh.faces)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("resolution", [48, 77, 128])
def test_a_ball_has_its_area_and_volume(resolution: int, side: int) -> None:
    inside = "below" if side == 1 else "above"
    mesh = surface(lambda p: side * ball(p), resolution, inside=inside)
    assert mesh.watertight
    assert mesh.area == pytest.approx(4 * math.pi * 0.49, rel=0.01)
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.343, rel=0.01)
    assert euler(mesh) == 2
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.7).max() < 0.25 * (2 / resolution) ** 2 / 0.7


def test_a_torus_has_a_hole() -> None:
    mesh = surface(torus, 96)
    assert mesh.watertight
    assert euler(mesh) == 0
    assert mesh.volume == pytest.approx(2 * math.pi**2 * 0.6 * 0.04, rel=0.01)


def test_trimesh_agrees_that_it_is_closed_and_outward() -> None:
    trimesh = pytest.importorskip("trimesh")
    mesh = surface(torus, 64)
    other = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert other.is_watertight
    assert other.is_winding_consistent
    assert other.volume == pytest.approx(mesh.volume, rel=1e-5)
    assert other.area == pytest.approx(mesh.area, rel=1e-5)


@pytest.mark.parametrize("coarse", [20, 10, 5])
def test_noise_opens_no_hole(coarse: int) -> None:
    """Ambiguous faces are cut alike from both sides, also at the box, and the surface is followed wherever it goes."""
    mesh = surface(noise, 20, coarse=coarse)
    assert mesh.watertight
    assert len(mesh.faces) > 20**3
    assert 1.0 < np.abs(mesh.vertices).max() < 1.001  # the cap


@pytest.mark.parametrize(
    ("function", "level"), [(ball, 0.1), (torus, 0.0), (plate, 0.0), (lollipop, 0.1), (shell, 0.01), (gyroid, 0.3)]
)
@pytest.mark.parametrize("resolution", [90, 96])
def test_the_surface_is_the_one_of_a_dense_evaluation(function: Function, level: float, resolution: int) -> None:
    mesh = surface(function, resolution, level, cap=False)
    vertices, _ = dense(function, resolution, level)
    tenth = 0.1 * 2 / resolution
    assert farthest(mesh.vertices, vertices) < tenth
    assert farthest(vertices, mesh.vertices) < tenth


def test_fields_have_the_surface_of_a_dense_evaluation(fields: FieldBatch) -> None:
    cell = 2 / 64
    for number, mesh in enumerate(isosurface(fields, 64, 0.01, cap=False)):
        field = fields[number]
        vertices, _ = dense(lambda p, field=field: nf.evaluate(field, p)[0, :, 0], 64, 0.01)
        assert len(vertices) > 1000
        assert farthest(mesh.vertices, vertices) <= math.sqrt(3) * cell
        assert farthest(vertices, mesh.vertices) <= math.sqrt(3) * cell


def test_a_batch_equals_its_fields_one_by_one(fields: FieldBatch) -> None:
    seen: list[tuple[int, int]] = []
    together = isosurface(fields, 40, progress=lambda *count: seen.append(count))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for number, mesh in enumerate(together):
        (alone,) = isosurface(fields[number], 40)
        assert np.array_equal(alone.vertices, mesh.vertices)
        assert np.array_equal(alone.faces, mesh.faces)
        assert mesh.watertight


def test_fields_of_any_precision_are_extracted_in_float32(fields: FieldBatch) -> None:
    short = fields[:1].to(torch.bfloat16)
    (mesh,), (same,) = isosurface(short, 40), isosurface(short.to(torch.float32), 40)
    assert len(mesh.faces) > 0
    assert np.array_equal(mesh.vertices, same.vertices)


def test_few_points_are_evaluated() -> None:
    counted = []

    def function(points: Tensor) -> Tensor:
        counted.append(len(points))
        return ball(points)

    area = 4 * math.pi * 0.49
    surface(function, 256)
    assert sum(counted) < 35**3 + 7 * area * 128**2  # dense: 257^3, 25 times as many


def test_cap_closes_what_the_box_cuts() -> None:
    whole = surface(lambda p: p.norm(dim=1) - 1.2, 100)
    assert whole.watertight
    cut = 6 * math.pi * 0.2**2 * (3 * 1.2 - 0.2) / 3  # six spherical caps of height 0.2
    assert whole.volume == pytest.approx(4 / 3 * math.pi * 1.2**3 - cut, rel=0.01)
    open_ = surface(lambda p: p.norm(dim=1) - 1.2, 100, cap=False)
    assert not open_.watertight
    assert np.linalg.norm(open_.vertices, axis=1) == pytest.approx(1.2, abs=1e-3)
    full = surface(lambda p: p[:, 0] - 9, 10)
    assert full.watertight
    assert full.volume == pytest.approx(8, rel=1e-3)
    assert len(surface(lambda p: p[:, 0] - 9, 10, cap=False).faces) == 0


def test_the_box_scales_and_the_level_moves_the_surface() -> None:
    mesh = surface(lambda p: p.norm(dim=1), 80, level=2.5, box=3.0)
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(2.5, abs=2e-3)


@pytest.mark.parametrize("value", [math.nan, 1.0, 0.0, math.inf])
def test_no_surface_is_a_mesh_without_faces(value: float) -> None:
    mesh = surface(lambda p: torch.full((len(p),), value), 64)
    assert mesh.faces.shape == mesh.vertices.shape == (0, 3)


def test_arguments_out_of_range_are_refused(fields: FieldBatch) -> None:
    flat = inits.initial(nf.SIREN(2, 1), np.arange(1, dtype=np.uint32), "random")
    with pytest.raises(ValueError, match="in_dim=2: expected 3"):
        isosurface(flat)
    with pytest.raises(ValueError, match="inside='left': expected one of below, above"):
        surface(ball, inside="left")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level=nan: expected a finite number"):
        isosurface(fields, level=math.nan)
    for options in ({"resolution": 0}, {"coarse": 0}, {"box": 0.0}, {"box": math.inf}):
        with pytest.raises(ValueError, match="expected positive numbers"):
            surface(ball, **options)


@pytest.mark.parametrize("suffix", [".ply", ".stl", ".obj"])
def test_values_exactly_at_the_level_leave_a_file_that_loads_closed(suffix: str, tmp_path) -> None:
    def cube(points: torch.Tensor) -> torch.Tensor:
        return points.abs().amax(-1) - 0.5  # the corners of cells lie on its faces

    mesh = surface(cube, resolution=32)
    mesh.save(tmp_path / f"cube{suffix}")
    # Whoever loads a file merges vertices at one position.
    loaded = trimesh.load(tmp_path / f"cube{suffix}", force="mesh")
    assert loaded.is_watertight
    assert len(loaded.vertices) == len(mesh.vertices)
    assert loaded.volume == pytest.approx(1.0, rel=0.03)  # edges of the cube are cut off


def test_a_solid_that_fills_a_corner_of_the_box_leaves_a_file_that_loads_closed(tmp_path) -> None:
    mesh = surface(lambda points: points.amax(-1), resolution=16)
    mesh.save(tmp_path / "corner.ply")
    assert trimesh.load(tmp_path / "corner.ply").is_watertight
    assert mesh.volume == pytest.approx(1.0, rel=0.03)
