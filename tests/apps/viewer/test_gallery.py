"""The gallery in a browser: filled, filtered, sorted, clicked."""

import numpy as np

from apps.viewer.gallery import Grid
from apps.viewer.page import PAPER


def test_filled_and_a_click_opens_the_field(serve, look, digits):
    page = look(serve(digits))
    gallery = page.session.pane
    grid = gallery.grid()
    assert gallery.shown(grid).tolist() == list(range(min(grid.count, len(digits))))
    picture = page.picture()
    tops = [grid.corner(item) for item in range(len(gallery.shown(grid)))]
    assert all(np.ptp(picture[y : y + grid.side, x : x + grid.side]) > 100 for y, x in tops if y > 190 or x > 320)
    page.save("gallery")
    top, left = grid.corner(9)
    page.click((top + 20) / grid.size[0], (left + 20) / grid.size[1])
    assert page.session.pane.label == "Field"
    assert page.session.position == 9
    page.save("field")


def test_worst_fits_first_is_one_click(serve, look, digits):
    page = look(serve(digits))
    page.press("Worst fits first")
    assert page.session.chosen.tolist() == np.argsort(digits.metrics.psnr, kind="stable").tolist()


def test_a_filter_reduces_the_gallery(serve, look, digits):
    page = look(serve(digits))
    before = page.picture()
    gallery = page.session.pane
    page.pick("Class", "3")
    assert page.session.chosen.tolist() == np.flatnonzero(digits.labels == 3).tolist()
    after = page.picture()
    grid = gallery.grid()
    y, x = grid.corner(min(grid.count, len(digits)) - 1)
    assert np.ptp(before[y : y + grid.side, x : x + grid.side]) > 100
    assert (np.abs(after[y : y + grid.side, x : x + grid.side].astype(int) - PAPER) < 8).all()
    page.press("Show all")
    assert len(page.session.chosen) == len(digits)


def test_pages_turn(serve, look, digits):
    page = look(serve(digits))
    gallery, count = page.session.pane, page.session.pane.grid().count
    page.press("Next")
    assert gallery.shown(gallery.grid())[0] == count
    page.press("Last")
    assert gallery.shown(gallery.grid())[-1] == len(digits) - 1
    page.press("First")
    assert gallery.shown(gallery.grid())[0] == 0


def test_two_browsers_see_their_own_state(serve, look, digits):
    viewer = serve(digits)
    first, second = look(viewer), look(viewer)
    first.press("Worst fits first")
    first.press("Field")
    assert second.session.pane.label == "Gallery"
    assert second.session.chosen.tolist() == list(range(len(digits)))
    assert first.session.pane.label == "Field"
    assert len(viewer.sessions) == 2


def test_grid_finds_the_tile_that_it_placed():
    grid = Grid((800, 900), 96)
    for item in range(grid.count):
        top, left = grid.corner(item)
        assert grid.item((top + 1) / 800, (left + 1) / 900) == item
        assert top + grid.side <= 800
        assert left + grid.side <= 900
    assert grid.item(0.001, 0.5) is None
