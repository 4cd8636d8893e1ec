"""The laws of volume rendering: closed forms, derivatives, misses, and that skipping empty space changes nothing."""

import math

import pytest
import torch
from torch import Tensor

from neuralfields.render.volume import RayBatch, box_range, composite, march, stratified

RED, BLUE = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])


def slabs(positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Red of density 2 in 0 <= x < 0.5, blue of density 5 in 0.5 <= x < 1, nothing elsewhere; each field doubles it."""
    x = positions[..., 0]
    first, second = (x >= 0) & (x < 0.5), (x >= 0.5) & (x < 1)
    rgb = first.unsqueeze(-1) * RED.to(x) + second.unsqueeze(-1) * BLUE.to(x)
    scale = 2.0 ** torch.arange(len(x), dtype=x.dtype).unsqueeze(1)
    return rgb, scale * (2.0 * first + 5.0 * second)


def along_x(count: int = 1, num_rays: int = 3) -> RayBatch:
    generator = torch.Generator().manual_seed(1)
    origins = torch.rand(count, num_rays, 3, generator=generator, dtype=torch.float64) - 0.5
    origins[..., 0] = -3.0
    directions = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand_as(origins)
    return RayBatch(origins, directions, *box_range(origins, directions))


@pytest.mark.parametrize("samples", [1, 7, 64])
@pytest.mark.parametrize("density", [1e-9, 0.7, 30.0, 1e6])
def test_a_slab_of_constant_density_is_as_opaque_as_beer_and_lambert_say(samples, density):
    deltas = torch.full((1, 1, samples), 1.5 / samples, dtype=torch.float64)
    shown = composite(torch.full_like(deltas, density), torch.ones(1, 1, samples, 3, dtype=torch.float64), deltas)
    expected = -math.expm1(-density * 1.5)
    assert shown.opacity.item() == pytest.approx(expected, rel=1e-12)
    assert shown.colour[0, 0].tolist() == pytest.approx([expected] * 3, rel=1e-9)


def test_two_slabs_hide_each_other_in_order():
    rays = along_x()
    shown = march(slabs, rays, samples=64, background=torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    first, second = -math.expm1(-2.0 * 0.5), -math.expm1(-5.0 * 0.5)
    expected = [first, math.exp(-3.5), (1 - first) * second]
    for colour in shown.colour[0]:
        assert colour.tolist() == pytest.approx(expected, rel=1e-9)


def test_depth_is_the_mean_distance_from_the_origin():
    shown = march(slabs, along_x(), samples=4000)
    # integral of t w(t) over two exponentials, the slabs beginning at distance 3 and 3.5
    ends = [(3.0, 2.0, 1.0), (3.5, 5.0, math.exp(-1.0))]
    total = sum(through * (start + 1 / s - (start + 0.5 + 1 / s) * math.exp(-0.5 * s)) for start, s, through in ends)
    assert shown.depth[0, 0].item() == pytest.approx(total / -math.expm1(-3.5), rel=1e-6)


def test_gradients_match_finite_differences(generator):
    sigma = torch.rand(2, 3, 5, generator=generator, dtype=torch.float64) * 4
    rgb = torch.rand(2, 3, 5, 3, generator=generator, dtype=torch.float64)
    deltas = torch.rand(2, 3, 5, generator=generator, dtype=torch.float64)
    background = torch.rand(2, 3, 3, generator=generator, dtype=torch.float64)
    inputs = [value.requires_grad_() for value in (sigma, rgb, deltas, background)]

    def outputs(*values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shown = composite(*values)
        return shown.colour, shown.opacity, shown.depth

    assert torch.autograd.gradcheck(outputs, inputs)


def test_an_opaque_wall_keeps_what_is_behind_from_view_and_stays_finite():
    sigma = torch.tensor([[[0.0, 1e30, 3.0]]], requires_grad=True)
    rgb = torch.tensor([[[[0.1] * 3, [0.25] * 3, [0.9] * 3]]])
    shown = composite(sigma, rgb, torch.ones(1, 1, 3), background=1.0)
    assert shown.colour.flatten().tolist() == [0.25] * 3
    shown.colour.sum().backward()
    assert sigma.grad is not None
    assert sigma.grad.isfinite().all()


def test_samples_lie_in_their_intervals_which_fill_the_ray(generator):
    near, far = torch.tensor([[0.5, 2.0]]), torch.tensor([[2.5, 2.25]])
    t, deltas = stratified(near, far, 8, torch.rand(1, 2, 8, generator=generator))
    torch.testing.assert_close(deltas.sum(-1), far - near)
    assert ((t - near.unsqueeze(-1)) / deltas).floor().tolist() == [[list(range(8))] * 2]
    shifted, _ = stratified(near, far, 8, torch.full((1, 2, 1), 0.25))
    torch.testing.assert_close(shifted[0, 0], 0.5 + 0.25 * (torch.arange(8) + 0.25))
    with pytest.raises(ValueError, match="samples=0"):
        stratified(near, far, 0)


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (math.inf, -math.inf), (math.nan, 1.0), (0.0, math.nan)])
def test_rays_that_miss_show_the_background(bounds):
    near, far = torch.tensor([[0.0, bounds[0]]]), torch.tensor([[2.0, bounds[1]]])
    origins = torch.tensor([[[-1.0, 0.0, 0.0]] * 2])
    rays = RayBatch(origins, RED.expand(1, 2, 3), near, far)

    def solid(positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(positions), torch.full(positions.shape[:2], 100.0)

    background = torch.tensor([0.2, 0.4, 0.6])
    shown = march(solid, rays, 8, background)
    assert shown.colour[0, 1].tolist() == background.tolist()
    assert shown.opacity[0, 1] == 0
    assert shown.depth[0, 1] == 0
    assert shown.opacity[0, 0] == 1
    nothing = march(solid, rays[1:2], 8, background)
    assert torch.equal(nothing.colour, background.expand(1, 1, 3))


def test_skipping_empty_space_changes_nothing_and_saves_evaluations():
    evaluated = []

    def counted(positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        evaluated.append(positions.shape[1])
        return slabs(positions, directions)

    rays = along_x(count=3, num_rays=5)
    everywhere = march(counted, rays, 32, 0.5)
    skipped = march(counted, rays, 32, 0.5, occupied=lambda at: at[..., 0] >= 0)
    torch.testing.assert_close(skipped.colour, everywhere.colour, rtol=0, atol=1e-12)
    torch.testing.assert_close(skipped.depth, everywhere.depth, rtol=0, atol=1e-12)
    assert evaluated == [5 * 32, 5 * 16]


def test_a_scene_in_a_batch_is_the_scene_alone():
    rays = along_x(count=3, num_rays=4)
    # other numbers of live samples in every scene, so that they are padded
    bars = torch.tensor([0.0, 0.3, 0.7], dtype=torch.float64).view(3, 1, 1)
    together = march(slabs, rays, 16, occupied=lambda at: at[..., 0] >= bars)
    for scene in range(3):
        part = slice(scene, scene + 1)
        alone = RayBatch(rays.origins[part], rays.directions[part], rays.near[part], rays.far[part])
        bar = bars[part]
        scale = 2.0**scene

        def one(positions: Tensor, directions: Tensor, scale: float = scale) -> tuple[Tensor, Tensor]:
            rgb, sigma = slabs(positions, directions)
            return rgb, sigma * scale

        shown = march(one, alone, 16, occupied=lambda at, bar=bar: at[..., 0] >= bar)
        torch.testing.assert_close(shown.colour[0], together.colour[scene], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(together.colour[0], together.colour[1])


def test_directions_reach_the_field_with_their_rays(generator):
    directions = torch.nn.functional.normalize(torch.randn(2, 6, 3, generator=generator), dim=-1)
    origins = -2.0 * directions
    rays = RayBatch(origins, directions, *box_range(origins, directions))

    def looks(positions: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
        return towards.abs(), torch.full(positions.shape[:2], 1e4)

    shown = march(looks, rays, 8, occupied=lambda at: (at[..., 0] > -0.1) | (at[..., 1] > 0))
    seen = shown.opacity > 0.5
    assert seen.sum() > 6
    torch.testing.assert_close(shown.colour[seen], directions.abs()[seen])


def test_box_range_is_where_a_ray_crosses_the_box(generator):
    origins = torch.randn(200, 3, generator=generator, dtype=torch.float64) * 1.5
    directions = torch.nn.functional.normalize(
        torch.randn(200, 3, generator=generator, dtype=torch.float64) - 0.5 * origins, dim=-1
    )
    near, far = box_range(origins, directions)
    hit = near < far
    assert 20 < hit.sum() < 180
    middle = origins + (0.5 * (near + far)).unsqueeze(-1) * directions
    assert (middle[hit].abs() <= 1).all()
    leaving = (origins + far.unsqueeze(-1) * directions)[hit]
    torch.testing.assert_close(leaving.abs().amax(-1), torch.ones(int(hit.sum()), dtype=torch.float64))
    t = torch.linspace(0.0, 8.0, 2000, dtype=torch.float64)
    points = origins[~hit].unsqueeze(1) + t.view(1, -1, 1) * directions[~hit].unsqueeze(1)
    assert not (points.abs() < 0.999).all(-1).any()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"directions has shape \(1, 2, 2\): expected \(1, 2, 3\)"):
        RayBatch(torch.zeros(1, 2, 3), torch.zeros(1, 2, 2), torch.zeros(1, 2), torch.ones(1, 2))
