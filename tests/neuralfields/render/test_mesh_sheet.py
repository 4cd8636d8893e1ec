from types import SimpleNamespace

import numpy as np
import pytest

from neuralfields.render.colours import MAPS
from neuralfields.render.mesh_picture import Look, mesh_picture
from neuralfields.render.mesh_sheet import MeshPair, difference, mesh_sheet
from neuralfields.render.sheet import save_png
from neuralfields.render.turntable import frame_camera

LOOK = Look(ambient=0, supersample=1)
FLAT = Look(ambient=0, supersample=1, relief=0.0)
NOTHING = SimpleNamespace(vertices=np.zeros((0, 3)), faces=np.zeros((0, 3), int))


def scaled(mesh, factor: float, move: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(vertices=mesh.vertices * factor + move, faces=mesh.faces)


def places(page: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Where a picture stands on a page, top left corners."""
    starts = np.argwhere((page[: -len(picture) + 1, : -picture.shape[1] + 1] == picture[0, 0]).all(axis=-1))
    rows, columns = picture.shape[:2]
    return [(y, x) for y, x in starts.tolist() if np.array_equal(page[y : y + rows, x : x + columns], picture)]


def holds_colour(page: np.ndarray, colour: tuple[float, ...], rows: slice = slice(None)) -> bool:
    return bool((np.abs(page[rows].astype(int) - 255 * np.array(colour)).max(axis=-1) <= 2).any())


def test_a_larger_ball_is_everywhere_as_far_away_as_it_is_larger(sphere) -> None:
    found = difference(sphere, scaled(sphere, 1.1))
    np.testing.assert_allclose(found.errors, 0.1, atol=2e-3)
    assert found.mean == pytest.approx(0.1, abs=2e-3)
    assert found.largest == found.errors.max()
    assert found.missed == pytest.approx(0.1, abs=2e-3)


def test_a_mesh_does_not_differ_from_itself(cube) -> None:
    found = difference(cube, cube)
    assert max(found.mean, found.largest, found.missed) < 1e-6


def test_what_is_missing_is_not_an_error_of_what_is_there(cube) -> None:
    half = SimpleNamespace(
        vertices=cube.vertices, faces=cube.faces[(cube.vertices[cube.faces][..., 0] < 0).all(axis=1)]
    )
    half = SimpleNamespace(vertices=cube.vertices[half.faces].reshape(-1, 3), faces=np.arange(6).reshape(2, 3))
    found = difference(cube, half)
    assert found.largest < 1e-6
    assert found.missed == pytest.approx(2.0, abs=1e-5)


def test_the_mean_is_over_area_not_over_vertices(cube) -> None:
    # A large triangle 0.1 above the top and many tiny ones 0.9 above it.
    tiny = np.tile([[0.0, 1.9, 0.0], [0.0, 1.9, 1e-3], [1e-3, 1.9, 0.0]], (50, 1))
    large = np.array([[-0.5, 1.1, -0.5], [-0.5, 1.1, 0.5], [0.5, 1.1, -0.5]])
    mesh = SimpleNamespace(vertices=np.concatenate([large, tiny]), faces=np.arange(153).reshape(-1, 3))
    found = difference(cube, mesh)
    assert found.mean == pytest.approx(0.1, abs=1e-3)
    assert found.largest == pytest.approx(0.9, abs=1e-5)


def test_a_row_is_original_reconstruction_and_error(cube, sphere) -> None:
    pairs = [MeshPair("cube", cube, scaled(cube, 0.9)), MeshPair("ball", sphere, scaled(sphere, 0.7))]
    page = mesh_sheet(pairs, 40, columns=1, look=LOOK)
    corners = []
    for mesh, made in ((cube, scaled(cube, 0.9)), (sphere, scaled(sphere, 0.7))):
        camera = frame_camera(mesh, 40)  # the smaller reconstruction lies inside
        first, second = (places(page, mesh_picture(m, camera, LOOK)) for m in (mesh, made))
        assert len(first) == len(second) == 1
        assert first[0][0] == second[0][0]
        assert first[0][1] + 40 < second[0][1]
        corners.append(first[0])
    assert corners[0][1] == corners[1][1]
    assert corners[0][0] + 40 < corners[1][0]


def test_colours_are_shared_by_the_whole_sheet(sphere) -> None:
    pairs = [MeshPair("near", sphere, scaled(sphere, 1.05)), MeshPair("far", sphere, scaled(sphere, 1.15))]
    page = mesh_sheet(pairs, 40, columns=2, limit=0.2, look=FLAT)
    light, dark = MAPS["error"][1], MAPS["error"][3]  # a quarter of the limit, three quarters
    left, right = page[:-60, : page.shape[1] // 2], page[:-60, page.shape[1] // 2 :]
    assert [holds_colour(left, light), holds_colour(left, dark)] == [True, False]
    assert [holds_colour(right, light), holds_colour(right, dark)] == [False, True]
    default = mesh_sheet(pairs, 40, columns=2, look=FLAT)
    np.testing.assert_array_equal(default, page)  # 0.2 is the next round number


def test_a_speck_far_away_is_in_the_picture(cube) -> None:
    speck = scaled(cube, 0.1, 3.0)
    made = SimpleNamespace(
        vertices=np.concatenate([cube.vertices, speck.vertices]), faces=np.concatenate([cube.faces, cube.faces + 8])
    )
    page = mesh_sheet([MeshPair("cube", cube, made)], 60, limit=1.0, look=FLAT)
    assert holds_colour(page, MAPS["error"][-1], slice(0, -60))


@pytest.mark.parametrize("missing", [None, NOTHING])
def test_no_surface_is_said_and_the_others_are_drawn(cube, missing) -> None:
    pairs = [MeshPair("gone", cube, missing), MeshPair("there", cube, scaled(cube, 1.02))]
    page = mesh_sheet(pairs, 40, columns=1, look=LOOK)
    full = mesh_sheet([pairs[1]] * 2, 40, columns=1, look=LOOK)
    assert page.shape == full.shape
    empty = np.empty((40, 40, 3), np.uint8)
    empty[:] = np.round(255 * np.array(LOOK.background))
    assert len(places(page, empty)) == 2
    assert len(places(full, empty)) == 0
    assert mesh_sheet([pairs[0]], 40, look=LOOK).shape[-1] == 3


def test_names_and_units_are_on_the_page_and_it_can_be_saved(cube, tmp_path) -> None:
    pages = [
        mesh_sheet([MeshPair(name, cube, scaled(cube, 1.1))], 120, units=units, look=LOOK)
        for name, units in (("cube", "m"), ("dice", "m"), ("cube", "mm"))
    ]
    differ = [np.flatnonzero((pages[0] != page).any(axis=(1, 2))) for page in pages[1:]]
    height = len(pages[0])
    assert len(differ[0]) > 3
    assert differ[0].max() < height - 60  # the caption
    assert len(differ[1]) > 3
    assert differ[1].min() > height - 25  # the title of the bar
    save_png(tmp_path / "sheet.png", pages[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": []}, "pairs is empty"),
        ({"limit": -1.0}, "limit=-1.0"),
        ({"look": Look(background=None)}, "background=None"),
        ({"pairs": [MeshPair("none", NOTHING, None)]}, "at least one face"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(cube, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mesh_sheet(**{"pairs": [MeshPair("cube", cube, cube)], "size": 32, **options})


def test_a_reconstruction_without_area_is_refused(cube) -> None:
    with pytest.raises(ValueError, match="without area"):
        difference(cube, SimpleNamespace(vertices=np.zeros((3, 3)), faces=np.array([[0, 1, 2]])))
