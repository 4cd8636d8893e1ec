"""Export then import gives back every bit: weights, labels, splits, ids, order, spec, meta."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import neuralfields as nf
from neuralfields import interop
from neuralfields.interop import fit_a_nef, state_dicts
from neuralfields.interop.state_dicts import read_state_dict
from neuralfields.store import save

ONE = nf.SIREN(2, 1, hidden=(32, 32), w0=30.0, offset=(0.5,), grid="corners", axes="xy")
THREE = nf.SIREN(2, 3, hidden=(16, 16), w0=8.0, scale=(0.2, 0.3, 0.25), offset=(0.5, 0.45, 0.4))
RELU = nf.ReLUField(2, 1, hidden=(8, 8), scale=(0.5,), offset=(0.5,))
FORMATS = tuple(interop.FORMATS)
SPLITS = ["test", "train", "val", "train", "test", "train", "val"]  # as in the fixture
SHARED_COLUMNS = ("id", "label", "split", "name", "init_id", "steps", "psnr")


def assert_same_population(store, imported: interop.Imported) -> None:
    assert imported.fields.spec == store.spec
    assert imported.meta == store.meta
    assert torch.equal(imported.fields.flat(), store[:].flat())
    for name in SHARED_COLUMNS:
        assert list(imported.rows[name]) == store.index.column(name).to_pylist(), name


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("spec", [ONE, THREE, RELU], ids=["2-32-32-1", "2-16-16-3", "relu"])
def test_export_then_import_is_bit_equal(tmp_path: Path, make_store, format: str, spec: nf.FieldSpec):
    store = make_store("store", spec)
    folder = interop.export(store, format, tmp_path / "out")
    imported = interop.load(folder, format)
    assert_same_population(store, imported)
    again = save(tmp_path / "again", imported.fields, imported.rows, imported.meta)
    rows = {name: again.index.column(name).to_pylist() for name in SHARED_COLUMNS}
    assert_same_population(store, interop.Imported(again[:], rows, again.meta))
    assert np.array_equal(again.ids, store.ids)
    picture = nf.render.image(imported.fields, (9, 7))
    assert torch.equal(picture, nf.render.image(store[:], (9, 7)))


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_survives_a_move(tmp_path: Path, make_store, format: str):
    store = make_store("store", ONE)
    folder = interop.export(store, format, tmp_path / "out")
    shutil.move(folder, tmp_path / "elsewhere")
    assert_same_population(store, interop.load(tmp_path / "elsewhere", format))


@pytest.mark.parametrize("format", FORMATS)
def test_a_copied_folder_is_read_itself_and_not_its_original(tmp_path: Path, make_store, format: str):
    store = make_store("store", ONE)
    folder = interop.export(store, format, tmp_path / "out")
    other = interop.export(make_store("store2", ONE, seed=1), format, tmp_path / "other")
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    shutil.copytree(other, folder)
    assert_same_population(store, interop.load(tmp_path / "copy", format))


@pytest.mark.parametrize("format", FORMATS)
def test_progress_counts_every_field_once(tmp_path: Path, make_store, format: str):
    store = make_store("store", ONE)
    seen: list[tuple[int, int]] = []
    folder = interop.export(store, format, tmp_path / "out", progress=lambda *step: seen.append(step))
    interop.load(folder, format, progress=lambda *step: seen.append(step))
    assert seen == [(7, 7), (7, 7)]


def test_dwsnets_files_are_what_its_data_set_class_opens(tmp_path: Path, make_store):
    store = make_store("store", ONE)
    folder = interop.export(store, "dwsnets", tmp_path / "out")
    splits = json.loads((folder / "splits.json").read_text())
    assert sorted(splits) == ["test", "train", "val"]
    for split, part in splits.items():
        wanted = [int(label) for label, own in zip(store.labels, SPLITS, strict=True) if own == split]
        assert [int(label) for label in part["label"]] == wanted
        for path, label in zip(part["path"], part["label"], strict=True):
            assert Path(path).parent.parent.stem.split("_")[-2] == label  # how its split script finds the label
            state = torch.load(path, weights_only=True)
            assert list(state) == [f"seq.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]


def test_nfn_indices_run_over_train_then_val_then_test(tmp_path: Path, make_store):
    store = make_store("store", ONE)
    folder = interop.export(store, "nfn", tmp_path / "out")
    files = {int(p.stem[3:]): p for p in folder.glob("randinit_smaller_*/*.pth")}
    assert sorted(files) == list(range(7))
    by_split = [row for split in ("train", "val", "test") for row, own in enumerate(SPLITS) if own == split]
    for index, row in enumerate(by_split):
        assert files[index].parent.name == f"randinit_smaller_{store.labels[row]}s"
        flat = torch.cat([value.reshape(-1) for value in read_state_dict(files[index]).values()])
        assert torch.equal(flat, store[row].flat()[0])
    positions = interop.load(_without_rows(folder), "nfn", split_points=(3, 5))
    assert positions.rows["split"] == ["train"] * 3 + ["val"] * 2 + ["test"] * 2


def test_fit_a_nef_files_hold_the_transposed_kernels_and_positions(tmp_path: Path, make_store):
    h5py = pytest.importorskip("h5py")
    store = make_store("store", THREE)
    folder = interop.export(store, "fit-a-nef", tmp_path / "out", file_size=4)
    assert sorted(p.name for p in folder.glob("*.hdf5")) == ["nefs_0-4.hdf5", "nefs_4-7.hdf5"]
    first_train = SPLITS.index("train")
    with h5py.File(folder / "nefs_0-4.hdf5") as file:
        config = json.loads(file["param_config"][0])
        params, label = file["params"][0], file["labels"][0]
    assert config[0] == ["kernel_net_0.linear.bias", [16]]
    assert config[1] == ["kernel_net_0.linear.kernel", [2, 16]]
    assert [key for key, _ in config[-2:]] == ["output_linear.bias", "output_linear.kernel"]
    assert label == store.labels[first_train]
    kernel = torch.from_numpy(params[16 : 16 + 32].reshape(2, 16))
    assert torch.equal(kernel.T, store[first_train].weights[0][0])
    assert json.loads((folder / "nef.json").read_text())["params"]["omega_0"] == 8.0
    assert_same_population(store, interop.load(folder, "fit-a-nef"))


def test_each_file_holds_one_field_and_not_the_block_it_was_cut_from(tmp_path: Path, make_store):
    store = make_store("store", ONE)
    folder = interop.export(store, "nfn", tmp_path / "out")
    sizes = [path.stat().st_size for path in folder.glob("*/*.pth")]
    assert max(sizes) < 2 * 4 * ONE.num_params


@pytest.mark.parametrize("block", [2, 3, 7])
def test_the_block_size_changes_nothing(tmp_path: Path, make_store, block: int, monkeypatch: pytest.MonkeyPatch):
    store = make_store("store", THREE)
    for module in (state_dicts, fit_a_nef):
        monkeypatch.setattr(module, "BLOCK", block)
    for format in ("dwsnets", "fit-a-nef"):
        folder = interop.export(store, format, tmp_path / format)
        assert_same_population(store, interop.load(folder, format))


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path, make_store):
    store = make_store("store", ONE)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interop.export(store, "dwsnets", tmp_path / "out", progress=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]


def _without_rows(folder: Path) -> Path:
    (folder / "neuralfields.parquet").unlink()
    return folder
