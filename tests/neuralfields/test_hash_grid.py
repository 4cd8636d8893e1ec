"""The hash grid: equal to its formula written as loops, right gradients, and one field's features in any batch."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from neuralfields import HashGrid
from neuralfields.testing import assert_gradients

# Levels with a row per vertex, then hashed ones; F of one, two and three; a growth that is no whole number.
GRIDS = [
    HashGrid(levels=4, features=2, log2_size=7, base=3, scale=1.6),
    HashGrid(levels=3, features=1, log2_size=4, base=16, scale=2.0),
    HashGrid(levels=2, features=3, log2_size=12, base=5, scale=1.5),
]
PRIMES = (1, 2654435761, 805459861)


def by_loops(grid: HashGrid, coords: Tensor, table: Tensor) -> Tensor:
    """One field's features at coords (B, I), from the paper's formulas and nothing else."""
    found = torch.zeros(len(coords), grid.levels * grid.features, dtype=torch.float64)
    for b, point in enumerate(coords.tolist()):
        start = 0
        for level in range(grid.levels):
            scale = grid.base * grid.scale**level - 1.0
            side = math.ceil(round(scale, 6)) + 1
            rows = min(math.ceil(side ** len(point) / 8) * 8, 2**grid.log2_size)
            position = [(x + 1) / 2 * scale + 0.5 for x in point]
            for corner in itertools.product((0, 1), repeat=len(point)):
                vertex = [math.floor(p) + c for p, c in zip(position, corner, strict=True)]
                weight = math.prod(1 - abs(p - v) for p, v in zip(position, vertex, strict=True))
                if side ** len(point) <= rows:
                    row = sum(v * side**axis for axis, v in enumerate(vertex)) % rows
                else:
                    row = 0
                    for v, prime in zip(vertex, PRIMES, strict=False):
                        row ^= v * prime % 2**32
                    row %= rows
                place = slice(level * grid.features, (level + 1) * grid.features)
                found[b, place] += weight * table[start + row]
            start += rows
    return found


def tables(grid: HashGrid, in_dim: int, count: int, generator: torch.Generator) -> Tensor:
    shape = grid.shapes(in_dim)["encoding.table"]
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def points(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("in_dim", [2, 3])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_equals_the_formula(grid: HashGrid, in_dim: int, generator: torch.Generator) -> None:
    table, coords = tables(grid, in_dim, 3, generator), points(3, 9, in_dim, generator=generator)
    coords[:, 0], coords[:, 1] = 1.0, -1.0  # the corners of the box, where rows may wrap around
    own = grid(coords, table)
    assert own.shape == (3, 9, grid.out_dim(in_dim))
    for n in range(3):
        assert torch.allclose(own[n], by_loops(grid, coords[n], table[n]), rtol=0, atol=1e-12)
        # Shared points, and few enough rows for one lookup of all fields, or too many.
        assert torch.allclose(grid(coords[n], table)[n], own[n], rtol=0, atol=1e-12)
    many = points(600, in_dim, generator=generator)
    assert many.shape[0] * grid.levels * 2**in_dim > table.shape[1]
    assert torch.allclose(grid(many, table)[2], grid(many, table[2:])[0], rtol=0, atol=1e-12)


def test_the_grids_tested_have_dense_and_hashed_levels() -> None:
    kinds = [[level.hashed for level in grid.grids(in_dim)] for grid in GRIDS for in_dim in (2, 3)]
    assert any(any(k) and not all(k) for k in kinds)
    assert any(all(k) for k in kinds)
    assert any(not any(k) for k in kinds)


def test_sizes_of_the_published_settings() -> None:
    # 3-D, 16 levels, 2^19 rows, growth 1.382: the paper's largest, finest resolution 2048.
    grids = HashGrid().grids(3)
    assert grids[0].rows == 16**3
    assert not grids[0].hashed
    assert grids[-1].rows == 2**19
    assert grids[-1].hashed
    assert grids[-1].resolution == math.ceil(16 * 1.382**15 - 1) + 1
    assert HashGrid(base=16, scale=2.0, levels=4).grids(2)[2].resolution == 64  # a whole number stays one
    for first, second in itertools.pairwise(grids):
        assert second.start == first.start + first.rows
        assert first.rows % 8 == 0


@pytest.mark.parametrize("in_dim", [2, 3])
def test_gradients(in_dim: int, generator: torch.Generator) -> None:
    grid = HashGrid(levels=3, features=2, log2_size=5, base=3, scale=1.7)
    table = tables(grid, in_dim, 2, generator)
    assert_gradients(lambda t, x: grid(x, t), [table, points(2, 3, in_dim, generator=generator)])
    assert_gradients(lambda t, x: grid(x, t), [table, points(12, in_dim, generator=generator)])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("count", [1, 3, 12])
def test_narrow_and_wide_gradients_agree_with_plain_indexing(
    shared: bool, count: int, generator: torch.Generator
) -> None:
    grid = HashGrid(levels=2, features=2, log2_size=6, base=4, scale=3.0)
    table = tables(grid, 2, count, generator).requires_grad_()
    coords = points(40, 2, generator=generator) if shared else points(count, 40, 2, generator=generator)
    values = grid(coords, table)
    gradient = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    (fast,) = torch.autograd.grad(values, table, gradient, retain_graph=True)
    (plain,) = torch.autograd.grad(values, table, gradient, create_graph=True)
    assert torch.allclose(fast, plain, rtol=0, atol=1e-12)
    assert float(fast.abs().max()) > 0.1


def test_second_derivatives(generator: torch.Generator) -> None:
    # A loss on the slope along coordinates, as eikonal terms are: its gradient to the table against differences.
    grid = HashGrid(levels=2, features=2, log2_size=5, base=3, scale=1.5)
    coords = points(6, 3, generator=generator)

    def slopes(table: Tensor) -> Tensor:
        x = coords.clone().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(grid(x, table).square().sum(), x, create_graph=True)
        return slope

    assert_gradients(slopes, [tables(grid, 3, 2, generator)], rtol=1e-5)


def test_torch_func_takes_gradients(generator: torch.Generator) -> None:
    table, coords = tables(GRIDS[0], 2, 2, generator), points(7, 2, generator=generator)
    expected = table.clone().requires_grad_()
    GRIDS[0](coords, expected).square().sum().backward()
    assert expected.grad is not None
    actual = torch.func.grad(lambda t: GRIDS[0](coords, t).square().sum())(table)
    assert torch.allclose(actual, expected.grad, rtol=0, atol=1e-12)


def test_continuous_across_cells(generator: torch.Generator) -> None:
    grid = GRIDS[0]
    table = tables(grid, 2, 1, generator)
    edge = 2 * (0.5 / (grid.base - 1)) - 1  # position 1.0 of the coarsest level: the border of two cells
    sides = torch.tensor([[edge - 1e-9, 0.3], [edge + 1e-9, 0.3]], dtype=torch.float64)
    low, high = grid(sides, table)[0]
    assert torch.allclose(low, high, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels=0: expected an integer from 1 to 64"),
        ({"features": 2.0}, "features=2.0: expected an integer"),
        ({"log2_size": 30}, "log2_size=30: expected an integer from 3 to 28"),
        ({"base": 0}, "base=0: expected"),
        ({"scale": 0.5}, "scale=0.5: expected 1 to 16"),
        ({"scale": 4.0}, "scale=4.0: expected 1 to 16, with base"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HashGrid(**options)


def test_other_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="in_dim=1: expected 2 or 3 for a hash grid"):
        HashGrid().shapes(1)
