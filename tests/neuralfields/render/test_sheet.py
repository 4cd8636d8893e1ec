import numpy as np
import pytest
import torch
from PIL import Image

from neuralfields.render.sheet import save_png, sheet


def pictures(generator: torch.Generator, count: int = 6, shape: tuple[int, int] = (4, 5), channels: int = 3):
    return torch.rand(count, *shape, channels, generator=generator)


def contains(page: np.ndarray, patch: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(page, patch.shape)
    return bool((windows == patch).all(axis=(-3, -2, -1)).any())


@pytest.mark.parametrize("channels", [1, 3])
def test_every_picture_is_on_the_page_enlarged_without_smoothing(generator, channels):
    tiles = pictures(generator, channels=channels)
    page = sheet(tiles, scale=3, captions=list("abcdef"), headers=["x"], title="title")
    assert page.dtype == np.uint8
    for tile in tiles:
        small = (tile.expand(-1, -1, 3) * 255).round().to(torch.uint8).numpy()
        assert contains(page, small.repeat(3, axis=0).repeat(3, axis=1))


def test_pairs_stand_side_by_side(generator):
    left, right = torch.zeros(2, 8, 8, 1), torch.ones(2, 8, 8, 1)
    page = sheet([left, right], columns=1, scale=4)
    black = np.argwhere((page == 0).all(axis=-1))
    white = np.argwhere((page == 255).all(axis=-1))
    assert len(black) == len(white) == 2 * 32 * 32
    assert np.array_equal(np.unique(black[:, 0]), np.unique(white[:, 0]))
    assert black[:, 1].max() < white[:, 1].min()


def test_columns_decide_the_shape_of_the_page(generator):
    tiles = pictures(generator)
    tall, wide = sheet(tiles, columns=1), sheet(tiles, columns=6)
    assert tall.shape[0] > tall.shape[1]
    assert wide.shape[1] > wide.shape[0]
    assert np.array_equal(wide, sheet(tiles, columns=100))


def test_default_columns_leave_no_hole_where_that_is_possible(generator):
    for count, width in ((12, 4), (24, 6)):
        page, full = sheet(pictures(generator, count, (8, 8))), sheet(pictures(generator, width, (8, 8)), columns=width)
        assert page.shape[1] == full.shape[1]


def test_tiny_pictures_are_made_visible_and_large_ones_keep_their_size():
    assert min(sheet(torch.zeros(1, 8, 8, 1)).shape[:2]) >= 90
    assert max(sheet(torch.zeros(1, 300, 200, 1)).shape[:2]) <= 330


def test_texts_change_only_the_margins_and_never_run_off_the_page(generator):
    tiles = torch.zeros(2, 8, 8, 1)
    long = "a caption that is much wider than the picture"
    plain = sheet(tiles, columns=2)
    page = sheet(tiles, columns=2, captions=[long, long], headers=[long], title=long * 3)
    assert page.shape[1] > plain.shape[1]
    assert (page[:, :11].min(), page[:, -2:].min()) == (250, 250)  # paper at both sides
    assert (page == 0).all(axis=-1).sum() == (plain == 0).all(axis=-1).sum()
    assert not np.array_equal(page, sheet(tiles, columns=2, captions=[long, ""], headers=[long], title=long * 3))


def test_values_are_clipped_and_nan_is_painted_magenta():
    tiles = torch.tensor([-3.0, 7.0, float("inf"), float("-inf"), float("nan")]).view(5, 1, 1, 1).expand(5, 4, 4, 1)
    page = sheet(tiles, columns=5, scale=4)
    middle = [page[20, 12 + 8 + i * (16 + 12)].tolist() for i in range(5)]
    assert middle == [[0, 0, 0], [255, 255, 255], [255, 255, 255], [0, 0, 0], [255, 0, 255]]


def test_saved_png_reads_back_equal(generator, tmp_path):
    page = sheet(pictures(generator))
    save_png(tmp_path / "grid.png", page)
    with Image.open(tmp_path / "grid.png") as file:
        assert np.array_equal(np.asarray(file), page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pictures": torch.zeros(2, 4, 4)}, r"shape \(2, 4, 4\): expected \(N, H, W, C\)"),
        ({"pictures": torch.zeros(2, 4, 4, 2)}, "C 1 or 3"),
        ({"pictures": torch.zeros(0, 4, 4, 1)}, "not empty"),
        ({"pictures": []}, "at least one tensor"),
        ({"pictures": [torch.zeros(2, 4, 4, 1), torch.zeros(2, 4, 5, 1)]}, "expected the same"),
        ({"pictures": torch.zeros(2, 4, 4, 1), "captions": ["a"]}, "captions has 1 texts: expected 2"),
        ({"pictures": torch.zeros(2, 4, 4, 1), "headers": ["a", "b"]}, "headers has 2 texts: expected 1"),
        ({"pictures": torch.zeros(2, 4, 4, 1), "columns": 0}, "columns=0: expected 1 or more"),
        ({"pictures": torch.zeros(2, 4, 4, 1), "scale": 0}, "scale=0: expected 1 or more"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        sheet(**arguments)
    assert "\n" not in str(caught.value)


def test_only_colour_bytes_can_be_saved(tmp_path):
    with pytest.raises(ValueError, match="expected \\(H, W, 3\\) uint8"):
        save_png(tmp_path / "x.png", np.zeros((4, 4, 3)))
    assert list(tmp_path.iterdir()) == []
