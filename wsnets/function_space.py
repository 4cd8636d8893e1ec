"""What fields show, and how far that of two fields is apart: pictures, and points on surfaces.

Legend: N, M fields, H rows, W columns, C channels, K points on a surface, P numbers of a picture.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from neuralfields.batch import FieldBatch
from neuralfields.render.image import image
from neuralfields.render.isosurface import Inside
from wsnets import shape_distance
from wsnets.data import Population, check_finite

# (what is being done, parts done, parts in all)
OnPart = Callable[[str, int, int], None]
_NEARLY_SAME = 1e-8  # of the sum of both squared lengths: below this the difference itself is squared
_PAIRS = 4096  # pairs of pictures that are subtracted at a time


class Space(Protocol):
    """What fields show, as a tensor for each, and the distances of those.

    kind: a word for what they show; unit: of the distances; at_once: fields that are compared together.
    """

    @property
    def kind(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def at_once(self) -> int: ...

    def show(self, fields: FieldBatch) -> Tensor:
        """What N fields show: (N, ...)."""
        ...

    def distances(self, a: Tensor, b: Tensor) -> np.ndarray:
        """Distances of what N and M fields show: (N, M) float64, inf where they cannot be compared."""
        ...

    def empty(self, shown: Tensor) -> np.ndarray:
        """Which fields show nothing at all, so that they cannot be compared: (N,) bool."""
        ...


@dataclass(frozen=True)
class PictureSpace:
    """Fields as pictures of one size (H, W), clipped to [0, 1]: (N, H, W, C) float32.

    Distance: root mean square difference of pixels, sqrt(mean over H, W, C of (a - b)^2), in [0, 1].
    """

    size: tuple[int, int]
    at_once: int = 2048
    kind: str = field(default="pictures", init=False)
    unit: str = field(default="RMS difference of pixels in [0, 1]", init=False)

    def show(self, fields: FieldBatch) -> Tensor:
        """Pictures (N, H, W, C)."""
        return image(fields.to(torch.float32), self.size)

    def distances(self, a: Tensor, b: Tensor) -> np.ndarray:
        """RMS differences (N, M)."""
        return rms_differences(a.flatten(1), b.flatten(1))

    def empty(self, shown: Tensor) -> np.ndarray:
        """None: every field over two coordinates shows a picture."""
        return np.zeros(len(shown), bool)


@dataclass(frozen=True, eq=False)
class SurfaceSpace:
    """Fields as points on their surfaces {f = level}: (N, K, 3) float64, NaN where there is none.

    Distance: root mean square Chamfer distance, see shape_distance.chamfer, in units of the box [-1, 1]^3. uniform:
    (K, 3), see shape_distance.draws; resolution, level, inside: see shape_distance.surface_points.
    """

    uniform: Tensor
    resolution: int = 48
    level: float = 0.0
    inside: Inside = "below"
    at_once: int = 16
    kind: str = field(default="surfaces", init=False)
    unit: str = field(default="RMS Chamfer distance, the box has side 2", init=False)

    def show(self, fields: FieldBatch) -> Tensor:
        """Points (N, K, 3)."""
        return shape_distance.surface_points(fields, self.uniform, self.resolution, self.level, self.inside)

    def distances(self, a: Tensor, b: Tensor) -> np.ndarray:
        """Chamfer distances (N, M)."""
        return shape_distance.chamfer(a, b)

    def empty(self, shown: Tensor) -> np.ndarray:
        """Which have no surface: (N,) bool."""
        return shape_distance.empty(shown).numpy()


def rms_differences(a: Tensor, b: Tensor) -> np.ndarray:
    """sqrt(mean over p of (a_np - b_mp)^2): (N, P), (M, P) -> (N, M) float64.

    As |a|^2 + |b|^2 - 2 a b in float64, and directly for the pairs that this rounds too much: exactly 0 for equal ones.
    """
    a, b = a.double(), b.double()
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = torch.addmm(lengths, a, b.T, alpha=-2.0)
    for pairs in (squared < _NEARLY_SAME * lengths).nonzero().split(_PAIRS):
        rows, columns = pairs.unbind(1)
        squared[rows, columns] = (a[rows] - b[columns]).square().sum(1)
    return (squared.clamp_(min=0.0) / a.shape[1]).sqrt_().numpy()


def show(
    space: Space, fields: FieldBatch, progress: OnPart | None = None, what: str = "show", ids: np.ndarray | None = None
) -> Tensor:
    """What all of some fields show, `space.at_once` at a time. Raises ValueError for weights that are not finite."""
    check_finite(fields, np.arange(len(fields)) if ids is None else ids)
    parts = []
    for start in range(0, len(fields), space.at_once):
        parts.append(space.show(fields[start : start + space.at_once]))
        if progress is not None:
            progress(what, start + len(parts[-1]), len(fields))
    return torch.cat(parts)


class Shown:
    """What a whole population shows, tile by tile, kept after the first pass where it fits in memory_mb."""

    def __init__(self, space: Space, population: Population, memory_mb: int) -> None:
        self.space, self.population, self.memory_mb = space, population, memory_mb
        self._tiles: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.population)

    def tiles(self) -> Iterator[tuple[int, Tensor]]:
        """Position of the first field of a tile, and what the fields of the tile show."""
        if self._tiles is not None:
            yield from zip(range(0, len(self), self.space.at_once), self._tiles, strict=True)
            return
        kept: list[Tensor] | None = []
        ids = np.asarray(self.population.ids)
        for start in range(0, len(self), self.space.at_once):
            positions = np.arange(start, min(start + self.space.at_once, len(self)))
            tile = show(self.space, self.population[positions], ids=ids[positions])
            if kept is not None:
                kept.append(tile)
                size = sum(part.nbytes for part in kept)
                kept = kept if size <= self.memory_mb * 2**20 else None
            yield start, tile
        self._tiles = kept

    def nearest(
        self, shown: Tensor, progress: OnPart | None = None, what: str = "find the nearest"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distance to the nearest field of the population, and its position: (N,) float64, (N,) int64.

        inf, and position 0, for what cannot be compared with any.
        """
        least, position = np.full(len(shown), np.inf), np.zeros(len(shown), np.int64)
        for start, tile in self.tiles():
            distances = self.space.distances(shown, tile)
            here = distances.argmin(axis=1)
            far = np.take_along_axis(distances, here[:, None], axis=1)[:, 0]
            position = np.where(far < least, start + here, position)
            least = np.minimum(least, far)
            if progress is not None:
                progress(what, start + len(tile), len(self))
        return least, position
