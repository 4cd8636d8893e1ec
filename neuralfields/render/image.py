"""Render image fields at any resolution."""

import torch
from torch import Tensor

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate
from neuralfields.grids import image_coords


@torch.no_grad()
def image(fields: FieldBatch, shape: tuple[int, int], clip: bool = True, memory_mb: int | None = None) -> Tensor:
    """Render every field as an H x W picture: (N, H, W, C) float32, clipped to [0, 1] unless clip=False.

    `shape` may differ from the training resolution. Raises ValueError for fields not over two coordinates.
    """
    coords = image_coords(fields.spec, shape).to(fields.weights[0])
    values = evaluate(fields, coords, memory_mb).view(len(fields), *shape, fields.spec.out_dim)
    return values.clamp_(0.0, 1.0) if clip else values
