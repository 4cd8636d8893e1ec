"""A reader survives its folder, and says what it cannot read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neuralfields import SIREN, FieldBatch
from wsnets import Reader, Subset
from wsnets.models import MLPConfig
from wsnets.train import ClassifyConfig, classify


@pytest.fixture
def folder(population, tmp_path: Path) -> Path:
    config = ClassifyConfig(model=MLPConfig(hidden=(8,)), epochs=2)
    classify(replace(population, meta={"signal": {"classes": ["a", "b", "c"]}}), config, tmp_path / "reader")
    return tmp_path / "reader"


def test_saved_and_loaded_predict_the_same(folder: Path, population, tmp_path: Path):
    reader = Reader.load(folder)
    reader.save(tmp_path / "copy")
    copy = Reader.load(tmp_path / "copy")
    assert torch.equal(copy.predict(population.fields), reader.predict(population.fields))
    assert reader.classes == copy.classes == ("a", "b", "c")
    assert (folder / "network.json").read_bytes() == (tmp_path / "copy" / "network.json").read_bytes()
    assert reader.training["epochs"] == 2
    assert copy.training == {}


def test_probabilities_sum_to_one_and_do_not_depend_on_the_batch(folder: Path, population):
    reader = Reader.load(folder)
    whole = reader.predict(population.fields)
    torch.testing.assert_close(whole.sum(1), torch.ones(len(whole)))
    singles = torch.cat([reader.predict(population.fields[i]) for i in range(20)])
    torch.testing.assert_close(whole[:20], singles, rtol=1e-5, atol=1e-6)


def test_evaluate_agrees_with_predict(folder: Path, population):
    reader = Reader.load(folder)
    part = Subset(population, np.arange(50, 200))
    found = reader.evaluate(part)
    assert np.array_equal(found.predictions, reader.predict(population.fields[50:200]).argmax(1).numpy())
    assert found.accuracy == (found.predictions == part.labels).mean()
    assert found.confusion.sum() == 150


def test_fields_that_it_cannot_read(folder: Path, population):
    reader = Reader.load(folder)
    other = SIREN(2, 1, hidden=(6, 5), w0=15.0)
    with pytest.raises(ValueError, match=r"expected sine 2-6-5-1.*; w0_first is 30.0 there, 15.0 here"):
        reader.predict(FieldBatch.from_flat(other, population.fields.flat()))
    flat = population.fields.flat().clone()
    flat[9] = float("nan")
    with pytest.raises(ValueError, match="field id 9 has NaN"):
        reader.predict(population.with_flat(flat).fields)
    unlabelled = replace(population, labels=np.full(240, -1))
    with pytest.raises(ValueError, match="240 of 240 fields have no label, the first is id 0"):
        reader.evaluate(unlabelled)


def test_no_fields_at_all(folder: Path, population):
    with pytest.raises(ValueError, match="fields is empty: expected at least one field"):
        Reader.load(folder).predict(population.fields[:0])
    with pytest.raises(ValueError, match="labels is empty: expected at least one field to evaluate on"):
        Reader.load(folder).evaluate(Subset(population, np.zeros(0, np.int64)))


def test_folders_that_hold_no_reader(folder: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no finished network"):
        Reader.load(tmp_path)
    about = json.loads((folder / "network.json").read_text())
    for change, message in (
        ({"version": 7}, "format version 7, this program reads up to 1"),
        ({"format": "other"}, "is not a network of this kind"),
        ({"model": {"name": "mlp", "hidden": [9]}}, "does not fit"),
    ):
        (folder / "network.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(ValueError, match=message):
            Reader.load(folder)
    (folder / "network.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        Reader.load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": None}, "network.json: classes=None: expected a list of strings"),
        ({"classes": 5}, "network.json: classes=5: expected a list of strings"),
        ({"classes": "abc"}, "network.json: classes='abc': expected a list of strings"),
        ({"classes": ["a", 1, "c"]}, "network.json: classes=['a', 1, 'c']: expected a list of strings"),
        ({"classes": ["a", "b"]}, "model.safetensors does not fit the model of network.json"),
        ({"task": 4}, "network.json: task=4: expected a string"),
        ({"model": 3}, "network.json: model=3: expected an object"),
        ({"model": {"hidden": [8]}}, "network.json: model=''"),
        ({"model": {"name": "mlp", "hidden": 7}}, "network.json is damaged: "),
        ({"model": {"name": "mlp", "hidden": ["x"]}}, "network.json: "),
        ({"model": {"name": ["mlp"]}}, "network.json is damaged: "),
        ({"spec": 3}, "network.json: spec=3: expected an object"),
        ({"spec": {}}, "network.json: spec: "),
        ({"align": 7}, "network.json: align=7: expected a list of strings or null"),
        ({"align": ["twist"]}, "network.json: align=['twist']: expected some of permutation, sign, phase, scale"),
        ({"align": ["permutation"]}, "model.safetensors has no "),
        ({"normalise": None}, "network.json: normalise=None: expected a string"),
        ({"normalise": "loudly"}, "network.json: normalise='loudly': expected one of "),
        ({"normalise": "none"}, "model.safetensors: normalise='none': there are "),
        ({"version": "1"}, "network.json: version='1': expected a whole number"),
    ],
    ids=str,
)
def test_a_damaged_description_is_one_line(change: dict, said: str, folder: Path):
    path = folder / "network.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=r"^.+$") as caught:
        Reader.load(folder)
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_description_lacks_and_damaged_figures_are_named(folder: Path):
    path, training = folder / "network.json", folder / "training.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in about.items() if name != "classes"}))
    with pytest.raises(ValueError, match=rf"^{path} has no classes: expected all that training wrote$"):
        Reader.load(folder)
    path.write_text(json.dumps(about))
    for text in ("{", "[]"):
        training.write_text(text)
        with pytest.raises(ValueError, match=rf"^{training} is damaged: "):
            Reader.load(folder)
