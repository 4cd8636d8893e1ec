"""What is missing, contradictory, damaged or unsafe is refused in one line that names it."""

import json
import sys
from collections import OrderedDict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import neuralfields as nf
from neuralfields import interop
from neuralfields.store import save

ONE = nf.SIREN(2, 1, hidden=(8, 8), w0=30.0, offset=(0.5,), grid="corners", axes="xy")
FLAGS = {"activation": "sine", "w0": 30.0, "scale": 1.0, "offset": 0.5, "grid": "corners", "axes": "xy"}
FORMATS = tuple(interop.FORMATS)


@pytest.fixture(params=FORMATS)
def exported(request: pytest.FixtureRequest, tmp_path: Path, make_store):
    """(format, folder, store)."""
    store = make_store("store", ONE)
    return request.param, interop.export(store, request.param, tmp_path / "out"), store


def message(call) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def drop_sidecar(folder: Path) -> None:
    (folder / "neuralfields.json").unlink()
    (folder / "neuralfields.parquet").unlink()


def a_field(folder: Path) -> Path:
    return sorted(folder.rglob("*.pth"))[0]


def test_without_the_sidecar_nothing_is_guessed_and_flags_restore_it(exported):
    format, folder, store = exported
    drop_sidecar(folder)
    text = message(lambda: interop.load(folder, format))
    asked = ["scale", "offset", "grid", "axes"] + ([] if format == "fit-a-nef" else ["activation", "w0"])
    assert all(name in text for name in asked), text
    assert "corners" in text  # the published value, as a suggestion
    flags = {name: FLAGS[name] for name in asked}
    some = {name: flags[name] for name in asked if name != "offset"}
    text = message(lambda: interop.load(folder, format, **some))
    assert "so offset must be given" in text
    imported = interop.load(folder, format, **flags)
    assert imported.fields.spec == ONE
    assert sorted(map(tuple, imported.fields.flat().tolist())) == sorted(map(tuple, store[:].flat().tolist()))
    assert sorted(imported.rows["label"]) == sorted(store.labels)


@pytest.mark.parametrize("shape", [(-1, 3), (0, 0), (28,), (28.0, 28), 28])
def test_a_shape_that_is_none_is_refused_with_and_without_a_sidecar(exported, shape):
    format, folder, _ = exported
    for _ in range(2):
        text = message(lambda: interop.load(folder, format, shape=shape, **FLAGS))
        assert text == f"shape={shape!r}: expected (height, width), positive whole numbers"
        if (folder / "neuralfields.json").is_file():
            drop_sidecar(folder)
    assert interop.load(folder, format, shape=(4, 6), **FLAGS).meta["signal"]["shape"] == [4, 6]


@pytest.mark.parametrize(
    "flag",
    [{"w0": 20.0}, {"offset": 0.0}, {"scale": (2.0,)}, {"grid": "centers"}, {"axes": "ij"}, {"activation": "relu"}],
    ids=lambda flag: next(iter(flag)),
)
def test_a_flag_against_the_sidecar_is_an_error_and_an_equal_one_is_not(exported, flag):
    format, folder, _ = exported
    name = next(iter(flag))
    assert name in message(lambda: interop.load(folder, format, **flag))
    interop.load(folder, format, **{name: FLAGS[name]})


def test_a_removed_index_still_leaves_the_spec(exported):
    format, folder, store = exported
    (folder / "neuralfields.parquet").unlink()
    imported = interop.load(folder, format)
    assert imported.fields.spec == ONE
    assert imported.meta == store.meta


def test_a_sidecar_of_another_layout_or_version_is_refused(exported):
    format, folder, _ = exported
    path = folder / "neuralfields.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "version": 99}))
    assert "version 99" in message(lambda: interop.load(folder, format))
    path.write_text(json.dumps({**data, "layout": "other"}))
    assert "'other'" in message(lambda: interop.load(folder, format))
    path.write_text("{")
    assert "neuralfields.json" in message(lambda: interop.load(folder, format))
    path.write_text(json.dumps({**data, "spec": {**data["spec"], "hidden": [9, 9]}}))
    assert "(2, 9, 9, 1)" in message(lambda: interop.load(folder, format))


def test_an_index_that_does_not_match_the_folder_is_refused(exported):
    format, folder, _ = exported
    path = folder / "neuralfields.parquet"
    table = pq.read_table(path)
    labels = [(label + 1) % 10 for label in table.column("label").to_pylist()]
    column = table.column_names.index("label")
    changed = table.set_column(column, "label", [labels])
    pq.write_table(changed, path)
    assert "label" in message(lambda: interop.load(folder, format))
    pq.write_table(table.slice(1), path)
    assert "rows" in message(lambda: interop.load(folder, format))


@pytest.mark.parametrize("format", ["dwsnets", "nfn"])
def test_a_missing_extra_or_misshapen_key_names_file_and_key(format: str, tmp_path: Path, make_store):
    folder = interop.export(make_store("store", ONE), format, tmp_path / "out")
    for path in (a_field(folder), sorted(folder.rglob("*.pth"))[-1]):
        state = torch.load(path, weights_only=True)
        last = list(state)[-1]
        cases = [
            ({key: value for key, value in state.items() if key != last}, last.rsplit(".", 1)[0]),
            ({**state, "surplus": torch.zeros(1)}, "surplus"),
            ({**state, last: torch.zeros(2)}, last),
            ({**state, last: state[last].double()}, last),
        ]
        for broken, key in cases:
            torch.save(OrderedDict(broken), path)
            text = message(lambda: interop.load(folder, format))
            assert key in text
            assert path.name in text
        torch.save(state, path)
    interop.load(folder, format)


class Trap:
    """Unpickling this would make a folder."""

    def __init__(self, where: str):
        self.where = where

    def __reduce__(self):
        return Path.mkdir, (Path(self.where),)


@pytest.mark.parametrize("format", ["dwsnets", "nfn"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(format: str, tmp_path: Path, make_store):
    folder = interop.export(make_store("store", ONE), format, tmp_path / "out")
    path = a_field(folder)
    torch.save({"seq.0.weight": Trap(str(tmp_path / "sprung"))}, path)
    assert str(path) in message(lambda: interop.load(folder, format))
    assert not (tmp_path / "sprung").exists()
    path.write_bytes(b"not a checkpoint")
    assert str(path) in message(lambda: interop.load(folder, format))
    torch.save([1, 2], path)
    assert str(path) in message(lambda: interop.load(folder, format))


def test_damaged_hdf5_files_are_refused(tmp_path: Path, make_store):
    h5py = pytest.importorskip("h5py")
    folder = interop.export(make_store("store", ONE), "fit-a-nef", tmp_path / "out", file_size=4)
    second = folder / "nefs_4-7.hdf5"
    good = second.read_bytes()

    def damaged(change) -> str:
        second.write_bytes(good)
        with h5py.File(second, "r+") as file:
            change(file)
        return message(lambda: interop.load(folder, "fit-a-nef"))

    assert "labels" in damaged(lambda file: (file.pop("labels"), file.create_dataset("labels", data=[1])))
    assert "params" in damaged(lambda file: file.pop("params"))
    text = damaged(lambda file: file["param_config"].__setitem__(0, "[]"))
    assert "param_config" in text
    second.write_bytes(good[:100])
    assert "nefs_4-7.hdf5" in message(lambda: interop.load(folder, "fit-a-nef"))
    second.write_bytes(good)
    second.rename(folder / "nefs_5-8.hdf5")
    assert "starts at 5" in message(lambda: interop.load(folder, "fit-a-nef"))
    (folder / "nefs_5-8.hdf5").rename(second)
    nef = json.loads((folder / "nef.json").read_text())
    for params in ({"omega_0": 7.0}, {"hidden_dim": 9}, {"omega_0": "8"}):
        (folder / "nef.json").write_text(json.dumps({**nef, "params": {**nef["params"], **params}}))
        message(lambda: interop.load(folder, "fit-a-nef"))
    (folder / "nef.json").write_text(json.dumps({**nef, "name": "RFFNet"}))
    assert "RFFNet" in message(lambda: interop.load(folder, "fit-a-nef"))


def test_missing_h5py_is_one_line_with_the_cure(tmp_path: Path, make_store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    store = make_store("store", ONE)
    assert "pip install h5py" in message(lambda: interop.export(store, "fit-a-nef", tmp_path / "out"))
    assert "pip install h5py" in message(lambda: interop.load(tmp_path, "fit-a-nef"))


def test_populations_that_a_layout_cannot_hold(tmp_path: Path, make_store):
    pytest.importorskip("h5py")
    out = tmp_path / "out"
    two_widths = make_store("a", nf.SIREN(2, 1, hidden=(8, 4)))
    two_frequencies = make_store("b", nf.SIREN(2, 1, hidden=(8, 8), w0=30.0, w0_hidden=10.0))
    encoded = make_store("c", nf.ReLUField(2, 1, hidden=(8, 8), encoding=nf.Positional(2)))
    assert "hidden=(8, 4)" in message(lambda: interop.export(two_widths, "fit-a-nef", out))
    assert "w0_hidden" in message(lambda: interop.export(two_frequencies, "fit-a-nef", out))
    assert "positional" in message(lambda: interop.export(encoded, "fit-a-nef", out))
    for store in (two_widths, two_frequencies, encoded):
        folder = interop.export(store, "dwsnets", tmp_path / f"dws-{store.path.name}")
        assert interop.load(folder, "dwsnets").fields.spec == store.spec


def test_nfn_folders_hold_single_digit_labels_only(tmp_path: Path, make_store):
    store = make_store("store", ONE)
    rows = {"id": range(7), "label": [0, 1, 2, 12, 4, 5, 6], "split": ["train"] * 7, "name": [""] * 7}
    wide = save(tmp_path / "wide", store[:], rows, store.meta)
    assert "label=12" in message(lambda: interop.export(wide, "nfn", tmp_path / "out"))


def test_unknown_names_and_places(tmp_path: Path, make_store):
    store = make_store("store", ONE)
    assert "expected one of dwsnets, nfn, fit-a-nef" in message(lambda: interop.load(tmp_path, "gmn"))
    assert "omega" in message(lambda: interop.load(tmp_path, "nfn", omega=30))
    assert "prefix" in message(lambda: interop.export(store, "nfn", tmp_path / "o", folder="x"))
    assert "existing folder" in message(lambda: interop.load(tmp_path / "none", "nfn"))
    (tmp_path / "empty").mkdir()
    for format in FORMATS:
        assert "no fields" in message(lambda format=format: interop.load(tmp_path / "empty", format))
    interop.export(store, "nfn", tmp_path / "empty")
    assert "exists already" in message(lambda: interop.export(store, "nfn", tmp_path / "empty"))


def test_splits_files_that_lie(tmp_path: Path, make_store):
    folder = interop.export(make_store("store", ONE), "dwsnets", tmp_path / "out")
    path = folder / "splits.json"
    good = json.loads(path.read_text())
    cases = {
        "never.pth": {**good, "val": {"path": ["/x/never.pth"], "label": ["1"]}},
        "equal length": {**good, "val": {"path": ["/x/never.pth"], "label": []}},
        "more than once": {**good, "val": good["train"]},
        "whole number": {"train": {**good["train"], "label": ["cat"] * len(good["train"]["label"])}},
        "is in split": {"train": good["val"], "val": good["train"], "test": good["test"]},
    }
    for expected, data in cases.items():
        path.write_text(json.dumps(data))
        assert expected in message(lambda: interop.load(folder, "dwsnets"))
    (folder / "other_splits.json").write_text(json.dumps(good))
    assert "other_splits.json" in message(lambda: interop.load(folder, "dwsnets"))
    interop.load(folder, "dwsnets", splits=folder / "other_splits.json")
