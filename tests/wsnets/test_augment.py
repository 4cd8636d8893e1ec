"""Augmentations: symmetries keep the picture, geometry moves it as stated, noise and dropout are drawn anew."""

import math

import pytest
import torch
from torch import Generator

from neuralfields import SIREN, FieldBatch, FieldSpec, HashField, Positional, ReLUField, render, symmetry
from neuralfields.evaluate import evaluate
from neuralfields.testing import random_fields
from wsnets.augment import AugmentConfig, dropout, move, noise, prune, tensor_stds
from wsnets.augment_geometry import reparametrise, resize, rotate, screen, shift

ACTIVATIONS = ("sine", "relu", "tanh", "gauss", "gabor", "finer")
N = 4
SPEC = SIREN(2, 3, hidden=(7, 5))
EVERY = AugmentConfig(
    symmetries=("permutation", "sign"),
    resize=(0.5, 2.0),
    flip=("x", "y"),
    quarters=True,
    rotation=90.0,
    shift=0.5,
    noise=0.1,
    dropout=0.1,
    prune=0.1,
)


def points(fields: FieldBatch, generator: Generator) -> torch.Tensor:
    return torch.rand(30, fields.spec.in_dim, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_symmetries_keep_the_picture(activation, generator: Generator) -> None:
    spec = FieldSpec(in_dim=2, out_dim=1, hidden=(9, 5), activation=activation, w0_first=30.0, w0_hidden=30.0)
    fields = random_fields(spec, N, generator, torch.float32)
    for kinds in (None, *((kind,) for kind in symmetry.groups_of(spec))):
        moved = move(fields, generator, kinds)
        assert not torch.equal(moved.flat(), fields.flat())
        picture = render.image(fields, (9, 9), clip=False)
        error = (render.image(moved, (9, 9), clip=False) - picture).abs().max()
        assert error < 1e-5 * max(1.0, float(picture.abs().max()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("in_dim", [1, 2, 3])
def test_reparametrised_fields_are_the_field_at_moved_points(activation, in_dim: int, generator: Generator) -> None:
    fields = random_fields(FieldSpec(in_dim=in_dim, out_dim=2, hidden=(5, 4), activation=activation), N, generator)
    matrix = torch.randn(N, in_dim, in_dim, generator=generator, dtype=torch.float64)
    offset = torch.randn(N, in_dim, generator=generator, dtype=torch.float64)
    x = points(fields, generator)
    at = x @ matrix.transpose(1, 2) + offset.unsqueeze(1)
    moved = reparametrise(fields, matrix, offset)
    torch.testing.assert_close(evaluate(moved, x), evaluate(fields, at), rtol=1e-9, atol=1e-9)
    both = reparametrise(reparametrise(fields, offset=offset), matrix)
    torch.testing.assert_close(both.flat(), moved.flat())


@pytest.mark.parametrize("axes", ["ij", "xy"])
def test_pictures_move_as_seen_on_the_screen(axes, generator: Generator) -> None:
    fields = random_fields(SIREN(2, 1, hidden=(7, 5), w0=3.0, axes=axes), N, generator)
    picture = render.image(fields, (8, 8), clip=False)
    pixel = 2 / 8  # cell centers: one pixel of 8 is a quarter of [-1, 1]
    by = screen(fields.spec, right=torch.tensor(3 * pixel), down=torch.tensor(pixel))
    moved = render.image(shift(fields, by), (8, 8), clip=False)
    torch.testing.assert_close(moved[:, 1:, 3:], picture[:, :-1, :-3], rtol=1e-6, atol=1e-6)
    turned = render.image(rotate(fields, torch.tensor(90.0)), (8, 8), clip=False)
    torch.testing.assert_close(turned, picture.rot90(1, dims=(1, 2)), rtol=1e-6, atol=1e-6)
    larger = render.image(resize(fields, torch.tensor([2.0])), (16, 16), clip=False)
    torch.testing.assert_close(larger[:, 4:12, 4:12], _middle(fields), rtol=1e-6, atol=1e-6)


def _middle(fields: FieldBatch) -> torch.Tensor:
    """The middle half of what 32 x 32 pixels show in a quarter of the domain: 8 x 8."""
    return render.image(fields, (32, 32), clip=False)[:, 12:20, 12:20]


def test_a_point_goes_where_resize_rotation_and_shift_say(generator: Generator) -> None:
    """What was at x is seen at factor * x, then turned counter-clockwise on the screen, then moved."""
    for axes in ("ij", "xy"):
        fields = random_fields(SIREN(2, 1, hidden=(7, 5), w0=3.0, axes=axes), N, generator)
        right, up = torch.rand(2, 30, generator=generator, dtype=torch.float64) * 2 - 1
        x = screen(fields.spec, right, -up)
        factor, degrees = torch.tensor([[0.7, 1.6]], dtype=torch.float64), torch.tensor(35.0, dtype=torch.float64)
        torch.testing.assert_close(evaluate(resize(fields, factor.expand(N, 2)), x * factor), evaluate(fields, x))
        angle = torch.deg2rad(degrees)
        turned = screen(fields.spec, right * angle.cos() - up * angle.sin(), -(right * angle.sin() + up * angle.cos()))
        torch.testing.assert_close(evaluate(rotate(fields, degrees), turned), evaluate(fields, x))
        by = screen(fields.spec, torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.2, dtype=torch.float64))
        torch.testing.assert_close(evaluate(shift(fields, by), x + by), evaluate(fields, x))


@pytest.mark.parametrize("in_dim", [2, 3])
def test_config_resizes_then_turns_then_moves(in_dim: int, generator: Generator) -> None:
    fields = random_fields(SIREN(in_dim, 1, hidden=(9, 5), w0=3.0), 100, generator)
    config = AugmentConfig(resize=(0.25, 0.5), rotation=180.0, shift=0.1)
    changed = config.apply(fields, generator)
    matrix = torch.linalg.lstsq(fields.weights[0], changed.weights[0]).solution
    offset = torch.linalg.lstsq(fields.weights[0], (changed.biases[0] - fields.biases[0]).unsqueeze(2)).solution
    factor = 1.0 / torch.linalg.det(matrix).pow(1 / in_dim)
    assert 0.25 - 1e-6 <= factor.min() < factor.max() <= 0.5 + 1e-6
    turn = matrix * factor.view(-1, 1, 1)
    torch.testing.assert_close(turn @ turn.mT, torch.eye(in_dim, dtype=torch.float64).expand_as(turn))
    by = -torch.linalg.solve(matrix, offset)  # a shift before the others would be made smaller by the factor
    assert 0.09 < by.abs().max() <= 0.1 + 1e-6
    x = points(fields, generator)
    expected = evaluate(fields, x @ matrix.mT + offset.mT)
    torch.testing.assert_close(evaluate(changed, x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axes", ["ij", "xy"])
def test_flips_and_quarter_turns_are_those_of_the_pixels(axes, generator: Generator) -> None:
    fields = random_fields(SIREN(2, 1, hidden=(7, 5), w0=3.0, axes=axes), 60, generator)
    picture = render.image(fields, (8, 8), clip=False)
    turned = [picture.rot90(turns, dims=(1, 2)) for turns in range(4)]
    for config, allowed in (
        (AugmentConfig(flip=("x",)), [picture, picture.flip(2)]),
        (AugmentConfig(flip=("y",)), [picture, picture.flip(1)]),
        (AugmentConfig(quarters=True), turned),
        (AugmentConfig(flip=("x",), quarters=True), turned + [seen.flip(2) for seen in turned]),
    ):
        changed = render.image(config.apply(fields, generator), (8, 8), clip=False)
        same = torch.stack([(changed - seen).abs().amax((1, 2, 3)) < 1e-6 for seen in allowed])
        assert torch.equal(same.sum(0), torch.ones(60, dtype=torch.int64))
        assert (same.sum(1) > 0).all()


def test_flips_and_quarter_turns_of_space_move_axes_onto_axes(generator: Generator) -> None:
    fields = random_fields(SIREN(3, 1, hidden=(9, 5), w0=3.0), 200, generator)
    before = fields.weights[0]
    mirrored = torch.linalg.lstsq(before, AugmentConfig(flip=("x", "z")).apply(fields, generator).weights[0]).solution
    diagonal = mirrored.diagonal(dim1=1, dim2=2).round()
    torch.testing.assert_close(mirrored, torch.diag_embed(diagonal))
    assert len(diagonal.unique(dim=0)) == 4
    assert (diagonal[:, 1] == 1).all()
    turned = torch.linalg.lstsq(before, AugmentConfig(quarters=True).apply(fields, generator).weights[0]).solution
    torch.testing.assert_close(turned, turned.round())
    assert (torch.linalg.det(turned) > 0).all()
    assert len(turned.round().unique(dim=0)) == 10  # none, and three about each of three axes


def test_rotation_in_space_is_right_handed_and_keeps_the_axis(generator: Generator) -> None:
    fields = random_fields(SIREN(3, 1, hidden=(7,)), N, generator)
    x = points(fields, generator)
    turned = rotate(fields, torch.full((N,), 90.0), torch.tensor([0.0, 0.0, 2.0]))
    before = torch.stack([x[:, 1], -x[:, 0], x[:, 2]], dim=1)  # what lands at x was at R^-1 x
    torch.testing.assert_close(evaluate(turned, x), evaluate(fields, before), rtol=1e-9, atol=1e-9)
    axis = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    angle = torch.rand(N, generator=generator, dtype=torch.float64) * 360
    turned = rotate(fields, angle, axis)
    along = torch.linspace(-1, 1, 5, dtype=torch.float64).view(1, 5, 1) * axis.unsqueeze(1)
    torch.testing.assert_close(evaluate(turned, along), evaluate(fields, along), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rotate(turned, -angle, axis).flat(), fields.flat())


def test_noise_is_drawn_for_every_weight_and_measured_in_stds(generator: Generator) -> None:
    fields = random_fields(SIREN(2, 1, hidden=(64, 64)), 20, generator)
    stds = tensor_stds(fields)
    noisy = noise(fields, generator, 0.3)
    for name, value in fields.parameters.items():
        change = noisy.parameters[name] - value
        assert len(change.unique()) > 0.99 * change.numel()
        assert float(change.std()) == pytest.approx(0.3 * stds[name], rel=4 / math.sqrt(change.numel()))
        assert abs(float(change.mean())) < 5 * 0.3 * stds[name] / math.sqrt(change.numel())
    given = noise(fields, generator, 1.0, {name: 0.0 if "biases" in name else 1.0 for name in stds})
    assert torch.equal(given.biases[1], fields.biases[1])
    assert float((given.weights[1] - fields.weights[1]).std()) == pytest.approx(1.0, rel=0.02)


def test_dropout_zeroes_a_share_of_the_weights_and_keeps_their_mean(generator: Generator) -> None:
    fields = random_fields(SIREN(2, 1, hidden=(64, 64)), 5, generator)
    dropped = dropout(fields, generator, 0.25)
    assert all(torch.equal(a, b) for a, b in zip(dropped.biases, fields.biases, strict=True))
    gone = dropped.weights[1] == 0
    assert float(gone.double().mean()) == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(dropped.weights[1][~gone], fields.weights[1][~gone] / 0.75)


def test_prune_takes_the_smallest_weights(generator: Generator) -> None:
    fields = random_fields(SIREN(2, 1, hidden=(32, 32)), 50, generator)
    pruned = prune(fields, generator, 0.4).weights[1]
    shares = (pruned == 0).double().mean((1, 2))
    assert float(shares.max()) < 0.4
    assert float(shares.mean()) == pytest.approx(0.2, abs=0.06)
    for before, after in zip(fields.weights[1], pruned, strict=True):
        left = after != 0
        assert torch.equal(after[left], before[left])
        assert left.all() or before[left].abs().min() >= before[~left].abs().max()


def test_every_field_and_every_call_has_draws_of_its_own(generator: Generator) -> None:
    same = random_fields(SPEC, 1, generator)[[0] * N]
    for setting in ("rotation", "shift", "noise", "dropout", "prune"):
        config = AugmentConfig(**{setting: 0.5})
        first, second = config.apply(same, generator), config.apply(same, generator)
        assert len(first.flat().unique(dim=0)) > 1
        assert not torch.equal(first.flat(), second.flat())
    again = [EVERY.apply(same, Generator().manual_seed(5)).flat() for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("in_dim", [2, 3])
def test_config_keeps_precision_and_gradients(dtype: torch.dtype, in_dim: int, generator: Generator) -> None:
    fields = random_fields(SIREN(in_dim, 1, hidden=(5,)), N, generator, dtype)
    leaf = fields.flat().requires_grad_()
    changed = EVERY.apply(FieldBatch.from_flat(fields.spec, leaf), generator)
    assert {value.dtype for value in changed.parameters.values()} == {dtype}
    changed.flat().sum().backward()
    assert leaf.grad is not None


def test_mixed_precision_changes_fields_in_their_own_dtype(generator: Generator) -> None:
    fields = random_fields(SIREN(2, 1, hidden=(5,)), 20, generator, dtype=torch.float32)
    state = generator.get_state()
    expected = EVERY.apply(fields, generator)
    generator.set_state(state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = EVERY.apply(fields, generator)
    assert found.flat().dtype == torch.float32
    assert torch.equal(found.flat(), expected.flat())


def test_config_geometry_stays_within_its_ranges(generator: Generator) -> None:
    fields = random_fields(SIREN(2, 1, hidden=(5,)), 200, generator)
    x = fields.weights[0]
    larger = AugmentConfig(resize=(0.5, 2.0)).apply(fields, generator).weights[0]
    factor = x.norm(dim=(1, 2)) / larger.norm(dim=(1, 2))
    assert 0.5 <= factor.min() < 0.6 < 1.8 < factor.max() <= 2.0
    moved = AugmentConfig(shift=0.25).apply(fields, generator)
    by = torch.linalg.lstsq(x, (fields.biases[0] - moved.biases[0]).unsqueeze(2)).solution
    assert 0.2 < by.abs().amax() <= 0.25 + 1e-9
    turned = AugmentConfig(rotation=30.0).apply(fields, generator).weights[0]
    turn = torch.linalg.lstsq(x, turned).solution
    angle = torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0])).abs()
    assert 25 < angle.max() <= 30 + 1e-9


def test_config_round_trip_and_off() -> None:
    for config in (AugmentConfig(), EVERY, AugmentConfig.for_images(symmetries=("sign",))):
        assert AugmentConfig.from_json(config.to_json()) == config
    assert AugmentConfig().off
    assert not EVERY.off
    assert AugmentConfig.for_images(noise=0.5).noise == 0.5
    with pytest.raises(ValueError, match=r"unknown keys \['rotate'\]"):
        AugmentConfig.from_json({"rotate": 10})


def test_off_changes_nothing_and_draws_nothing(generator: Generator) -> None:
    fields = random_fields(SPEC, N, generator)
    state = generator.get_state()
    assert torch.equal(AugmentConfig().apply(fields, generator).flat(), fields.flat())
    assert torch.equal(generator.get_state(), state)


def test_refusals(generator: Generator) -> None:
    encoded = random_fields(ReLUField(2, 1, (4,), Positional(2)), N, generator)
    with pytest.raises(ValueError, match="encoding=Positional"):
        AugmentConfig(shift=0.1).apply(encoded, generator)
    with pytest.raises(ValueError, match="dense layers only"):
        shift(random_fields(HashField(2, 1, (4,)), 1, generator), torch.zeros(2))
    fields = random_fields(SPEC, N, generator)
    with pytest.raises(ValueError, match="kinds has 'scale'"):
        AugmentConfig(symmetries=("scale",)).apply(fields, generator)
    with pytest.raises(ValueError, match="flip has 'z': expected some of x, y"):
        AugmentConfig(flip=("z",)).apply(fields, generator)
    with pytest.raises(ValueError, match="2 coordinates and an axis"):
        rotate(fields, torch.tensor(10.0), torch.ones(3))
    with pytest.raises(ValueError, match=r"offset has shape \(3,\): expected \(4, 2\) or \(2,\)"):
        shift(fields, torch.zeros(3))
    with pytest.raises(ValueError, match="factor="):
        resize(fields, torch.tensor([-1.0]))
    with pytest.raises(ValueError, match="in_dim=3"):
        screen(SIREN(3, 1), torch.tensor(0.0), torch.tensor(0.0))


@pytest.mark.parametrize(
    "given",
    [
        {"symmetries": ("turn",)},
        {"resize": (2.0, 1.0)},
        {"resize": (0.0, 1.0)},
        {"flip": ("w",)},
        {"rotation": -1.0},
        {"noise": math.inf},
        {"dropout": 1.0},
        {"prune": -0.1},
    ],
    ids=str,
)
def test_config_refuses(given: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(given))}.*expected"):
        AugmentConfig(**given)


@pytest.mark.parametrize("spec", [SIREN(2, 2, (9, 8)), SIREN(2, 1, (9,), axes="xy"), SIREN(3, 1, (9,))], ids=str)
def test_a_place_is_where_what_was_shown_has_gone(spec: FieldSpec, generator: Generator) -> None:
    fields = random_fields(spec, 5, generator, torch.float64)
    coords = torch.rand(40, spec.in_dim, generator=generator, dtype=torch.float64) * 2 - 1
    config = AugmentConfig(resize=(0.7, 1.4), flip=("x",), quarters=True, rotation=30.0, shift=0.3)
    moved, place = config.placed(fields, generator)
    torch.testing.assert_close(evaluate(moved, place.find(coords)), evaluate(fields, coords), rtol=0, atol=1e-9)
    assert (evaluate(moved, coords) - evaluate(fields, coords)).abs().max() > 0.1
    still = AugmentConfig(noise=0.1).placed(fields, generator)[1]
    assert torch.equal(still.find(coords), coords.expand(5, -1, -1))
