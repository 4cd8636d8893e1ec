"""Regression, editing and contrast: they learn, they come back from their folders, they refuse what makes no sense."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neuralfields import SIREN, FieldBatch, evaluate
from neuralfields.inits import initial
from wsnets import Editor, Embedder, Operation, Reader, Regressor, Subset, train
from wsnets.augment import AugmentConfig
from wsnets.features import flatten, weight_features
from wsnets.models import MLPConfig
from wsnets.models.orbit import OrbitConfig
from wsnets.tasks.classify import ClassifyTask
from wsnets.tasks.field_task import Prepared
from wsnets.train import ClassifyConfig, ContrastConfig, EditConfig, RegressConfig

SMALL = MLPConfig(hidden=(16,), p_dropout=0.0)


class Indexed(Subset):
    """Some fields of a population, with a column of its index."""

    def column(self, name: str) -> np.ndarray:
        if name != "size":
            raise ValueError(f"column={name!r}: expected size")
        return self[np.arange(len(self))].flat().square().sum(1).numpy()


@pytest.fixture
def indexed(population) -> Indexed:
    return Indexed(population, np.arange(240))


def test_regression_learns_and_survives_its_folder(indexed: Indexed, tmp_path: Path):
    config = RegressConfig(model=SMALL, target="size", epochs=60, batch=32, lr=1e-2, val_fraction=0.25)
    regressor = train.regress(indexed, config, tmp_path)
    assert regressor.training["val_r2"] > 0.6
    again = Regressor.load(tmp_path)
    fields = indexed[np.arange(20)]
    assert torch.equal(again.predict(fields), regressor.predict(fields))
    assert (again.target, again.mean, again.std) == (regressor.target, regressor.mean, regressor.std)
    found = again.evaluate(indexed, indexed.column("size"))
    assert found["r2"] > 0.6
    assert found["mae"] <= found["rmse"]


def test_regression_targets_that_cannot_be_read(indexed: Indexed, population, tmp_path: Path):
    with pytest.raises(ValueError, match="column='psnr': expected a population with an index"):
        train.regress(population, RegressConfig(model=SMALL), tmp_path)
    with pytest.raises(ValueError, match="column='psnr': expected size"):
        train.regress(indexed, RegressConfig(model=SMALL), tmp_path)


def test_bad_fields_need_no_target_when_they_are_left_out(population, tmp_path: Path):
    flat = population.fields.flat().clone()
    flat[7, 3] = float("nan")
    broken = Indexed(population.with_flat(flat), np.arange(240))
    config = RegressConfig(model=SMALL, target="size", epochs=1, skip_bad=True)
    regressor = train.regress(broken, config, tmp_path / "a")
    assert regressor.training["skipped_fields"] == 1
    assert np.isfinite([regressor.mean, regressor.std, regressor.training["val_r2"]]).all()
    with pytest.raises(ValueError, match="field id 7 has NaN or infinite weights"):
        train.regress(broken, replace(config, skip_bad=False), tmp_path / "b")


class Unknown(Indexed):
    """The same, but the first number is not known."""

    def column(self, name: str) -> np.ndarray:
        values = super().column(name)
        values[0] = np.nan
        return values


def test_good_fields_need_a_target(population, tmp_path: Path):
    unknown = Unknown(population, np.arange(240))
    for skip_bad in (False, True):
        with pytest.raises(ValueError, match="target='size': expected a column of finite numbers"):
            train.regress(unknown, RegressConfig(model=SMALL, target="size", skip_bad=skip_bad), tmp_path)


class Doubled(Indexed):
    """The same with another number."""

    def column(self, name: str) -> np.ndarray:
        return 2 * super().column(name)


def test_a_column_that_has_changed_is_another_run(indexed: Indexed, population, tmp_path: Path):
    config = RegressConfig(model=SMALL, target="size", epochs=1)
    train.regress(indexed, config, tmp_path)
    with pytest.raises(ValueError, match="holds another run: target_sha256 is"):
        train.regress(Doubled(population, np.arange(240)), config, tmp_path)


def test_a_regressor_is_not_evaluated_on_nothing(indexed: Indexed, population, tmp_path: Path):
    regressor = train.regress(indexed, RegressConfig(model=SMALL, target="size", epochs=1), tmp_path)
    with pytest.raises(ValueError, match="targets is empty: expected at least one field to evaluate on"):
        regressor.evaluate(Subset(population, np.zeros(0, np.int64)), np.zeros(0))


def test_noise_on_features_is_on_the_fields_behind_them(population, generator):
    for normalise in ("per_layer", "none"):
        config = ClassifyConfig(model=SMALL, normalise=normalise, noise=0.1)
        task = ClassifyTask(Prepared.of(population, config), config)
        fields = population[np.arange(8)]
        noisy = task.features(fields, generator)
        assert noisy.fields is not None
        assert float((noisy.fields.flat() - fields.flat()).abs().min()) > 0
        again = flatten(task.prepared.normaliser(weight_features(noisy.fields)))
        torch.testing.assert_close(again, flatten(noisy), rtol=1e-4, atol=1e-5)


def test_models_that_need_the_fields_themselves_train_with_noise(population, tmp_path: Path):
    config = ClassifyConfig(model=OrbitConfig(coordinates=4, width=4, hidden=(4,)), noise=0.1, epochs=1)
    assert np.isfinite(train.classify(population, config, tmp_path).training["val_loss"])


def test_several_fits_of_an_item_are_its_views(population, tmp_path: Path):
    twins = replace(population, ids=population.ids // 3)  # neighbours have nothing in common but their item
    config = ContrastConfig(model=SMALL, dim=8, epochs=30, batch=48, lr=3e-3, val_fraction=0.0)
    embedder = train.contrast(twins, config, tmp_path)
    likeness = embedder.embed(population.fields) @ embedder.embed(population.fields).T
    item = torch.from_numpy(twins.ids.astype(np.int64))
    same = (item[:, None] == item[None, :]) & ~torch.eye(240, dtype=torch.bool)
    assert likeness[same].mean() > likeness[item[:, None] != item[None, :]].mean() + 0.3


def test_contrast_brings_fields_of_one_kind_together(population, tmp_path: Path):
    config = ContrastConfig(
        model=SMALL, dim=8, epochs=20, batch=48, lr=3e-3, val_fraction=0.2, augment=AugmentConfig(noise=0.2)
    )
    embedder = train.contrast(population, config, tmp_path)
    points = Embedder.load(tmp_path).embed(population.fields)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(240))
    assert torch.equal(points, embedder.embed(population.fields))
    labels = torch.from_numpy(population.labels)
    same = labels[:, None] == labels[None, :]
    likeness = points @ points.T
    assert likeness[same].mean() > likeness[~same].mean() + 0.1


@pytest.fixture
def waves(population):
    """Fields that show something: 60 sine fields of one init, moved a little."""
    spec = SIREN(2, 1, hidden=(6, 5))
    start = initial(spec, np.zeros(60, np.uint32)).flat()
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(3))
    return replace(
        population,
        fields=FieldBatch.from_flat(spec, start + 0.02 * noise),
        labels=np.zeros(60, np.int64),
        ids=np.arange(60, dtype=np.uint32),
    )


class LinearConfig(MLPConfig):
    """An editor for the tests: the change of every parameter is a linear map of all of them."""

    def build_editor(self, spec, generator):
        return Linear(spec, generator)


class Linear(torch.nn.Module):
    def __init__(self, spec, generator):
        super().__init__()
        self.spec, size = spec, spec.num_params
        self.matrix = torch.nn.Parameter(1e-3 * torch.randn(size, size, generator=generator))
        self.offset = torch.nn.Parameter(torch.zeros(size))

    def forward(self, features, generator=None):
        from wsnets.features import flatten, weight_features

        return weight_features(FieldBatch.from_flat(self.spec, flatten(features) @ self.matrix + self.offset))


@pytest.fixture
def editing(monkeypatch) -> EditConfig:
    import wsnets.models

    kind = wsnets.models.kind
    monkeypatch.setattr(wsnets.models, "kind", lambda name: LinearConfig if name == "linear" else kind(name))
    monkeypatch.setitem(wsnets.models._ALL, "linear", ("", "LinearConfig"))
    target = Operation(name="contrast", shape=(6, 6), strength=2.0)
    return EditConfig(model=LinearConfig(), target=target, epochs=40, batch=16, lr=1e-3, val_fraction=0.2, noise=0.0)


def test_editing_learns_and_survives_its_folder(waves, editing: EditConfig, tmp_path: Path):
    editor = train.edit(waves, editing, tmp_path)
    last = editor.training["history"][-1]
    assert last["val_mse"] < 0.7 * last["val_mse_unedited"]
    again = Editor.load(tmp_path)
    assert again.operation == editing.target
    edited = again.apply(waves.fields)
    assert torch.equal(edited.flat(), editor.apply(waves.fields).flat())
    coords, wanted = editing.target(waves.fields, torch.Generator())
    before, after = ((evaluate(f, coords) - wanted).square().mean() for f in (waves.fields, edited))
    assert after < 0.7 * before
    assert EditConfig.from_json(editing.to_json()) == editing


def test_networks_are_not_taken_for_others(waves, editing: EditConfig, population, tmp_path: Path):
    train.edit(waves, replace(editing, epochs=1), tmp_path)
    with pytest.raises(ValueError, match="was trained to edit: expected one trained to classify"):
        Reader.load(tmp_path)
    with pytest.raises(ValueError, match="model='mlp' reads fields and does not edit them: expected one of"):
        train.edit(waves, replace(editing, model=SMALL), tmp_path / "mlp")
    with pytest.raises(ValueError, match="target='smooth': expected fields over 3 coordinates"):
        train.edit(waves, replace(editing, target=Operation(name="smooth")), tmp_path / "smooth")


def test_fields_with_bad_weights_are_left_out_only_when_asked(population, tmp_path: Path):
    flat = population.fields.flat().clone()
    flat[7, 3] = float("nan")
    broken = population.with_flat(flat)
    config = ClassifyConfig(model=SMALL, epochs=1, skip_bad=True)
    reader = train.classify(broken, config, tmp_path / "a")
    assert reader.training["skipped_fields"] == 1
    assert reader.training["train_fields"] + reader.training["val_fields"] == 239
    with pytest.raises(ValueError, match="field id 7 has NaN or infinite weights"):
        train.classify(broken, replace(config, skip_bad=False), tmp_path / "b")


def test_the_last_fields_can_be_held_out(population, tmp_path: Path):
    twins = replace(population, ids=population.ids // 3)
    with pytest.raises(ValueError, match=r"val_last=40: divides the copies of group 66 \(1 such groups\)"):
        train.classify(twins, ClassifyConfig(model=SMALL, epochs=1, val_last=40), tmp_path)
    reader = train.classify(population, ClassifyConfig(model=SMALL, epochs=1, val_last=40), tmp_path)
    assert (reader.training["train_fields"], reader.training["val_fields"]) == (200, 40)


def test_an_aligned_reader_is_invariant_and_survives_its_folder(population, generator, tmp_path: Path):
    from neuralfields import symmetry

    config = ClassifyConfig(model=SMALL, epochs=2, align="exact")
    reader = train.classify(population, config, tmp_path)
    moved = symmetry.act(symmetry.sample(population.spec, 240, generator), population.fields)
    again = Reader.load(tmp_path)
    assert torch.equal(again.predict(population.fields), reader.predict(population.fields))
    far = (again.predict(moved) - again.predict(population.fields)).abs().amax(1)
    assert float((far < 1e-3).float().mean()) > 0.95  # ties of the matching may fall differently
    plain = train.classify(population, replace(config, align="none"), tmp_path / "plain")
    assert float((plain.predict(moved) - plain.predict(population.fields)).abs().max()) > 0.05
