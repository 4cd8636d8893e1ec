"""Coordinate grids: which coordinates the pixels of an image have."""

from typing import get_args

import torch
from torch import Tensor

from neuralfields.spec import Axes, FieldSpec, Grid


def axis(size: int, grid: Grid = "centers") -> Tensor:
    """Coordinates of `size` samples along [-1, 1]: float32 (size,).

    "centers": (i + 0.5) / size * 2 - 1, so that one field renders alike at any resolution; "corners":
    linspace(-1, 1, size). Computed in float64 and rounded once, so that all machines agree. Raises ValueError for any
    other grid or a size below 1.
    """
    if grid not in get_args(Grid):
        raise ValueError(f"grid={grid!r}: expected one of {', '.join(get_args(Grid))}")
    if size < 1:
        raise ValueError(f"size={size}: expected a positive integer")
    if grid == "corners":
        return torch.linspace(-1.0, 1.0, size, dtype=torch.float64).float()
    return ((torch.arange(size, dtype=torch.float64) + 0.5) / size * 2.0 - 1.0).float()


def product_grid(shape: tuple[int, ...], grid: Grid = "centers", axes: Axes = "ij") -> Tensor:
    """Coordinates of all samples of a regular grid, last dimension fastest: (prod(shape), len(shape)).

    axes "ij": coordinate 0 runs along the first dimension (the row of an image); "xy": the first two are swapped
    (coordinate 0 is the column). Raises ValueError for any other axes.
    """
    if axes not in get_args(Axes):
        raise ValueError(f"axes={axes!r}: expected one of {', '.join(get_args(Axes))}")
    mesh = list(torch.meshgrid(*(axis(size, grid) for size in shape), indexing="ij"))
    if axes == "xy":
        mesh[:2] = mesh[1::-1]
    return torch.stack([m.reshape(-1) for m in mesh], dim=-1)


def image_coords(spec: FieldSpec, shape: tuple[int, int]) -> Tensor:
    """Coordinates of the pixels of an H x W image in the spec's own convention: (H * W, 2), rows first.

    Raises ValueError when the field is not over two coordinates.
    """
    if spec.in_dim != 2:
        raise ValueError(f"spec has in_dim={spec.in_dim}: expected 2 for an image")
    return product_grid(shape, spec.grid, spec.axes)
