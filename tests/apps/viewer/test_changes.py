"""Changes to weights: exact shares, few values, moves that leave values, and what a browser shows of them."""

import numpy as np
import pytest
import torch
from torch import Generator

from apps.viewer.alteration import Last
from apps.viewer.changes import explained, told
from apps.viewer.weight_changes import (
    FULL_BITS,
    Change,
    changed,
    effect,
    moves,
    noisy,
    places,
    pruned,
    quantised,
)
from neuralfields import SIREN, HashField, NeRF, ReLUField, evaluate
from neuralfields.hash_grid import HashGrid
from neuralfields.testing import random_fields
from tests.apps.viewer.conftest import until

SPEC = SIREN(2, 1, hidden=(16, 16))
HASHED = HashField(3, 1, hidden=(8,), encoding=HashGrid(levels=2, log2_size=6, base=4))


def field_of(spec, seed: int = 0):
    return random_fields(spec, 1, Generator().manual_seed(seed), torch.float32)


@pytest.mark.parametrize("share", [0.0, 0.07, 0.5, 0.95])
def test_the_smallest_are_pruned_and_no_others(share):
    layer = field_of(SPEC).weights[1]
    found = pruned(layer, share)
    count = round(share * 256 - 0.5) if share else 0
    assert int((found == 0).sum()) == count
    kept = found != 0
    assert torch.equal(found[kept], layer[kept])
    if count:
        assert layer[~kept].abs().max() <= layer[kept].abs().min()


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_quantised_layers_hold_few_values_zero_among_them(bits):
    layer = field_of(SPEC).weights[1]
    layer[0, 0, :3] = 0.0
    found = quantised(layer, bits)
    assert len(found.unique()) <= 2**bits
    assert (found[0, 0, :3] == 0).all()
    assert found.abs().max() == layer.abs().max()
    step = float(layer.abs().max()) / (2 ** (bits - 1) - 1)
    assert (found - layer).abs().max() <= 0.5001 * step
    assert quantised(layer, FULL_BITS) is layer


def test_noise_has_the_spread_that_is_asked_for_and_stays_the_same():
    layer = torch.randn(1, 100, 100, generator=Generator().manual_seed(3))
    moved = noisy(layer, 0.2, (7, 0)) - layer
    assert float(moved.std() / layer.std()) == pytest.approx(0.2, rel=0.02)
    assert torch.equal(noisy(layer, 0.2, (7, 0)) - layer, moved)
    torch.testing.assert_close(noisy(layer, 0.4, (7, 0)) - layer, 2 * moved, rtol=1e-4, atol=1e-6)
    assert not torch.equal(noisy(layer, 0.2, (8, 0)) - layer, moved)


@pytest.mark.parametrize("spec", [SPEC, ReLUField(2, 3, hidden=(8, 8)), SIREN(3, 1, hidden=(8, 8, 8))])
def test_a_move_leaves_values_and_changes_weights(spec):
    field = field_of(spec)
    other = changed(field, Change(permuted=1), 0)
    found = effect(field, other, (9, 7))
    assert found.touched > 0.5
    assert found.largest > 1e-3
    assert found.values < 1e-5
    assert (found.psnr is None) == (spec.in_dim == 3)
    assert Change(permuted=1).keeps_values
    assert not Change(permuted=1, bits=8).keeps_values
    assert not torch.equal(changed(field, Change(permuted=2), 0).flat(), other.flat())


def test_a_move_after_other_changes_is_exact_too():
    field, change = field_of(SPEC), Change(noise=0.1, pruned=0.3, bits=6)
    plain, moved = changed(field, change, 4), changed(field, Change(0.1, 0.3, 6, permuted=1), 4)
    coords = places(SPEC, (8, 8))
    torch.testing.assert_close(evaluate(moved, coords), evaluate(plain, coords), rtol=0, atol=2e-5)
    assert torch.equal(changed(field, Change(), 4).flat(), field.flat())


@pytest.mark.parametrize("spec", [HASHED, NeRF(hidden=(8, 8), bands=2)])
def test_trained_encodings_and_view_heads_are_changed_whole_but_not_moved(spec):
    field = field_of(spec)
    other = changed(field, Change(noise=0.1, pruned=0.5, bits=4), 0)
    for name, value in other.parameters.items():
        assert (value == 0).sum() >= value.numel() // 2, name
        assert len(value.unique()) <= 16, name
    found = effect(field, other, (1, 1))
    assert found.psnr is None
    assert found.values > 0
    assert moves(spec) == ()
    assert "not permuted" in explained(())


def test_the_effect_is_that_of_the_formulas():
    field = field_of(SPEC)
    other = changed(field, Change(pruned=0.4), 0)
    found, coords = effect(field, other, (6, 5)), places(SPEC, (6, 5))
    assert len(coords) == 30
    difference = (other.flat() - field.flat()).numpy()
    assert found.touched == np.mean(difference != 0)
    assert found.rms == pytest.approx(np.sqrt(np.mean(np.square(difference))), rel=1e-5)
    before, after = (evaluate(one, coords).clamp(0, 1).numpy() for one in (field, other))
    assert found.psnr == pytest.approx(-10 * np.log10(np.mean(np.square(before - after))), rel=1e-4)
    assert "**The picture stays**" not in told(found, Change(pruned=0.4), "picture")
    assert "**The shape stays**" in told(found, Change(permuted=1), "shape")
    assert "| PSNR to the unchanged picture | equal |" in told(effect(field, field, (6, 5)), Change(), "picture")


def test_the_same_question_is_not_worked_out_twice():
    asked, last = [], Last()
    for seed, settings in ((0, 1), (0, 1), (1, 1), (1, 2), (1, 2)):
        last.find(field_of(SPEC, seed), settings, lambda: asked.append(1))
    assert len(asked) == 3


def differing(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pixels that differ clearly."""
    return float((np.abs(a.astype(int) - b).max(axis=-1) > 60).mean())


def test_changed_weights_stand_beside_the_field(serve, look, digits):
    page = look(serve(digits))
    page.press("Field")
    alone = page.picture()
    page.page.get_by_text("Change the weights").click()
    page.press("Permute units")
    field = page.session.collection.field(0)
    changes = page.session.pane._alterations[-1]
    assert "The picture stays" in changes._text.content
    ((name, other),) = changes.apply(field)
    assert name == "changed"
    assert not torch.equal(other.flat(), field.flat())
    until(lambda: differing(page.picture(), alone) > 0.05)
    beside = page.picture()
    page.save("permuted")
    row = page.page.get_by_text("Noise", exact=True).locator("xpath=ancestor::*[.//*[@role='slider']][1]")
    row.get_by_role("slider").focus()
    for _ in range(40):
        page.page.keyboard.press("ArrowRight")
    page.rest()
    assert changes.change(field).noise > 0.1
    assert "The picture stays" not in changes._text.content
    until(lambda: differing(page.picture(), beside) > 0.01)
    page.save("noise")
    page.press("Undo all")
    assert changes.apply(field) == []
    until(lambda: differing(page.picture(), alone) < 0.001)
