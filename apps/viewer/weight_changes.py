"""Changes to the weights of a field: noise, pruning, quantisation, and moves that leave what it shows as it is.

A layer is one tensor of parameters here: the weights of a layer, its biases, a table of a trained encoding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields import FieldBatch, FieldSpec

FULL_BITS = 32
POINTS = 4096  # where values of shapes and scenes are compared
UNKNOWN = (64, 64)  # pixels that are compared where it is not known how large the pictures were


@dataclass(frozen=True)
class Change:
    """noise: share of each layer's spread; pruned: share of each layer; bits: of every number, 32 leaves them as they
    are; permuted: number of a random move of the hidden units, 0 for none."""

    noise: float = 0.0
    pruned: float = 0.0
    bits: int = FULL_BITS
    permuted: int = 0

    @property
    def keeps_values(self) -> bool:
        """Whether the field shows the same, up to rounding."""
        return replace(self, permuted=0) == Change()


def changed(field: "FieldBatch", change: Change, seed: int) -> "FieldBatch":
    """Noise, then pruning, then quantisation, then the move, which is thus exact. field: a batch of one; seed: of the
    noise. Raises ValueError for a move of a field that has none."""
    field = each_layer(field, lambda layer, number: noisy(layer, change.noise, (seed, number)))
    field = each_layer(field, lambda layer, _: pruned(layer, change.pruned))
    field = each_layer(field, lambda layer, _: quantised(layer, change.bits))
    return permuted(field, change.permuted) if change.permuted else field


def each_layer(field: "FieldBatch", work: "Callable[[Tensor, int], Tensor]") -> "FieldBatch":
    """The field with every layer replaced by work(layer, its number)."""
    from neuralfields import FieldBatch

    values = field.parameters.items()
    return FieldBatch(field.spec, {name: work(value, number) for number, (name, value) in enumerate(values)})


def noisy(layer: "Tensor", share: float, seed: tuple[int, int]) -> "Tensor":
    """w + share * std(w) * e, e standard normal and the same for every share."""
    import torch

    if share == 0:
        return layer
    drawn = np.random.default_rng(seed).standard_normal(tuple(layer.shape), np.float32)
    return layer + share * layer.std(correction=0) * torch.from_numpy(drawn).to(layer)


def pruned(layer: "Tensor", share: float) -> "Tensor":
    """The floor(share * n) of its n numbers that are nearest to zero set to zero."""
    count = int(share * layer.numel() + 1e-9)  # 0.07 * 100 is a little less than 7 or a little more
    if count == 0:
        return layer
    flat = layer.flatten().clone()
    flat[flat.abs().argsort(stable=True)[:count]] = 0.0
    return flat.view_as(layer)


def quantised(layer: "Tensor", bits: int) -> "Tensor":
    """Each number rounded to the nearest of 2^bits - 1 levels, evenly spaced over +- max |w|; zero is one of them."""
    if bits >= FULL_BITS:
        return layer
    exact = layer.double()
    step = exact.abs().max() / (2 ** (bits - 1) - 1)
    return ((exact / step).round() * step).to(layer) if step > 0 else layer


def permuted(field: "FieldBatch", seed: int) -> "FieldBatch":
    """A random element of the whole symmetry group of the activation applied. Raises ValueError where there is none."""
    import torch

    from neuralfields import symmetry

    return symmetry.act(symmetry.sample(field.spec, len(field), torch.Generator().manual_seed(seed)), field)


def moves(spec: "FieldSpec") -> tuple[str, ...]:
    """Kinds of moves that leave what fields of a spec show as it is; () where none is known."""
    from neuralfields.symmetry import groups_of

    try:
        return groups_of(spec)
    except ValueError:  # trained encodings and view heads
        return ()


@dataclass(frozen=True)
class Effect:
    """What a change does. touched: share of weights that differ; largest, rms: difference of weights; psnr: in dB, of
    pictures, None of others; values: largest difference of values."""

    touched: float
    largest: float
    rms: float
    psnr: float | None
    values: float


def effect(field: "FieldBatch", other: "FieldBatch", size: tuple[int, int]) -> Effect:
    """Compare two fields of one spec, batches of one. size: (height, width) of the pictures, (1, 1) where unknown."""
    import torch

    from neuralfields.evaluate import evaluate

    difference = (other.flat() - field.flat()).abs()
    coords = places(field.spec, UNKNOWN if size == (1, 1) else size)
    with torch.no_grad():
        before, after = evaluate(field, coords), evaluate(other, coords)
    psnr = None
    if field.spec.in_dim == 2:
        mse = float((before.clamp(0, 1) - after.clamp(0, 1)).double().square().mean())
        psnr = float(-10 * np.log10(mse)) if mse > 0 else np.inf
    return Effect(
        touched=float((difference > 0).double().mean()),
        largest=float(difference.max()),
        rms=float(difference.double().square().mean().sqrt()),
        psnr=psnr,
        values=float((before - after).abs().max()),
    )


def places(spec: "FieldSpec", size: tuple[int, int]) -> "Tensor":
    """Where values are compared, (n, I): pixels of pictures, points of the box of others, with random directions."""
    import torch

    from neuralfields.grids import image_coords

    if spec.in_dim == 2:
        return image_coords(spec, size).view(-1, 2)
    draws = torch.Generator().manual_seed(0)
    points = 2 * torch.rand(POINTS, 3, generator=draws) - 1
    if spec.view is None:
        return points
    directions = torch.nn.functional.normalize(torch.randn(POINTS, 3, generator=draws), dim=1)
    return torch.cat([points, directions], dim=1)
