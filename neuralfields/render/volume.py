"""Volume rendering: samples along rays, and what a density and a colour along a ray look like from its origin.

Legend: N fields, R rays of each, S samples of a ray, M samples that are evaluated (the live ones of the fullest field).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (positions (N, M, 3), unit directions (N, M, 3)) -> (rgb (N, M, 3) in [0, 1], sigma (N, M) >= 0 in 1 / length)
RadianceField = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# positions (N, R, S, 3) -> (N, R, S) bool: whether something may be there
Occupied = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class RayBatch:
    """R rays of each of N scenes: origins and unit directions (N, R, 3), near and far (N, R), in the scene's units.

    A ray is seen between near and far; one with near >= far (or either NaN) misses and shows the background.
    """

    origins: Tensor
    directions: Tensor
    near: Tensor
    far: Tensor

    def __post_init__(self) -> None:
        shape = (*self.near.shape, 3)
        if self.near.ndim != 2:
            raise ValueError(f"near has shape {tuple(self.near.shape)}: expected (N, R)")
        for name, expected in (("origins", shape), ("directions", shape), ("far", shape[:2])):
            found = tuple(getattr(self, name).shape)
            if found != expected:
                raise ValueError(f"{name} has shape {found}: expected {expected}")

    def __getitem__(self, part: slice) -> "RayBatch":
        """Some of the rays of every scene."""
        return RayBatch(self.origins[:, part], self.directions[:, part], self.near[:, part], self.far[:, part])


@dataclass(frozen=True, eq=False)
class Rendered:
    """What rays show: colour (N, R, 3) over the background; opacity (N, R) in [0, 1]; depth (N, R), the mean distance
    from the origin of what is seen, 0 where the ray meets nothing."""

    colour: Tensor
    opacity: Tensor
    depth: Tensor


def composite(
    sigma: Tensor, rgb: Tensor, deltas: Tensor, background: Tensor | float = 0.0, t: Tensor | None = None
) -> Rendered:
    """Blend samples from near to far: colour = sum w_i c_i + (1 - sum w_i) background.

    w_i = T_i (1 - exp(-sigma_i delta_i)), T_i = exp(-sum_{j < i} sigma_j delta_j); depth = sum w_i t_i / sum w_i.
    Optical depths are added rather than transmittances multiplied, so that nothing under- or overflows. Shapes: sigma,
    deltas (N, R, S), rgb (N, R, S, 3); background: a number, (3,) or (N, R, 3); t (N, R, S): distance of every sample,
    by default from the start of the first interval to the middle of each. Max, "Optical models for direct volume
    rendering", TVCG 1995; Mildenhall et al., "NeRF", ECCV 2020.
    """
    thickness = sigma * deltas
    through = thickness.cumsum(-1)
    weights = -torch.expm1(-thickness) * torch.exp(thickness - through)
    opacity = -torch.expm1(-through[..., -1])
    t = deltas.cumsum(-1) - 0.5 * deltas if t is None else t
    depth = (weights * t).sum(-1) / opacity.clamp_min(1e-6)
    colour = torch.einsum("nrs,nrsc->nrc", weights, rgb)
    behind = torch.as_tensor(background, dtype=rgb.dtype, device=rgb.device)
    return Rendered(colour + (1.0 - opacity).unsqueeze(-1) * behind, opacity, depth)


def stratified(near: Tensor, far: Tensor, samples: int, jitter: Tensor | float = 0.5) -> tuple[Tensor, Tensor]:
    """Cut [near, far] into S equal intervals, a sample in each: t_i = near + (i + jitter) delta, delta their length.

    near, far (N, R) -> t, deltas (N, R, S). jitter in [0, 1): a number (0.5: the middles), (N, R, 1) to shift all
    samples of a ray together, or (N, R, S). Rays with near >= far, or not finite, have delta 0 and t 0. Raises
    ValueError unless samples is positive.
    """
    if samples < 1:
        raise ValueError(f"samples={samples}: expected at least 1 per ray")
    hit = near < far
    start = torch.where(hit, near, 0.0).unsqueeze(-1)
    delta = torch.where(hit, (far - near) / samples, 0.0).unsqueeze(-1)
    t = start + (torch.arange(samples, dtype=near.dtype, device=near.device) + jitter) * delta
    return t, delta.expand_as(t)


def box_range(origins: Tensor, directions: Tensor, half: float = 1.0) -> tuple[Tensor, Tensor]:
    """Distances at which rays (..., 3) enter and leave the box [-half, half]^3: near (...), far (...), near >= 0.

    Slab test (Kay and Kajiya, SIGGRAPH 1986); rays that miss the box have near >= far.
    """
    one, other = (-half - origins) / directions, (half - origins) / directions
    along = directions == 0.0  # never crosses these two sides: always or never between them
    infinity = torch.full_like(one, math.inf)
    enter = torch.where(along, torch.where(origins.abs() <= half, -infinity, infinity), torch.minimum(one, other))
    leave = torch.where(along, infinity, torch.maximum(one, other))
    return enter.amax(-1).clamp_min(0.0), leave.amin(-1)


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of rays: t, deltas (N, R, S) as of `stratified`; positions (N, R, S, 3); live (N, R, S) bool: which of
    them may hold something."""

    t: Tensor
    deltas: Tensor
    positions: Tensor
    live: Tensor


def sample_rays(
    rays: RayBatch, samples: int, jitter: Tensor | float = 0.5, occupied: Occupied | None = None
) -> Samples:
    """Place `stratified` samples on rays; those of rays that miss and those that `occupied` rules out are not live."""
    t, deltas = stratified(rays.near, rays.far, samples, jitter)
    positions = rays.origins.unsqueeze(2) + t.unsqueeze(-1) * rays.directions.unsqueeze(2)
    live = deltas > 0.0
    return Samples(t, deltas, positions, live if occupied is None else live & occupied(positions))


def march(
    field: RadianceField,
    rays: RayBatch,
    samples: int = 64,
    background: Tensor | float = 0.0,
    jitter: Tensor | float = 0.5,
    occupied: Occupied | None = None,
) -> Rendered:
    """Render rays through a field: `stratified` samples, the field where something may be, then `composite`.

    Samples that `occupied` rules out, and those of rays that miss, count as empty and are not evaluated. Differentiable
    in the field.
    """
    at = sample_rays(rays, samples, jitter, occupied)
    values = evaluate_live(field, at.positions, rays.directions, at.live)
    return composite(values[..., 3], values[..., :3], at.deltas, background, at.t)


def evaluate_live(field: RadianceField, positions: Tensor, directions: Tensor, live: Tensor) -> Tensor:
    """Values of a field at the live samples, zero at the others: (N, R, S, 4), r, g, b and sigma.

    positions (N, R, S, 3), directions (N, R, 3), live (N, R, S). The live samples of each field are moved together and
    padded to the count M of the fullest one, since the products of all fields are batched: one empty scene beside a
    full one costs as much as two full ones.
    """
    count, num_rays, samples = live.shape
    flat = live.flatten().nonzero().squeeze(1)
    if not len(flat):
        return positions.new_zeros(count, num_rays, samples, 4)
    owner = flat // (num_rays * samples)
    counts = live.flatten(1).sum(1)
    slots = torch.arange(len(flat), device=live.device) - (counts.cumsum(0) - counts)[owner]
    width = int(counts.max())
    slots = owner * width + slots
    points = _padded(positions.reshape(-1, 3).index_select(0, flat), slots, count, width)
    towards = _padded(directions.reshape(-1, 3).index_select(0, flat // samples), slots, count, width)
    rgb, sigma = field(points, towards)
    values = torch.cat([rgb, sigma.unsqueeze(-1)], dim=-1).reshape(-1, 4)
    values = values if count == 1 else values.index_select(0, slots)
    dense = values.new_zeros(live.numel(), 4).index_copy(0, flat, values)
    return dense.view(count, num_rays, samples, 4)


def _padded(values: Tensor, slots: Tensor, count: int, width: int) -> Tensor:
    """Put values (L, 3) at their slots of (N, M, 3); the slots left over hold zeros."""
    if len(values) == count * width:
        return values.view(count, width, 3)
    return values.new_zeros(count * width, 3).index_copy(0, slots, values).view(count, width, 3)
