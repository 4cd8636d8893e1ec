"""The map in a browser and its picture: dots where they belong, colours that say something, neighbours in a strip."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from apps.viewer.collection import Collection, of_batch, with_columns
from apps.viewer.map_colours import CLASS, NONE, OTHER, PALETTE, PREDICTION, by_class, by_number, colours, columns
from apps.viewer.map_page import PALE, sentence
from apps.viewer.map_picture import GROUND, Frame, dots, mixed, radius
from apps.viewer.map_strip import COUNT, Strip
from apps.viewer.networks import Entry
from apps.viewer.page import ACCENT
from apps.viewer.projections import FlatMap
from apps.viewer.stage import PAPER, Window
from neuralfields import SIREN
from neuralfields.store import open_store
from neuralfields.store_writer import StoreWriter
from tests.apps.viewer.conftest import Look, until

FRAME = Frame((400, 600), 50, 20, 350, 520)


def flat_of(places: list[list[float]], total: int | None = None, num_bad: int = 0) -> FlatMap:
    array = np.array(places, np.float32)
    part: Any = None  # of no store
    return FlatMap(part, np.arange(len(array)), array, total or len(array), num_bad, "a note")


def open_map(look: Callable[..., Look], viewer: Any) -> Look:
    """A browser that looks at the map."""
    page = look(viewer)
    page.press("Map")
    assert page.session.wait(60)
    return page


def place(page: Look, position: int) -> tuple[float, float]:
    """Where the dot of a field is on the page, in pixels."""
    pane: Any = page.session.pane
    row, column = pane.frame().place(pane.flat(), page.session.stage.window())[position]
    return float(row), float(column)


def click(page: Look, row: float, column: float) -> None:
    """Click a place given in pixels."""
    height, width = page.session.stage.size
    page.click(row / height, column / width)


def lonely(page: Look) -> int:
    """The field whose dot is farthest from all others, away from the note that the browser shows at the top left."""
    at = np.array([place(page, position) for position in range(len(page.session.collection))])
    far = np.linalg.norm(at[:, None] - at, axis=-1) + 1e9 * np.eye(len(at))
    far[(at[:, 0] < 200) & (at[:, 1] < 330)] = 0
    return int(far.min(axis=1).argmax())


def close_to(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(picture.astype(int) - colour).max(axis=-1) < 20


def test_a_click_on_a_dot_chooses_its_field_and_shows_its_neighbours(serve, look, digits):
    page = open_map(look, serve(digits))
    pane, chosen = page.session.pane, lonely(page)
    strip, before = pane.strip(), page.picture()
    assert before[strip.top + 30 :].min() > 230  # only words so far
    row, column = place(page, chosen)
    click(page, row + 3, column - 3)
    assert page.session.position == chosen
    far = (digits[:].flat() - digits[chosen].flat()).norm(dim=1).numpy()
    assert pane.near.positions.tolist() == np.argsort(far)[1 : COUNT + 1].tolist()
    for item in range(COUNT + 1):
        top, left = strip.corner(item)
        until(lambda at=(top, left): np.ptp(page.picture()[at[0] :, at[1] :][: strip.side, : strip.side]) > 100)
    after = page.picture()
    around = np.s_[int(row) - 16 : int(row) + 16, int(column) - 16 : int(column) + 16]
    assert close_to(after[around], ACCENT).sum() > close_to(before[around], ACCENT).sum() + 40
    page.save("map")
    top, left = strip.corner(3)
    third = pane.near.positions[2]
    click(page, top + 10, left + 10)
    assert page.session.pane.label == "Field"
    assert page.session.position == third
    page.press("Map")
    assert pane.near.position == third  # what was opened elsewhere is chosen here


def test_colours_filter_and_window(serve, look, digits):
    viewer = serve(digits)
    viewer.networks.entries.append(Entry("other", digits.path, "embed", "inr2vec", SIREN(2, 1, hidden=(4,))))
    page = open_map(look, viewer)
    assert page.page.get_by_text("other is left out: it reads sine 2-4-1").is_visible()
    frame = page.session.pane.frame()
    inside = np.s_[max(frame.top, 200) : frame.bottom - 2, frame.left + 2 : frame.right - 2]
    legend = np.s_[frame.top : frame.bottom, frame.right + 4 :]
    by_label = page.picture()
    page.pick("Colour by", "psnr")
    by_psnr = page.picture()
    changed = np.abs(by_label.astype(int) - by_psnr).max(axis=-1) > 60
    dots_before = ~close_to(by_label[inside], GROUND)
    assert changed[inside][dots_before].mean() > 0.4
    assert np.mean(~close_to(by_psnr[inside], GROUND) != dots_before) < 0.01  # JPEG blurs their edges
    assert changed[legend].any()
    page.save("map-psnr")
    page.press("Gallery")
    page.pick("Class", "3")
    page.press("Map")
    filtered = page.picture()
    pale, strong = close_to(filtered[inside], PALE), filtered[inside].min(axis=-1) < 150
    assert pale.sum() > 3 * close_to(by_psnr[inside], PALE).sum() + 200
    assert 0 < strong.sum() < 0.3 * (by_psnr[inside].min(axis=-1) < 150).sum()
    y, x = place(page, int(np.flatnonzero(digits.labels == 3)[-1]))
    page.page.mouse.move(x, y)
    page.page.mouse.wheel(0, -600)
    page.rest()
    assert page.session.stage.window().zoom > 1.3
    moved = np.abs(page.picture()[inside].astype(int) - filtered[inside]).max(axis=-1) > 20
    assert moved.mean() > 0.01


def test_places_keep_angles_and_windows_move_them():
    at = FRAME.place(flat_of([[0, 0], [4, 0], [0, 1]]), Window())
    assert all(FRAME.holds(*place) for place in at)
    right, up = at[1] - at[0], at[2] - at[0]
    np.testing.assert_allclose(right[0], 0, atol=1e-6)
    np.testing.assert_allclose(up[1], 0, atol=1e-6)
    assert right[1] > 0 > up[0]
    np.testing.assert_allclose(right[1], -4 * up[0], rtol=1e-6)
    np.testing.assert_allclose(right[1], 0.9 * 500, rtol=1e-6)
    closer = FRAME.place(flat_of([[0, 0], [4, 0], [0, 1]]), Window(2.0, (0.5, 0.25)))
    np.testing.assert_allclose(closer, (at - (200, 150)) * 2 + (200, 300), rtol=1e-6)
    alone = FRAME.place(flat_of([[3, 3]]), Window())
    np.testing.assert_allclose(alone, [[200, 270]])


def test_a_dot_that_lies_far_out_does_not_hide_the_others():
    places = np.random.default_rng(0).normal(size=(2000, 2)).tolist()
    at = FRAME.place(flat_of([*places, [1e6, 0]]), Window())
    assert np.ptp(at[:-1, 1]) > 100


def test_dots_are_drawn_where_they_are_and_later_ones_above():
    at = np.array([[100.0, 100.0], [200.0, 300.0], [200.0, 301.0], [2000.0, 0.0], [352.0, 100.0]])
    tones = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9], [9, 9, 9]], np.uint8)
    picture = dots(FRAME, at, tones, 4.0)
    assert picture.shape == (300, 500, 3)
    assert picture[50, 80].tolist() == [255, 0, 0]
    assert picture[150, 281].tolist() == [0, 0, 255]
    assert picture[150, 276].tolist() == [0, 255, 0]
    rows, columns = np.nonzero((picture == [255, 0, 0]).all(axis=-1))
    assert abs(rows.mean() - 49.5) < 1
    assert abs(columns.mean() - 79.5) < 1
    assert 30 < len(rows) < 70
    assert (picture[-1, 78:83] == 9).any()  # a dot is cut where the frame ends
    assert (picture == 9).all(axis=-1).sum() < 25


def test_dots_in_view_are_drawn_last():
    strong = np.arange(100) % 3 == 0
    order = mixed(strong)
    assert sorted(order.tolist()) == list(range(100))
    assert strong[order].tolist() == sorted(strong.tolist())
    assert radius(50, Window()) > radius(20_000, Window())
    assert radius(20_000, Window(8.0)) > radius(20_000, Window())


def test_classes_have_colours_of_their_own_and_a_legend(digits_part):
    collection, in_view = Collection([digits_part]), np.arange(120) < 60
    found = colours(collection, np.arange(120), CLASS, in_view)
    labels = digits_part.columns["label"]
    assert len({tuple(dot) for dot in found.dots.tolist()}) == 10
    assert all(len(np.unique(found.dots[labels == label], axis=0)) == 1 for label in range(10))
    assert [(name, count) for name, _, count in found.names] == [
        (str(label), int((labels[:60] == label).sum())) for label in range(10)
    ]
    assert columns(collection)[:2] == [CLASS, "psnr"]
    assert columns(collection)[-1] == NONE
    assert (colours(collection, np.arange(5), NONE, in_view[:5]).dots == PALETTE[0]).all()
    read = with_columns(digits_part, {"prediction": np.array(["1", "2", ""], object)})
    collection = Collection([read])
    assert columns(collection)[1] == PREDICTION
    found = colours(collection, np.arange(4), PREDICTION, np.ones(4, bool))
    assert found.dots.tolist() == [list(PALETTE[0]), list(PALETTE[1]), list(OTHER), list(OTHER)]
    assert [(name, count) for name, _, count in found.names] == [("1", 1), ("2", 1), ("none", 2)]


def test_the_rarest_of_many_classes_share_a_colour():
    labels = np.repeat(np.arange(30), np.arange(1, 31))
    found = by_class(CLASS, [(str(label), labels == label) for label in range(30)], np.ones(len(labels), bool))
    assert [name for name, _, _ in found.names] == [*map(str, range(11, 30)), "11 others"]
    assert (found.dots[labels < 11] == OTHER).all()
    assert len(np.unique(found.dots, axis=0)) == len(PALETTE)
    assert found.names[-1][2] == int((labels < 11).sum())


def test_numbers_lie_on_a_scale_with_its_ends():
    values = np.concatenate([np.linspace(10, 20, 199), [1e6, np.nan]])
    found = by_number("psnr", values)
    assert found.num_unknown == 1
    assert found.dots[-1].tolist() == list(OTHER)
    low, high = found.words()
    assert low.startswith("≤ 10.")
    assert high.startswith("≥ 19.9")
    light = found.dots[:199].astype(float) @ (0.299, 0.587, 0.114)
    assert (np.diff(light) >= -1).all()
    assert light[-1] - light[0] > 120
    assert by_number("same", np.ones(3)).words() == ("1", "1")
    assert by_number("none", np.full(3, np.nan)).num_unknown == 3


@pytest.mark.parametrize("width", [240, 896, 1540])
def test_the_strip_finds_the_tile_that_it_placed(width):
    strip = Strip(600, 22, width - 22)
    for item in range(COUNT + 1):
        top, left = strip.corner(item)
        assert strip.item(top + 1, left + 1, COUNT + 1) == item
        assert strip.item(top + 1, left + 1, item) is None
        assert width < 500 or left + strip.side <= width - 22
    assert strip.item(610, 30, COUNT + 1) is None
    assert Strip.height(width - 44) > strip.side + 40


def test_what_is_shown_is_said(digits_part):
    flat = flat_of([[0, 0], [1, 1], [2, 0]], total=4, num_bad=1)
    assert sentence(flat, np.ones(3, bool), 0) == "3 fields · 1 left out: NaN weights · a note"
    some = sentence(flat_of([[0, 0], [1, 1]], total=4), np.array([True, False]), 8)
    assert some == "2 of 4 fields, spread evenly · 1 of them in view · 8 made here left out · a note"


def test_made_fields_are_no_dots_and_do_no_harm(serve, look, digits, digits_part):
    page = open_map(look, serve(digits))
    page.session.do("add", lambda: page.session.add(of_batch("made", digits[3:5], {}, digits_part)))
    page.rest()
    assert len(page.session.pane.flat().rows) == 120
    page.session.do("choose", lambda: page.session.choose_field(120))
    page.rest()
    near = page.session.pane.near
    assert near.position == 120
    assert (near.positions[0], near.distances[0]) == (3, 0.0)
    strip = page.session.pane.strip()
    assert not close_to(page.picture()[strip.top + 30 :], PAPER).all()


def test_the_map_follows_a_store_that_grows(serve, look, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("apps.viewer.server.POLL_S", 0.05)
    with StoreWriter(tmp_path / "store", digits.spec, digits.meta, 70, 40) as writer:

        def land(shard: int, some: slice) -> None:
            writer.write(shard, digits[some], {"label": digits.labels[some], "psnr": digits.metrics.psnr[some]})

        land(0, slice(40))
        page = open_map(look, serve(open_store(tmp_path / "store")))
        until(lambda: page.session.pane.flat() is not None)
        assert page.session.pane.flat().total == 40
        page.session.do("choose", lambda: page.session.choose_field(7))
        until(lambda: page.session.pane.near is not None)
        land(1, slice(40, 70))
        until(lambda: page.session.pane.flat() is not None and page.session.pane.flat().total == 70)
        until(lambda: page.session.pane.near is not None and page.session.pane.near.among == 70)
        page.rest()
        assert len(page.session.pane.flat().rows) == 70
