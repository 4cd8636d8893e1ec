"""Points on surfaces and their Chamfer distances: spheres, of which everything is known."""

import numpy as np
import pytest
import torch

from neuralfields import FieldBatch, ReLUField
from neuralfields.render.mesh import Mesh
from wsnets.shape_distance import chamfer, draws, empty, on_surface, surface_points

SPEC = ReLUField(3, 1, hidden=(6,))


def boxes(radii: list[float]) -> FieldBatch:
    """Fields |x| + |y| + |z| - r: octahedra of radius r; none for r <= 0."""
    count = len(radii)
    signs = torch.cat([torch.eye(3), -torch.eye(3)])
    weights = [signs.expand(count, 6, 3).clone(), torch.ones(count, 1, 6)]
    biases = [torch.zeros(count, 6), -torch.tensor(radii).unsqueeze(1)]
    return FieldBatch.from_layers(SPEC, weights, biases)


def test_points_lie_on_the_surface_evenly(generator: torch.Generator) -> None:
    points = surface_points(boxes([0.5]), draws(4000, generator), resolution=32)[0]
    assert points.abs().sum(1).sub(0.5).abs().max() < 0.03
    octants = (points > 0).long() @ torch.tensor([1, 2, 4])
    shares = torch.bincount(octants, minlength=8) / len(points)
    assert (shares - 1 / 8).abs().max() < 0.01


def test_points_are_drawn_by_area() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 0, 1], [0, 1, 1]], np.float32)
    mesh = Mesh(vertices, np.array([[0, 1, 2], [3, 4, 5]], np.int64))
    uniform = draws(4000, torch.Generator().manual_seed(1))
    upper = on_surface(mesh, uniform)[:, 2] > 0.5
    assert upper.double().mean() == pytest.approx(0.75, abs=1e-3)


def test_a_batch_is_its_singles(generator: torch.Generator) -> None:
    fields, uniform = boxes([0.3, 0.6, 0.5]), draws(100, generator)
    together = surface_points(fields, uniform, resolution=16)
    assert torch.equal(together, torch.cat([surface_points(one, uniform, resolution=16) for one in fields]))


def test_chamfer_of_known_shapes(generator: torch.Generator) -> None:
    a = torch.rand(2, 50, 3, generator=generator, dtype=torch.float64)
    assert np.diag(chamfer(a, a.clone())).tolist() == [0, 0]
    flat = a.clone()
    flat[..., 2] = 0.0
    raised = flat + torch.tensor([0.0, 0.0, 0.25])
    np.testing.assert_allclose(np.diag(chamfer(flat, raised)), 0.25, rtol=1e-12)
    x, y = a[0].numpy(), a[1].numpy()
    squares = np.square(x[:, None] - y).sum(-1)
    expected = np.sqrt((squares.min(0).mean() + squares.min(1).mean()) / 2)
    assert chamfer(a[:1], a[1:])[0, 0] == pytest.approx(expected, rel=1e-12)


def test_chamfer_is_symmetric_and_measures_pairs_once(generator: torch.Generator) -> None:
    points = surface_points(boxes([0.3, 0.4, 0.7]), draws(300, generator), resolution=16)
    ticks = []
    found = chamfer(points, points, lambda done, total: ticks.append((done, total)))
    np.testing.assert_allclose(found, chamfer(points, points.clone()), rtol=1e-12)
    assert (found == found.T).all()
    assert found[0, 1] < found[1, 2] < found[0, 2]
    assert ticks == [(1, 3), (2, 3), (3, 3)]


def test_fields_without_a_surface_are_far_from_all_others(generator: torch.Generator) -> None:
    points = surface_points(boxes([0.5, -1.0, -2.0]), draws(20, generator), resolution=16)
    assert empty(points).tolist() == [False, True, True]
    assert chamfer(points, points).tolist() == [[0, np.inf, np.inf], [np.inf, 0, 0], [np.inf, 0, 0]]


def test_bad_input_is_one_line(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="num_points=0: expected one or more"):
        draws(0, generator)
    with pytest.raises(ValueError, match="resolution=0"):
        surface_points(boxes([0.5]), draws(5, generator), resolution=0)
