"""The pane of shapes: the surface follows the level, slices stand where they belong, distances are coloured."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.viewer.collection import Collection, of_store
from apps.viewer.slice_plane import slice_plane
from apps.viewer.stage import PAPER
from apps.viewer.surfaces import Original, Surfaces, cut, reach, stored_level, thinned, vertex_normals
from neuralfields import FieldBatch, FieldStore, ReLUField
from neuralfields.evaluate import evaluate
from neuralfields.render.isosurface import isosurface
from neuralfields.store import save

ROUND = 0.1  # a box grown by so much is where its field is 0
BOXES = np.array([[[-0.8, -0.45, -0.3], [0.8, 0.45, 0.3]], [[-0.7, -0.2, -0.2], [0.1, 0.7, 0.5]]], np.float32)


def boxes(corners: np.ndarray) -> FieldBatch:
    """Fields that are the distance to a box (2, 3), summed over the axes, less ROUND: (N, 2, 3) corners."""
    low, high = torch.as_tensor(corners).unbind(1)
    ones = torch.eye(3).expand(len(corners), 3, 3)
    parameters = {
        "weights.0": torch.cat([ones, -ones], dim=1),
        "biases.0": torch.cat([-high, low], dim=1),
        "weights.1": torch.ones(len(corners), 1, 6),
        "biases.1": torch.full((len(corners), 1), -ROUND),
    }
    return FieldBatch(ReLUField(3, 1, hidden=(6,)), parameters)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shape that the first field was made for, which is a little thicker."""
    folder = tmp_path_factory.mktemp("originals")
    thicker = BOXES[:1] * np.array([1.0, 1.2, 1.0], np.float32)
    isosurface(boxes(thicker), 48)[0].save(folder / "one.ply")
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FieldStore:
    """The two boxes."""
    meta = {"signal": {"kind": "sdf", "level": 0.0, "inside": "below"}}
    rows = {"name": ["one.ply", "two.ply"], "label": [0, 1]}
    return save(tmp_path_factory.mktemp("boxes") / "store", boxes(BOXES), rows, meta)


def is_paper(picture: np.ndarray) -> np.ndarray:
    return np.abs(picture.astype(int) - PAPER).max(axis=-1) < 8


def drag(page, label: str, share: float) -> None:
    """Drag a slider to a share of its range, in several moves."""
    words = page.page.locator("label").filter(has_text=re.compile(f"^{label}$")).first
    row = words.locator("xpath=ancestor::*[.//*[@role='slider']][1]")
    thumb, track = row.locator("[role='slider']"), row.locator(".mantine-Slider-track")
    here, there = thumb.bounding_box(), track.bounding_box()
    y = here["y"] + here["height"] / 2
    page.page.mouse.move(here["x"] + here["width"] / 2, y)
    page.page.mouse.down()
    page.page.mouse.move(there["x"] + there["width"] * share, y, steps=4)
    page.page.mouse.up()
    page.rest()


def test_the_level_changes_the_surface(serve, look, store):
    page = look(serve(store))
    page.session.open(1)
    page.rest()
    pane, before = page.session.pane, page.picture()
    words = pane._words.content
    assert "watertight" in words
    assert page.page.get_by_text("128 cells along the box").is_visible()
    page.save("shape")
    drag(page, "Level", 0.9)
    assert pane._level.value > 0.05
    assert pane._words.content != words
    assert "128 cells" in pane._words.content
    after = page.picture()
    assert (~is_paper(after)).mean() > 1.15 * (~is_paper(before)).mean()
    drag(page, "Level", 0.0)
    assert page.page.get_by_text("no surface at this level").is_visible()
    assert is_paper(page.picture()[200:, 320:]).mean() > 0.97  # the name stays
    page.press("Level as stored")
    assert pane._words.content == words
    page.press("Gallery")
    assert not pane._scene._nodes
    page.press("Field")
    assert np.abs(page.picture()[200:].astype(int) - before[200:]).mean() < 1


def test_slices_and_distances(serve, look, store, originals):
    page = look(serve(store, beside=str(originals)))
    page.session.open(0)
    page.rest()
    both = page.picture()
    half = both.shape[1] // 2
    assert (~is_paper(both[200:, :half])).mean() > 0.02
    assert (~is_paper(both[200:, half:])).mean() > 0.02
    page.pick("Colour", "distance to the original")
    coloured = page.picture()
    far = coloured[..., 0].astype(int) - coloured[..., 2] > 60  # yellow to red: the wide sides of the box are too low
    assert far[200:, :half].mean() > 0.01
    assert far[200:, half:].mean() < 0.001
    assert page.session.pane._bar.visible
    page.save("shape-error")
    page.press("Front")
    page.pick("Slice", "z")
    sliced = page.picture().astype(int)
    blue, orange = sliced[..., 2] - sliced[..., 0] > 10, sliced[..., 0] - sliced[..., 2] > 60
    assert blue[200:, :half].mean() > 0.01
    assert orange[200:, :half].mean() > 0.05
    assert not blue[200:, half:].any()
    page.save("shape-slice")


def test_a_slice_is_neither_turned_nor_mirrored(serve, look, store):
    page = look(serve(store))
    page.session.open(1)
    page.rest()
    page.press("Front")
    page.pick("Slice", "z")
    picture = page.picture().astype(int)
    y, x = np.nonzero(
        picture[200:, :, 2] - picture[200:, :, 0] > 10
    )  # inside the box, which lies to the left and above
    middle = np.array([200 + y.mean(), x.mean()]) / picture.shape[:2]
    assert (middle < 0.47).all()


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_pixels_of_a_slice_show_the_values_of_their_places(axis):
    from viser.transforms import SO3

    field = boxes(BOXES[1:])
    plane = slice_plane(field, axis, 0.15, 0.0, "below", 1.0, 64)
    height, width = plane.picture.shape[:2]
    down, right = np.meshgrid(
        *((np.arange(n) + 0.5) / n * 2 - 1 for n in (height, width)), indexing="ij"
    )  # a viser image: first axis right, second down
    points = plane.position + np.stack([right, down, 0 * right], -1) @ SO3(plane.rotation).as_matrix().T
    values = evaluate(field, torch.from_numpy(points.astype(np.float32)).view(-1, 3))[0].view(height, width).numpy()
    red, blue = plane.picture[..., 0].astype(int), plane.picture[..., 2].astype(int)
    sure = np.abs(values) > 0.05
    assert ((blue > red) == (values < 0))[sure].all()
    assert (values < 0).any()


def test_a_cut_leaves_what_lies_below():
    mesh = isosurface(boxes(BOXES[1:]), 32)[0]
    heights = mesh.vertices[:, 2:]
    part, values = cut(mesh, 2, 0.1, heights)
    used = np.unique(part.faces)
    assert part.vertices[used, 2].max() == pytest.approx(0.1, abs=1e-6)
    assert values is not None
    np.testing.assert_allclose(values, part.vertices[:, 2:], atol=1e-6)
    other = cut(type(mesh)(mesh.vertices * np.float32(-1), mesh.faces[:, ::-1].copy()), 2, -0.1)[0]
    assert part.area + other.area == pytest.approx(mesh.area, rel=1e-4)
    assert cut(mesh, 0, 2.0)[0].area == pytest.approx(mesh.area)
    assert not len(cut(mesh, 0, -2.0)[0].faces)


def test_meshes_for_a_browser_are_small():
    mesh = isosurface(boxes(BOXES[1:]), 96)[0]
    small = thinned(mesh, 5000)
    assert 1000 < len(small.faces) <= 5000
    assert small.volume == pytest.approx(mesh.volume, rel=0.05)
    assert thinned(mesh) is mesh


def test_normals_look_outward():
    mesh = isosurface(boxes(BOXES[:1]), 32)[0]
    normals = vertex_normals(mesh)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert ((normals * mesh.vertices).sum(axis=1) > 0).all()


def test_surfaces_are_kept_by_their_weights(store):
    surfaces, one = Surfaces(), Collection([of_store(store)]).field(1)
    found = surfaces.find(one, 0.0, "below", 16)
    assert surfaces.find(boxes(BOXES[1:]), 0.0, "below", 16) is found
    assert surfaces.knows(one, 0.0, 16)
    assert not surfaces.knows(one, 0.01, 16)
    assert not surfaces.knows(boxes(BOXES[:1]), 0.0, 16)


def test_levels_and_distances(store, originals):
    from apps.render_shapes import original

    part = of_store(store)
    assert stored_level(part) == (0.0, "below")
    away, limit = reach(boxes(BOXES[1:]), 0.0)
    assert 0.1 < away <= limit < 5
    shape = Original(original(str(originals), "one.ply"))
    distances = shape.distance(isosurface(boxes(BOXES[:1]), 32)[0].vertices)
    assert 0.05 < distances.max() < 0.12
