"""The pane of two fields: the path, its barrier, and what a person sees of both."""

from pathlib import Path

import numpy as np
import pytest
import torch

from apps import interpolate
from apps.interpolate import Interpolate
from apps.viewer.barrier_picture import barrier_picture, legend, value_at
from apps.viewer.collection import Part, of_batch, of_store
from apps.viewer.networks import Networks
from apps.viewer.pair_pane import Pair, both
from apps.viewer.pair_tiles import Tiles
from apps.viewer.paths import ALIGNED, LATENTS, SHARES, WEIGHTS, embeddings, way
from apps.viewer.stage import PAPER
from apps.viewer.thumbnails import ABSENT
from apps.viewer.weights_picture import COLOURS
from neuralfields import SIREN, FieldBatch, FieldStore, ReLUField, symmetry
from neuralfields.render import image
from neuralfields.store import save
from wsnets import models
from wsnets.features import Normaliser
from wsnets.latents import Embedding, build_autoencoder


@pytest.fixture(scope="module")
def embedding(digits: FieldStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an untrained embedding of the digits."""
    settings = models.kind("inr2vec").small()
    model = build_autoencoder(settings, digits.spec, torch.Generator().manual_seed(0))
    normaliser = Normaliser.fit(settings.normalise, [digits[:8]])
    network = Embedding(spec=digits.spec, settings=settings, model=model, normaliser=normaliser)
    folder = tmp_path_factory.mktemp("networks") / "embedding"
    network.save(folder)
    return folder


@pytest.fixture(scope="module")
def diamonds(tmp_path_factory: pytest.TempPathFactory) -> Part:
    """Three shapes |x| + |y| + |z| = r, of which the last has no surface in the box."""
    signs = torch.cat([torch.eye(3), -torch.eye(3)]).expand(3, 6, 3).clone()
    biases = [torch.zeros(3, 6), -torch.tensor([[0.3], [0.8], [-0.5]])]
    fields = FieldBatch.from_layers(ReLUField(3, 1, hidden=(6,)), [signs, torch.ones(3, 1, 6)], biases)
    meta = {"signal": {"kind": "sdf", "level": 0.0, "inside": "below"}}
    return of_store(save(tmp_path_factory.mktemp("diamonds") / "store", fields, {"label": [0, 0, 1]}, meta))


@pytest.mark.parametrize("through", [WEIGHTS, ALIGNED, LATENTS])
def test_the_barrier_is_that_of_nf_interpolate(digits, digits_part, embedding, through):
    ends = digits[[3, 8]]
    found = way(ends, through, digits_part, Networks([str(embedding)], digits))
    assert not found.is_measured
    list(found.measure())
    words = {WEIGHTS: "weights", ALIGNED: "aligned", LATENTS: "latent"}[through]
    network = str(embedding) if through == LATENTS else None
    options = Interpolate(store="", out="", fields=(3, 8), through=words, network=network)  # type: ignore[arg-type]
    path = interpolate.along(ends, SHARES, options)
    np.testing.assert_allclose(found.errors, interpolate.departures(path, ends, SHARES, digits), rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(found.field(SHARES[7]).flat(), path.flat()[7:8], rtol=1e-5, atol=1e-6)


def test_what_was_measured_before_a_drop_is_kept(digits, digits_part, monkeypatch):
    monkeypatch.setattr("apps.viewer.paths.VALUES_AT_ONCE", 1)
    found = way(digits[[0, 1]], WEIGHTS, digits_part, Networks([], digits))
    pieces = found.measure()
    next(pieces)
    next(pieces)
    first = found.errors.copy()
    assert np.isfinite(first).sum() == 2
    assert len(list(found.measure())) == len(SHARES) - 2
    assert (found.errors[:2] == first[:2]).all()


def test_aligned_weights_lead_back_to_a_moved_copy(digits, digits_part):
    one = digits[5]
    moved = symmetry.act(symmetry.sample(one.spec, 1, torch.Generator().manual_seed(1)), one)
    networks, ends = Networks([], digits), FieldBatch.cat([one, moved])
    straight, aligned = (way(ends, through, digits_part, networks) for through in (WEIGHTS, ALIGNED))
    for found in (straight, aligned):
        list(found.measure())
    assert aligned.errors.max() < 1e-6 < straight.errors.max()


def test_embeddings_are_named_where_there_are_several(digits, embedding, tmp_path):
    (tmp_path / "other").symlink_to(embedding)
    networks = Networks([str(embedding), str(tmp_path / "other")], digits)
    assert len(embeddings(networks, digits.spec)) == 2
    assert all(name.startswith(f"{LATENTS} of ") for name in embeddings(networks, digits.spec))
    assert embeddings(networks, SIREN(2, 1, hidden=(8,))) == {}


def test_what_has_no_way_is_refused_in_one_line(digits, digits_part):
    other = FieldBatch.from_flat(SIREN(2, 1, hidden=(8,)), torch.zeros(1, 33))
    with pytest.raises(ValueError, match="expected two fields of one spec") as found:
        both(digits[0], other)
    assert "\n" not in str(found.value)
    with pytest.raises(ValueError, match="through='latents'"):
        way(digits[:2], LATENTS, digits_part, Networks([], digits))


def test_a_plot_has_its_curves_where_the_values_are():
    values = 0.4 * SHARES * (1 - SHARES) * 4
    drawn = barrier_picture((240, 500), {WEIGHTS: values, ALIGNED: values / 4}, (WEIGHTS, ALIGNED), WEIGHTS, 0.25)
    assert drawn.shape == (240, 500, 3)
    rows = []
    for colour in COLOURS[:2]:
        wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        rows.append(np.argwhere(np.abs(drawn[60:, 260:300].astype(int) - wanted).sum(-1) < 40)[:, 0].min())
    assert rows[0] < rows[1] - 60  # the higher curve stands higher
    assert legend(WEIGHTS, values) == "weights: at most 0.4, at 0.50"
    assert legend(WEIGHTS, np.where(SHARES < 0.5, values, np.nan)) == "weights: 10 of 21"
    assert value_at(values, 0.5) == pytest.approx(0.4)


def test_shapes_on_the_way_are_drawn_from_one_place(diamonds):
    ends = diamonds.fields[[0, 1]]
    tiles, size = Tiles(diamonds, ends), (48, 48)
    few, many, middle = (
        tiles.end(0, size, False),
        tiles.end(1, size, False),
        tiles.draw(FieldBatch.from_flat(ends.spec, ends.flat().mean(0, keepdim=True)), size, False),
    )
    covered = [int((np.abs(tile.astype(int) - tile[0, 0]).sum(-1) > 30).sum()) for tile in (few, middle, many)]
    assert covered[0] < covered[1] < covered[2]
    fine = tiles.end(1, size, True)
    assert (fine != many).any()
    assert tiles.end(1, size, False) is fine  # a finer picture that is there is not replaced while the slider moves
    nothing = tiles.draw(diamonds.fields[[2]], size, True)
    assert (nothing == np.array(ABSENT, np.uint8)).all()


def test_a_pair_keeps_the_curves_that_were_looked_at(digits, digits_part):
    pair = Pair(digits_part, digits[[0, 1]])
    for through in (WEIGHTS, ALIGNED):
        pair.ways[through] = way(pair.ends, through, digits_part, Networks([], digits))
        list(pair.ways[through].measure())
    curves = pair.curves()
    assert list(curves) == [WEIGHTS, ALIGNED]
    np.testing.assert_allclose(curves[WEIGHTS] ** 2, pair.ways[WEIGHTS].errors, rtol=1e-12)


def middle(page) -> np.ndarray:
    """The picture on the way, as the browser shows it."""
    pane = page.session.pane
    height, width = pane._tile_size(pane._pair())
    shown = page.picture()
    left = (shown.shape[1] - width) // 2
    return shown[60 : 40 + height, left + 6 : left + width - 6].astype(int)


def test_the_slider_changes_the_picture_in_the_browser(serve, look, digits, embedding, monkeypatch):
    monkeypatch.setattr("apps.viewer.pair_pane.STEPS", 2)
    page = look(serve(digits, networks=(str(embedding),)))
    page.press("Two fields")
    page.page.mouse.move(5, 5)
    half = middle(page)
    assert np.ptp(half) > 60
    page.save("two-fields")
    slider = page.page.get_by_role("slider").first
    slider.focus()
    slider.press("Home")
    page.rest()
    first = middle(page)
    assert np.abs(half - first).mean() > 5
    expected = image(digits[0], first.shape[:2])[0, ..., 0].mul(255).numpy()
    assert np.corrcoef(first.mean(-1).ravel(), expected.ravel())[0, 1] > 0.9  # at 0 it is A
    before = page.picture()
    page.pick("Through", ALIGNED)
    page.pick("Through", LATENTS)
    assert (np.abs(page.picture().astype(int) - before).sum(-1) > 60)[-380:].mean() > 0.005  # there are curves more
    page.press("Swap")
    a, b = page.session.pane._ends
    assert (int(a.value), int(b.value)) == (1, 0)
    page.pick("Through", WEIGHTS)
    page.press("Play")
    assert float(page.session.pane._share.value) == 0.0  # there and back
    spec = SIREN(2, 1, hidden=(8,))
    made = of_batch(
        "made", FieldBatch.from_flat(spec, torch.zeros(1, spec.num_params)), {}, page.session.collection.parts[0]
    )
    page.session.do("add", lambda: page.session.add(made))
    page.rest()
    page.fill("B", len(digits))
    assert (np.abs(page.picture()[200:].astype(int) - PAPER).max(-1) < 8).mean() > 0.99  # only a line that refuses
