"""Exports: what is written, under which names, and that a browser cannot choose them."""

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from imageio_ffmpeg import count_frames_and_secs

from apps.mesh import FORMATS
from apps.viewer import export
from apps.viewer.collection import Collection, Query, of_batch, of_store
from apps.viewer.export_store import save_selection
from neuralfields import SIREN, FieldBatch, FieldStore, ReLUField
from neuralfields.render import image
from neuralfields.store import open_store, save
from tests.apps.viewer.conftest import until

CENTRE, SCALE = (5.0, -2.0, 1.0), 0.25  # where the shape's file had it


def run(pieces):
    """Run a generator to its end: what it returns."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def quiet(text: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def diamonds(tmp_path_factory: pytest.TempPathFactory) -> FieldStore:
    """Two shapes |x| + |y| + |z| = r, of files four times as large and elsewhere."""
    signs = torch.cat([torch.eye(3), -torch.eye(3)]).expand(2, 6, 3).clone()
    biases = [torch.zeros(2, 6), -torch.tensor([[0.4], [0.8]])]
    fields = FieldBatch.from_layers(ReLUField(3, 1, hidden=(6,)), [signs, torch.ones(2, 1, 6)], biases)
    moved = {"transform": {"scale": SCALE, "offset": list(CENTRE)}}
    signal = {"kind": "sdf", "level": 0.0, "inside": "below", "shapes": {"../a.off": moved, "b.off": moved}}
    rows = {"name": ["../a.off", "b.off"], "label": [0, 1]}
    return save(tmp_path_factory.mktemp("diamonds") / "store", fields, rows, {"signal": signal})


def test_names_are_never_used_twice(tmp_path):
    folder = tmp_path / "deep" / "exports"
    names = [export.reserved(folder, "mesh-3", ".ply").name for _ in range(3)]
    assert names == ["mesh-3.ply", "mesh-3-2.ply", "mesh-3-3.ply"]
    (folder / "fields").write_text("somebody's")
    assert export.reserved(folder, "fields", "").name == "fields-2"
    assert (folder / "fields").read_text() == "somebody's"
    export.discard(folder / "fields-2")
    export.discard(folder / "mesh-3.ply")
    assert sorted(path.name for path in folder.iterdir()) == ["fields", "mesh-3-2.ply", "mesh-3-3.ply"]


def test_a_picture_is_what_the_field_shows(digits, digits_part):
    for longest, size in ((None, (8, 8)), (40, (40, 40))):
        found = run(export.picture(digits_part, 7, longest))
        expected = image(digits[7], size)[0].expand(*size, 3).mul(255).round().byte().numpy()
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_large_picture_comes_in_pieces(digits_part, monkeypatch):
    whole = run(export.picture(digits_part, 7, 64))
    monkeypatch.setattr(export, "PIXELS_AT_ONCE", 64 * 10)
    assert len(list(export.picture(digits_part, 7, 64))) == 7
    assert (run(export.picture(digits_part, 7, 64)) == whole).all()


@pytest.mark.parametrize("suffix", FORMATS)
def test_trimesh_loads_a_mesh_in_original_units(diamonds, tmp_path, suffix):
    path = tmp_path / f"mesh.{suffix}"
    export.mesh(of_store(diamonds), 0, 32).save(path)
    found = trimesh.load(path, force="mesh")
    assert found.is_watertight
    np.testing.assert_allclose(found.bounds.mean(axis=0), CENTRE, atol=1e-3)
    np.testing.assert_allclose(np.ptp(found.bounds, axis=0), 2 * 0.4 / SCALE, rtol=0.05)


def test_a_level_without_a_surface_is_refused(diamonds):
    with pytest.raises(ValueError, match="level=-5: field 0 has no surface"):
        export.mesh(of_store(diamonds), 0, 16, -5.0)


def test_a_selection_is_the_rows_bit_for_bit(digits, digits_part, tmp_path):
    collection = Collection([digits_part])
    chosen = collection.choose(Query(label=3, sort="psnr"))
    run(save_selection(collection, chosen, tmp_path, quiet))
    found = open_store(tmp_path)
    found.verify()
    assert found.complete
    assert found.spec == digits.spec
    assert found.meta == digits.meta
    assert (found[:].flat() == digits[chosen].flat()).all()
    assert found.index.schema.names == digits.index.schema.names
    assert found.index.equals(digits.index.take(chosen))
    curves = digits.curves()
    assert curves is not None
    np.testing.assert_array_equal(found.curves(), curves[chosen])


def test_fields_that_were_made_are_among_them(digits, digits_part, tmp_path):
    made = FieldBatch.from_flat(digits.spec, digits[:2].flat() + 1)
    part = of_batch("made", made, {"rank": np.array([0.5, 0.25])}, digits_part)
    collection = Collection([digits_part, part])
    run(save_selection(collection, np.array([121, 4, 120, 7]), tmp_path / "mixed", quiet))
    found = open_store(tmp_path / "mixed")
    assert (
        found[:].flat() == torch.cat([made[1].flat(), digits[[4]].flat(), made[0].flat(), digits[[7]].flat()])
    ).all()
    ids = digits.ids
    largest = max(ids[4], ids[7])
    assert found.ids.tolist() == [largest + 1, ids[4], largest + 2, ids[7]]
    assert found.labels.tolist() == [-1, digits.labels[4], -1, digits.labels[7]]
    assert found.column("split").tolist() == ["made", "train", "made", "train"]
    np.testing.assert_array_equal(found.column("rank"), [0.25, np.nan, 0.5, np.nan])
    assert found.curves() is None
    run(save_selection(collection, np.array([120]), tmp_path / "alone", quiet))
    assert set(open_store(tmp_path / "alone").meta) == {"signal"}


def test_stores_that_cannot_be_are_refused(digits_part, tmp_path, monkeypatch):
    spec = SIREN(2, 1, hidden=(8,))
    other = of_batch("made", FieldBatch.from_flat(spec, torch.zeros(1, spec.num_params)), {}, digits_part)
    collection = Collection([digits_part, other])
    with pytest.raises(ValueError, match="several specs, of made, store"):
        run(save_selection(collection, np.array([0, 120]), tmp_path / "a", quiet))
    with pytest.raises(ValueError, match="0 fields are in view"):
        run(save_selection(collection, np.array([], np.int64), tmp_path / "a", quiet))
    monkeypatch.setattr("apps.viewer.export_store.MOST_FIELDS", 2)
    with pytest.raises(ValueError, match="expected 1 to 2"):
        run(save_selection(collection, np.arange(3), tmp_path / "a", quiet))
    assert not (tmp_path / "a").exists()


def test_a_film_of_a_scene_follows_its_cameras(tmp_path, monkeypatch):
    from neuralfields import HashGrid, HashNeRF
    from neuralfields.render.cameras import fibonacci_sphere

    spec = HashNeRF(hidden=(4,), encoding=HashGrid(levels=1, features=2, log2_size=6, base=4, scale=1.5))
    generator = torch.Generator().manual_seed(0)
    fields = FieldBatch.from_flat(spec, torch.randn(1, spec.num_params, generator=generator))
    lens = {"fl_x": 16.0, "fl_y": 16.0, "cx": 8.0, "cy": 6.0, "w": 16, "h": 12}
    poses = fibonacci_sphere(3, 4.0).tolist()
    about = {"name": "one", "camera": lens, "poses": poses, "shape": [12, 16], "background": [1.0, 1.0, 1.0]}
    meta = {"signal": {"kind": "views", "scenes": [about]}}
    part = of_store(save(tmp_path / "store", fields, {"name": ["one"]}, meta))
    monkeypatch.setattr(export, "FRAMES", 5)
    said = []
    frames = run(export.film(part, 0, 12, None, said.append))
    assert [frame.shape for frame in frames] == [(12, 16, 3)] * 5
    assert said[-1] == "picture 5 of 5"
    assert (frames[0] != frames[2]).any()
    assert run(export.picture(part, 0, 20)).shape == (15, 20, 3)


def option(page, label: str):
    """The server's side of a control."""
    handles = page.session.client.gui._gui_input_handle_from_uuid.values()
    return next(handle for handle in handles if getattr(handle, "label", None) == label)


def test_a_browser_exports_what_it_looks_at(serve, look, diamonds, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "FRAMES", 3)
    page = look(serve(diamonds, exports=tmp_path / "out"))
    page.page.get_by_text("Export", exact=True).click()
    page.pick("Mesh format", "obj")
    page.pick("Mesh cells", "64")
    page.press("Mesh")
    page.press("Mesh")
    assert trimesh.load(tmp_path / "out" / "mesh-0.obj", force="mesh").is_watertight
    assert (tmp_path / "out" / "mesh-0-2.obj").read_bytes() == (tmp_path / "out" / "mesh-0.obj").read_bytes()
    page.page.get_by_text("Mesh is written").first.wait_for()
    page.page.get_by_text("mesh-0-2.obj").first.wait_for()  # offered to the browser
    page.save("export")
    page.pick("Film size", "128")
    page.press("Turntable")
    assert count_frames_and_secs(str(tmp_path / "out" / "turntable-0.mp4"))[0] == 3
    page.press("Fields in view as a store")
    open_store(tmp_path / "out" / "fields").verify()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for evil in ("/../../evil", "obj/../../../evil", ""):
        option(page, "Mesh format")._impl.value = evil
        page.press("Mesh")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_what_is_not_finished_is_taken_back(serve, look, digits, tmp_path, monkeypatch):
    page = look(serve(digits, exports=tmp_path / "out"))
    viewer, beginnings = page.session.viewer, []
    page.session.do("open", lambda: page.session.open(11))
    page.rest()
    page.page.get_by_text("Export", exact=True).click()
    page.pick("Picture size", "as fitted")
    page.press("Picture")
    assert iio.imread(tmp_path / "out" / "picture-11.png").shape == (8, 8, 3)

    def endless(*_):
        beginnings.append(1)
        while True:
            yield 0.01

    def files() -> list[str]:
        return sorted(path.name for path in (tmp_path / "out").iterdir())

    monkeypatch.setattr("apps.viewer.export_folder.share", endless)
    page.page.get_by_role("button", name="Page to share").click()
    until(lambda: beginnings)
    assert files() == ["page.html", "picture-11.png"]
    page.press("Stop")
    assert files() == ["picture-11.png"]
    page.page.get_by_role("button", name="Page to share").click()
    until(lambda: len(beginnings) == 2)
    page.page.close()
    until(lambda: not viewer.sessions and files() == ["picture-11.png"])
