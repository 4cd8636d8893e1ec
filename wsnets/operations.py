"""Operations: what an edited field is to show, computed from what the field itself shows.

Legend: N fields, B points, I in, C channels.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import torch
from torch import Generator, Tensor
from torch.nn import functional

from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate
from neuralfields.grids import image_coords

OnPictures = Literal["dilate", "erode", "contrast"]
OnShapes = Literal["inflate", "smooth"]
# How far around a point "smooth" looks, in units of the box [-1, 1], and at how many places.
_REACH, _PLACES = 0.05, 8
_STRENGTH = {"dilate": 3, "erode": 3, "contrast": 1.5, "inflate": 0.05, "smooth": _REACH}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A change of what fields show, and where it is compared.

    On pictures of H x W pixels, as the field shows them, clipped to [0, 1]: "dilate" and "erode" take the largest and
    smallest value of the `strength` x `strength` pixels around each (3, as in the published editing benchmark, where
    however the image is dilated that a field was fitted to); "contrast" moves values away from the picture's mean by
    the factor `strength` (1.5). On fields over three coordinates, at `points` random points of [-1, 1]^3: "inflate"
    lowers a signed distance by `strength` (0.05); "smooth" takes the mean of the field at places drawn from a Gaussian
    of standard deviation `strength` (0.05) around the point. shape: H and W.
    Raises ValueError for an unknown name and for a strength that makes no sense.
    """

    name: OnPictures | OnShapes
    shape: tuple[int, int] = (28, 28)
    strength: float = field(default=0.0)
    points: int = 1024

    def __post_init__(self) -> None:
        known = (*get_args(OnPictures), *get_args(OnShapes))
        if self.name not in known:
            raise ValueError(f"target={self.name!r}: expected one of {', '.join(known)}")
        object.__setattr__(self, "strength", self.strength or _STRENGTH[self.name])
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.name in ("dilate", "erode") and (self.strength < 3 or self.strength % 2 != 1):
            raise ValueError(f"strength={self.strength}: expected an odd number of pixels from 3 for {self.name}")
        if self.strength <= 0 or self.points < 1 or min(self.shape) < 1:
            raise ValueError(f"strength={self.strength}, points={self.points}, shape={self.shape}: expected positive")

    @property
    def on_pictures(self) -> bool:
        """Whether it changes pictures, not shapes."""
        return self.name in get_args(OnPictures)

    def check(self, in_dim: int, shows: str | None = None) -> None:
        """Raise ValueError unless fields over `in_dim` coordinates can be edited so; shows: their kind of signal, where
        it is known, such as "sdf" or "occupancy"."""
        needed = 2 if self.on_pictures else 3
        if in_dim != needed:
            raise ValueError(f"target={self.name!r}: expected fields over {needed} coordinates, these have {in_dim}")
        if self.name == "inflate" and shows not in (None, "sdf"):
            raise ValueError(f"target='inflate': expected fields of signed distances (sdf), these show {shows}")

    def __call__(self, fields: FieldBatch, generator: Generator) -> tuple[Tensor, Tensor]:
        """Where to compare, (B, I), and what an edited field shows there, (N, B, C), without a gradient."""
        with torch.no_grad():
            if self.on_pictures:
                coords = image_coords(fields.spec, self.shape).to(fields.weights[0])
                return coords, self.edit(evaluate(fields, coords).clamp(0.0, 1.0))
            coords = torch.rand(self.points, fields.spec.in_dim, generator=generator, device=generator.device) * 2 - 1
            coords = coords.to(fields.weights[0])
            if self.name == "inflate":
                return coords, evaluate(fields, coords) - self.strength
            return coords, self._smooth(fields, coords, generator)

    def of_images(self, fields: FieldBatch, images: Tensor) -> tuple[Tensor, Tensor]:
        """As a call, of the images (N, H, W, C) in [0, 1] that fields were fitted to, instead of what they show."""
        coords = image_coords(fields.spec, self.shape).to(fields.weights[0])
        return coords, self.edit(images.flatten(1, 2).to(coords))

    def edit(self, values: Tensor) -> Tensor:
        """Edit pictures given as (N, H * W, C) in [0, 1]."""
        pictures = values.unflatten(1, self.shape).movedim(-1, 1)
        return _PICTURES[self.name](pictures, self.strength).flatten(2).movedim(1, -1)

    def _smooth(self, fields: FieldBatch, coords: Tensor, generator: Generator) -> Tensor:
        total = torch.zeros((), device=coords.device)
        for _ in range(_PLACES):
            offset = torch.randn(coords.shape, generator=generator, device=generator.device).to(coords)
            # Both sides of every place, so that a plane stays where it is.
            total = total + evaluate(fields, coords + self.strength * offset)
            total = total + evaluate(fields, coords - self.strength * offset)
        return total / (2 * _PLACES)

    def to_json(self) -> dict:
        """Plain JSON values."""
        return {**asdict(self), "shape": list(self.shape)}


def operation_from_json(data: dict) -> Operation:
    """Inverse of `Operation.to_json`. Raises ValueError for unknown keys."""
    known = ("name", "shape", "strength", "points")
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ValueError(f"operation: unknown keys {unknown}; expected {list(known)}")
    return Operation(**{**data, "shape": tuple(data["shape"])})


def _dilate(pictures: Tensor, strength: float) -> Tensor:
    size = int(strength)
    return functional.max_pool2d(pictures, size, stride=1, padding=size // 2)  # padded with minus infinity


def _contrast(pictures: Tensor, strength: float) -> Tensor:
    mean = pictures.mean(dim=(-2, -1), keepdim=True)
    return (mean + strength * (pictures - mean)).clamp(0.0, 1.0)


_PICTURES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "dilate": _dilate,
    "erode": lambda pictures, strength: -_dilate(-pictures, strength),
    "contrast": _contrast,
}
