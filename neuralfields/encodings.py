"""Coordinate encodings, each formula with its paper; those with trained parameters have files of their own.

An encoding is called with coordinates and, where it has any, the stacked parameters that its `shapes` lists.
"""

import math
from dataclasses import asdict, dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from neuralfields import philox
from neuralfields.hash_grid import HashGrid
from neuralfields.tri_plane import TriPlane


@dataclass(frozen=True)
class Positional:
    """Frequencies in octaves: [x, sin(2^k pi x), cos(2^k pi x)] for k = 0 .. bands-1.

    Shapes: (..., I) -> (..., I * (2 * bands + include_input)). Mildenhall et al., "NeRF", ECCV 2020 (whose code
    leaves out the factor pi; pass use_pi=False for that).
    """

    name: ClassVar[str] = "positional"
    bands: int = 10
    include_input: bool = True
    use_pi: bool = True

    def __post_init__(self) -> None:
        if self.bands < 1:
            raise ValueError(f"bands={self.bands}: expected a positive integer")

    def out_dim(self, in_dim: int) -> int:
        """Number of encoded features for I coordinates."""
        return in_dim * (2 * self.bands + self.include_input)

    def shapes(self, in_dim: int) -> dict[str, tuple[int, ...]]:
        """No trained parameters."""
        return {}

    def __call__(self, coords: Tensor) -> Tensor:
        """Encode coordinates (..., I)."""
        octaves = 2.0 ** torch.arange(self.bands, device=coords.device, dtype=coords.dtype)
        angles = coords.unsqueeze(-2) * (octaves * (math.pi if self.use_pi else 1.0)).unsqueeze(-1)
        parts = [coords] if self.include_input else []
        parts += [angles.sin().flatten(-2), angles.cos().flatten(-2)]
        return torch.cat(parts, dim=-1)

    def to_json(self) -> dict:
        """Return plain JSON values."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class GaussianFourier:
    """Random Fourier features: [sin(2 pi B x), cos(2 pi B x)], B ~ N(0, std^2), drawn from `seed`.

    Shapes: (..., I) -> (..., 2 * features). Tancik et al., "Fourier features let networks learn high frequency
    functions in low dimensional domains", NeurIPS 2020.
    """

    name: ClassVar[str] = "gaussian_fourier"
    features: int = 64
    std: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.features < 1 or not self.std > 0:
            raise ValueError(f"features={self.features}, std={self.std}: expected positive numbers")

    def out_dim(self, in_dim: int) -> int:
        """Number of encoded features for I coordinates."""
        return 2 * self.features

    def shapes(self, in_dim: int) -> dict[str, tuple[int, ...]]:
        """No trained parameters."""
        return {}

    def __call__(self, coords: Tensor) -> Tensor:
        """Encode coordinates (..., I)."""
        basis = torch.from_numpy(_normals(self.seed, self.features, coords.shape[-1])) * self.std
        angles = 2.0 * math.pi * (coords @ basis.to(coords).T)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def to_json(self) -> dict:
        """Return plain JSON values."""
        return {"name": self.name, **asdict(self)}


Encoding = Positional | GaussianFourier | HashGrid | TriPlane
TRAINED = (HashGrid, TriPlane)


def encoding_from_json(data: dict) -> Encoding:
    """Read an encoding's `to_json` output. Raises ValueError for an unknown name or key."""
    options = dict(data)
    name = options.pop("name", None)
    for kind in (Positional, GaussianFourier, HashGrid, TriPlane):
        if kind.name == name:
            try:
                return kind(**options)
            except TypeError as error:
                raise ValueError(f"encoding {name!r}: {error}") from None
    raise ValueError(f"encoding name={name!r}: expected positional, gaussian_fourier, hash_grid or tri_plane")


@cache
def _normals(seed: int, rows: int, columns: int) -> np.ndarray:
    """Standard normals by Box-Muller from Philox words: the same on every machine."""
    u = philox.uniform(seed, np.zeros(1, np.uint32), philox.STREAM_ENCODING, 0, 2 * rows * columns)[0]
    u = u.astype(np.float64)
    radius = np.sqrt(-2.0 * np.log1p(-u[: rows * columns]))
    return (radius * np.cos(2.0 * np.pi * u[rows * columns :])).reshape(rows, columns)
