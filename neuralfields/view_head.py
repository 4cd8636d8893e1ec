"""ViewHead: the part of a radiance field that knows from where it is looked at.

density: raw_0 of the trunk, sigma = exp(min(raw_0, 15)) in 1 / length
colour:  rgb = sigmoid(V_K h_K + c_K),  h_k = relu(V_k h_{k-1} + c_k),  h_0 = [raw_1 .. raw_G, positional(direction)]
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from torch import Tensor

from neuralfields.encodings import Positional

# exp(15) is opaque at any length that matters; beyond, float32 would overflow in a fit that runs away.
_MAX_LOG_DENSITY = 15.0


@dataclass(frozen=True)
class ViewHead:
    """Colour from G geometry features of the trunk and the direction of view, by a small relu network.

    hidden: its widths; features G; bands: octaves of the direction's positional encoding. Raises ValueError for numbers
    out of range. Mildenhall et al., "NeRF", ECCV 2020; sizes and exponential density as in Mueller et al., "Instant
    neural graphics primitives", SIGGRAPH 2022.
    """

    hidden: tuple[int, ...] = (64,)
    features: int = 15
    bands: int = 4

    def __post_init__(self) -> None:
        if not self.hidden or any(int(width) != width or width < 1 for width in self.hidden):
            raise ValueError(f"view hidden={self.hidden}: expected at least one width, all positive integers")
        object.__setattr__(self, "hidden", tuple(int(width) for width in self.hidden))
        for name in ("features", "bands"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"view {name}={getattr(self, name)!r}: expected a positive integer")

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of every stage: (features and encoded direction, hidden..., 3)."""
        return (self.features + Positional(self.bands).out_dim(3), *self.hidden, 3)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the head's parameters: view.weights.0, view.biases.0, view.weights.1, ..."""
        found: dict[str, tuple[int, ...]] = {}
        for layer, (inputs, outputs) in enumerate(pairwise(self.dims)):
            found[f"view.weights.{layer}"] = (outputs, inputs)
            found[f"view.biases.{layer}"] = (outputs,)
        return found

    def colour(self, parameters: Sequence[Tensor], features: Tensor, directions: Tensor) -> Tensor:
        """Return rgb in [0, 1]: parameters in the order of `shapes`, each (N, ...); features (N, B, G), unit directions
        (B, 3) or (N, B, 3) -> (N, B, 3)."""
        encoded = Positional(self.bands)(directions).expand(*features.shape[:2], -1)
        h = torch.cat([features, encoded], dim=-1)
        for layer, (weight, bias) in enumerate(zip(parameters[0::2], parameters[1::2], strict=True)):
            h = torch.baddbmm(bias.unsqueeze(1), h, weight.transpose(1, 2))
            h = h.relu() if layer < len(self.hidden) else h
        return h.sigmoid()

    def to_json(self) -> dict:
        """Return plain JSON values."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_json(cls, data: dict) -> "ViewHead":
        """Read `to_json` output. Raises ValueError for unknown keys and for values of another type."""
        try:
            return cls(**{**data, "hidden": tuple(data.get("hidden", cls.hidden))})
        except (TypeError, AttributeError) as error:
            raise ValueError(f"view: {error}; expected values of the types that to_json writes") from None


def density_of(raw: Tensor) -> Tensor:
    """Density in 1 / length from the trunk's first output: exp(min(raw, 15))."""
    return raw.clamp_max(_MAX_LOG_DENSITY).exp()
