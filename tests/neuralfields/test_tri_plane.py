"""The tri-plane: equal to its formula written as loops and to torch's own interpolation, with right gradients."""

import math

import pytest
import torch
from torch import Tensor

from neuralfields import TriPlane
from neuralfields.testing import assert_gradients
from neuralfields.tri_plane import Reduce

REDUCE: tuple[Reduce, ...] = ("sum", "concat", "product")


def draw(plane: TriPlane, count: int, num_points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    planes = torch.randn(count, *plane.shapes(3)["encoding.planes"], generator=generator, dtype=torch.float64)
    return planes, torch.rand(count, num_points, 3, generator=generator, dtype=torch.float64) * 2 - 1


def by_loops(plane: TriPlane, coords: Tensor, planes: Tensor) -> Tensor:
    """One field's features at coords (B, 3), vertex by vertex: a hat of one cell's width around each."""
    side, rows = plane.resolution, []
    for point in coords.tolist():
        position = [(x + 1) / 2 * (side - 1) for x in point]
        parts = []
        for number, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
            part = torch.zeros(plane.features, dtype=torch.float64)
            for i in range(side):
                for j in range(side):
                    weight = max(0.0, 1 - abs(position[a] - i)) * max(0.0, 1 - abs(position[b] - j))
                    part += weight * planes[number, i, j]
            parts.append(part)
        joined = {"sum": sum, "concat": torch.cat, "product": math.prod}[plane.reduce](parts)
        rows.append(joined)
    return torch.stack(rows)


@pytest.mark.parametrize("reduce", REDUCE)
def test_equals_the_formula(reduce: Reduce, generator: torch.Generator) -> None:
    plane = TriPlane(resolution=5, features=3, reduce=reduce)
    planes, coords = draw(plane, 2, 7, generator)
    coords[:, 0], coords[:, 1] = 1.0, -1.0
    own = plane(coords, planes)
    assert own.shape == (2, 7, plane.out_dim(3))
    for n in range(2):
        assert torch.allclose(own[n], by_loops(plane, coords[n], planes[n]), rtol=0, atol=1e-12)
        assert torch.allclose(plane(coords[n], planes)[n], own[n], rtol=0, atol=1e-12)


def test_equals_grid_sample(generator: torch.Generator) -> None:
    plane = TriPlane(resolution=9, features=4, reduce="sum")
    planes, coords = draw(plane, 1, 50, generator)
    coords = coords * 1.2  # outside the box the border goes on, as with padding_mode="border"
    expected = torch.zeros(1, 50, 4, dtype=torch.float64)
    for number, pair in enumerate(((1, 0), (2, 0), (2, 1))):  # grid_sample takes the column first
        image = planes[:, number].permute(0, 3, 1, 2)
        grid = coords[..., list(pair)].unsqueeze(1)
        found = torch.nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=True)
        expected += found[:, :, 0].transpose(1, 2)
    assert torch.allclose(plane(coords, planes), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reduce", REDUCE)
def test_gradients(reduce: Reduce, generator: torch.Generator) -> None:
    plane = TriPlane(resolution=3, features=2, reduce=reduce)
    planes, coords = draw(plane, 2, 4, generator)
    assert_gradients(lambda p, x: plane(x, p), [planes, coords])
    assert_gradients(lambda p, x: plane(x, p), [planes, coords.view(8, 3)])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="resolution=1: expected an integer from 2"):
        TriPlane(resolution=1)
    with pytest.raises(ValueError, match="features=0: expected an integer from 1"):
        TriPlane(features=0)
    with pytest.raises(ValueError, match="reduce='mean': expected one of sum, concat, product"):
        TriPlane(reduce="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="in_dim=2: expected 3 for a tri-plane"):
        TriPlane().shapes(2)
