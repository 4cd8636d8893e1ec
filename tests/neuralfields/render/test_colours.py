import numpy as np
import pytest

from neuralfields.render import colours
from neuralfields.render.colours import colour_bar, colourise, nice, number, shorten, text_width


@pytest.mark.parametrize("name", list(colours.MAPS))
def test_a_map_starts_and_ends_with_its_colours_and_clips(name: str) -> None:
    first, last = colours.MAPS[name][0], colours.MAPS[name][-1]
    ends = colourise(np.array([-7.0, -1.0, 3.0, np.inf]), -1.0, 3.0, name)
    np.testing.assert_allclose(ends, [first, first, last, last], atol=1e-6)


@pytest.mark.parametrize("name", ["error", "depth"])
def test_lightness_falls_steadily_so_that_larger_is_darker(name: str) -> None:
    light = colourise(np.linspace(0.0, 1.0, 50), 0.0, 1.0, name) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    assert (np.diff(light) < 0.02).all()
    assert light[-1] < light[0] - 0.5


def test_signed_is_neutral_in_the_middle_blue_below_and_orange_above() -> None:
    low, middle, high = colourise(np.array([-0.5, 0.0, 0.5]), -1.0, 1.0, "signed")
    assert np.ptp(middle) < 0.05
    assert low[2] > low[0] + 0.2
    assert high[0] > high[2] + 0.2


@pytest.mark.parametrize("value", [1e-9, 0.00031, 0.02, 0.0200001, 0.5, 1.0, 3.0, 7.7, 10.0, 4.9e6])
def test_nice_is_1_2_or_5_and_the_next_above(value: float) -> None:
    found = nice(value)
    assert value * (1 - 1e-9) <= found < 2.6 * value
    assert f"{found:e}"[0] in "125"
    assert float(f"{found:.0e}") == found


def test_nice_of_zero_is_one_and_of_less_is_refused() -> None:
    assert nice(0.0) == 1.0
    for value in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="expected a finite number"):
            nice(value)


def test_numbers_have_no_negative_zero() -> None:
    assert [number(v) for v in (-0.0, 0.5, 1234.0, -0.25)] == ["0", "0.5", "1.23e+03", "-0.25"]


def test_shortened_text_fits_and_short_text_stays() -> None:
    text = "distance of the reconstruction to the original surface"
    assert shorten(text, 1000) == text
    cut = shorten(text, 100)
    assert cut.endswith("…")
    assert text.startswith(cut[:-1])
    assert 80 < text_width(cut) <= 100
    assert shorten(text, 3) == ""


def ink(page: np.ndarray) -> np.ndarray:
    """Columns of a colour bar's page that carry letters."""
    return (page[22:].min(axis=-1) < 200).any(axis=0)


def test_a_colour_bar_shows_its_map_from_left_to_right() -> None:
    page = colour_bar(300, 0.0, 0.2, "error", "title")
    assert page.shape == (58, 300, 3)
    left, right = colours.margins(300)
    expected = colours.to_bytes(colourise(np.linspace(0.0, 0.2, right - left), 0.0, 0.2, "error"))
    np.testing.assert_array_equal(page[12, left:right], expected)
    assert colour_bar(300, 0.0, 0.2, "error").shape == (42, 300, 3)


def test_texts_of_a_colour_bar_never_reach_the_edges_or_each_other() -> None:
    for width in (60, 120, 300):
        page = colour_bar(width, -0.123, 0.456, "signed", "a title that is far too long for a narrow bar, in metres")
        assert not ink(page)[[0, -1]].any()
    narrow, wide = colour_bar(90, 0.0, 0.125, "error"), colour_bar(400, 0.0, 0.125, "error")
    assert not ink(narrow)[42:48].any()  # no room for the middle number
    assert ink(wide)[190:210].any()


def test_what_cannot_be_coloured_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="colours='jet': expected one of error, depth, signed"):
        colourise(np.zeros(3), 0.0, 1.0, "jet")
    with pytest.raises(ValueError, match=r"low=1.0, high=1.0"):
        colourise(np.zeros(3), 1.0, 1.0)
    with pytest.raises(ValueError, match="1 NaN"):
        colourise(np.array([0.0, np.nan]), 0.0, 1.0)
    with pytest.raises(ValueError, match="width=3"):
        colour_bar(3, 0.0, 1.0, "error")
