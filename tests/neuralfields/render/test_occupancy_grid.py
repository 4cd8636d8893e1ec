"""The laws of occupancy grids: they find what is there, forget what is gone, and depend on no batch."""

import numpy as np
import pytest
import torch
from torch import Tensor

from neuralfields.render.occupancy_grid import OccupancyGrid

IDS = np.array([4, 9], np.uint32)


def balls(positions: Tensor) -> Tensor:
    """Density 50 in a ball of radius 0.5 around the origin."""
    return 50.0 * (positions.norm(dim=-1) < 0.5)


def looked(density=balls, times: int = 6, count: int = 2) -> OccupancyGrid:
    grid = OccupancyGrid.full(count, 16, step=1 / 32)
    for update in range(times):
        grid = grid.updated(density, 0, IDS[:count], update)
    return grid


def test_nothing_is_ruled_out_at_first_but_what_lies_outside_the_box(generator):
    grid = OccupancyGrid.full(2, 16, step=1 / 32)
    positions = torch.rand(2, 5, 7, 3, generator=generator) * 3 - 1.5
    assert torch.equal(grid.occupied(positions), (positions.abs() <= 1).all(-1))


def test_what_has_density_is_kept_and_most_of_the_rest_is_ruled_out(generator):
    grid = looked()
    positions = torch.rand(2, 4000, 3, generator=generator) * 2 - 1
    kept = grid.occupied(positions)
    inside = positions.norm(dim=-1) < 0.42  # well inside: in cells that lie in the ball altogether
    assert kept[inside].all()
    far_away = positions.norm(dim=-1) > 0.75
    assert not kept[far_away].any()


def test_axes_of_the_grid_are_x_y_z():
    grid = looked(lambda at: 50.0 * ((at[..., 0] > 0.5) & (at[..., 1] < -0.5) & (at[..., 2].abs() < 0.1)))
    places = torch.tensor([[0.8, -0.8, 0.0], [-0.8, 0.8, 0.0], [0.0, -0.8, 0.8]]).expand(2, 3, 3)
    assert grid.occupied(places).tolist() == [[True, False, False]] * 2


def test_density_that_went_away_is_forgotten():
    grid = looked()
    kept = grid.mask.sum()
    for update in range(400):
        grid = grid.updated(lambda at: 40.0 * (at.norm(dim=-1) < 0.2), 0, IDS, 100 + update)
    assert grid.mask.sum() < kept / 4
    assert grid.mask.any()


def test_faint_fields_are_left_room_to_learn():
    grid = looked(lambda at: 1e-3 * (1.5 + at[..., 0]))
    assert grid.mask.flatten(1).float().mean(1).min() > 0.3
    assert looked(lambda at: torch.zeros(at.shape[:2])).mask.all()


def test_the_mask_can_wait():
    grid = OccupancyGrid.full(2, 8, step=1 / 32).updated(balls, 0, IDS, 0, mask=False)
    assert grid.mask.all()
    assert grid.density.max() == 50


def test_a_field_alone_is_looked_at_in_the_same_places():
    places: list[Tensor] = []

    def noted(positions: Tensor) -> Tensor:
        places.append(positions)
        return balls(positions)

    OccupancyGrid.full(2, 8, step=1 / 32).updated(noted, 3, IDS, 5)
    OccupancyGrid.full(1, 8, step=1 / 32).updated(noted, 3, IDS[1:], 5)
    assert torch.equal(places[0][1], places[1][0])
    assert not torch.equal(places[0][0], places[0][1])
    cells = ((places[0] + 1) * 4).floor().long()
    assert len(cells[0].unique(dim=0)) == 8**3, "one place in every cell"


def test_state_comes_back(generator):
    grid = looked()
    again = OccupancyGrid.full(2, 16, step=1 / 32).restored(grid.state())
    assert torch.equal(again.updated(balls, 0, IDS, 9).density, grid.updated(balls, 0, IDS, 9).density)
    assert torch.equal(again.mask, grid.mask)
    with pytest.raises(ValueError, match="state has density"):
        OccupancyGrid.full(2, 8, step=1 / 32).restored(grid.state())


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="resolution=0"):
        OccupancyGrid.full(1, 0, step=0.1)
    with pytest.raises(ValueError, match="step=0"):
        OccupancyGrid.full(1, 4, step=0.0)
    with pytest.raises(ValueError, match="expected bool"):
        OccupancyGrid(torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4), 0.1)
