"""TriPlane: trained features on the three coordinate planes of a box."""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from neuralfields.hash_grid import corner_weights
from neuralfields.lookup import lookup

Reduce = Literal["sum", "concat", "product"]
_PLANES = ((0, 1), (0, 2), (1, 2))


@dataclass(frozen=True)
class TriPlane:
    """Bilinear interpolation in planes xy, xz and yz of R x R trained vertices, joined by sum, concat or product.

    planes[p, i, j] is the feature of plane p at vertex (i, j) along its two coordinates, vertices at linspace(-1, 1,
    R); coordinates outside [-1, 1] take the border's. Shapes: coords (B, 3) or (N, B, 3), planes (N, 3, R, R, F) ->
    (N, B, F), or (N, B, 3 F) for concat. Raises ValueError for settings out of range. Sum: Chan et al., "Efficient
    geometry-aware 3D generative adversarial networks", CVPR 2022; product: Fridovich-Keil et al., "K-Planes", CVPR
    2023.
    """

    name: ClassVar[str] = "tri_plane"
    resolution: int = 64
    features: int = 8
    reduce: Reduce = "sum"

    def __post_init__(self) -> None:
        for name, low, high in (("resolution", 2, 2**13), ("features", 1, 1024)):
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name}={value!r}: expected an integer from {low} to {high}")
        if self.reduce not in get_args(Reduce):
            raise ValueError(f"reduce={self.reduce!r}: expected one of {', '.join(get_args(Reduce))}")

    def to_json(self) -> dict:
        """Return plain JSON values."""
        return {"name": self.name, **asdict(self)}

    def out_dim(self, in_dim: int) -> int:
        """Number of encoded features."""
        return self.features * (3 if self.reduce == "concat" else 1)

    def shapes(self, in_dim: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the trained parameters of one field. Raises ValueError unless I is 3."""
        if in_dim != 3:
            raise ValueError(f"in_dim={in_dim}: expected 3 for a tri-plane")
        return {"encoding.planes": (3, self.resolution, self.resolution, self.features)}

    def init_range(self, name: str) -> tuple[float, float]:
        """Initial values are uniform in this range: +-0.1, and [0.1, 0.5] for factors of a product, as in K-Planes."""
        return (0.1, 0.5) if self.reduce == "product" else (-0.1, 0.1)

    def scratch(self, in_dim: int) -> int:
        """Numbers of 4 bytes per point and field that encoding holds at once."""
        return 3 * (4 * 10 + 2 * self.features)

    def __call__(self, coords: Tensor, planes: Tensor) -> Tensor:
        """Encode coordinates (B, 3) or (N, B, 3) with planes (N, 3, R, R, F)."""
        coords = coords.unsqueeze(0) if coords.ndim == 2 else coords
        last = self.resolution - 1
        position = (coords + 1.0).mul(0.5 * last).clamp(0.0, float(last))
        pairs = torch.stack([position[..., pair] for pair in _PLANES], dim=-2)
        cell = pairs.detach().floor().clamp_max(last - 1)
        fraction, cell = pairs - cell, cell.long()
        first = torch.arange(3, device=coords.device) * self.resolution
        corner = (first + cell[..., 0]) * self.resolution + cell[..., 1]
        steps = torch.tensor([0, 1, self.resolution, self.resolution + 1], device=coords.device)
        found = lookup(planes.flatten(1, 3), corner.unsqueeze(-1) + steps, corner_weights([*fraction.unbind(-1)]))
        if self.reduce == "concat":
            return found
        parts = found.unflatten(-1, (3, self.features))
        return parts.sum(-2) if self.reduce == "sum" else parts[..., 0, :] * parts[..., 1, :] * parts[..., 2, :]
