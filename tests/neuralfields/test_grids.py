"""Grids: which coordinates pixels have, in both conventions and both axis orders."""

import pytest
import torch

from neuralfields import SIREN, grids


@pytest.mark.parametrize("size", [1, 2, 7, 28, 1000])
def test_centers_are_the_middles_of_equal_cells(size: int) -> None:
    axis = grids.axis(size)
    edges = torch.linspace(-1, 1, size + 1, dtype=torch.float64)
    assert torch.allclose(axis.double(), (edges[1:] + edges[:-1]) / 2, rtol=0, atol=1e-7)
    assert torch.equal(axis, -axis.flip(0))


@pytest.mark.parametrize("size", [2, 7, 28])
def test_corners_reach_the_border(size: int) -> None:
    axis = grids.axis(size, "corners")
    assert axis[0] == -1.0
    assert axis[-1] == 1.0
    assert torch.allclose(axis.diff(), torch.full((size - 1,), 2 / (size - 1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [3, 5])
def test_centers_of_a_coarse_grid_lie_in_a_finer_one(factor: int) -> None:
    fine = grids.axis(28 * factor)
    assert torch.allclose(fine[factor // 2 :: factor], grids.axis(28), rtol=0, atol=1e-7)


def test_last_dimension_runs_fastest() -> None:
    rows, columns = grids.axis(3), grids.axis(5)
    grid = grids.product_grid((3, 5))
    assert grid.shape == (15, 2)
    for i in range(3):
        for j in range(5):
            assert grid[i * 5 + j].tolist() == [float(rows[i]), float(columns[j])]


def test_xy_swaps_the_first_two_coordinates() -> None:
    ij = grids.product_grid((3, 5, 2), "corners", "ij")
    assert torch.equal(grids.product_grid((3, 5, 2), "corners", "xy"), ij[:, [1, 0, 2]])
    assert torch.equal(grids.product_grid((4,), axes="xy"), grids.axis(4)[:, None])


def test_image_coords_follow_the_spec() -> None:
    spec = SIREN(2, 1, grid="corners", axes="xy")
    assert torch.equal(grids.image_coords(spec, (4, 6)), grids.product_grid((4, 6), "corners", "xy"))
    with pytest.raises(ValueError, match="in_dim=3: expected 2"):
        grids.image_coords(SIREN(3, 1), (4, 6))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="size=0: expected a positive integer"):
        grids.axis(0)
    with pytest.raises(ValueError, match="grid='corner': expected one of centers, corners"):
        grids.axis(3, "corner")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="axes='yx': expected one of ij, xy"):
        grids.product_grid((2, 2), axes="yx")  # type: ignore[arg-type]
