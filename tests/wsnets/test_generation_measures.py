"""The table of generated fields: what it says of copies, of real fields, of the baselines and of what shows nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from neuralfields import FieldBatch, ReLUField
from neuralfields.render import image
from wsnets.data import Subset
from wsnets.function_space import PictureSpace, Shown, SurfaceSpace, rms_differences, show
from wsnets.generation_baselines import amount_for, averages, noisy, spreads
from wsnets.generation_measures import AVERAGE, GENERATED, NOISE, REAL, MeasureConfig, Measures, measure
from wsnets.picture_features import PictureNet, PictureNetConfig
from wsnets.shape_distance import draws

SPACE = PictureSpace((6, 5))
CONFIG = MeasureConfig(count=40)


@pytest.fixture
def population(population: Any, generator: torch.Generator) -> Any:
    """The small population around grey instead of black, and more different, so that its pictures are distinct."""
    spec = replace(population.spec, offset=(0.5,))
    noise = torch.randn(population.fields.flat().shape, generator=generator)
    return replace(population, fields=FieldBatch.from_flat(spec, population.fields.flat() + 0.03 * noise))


def part(population: Any, start: int, stop: int) -> Subset:
    return Subset(population, np.arange(start, stop))


def table(found: Measures) -> dict:
    return {row.name: row for row in found.rows}


def test_real_fields_as_generated_ones(population: Any) -> None:
    found = measure(part(population, 0, 60), part(population, 60, 140), part(population, 140, 240), SPACE, CONFIG)
    rows = table(found)
    assert list(rows) == [GENERATED, REAL, NOISE, AVERAGE]
    for name in (GENERATED, REAL):
        assert rows[name].nna == pytest.approx(0.5, abs=0.15)
        assert rows[name].novelty_ratio == pytest.approx(1.0, abs=0.2)
        assert (rows[name].recognised, rows[name].frechet, rows[name].nna_features) == (None, None, None)
    assert rows[REAL].novelty_ratio == 1
    assert rows[NOISE].novelty_ratio == pytest.approx(0.5, abs=0.02)
    assert {row.count for row in found.rows} == {40}
    assert {row.empty for row in found.rows} == {0}


def test_copies_of_training_fields_are_not_new(population: Any) -> None:
    train = part(population, 60, 140)
    found = measure(part(population, 60, 100), train, part(population, 140, 240), SPACE, CONFIG)
    row = table(found)[GENERATED]
    assert (row.novelty, row.novelty_median, row.novelty_ratio) == (0, 0, 0)
    assert sorted(found.nearest) == sorted(found.positions) == list(range(40))
    assert (found.nearest == found.positions).all()


def test_fields_far_from_all_are_told_apart(population: Any) -> None:
    strange = population.with_flat(
        population.fields.flat().add(0.4 * torch.eye(population.spec.num_params)[-1])
    )  # all brighter
    rows = table(measure(part(strange, 0, 60), part(population, 60, 140), part(population, 140, 240), SPACE, CONFIG))
    assert rows[GENERATED].nna > 0.9
    assert rows[GENERATED].novelty_ratio > 2
    assert rows[GENERATED].mmd > rows[REAL].mmd


def test_a_network_adds_features_and_classes(population: Any, generator: torch.Generator) -> None:
    net = PictureNet((1, 6, 5), 3, PictureNetConfig(width=4, features=6), generator)
    sides = part(population, 0, 60), part(population, 60, 140), part(population, 140, 240)
    found = measure(*sides, SPACE, CONFIG, net)
    row = table(found)[GENERATED]
    pictures = image(sides[0][found.positions], (6, 5)).movedim(-1, 1)
    right = net.read(pictures)[1].numpy() == sides[0].labels[found.positions]
    assert row.recognised == right.mean()
    assert torch.equal(found.shown.movedim(-1, 1), pictures)
    assert row.frechet is not None
    assert row.frechet >= 0
    unlabelled = replace(population, labels=np.full(240, -1))
    row = table(measure(part(unlabelled, 0, 60), *sides[1:], SPACE, CONFIG, net))[GENERATED]
    assert row.recognised is None
    assert row.nna_features is not None


def test_the_same_again_whatever_the_memory(population: Any) -> None:
    sides = part(population, 0, 60), part(population, 60, 140), part(population, 140, 240)
    first = measure(*sides, SPACE, CONFIG)
    assert first.rows == measure(*sides, SPACE, replace(CONFIG, memory_mb=0)).rows
    assert first.rows != measure(*sides, SPACE, replace(CONFIG, seed=1)).rows


def test_copies_of_one_item_stay_in_one_half(population: Any) -> None:
    test = part(replace(population, ids=(population.ids // 120).astype(np.uint32)), 0, 240)
    found = measure(part(population, 0, 60), part(population, 60, 140), test, SPACE, replace(CONFIG, count=1000))
    assert found.rows[0].count == 60  # two groups of 120, one for each half; 60 are generated


def test_training_fields_are_limited_when_asked(population: Any) -> None:
    sides = part(population, 0, 60), part(population, 60, 140), part(population, 140, 240)
    found = measure(*sides, SPACE, replace(CONFIG, train_count=10))
    assert len(found.train) == 10
    assert found.nearest.max() < 10
    every = measure(*sides, SPACE, CONFIG)
    assert table(found)[REAL].novelty > table(every)[REAL].novelty


def test_differences_are_exact_for_equal_pictures(generator: torch.Generator) -> None:
    a, b = torch.rand(7, 30, generator=generator), torch.rand(9, 30, generator=generator)
    b[3], b[4] = a[2], a[2] + 1e-6
    expected = (a[:, None].double() - b.double()).square().mean(-1).sqrt()
    found = rms_differences(a, b)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=0)
    assert found[2, 3] == 0
    assert rms_differences(torch.zeros(2, 4), torch.zeros(1, 4)).tolist() == [[0], [0]]


def test_nearest_is_the_nearest_of_all_tiles(population: Any) -> None:
    space = PictureSpace((6, 5), at_once=7)
    shown = show(space, population.fields[:20])
    far, place = Shown(space, part(population, 30, 130), 1024).nearest(shown)
    every = space.distances(shown, show(space, population.fields[30:130]))
    assert (place == every.argmin(1)).all()
    np.testing.assert_allclose(far, every.min(1), rtol=1e-12)


def test_noise_is_in_proportion_to_the_spread(population: Any, generator: torch.Generator) -> None:
    scales = spreads(population)
    for name, value in population.fields.parameters.items():
        assert scales[name] == pytest.approx(float(value.double().var(0, correction=0).mean().sqrt()), rel=1e-6)
    base = FieldBatch.cat([population.fields[:1]] * 4000)
    moved = noisy(base, scales, 0.5, generator)
    for name, value in moved.parameters.items():
        assert float((value - base.parameters[name]).std()) == pytest.approx(0.5 * scales[name], rel=0.03)


def test_the_amount_of_noise_is_found() -> None:
    assert amount_for(0.3, lambda amount: 2 * amount) == pytest.approx(0.15, rel=1e-3)
    assert amount_for(7.0, lambda amount: amount) == pytest.approx(7.0, rel=1e-3)
    assert amount_for(2.0, lambda amount: min(amount, 1.0)) is None
    assert amount_for(0.0, lambda amount: amount) is amount_for(np.inf, lambda amount: amount) is None


def test_held_out_fields_that_are_training_fields_give_no_ratio(population: Any) -> None:
    found = measure(part(population, 0, 60), part(population, 60, 240), part(population, 140, 240), SPACE, CONFIG)
    rows = table(found)
    assert list(rows) == [GENERATED, REAL, AVERAGE]
    assert found.noise is None
    assert rows[REAL].novelty == 0
    assert np.isnan(rows[GENERATED].novelty_ratio)


def test_averages_are_of_two_different_fields_of_a_class(population: Any, generator: torch.Generator) -> None:
    sample = averages(population, 200, generator)
    flat, every = sample.fields.flat(), population.fields.flat()
    for value, label in zip(flat[:20], sample.labels[:20], strict=True):
        own = every[torch.from_numpy(population.labels == label)]
        pairs = (own[:, None] + own) / 2 - value
        far = pairs.abs().amax(-1)
        far.fill_diagonal_(1.0)
        assert far.min() < 1e-6
    with pytest.raises(ValueError, match="no class of its 3 fields has two"):
        averages(part(population, 0, 3), 5, generator)


def octahedra(radii: list[float]) -> FieldBatch:
    spec = ReLUField(3, 1, hidden=(6,))
    signs = torch.cat([torch.eye(3), -torch.eye(3)]).expand(len(radii), 6, 3).clone()
    biases = [torch.zeros(len(radii), 6), -torch.tensor(radii).unsqueeze(1)]
    return FieldBatch.from_layers(spec, [signs, torch.ones(len(radii), 1, 6)], biases)


def test_shapes_without_a_surface_are_counted(population: Any, generator: torch.Generator) -> None:
    radii = torch.linspace(0.3, 0.7, 24)[torch.randperm(24, generator=generator)].tolist()
    radii[0] = radii[8] = -1.0  # one generated, one to train on
    shapes = replace(population, fields=octahedra(radii), labels=np.full(24, -1), ids=np.arange(24, dtype=np.uint32))
    space, told = SurfaceSpace(draws(60, generator), resolution=12), []
    sides = part(shapes, 0, 6), part(shapes, 6, 14), part(shapes, 14, 24)
    found = measure(*sides, space, MeasureConfig(count=100), None, lambda *progress: told.append(progress))
    row = table(found)[GENERATED]
    assert (row.count, row.empty, found.reference_empty) == (5, int(0 in found.positions), 0)
    assert np.isfinite([row.mmd, row.novelty, row.novelty_ratio]).all()
    assert row.recognised is row.frechet is None
    assert {what for what, _, _ in told} >= {"reference", "novelty of generated", "compare average of two"}
    assert all(0 <= done <= total for _, done, total in told)


@pytest.mark.parametrize("side", ["generated", "train", "test"])
def test_a_field_that_is_not_finite_is_named_by_its_id_in_its_own_population(side: str, population: Any) -> None:
    spans = {"generated": (0, 60), "train": (60, 140), "test": (140, 240)}
    first = spans[side][0]
    broken = population.with_flat(population.fields.flat().index_fill(0, torch.arange(first, first + 9), torch.nan))
    whole = {name: replace(broken, ids=population.ids[::-1] + 1000) for name in spans}
    parts = {name: part(whole[name], *span) for name, span in spans.items()}
    ids = {f"field id {id} has" for id in parts[side].ids[:9].tolist()}
    with pytest.raises(ValueError, match="NaN or infinite weights") as caught:
        measure(**parts, space=SPACE, config=MeasureConfig(count=60))
    assert any(str(caught.value).startswith(words) for words in ids), caught.value


def test_bad_requests_are_one_line(population: Any) -> None:
    sides = part(population, 0, 60), part(population, 60, 140), part(population, 140, 240)
    with pytest.raises(ValueError, match="at least two in each"):
        measure(part(population, 0, 1), *sides[1:], SPACE)
    with pytest.raises(ValueError, match="count=1: expected"):
        MeasureConfig(count=1)
    with pytest.raises(ValueError, match="noise=0: expected"):
        MeasureConfig(noise=0)
    broken = population.with_flat(population.fields.flat().index_fill(0, torch.tensor([5]), torch.nan))
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure(part(broken, 0, 60), *sides[1:], SPACE, MeasureConfig(count=60))
