"""Trained networks in the viewer: what is refused, what they say and make, and what a browser shows of it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from apps.meta import write_fields
from apps.viewer.collection import Collection, Query, of_batch, with_columns
from apps.viewer.generation import EACH, labels_of
from apps.viewer.long_work import LongWork
from apps.viewer.networks import Networks
from apps.viewer.predictions import AT_ONCE, Found, by_part, class_columns, read, shown_classes, value_columns
from fitting import images
from neuralfields import SIREN, FieldStore
from tests.apps.viewer.conftest import until
from wsnets import Editor, Embedding, FieldGenerator, Operation, Reader, Regressor, models
from wsnets.diffusion import Diffusion
from wsnets.features import Normaliser, weight_features
from wsnets.field_generator import Codec, build_denoiser
from wsnets.models.hyper_diffusion import HyperDiffusionConfig
from wsnets.models.inr2vec import Inr2VecConfig
from wsnets.models.mwt import MWTConfig
from wsnets.tasks.meta_classify import MetaReader

CLASSES = tuple(map(str, range(10)))


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """An untrained network that does something, whatever its start was."""
    draws = Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draws))
    return model.eval()


def about(fields, settings: Any, model: torch.nn.Module) -> dict[str, Any]:
    """What every network has."""
    normaliser = Normaliser.fit("per_weight", [fields])
    return {"spec": fields.spec, "settings": settings, "model": model.eval(), "normaliser": normaliser}


@pytest.fixture(scope="session")
def folders(digits: FieldStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One untrained network of every task: task -> its folder."""
    root, fields, draws = tmp_path_factory.mktemp("networks"), digits[:], Generator().manual_seed(0)
    spec, mlp, equivariant = fields.spec, models.MLPConfig(hidden=(8,)), models.kind("nfn_np").small()
    reading = [models.build_reader(mlp, spec, count, draws) for count in (10, 1)]
    editing = shaken(models.build_editor(equivariant, spec, draws))
    folded = Inr2VecConfig(encoder=(6, 8), rows="all", decoder=(7, 6), bands=2, points=8)
    autoencoder = folded.build_autoencoder(spec, draws)
    autoencoder.encode(Normaliser.fit("per_weight", [fields])(weight_features(fields)))
    embedding = Embedding(**about(fields, folded, autoencoder))
    denoising = HyperDiffusionConfig(width=16, num_layers=1, num_heads=2, group=2)
    denoiser: Any = shaken(build_denoiser(denoising, Codec(spec, embedding, 4).shape, 10, draws))  # type: ignore[arg-type]
    denoiser.limit.fill_(4.0)
    networks = {
        "classify": Reader(**about(fields, mlp, reading[0]), classes=CLASSES),
        "regress": Regressor(**about(fields, mlp, reading[1]), target="psnr", mean=20.0, std=3.0),
        "edit": Editor(**about(fields, equivariant, editing), operation=Operation(name="dilate", shape=(8, 8))),
        "embed": embedding,
        "generate": FieldGenerator(
            **about(fields, denoising, denoiser),
            diffusion=Diffusion(steps=20),
            token=4,
            classes=CLASSES,
            signal={"shape": [8, 8]},
            embedding=embedding,
        ),
    }
    for task, network in networks.items():
        network.save(root / task)
    return {task: str(root / task) for task in networks}


def test_they_are_found_by_task_and_loaded_when_used(folders, digits):
    networks = Networks(list(folders.values()), digits)
    assert [one.task for one in networks.entries] == list(folders)
    (one,) = networks.of("classify")
    assert one.words == "classify (mlp)"
    assert not networks._loaded
    expected = Reader.load(folders["classify"]).predict(digits[:]).numpy()
    assert np.array_equal(networks.predict(one, digits[:]), expected)
    assert list(networks._loaded) == ["classify"]


def test_names_of_folders_that_end_alike_are_told_apart(folders, digits, tmp_path):
    Reader.load(folders["classify"]).save(tmp_path / "classify")
    networks = Networks([folders["classify"], folders["classify"] + "/", str(tmp_path / "classify")], digits)
    assert len({one.name for one in networks.entries}) == len(networks.entries) == 2


def test_nf_view_refuses_what_is_no_network_and_networks_for_other_fields(nf, folders, store, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        refused = nf("view", store, "--port", 0, "--network", tmp_path / folder)
        refused.assert_refused(folder, "holds no trained network", "expected a folder of nf train")
    parent = Path(folders["edit"]).parent
    nf("view", store, "--port", 0, "--network", parent).assert_refused("such as", str(parent / "classify"))
    for task in ("classify", "generate"):
        refused = nf("view", store, "--port", 0, "--network", folders[task])
        refused.assert_refused(folders[task], "sine 2-16-16-1", "sine 2-8-8-", "hidden")


def test_a_generator_suits_fields_like_those_that_it_makes(folders, digits):
    generator = FieldGenerator.load(folders["generate"])

    class Generated:
        spec, path = generator.generated_spec, "generated"

    assert generator.generated_spec != digits.spec
    assert Networks([folders["generate"]], Generated()).of("generate")  # type: ignore[arg-type]


def test_a_reader_trained_with_its_fits_takes_fields_of_its_own_alone(tmp_path):
    config = MWTConfig(hidden=8, layers=2, steps=2, points=16, rate_speed=3.0, depth=1, width=8, head=8)
    for seed, name in ((0, "own"), (1, "other")):
        model = config.build(1, 10, Generator().manual_seed(seed))
        MetaReader(model=model.eval(), shape=(8, 8, 1), classes=CLASSES).save(tmp_path / name)
    reader = MetaReader.load(tmp_path / "own")
    store = write_fields(reader, images.load("digits", split="train", limit=5), str(tmp_path / "store"))
    networks = Networks([str(tmp_path / "own")], store)
    (one,) = networks.of("meta")
    assert np.array_equal(networks.predict(one, store[:]), reader.read(store[:]).numpy())
    with pytest.raises(ValueError, match=r"network='.*other': .* holds other fields than this network makes"):
        Networks([str(tmp_path / "other")], store)


def test_reading_in_pieces_gives_what_the_reader_gives(folders, digits, digits_part, monkeypatch):
    monkeypatch.setattr("apps.viewer.predictions.AT_ONCE", 7)
    assert AT_ONCE > 7
    reader, found, positions = Reader.load(folders["classify"]), Found(), np.array([90, 3, 4, 118, *range(20, 40)])
    predict = lambda fields: reader.predict(fields).numpy()  # noqa: E731
    shares = list(read(Collection([digits_part]), positions, digits.spec, predict, found))
    assert shares == [7 / 24, 14 / 24, 21 / 24, 1.0]
    rows, said = found["store"]
    assert rows.tolist() == sorted(positions.tolist())
    expected = reader.predict(digits[np.sort(positions)]).numpy()
    np.testing.assert_allclose(said, expected, rtol=1e-4, atol=1e-6)
    columns = class_columns(digits_part, rows, said, CLASSES)
    right = expected.argmax(1) == digits.labels[rows]
    assert columns["right"][rows].tolist() == right.astype(float).tolist()
    assert columns["prediction"][rows].tolist() == [CLASSES[k] for k in expected.argmax(1)]
    others = np.setdiff1d(np.arange(120), positions)
    assert set(columns["prediction"][others]) == {""}
    assert np.isnan(columns["right"][others]).all()
    assert np.isnan(columns["confidence"][others]).all()


def test_numbers_stand_beside_the_true_ones(folders, digits, digits_part):
    regressor, rows = Regressor.load(folders["regress"]), np.array([2, 60])
    said = regressor.predict(digits[rows]).numpy()
    columns = value_columns(digits_part, rows, said, "psnr")
    assert columns["predicted psnr"][rows].tolist() == said.astype(np.float64).tolist()
    np.testing.assert_allclose(columns["error"][rows], said - digits.metrics.psnr[rows], rtol=1e-5)
    assert np.isnan(value_columns(digits_part, rows, said, "unknown")["error"]).all()


def test_fields_of_other_specs_and_with_nan_are_left_out(digits, digits_part):
    flat = digits[:5].flat()
    flat[2, 0] = float("nan")
    broken = of_batch("broken", type(digits[:5]).from_flat(digits.spec, flat), {}, digits_part)
    other = of_batch("other", type(digits[:5]).from_flat(SIREN(2, 1, (16, 16)), digits[:5].flat()), {}, digits_part)
    collection, found = Collection([digits_part, other, broken]), Found()
    positions = np.array([126, 127, 3, 121, 129])
    assert [(part.name, rows.tolist()) for part, rows in by_part(collection, positions)] == [
        ("store", [3]),
        ("other", [1]),
        ("broken", [1, 2, 4]),
    ]
    list(read(collection, positions, digits.spec, lambda fields: np.zeros(len(fields)), found))
    assert {name: rows.tolist() for name, (rows, _) in found.items()} == {"store": [3], "broken": [1, 4]}
    with pytest.raises(ValueError, match=r"fields in view: none is sine 2-16-16-1.*, which this network reads"):
        list(read(collection, np.array([121]), digits.spec, lambda fields: np.zeros(len(fields)), {}))


def test_a_collection_is_filtered_by_predictions_and_grows(digits_part):
    columns = {"prediction": np.array(["3", "1", ""], object), "right": np.array([1.0, 0.0, np.nan])}
    part = with_columns(digits_part, columns)
    collection = Collection([part])
    assert collection.predictions() == ["1", "3"]
    assert collection.choose(Query(prediction="1")).tolist() == [1]
    assert collection.choose(Query(by="right", low=0, high=0)).tolist() == [1]
    assert [collection.is_wrong(position) for position in (0, 1, 2, 100)] == [False, True, False, False]
    assert " → 1" in collection.name(1)
    assert "→" not in collection.name(0)
    assert "prediction" not in digits_part.columns
    assert Collection([digits_part]).predictions() == []


@pytest.mark.parametrize(("label", "last"), [(-1, 11), (5, 11), (17, 17)])
def test_of_many_classes_the_likeliest_and_the_true_one_are_shown(label, last):
    order = shown_classes(np.linspace(1, 0, 20), label)
    assert order == [*range(11), last]
    assert shown_classes(np.array([0.1, 0.8, 0.1]), 2) == [0, 1, 2]


def test_classes_of_what_is_generated():
    assert labels_of(EACH, 5, ("a", "b")).tolist() == [0, 1, 0, 1, 0]
    assert labels_of("b", 2, ("a", "b")).tolist() == [1, 1]
    assert labels_of("none in particular", 2, ()).tolist() == [-1, -1]


class Panel:
    """Stands for a session and its panel: keeps what was added, runs nothing."""

    def __init__(self) -> None:
        self.gui, self.queued, self.clicked = self, [], lambda _: None

    def add_button(self, label: str) -> Any:
        self.button = SimpleNamespace(label=label, on_click=lambda call: setattr(self, "clicked", call))
        return self.button

    def add_progress_bar(self, value: float, visible: bool) -> Any:
        self.bar = SimpleNamespace(value=value, visible=visible)
        return self.bar

    def do(self, key: str, start: Any) -> None:
        self.queued.append((key, start))


def test_long_work_can_be_stopped_and_ends_when_it_fails():
    panel: Any = Panel()

    def start():
        yield 0.5
        raise ValueError("no more")

    LongWork(panel, "work", "Begin", start).build()
    panel.clicked(None)
    job = panel.queued.pop()[1]()
    assert next(job) == next(job) == 0.0
    assert (panel.button.label, panel.bar.value, panel.bar.visible) == ("Stop", 50.0, True)
    panel.clicked(None)  # takes the place of the job, as it has its key
    key, stop = panel.queued.pop()
    assert (key, stop()) == ("work", None)
    assert (panel.button.label, panel.bar.visible) == ("Begin", False)
    panel.clicked(None)
    job = panel.queued.pop()[1]()
    assert next(job) == next(job) == 0.0
    with pytest.raises(ValueError, match="no more"):
        next(job)
    assert (panel.button.label, panel.bar.visible) == ("Begin", False)


def red(picture: np.ndarray) -> int:
    """How many pixels are written in the colour of what is wrong, below the browser's own note on its graphics."""
    r, g, b = (picture[300:, :, channel].astype(int) for channel in range(3))
    return int(((r > 150) & (g < 130) & (b < 130)).sum())


def test_predictions_in_a_browser(serve, look, digits, folders):
    viewer = serve(digits, networks=(folders["classify"], folders["regress"]))
    page, expected = look(viewer), Reader.load(folders["classify"]).predict(digits[:]).numpy()
    assert red(page.picture()) == 0
    page.press("Field")
    prediction = page.session.pane._alterations[0]
    assert f"reads **{CLASSES[expected[0].argmax()]}**" in prediction._title.content
    assert prediction._picture.visible
    page.save("prediction")
    page.press("Predict all in view")
    columns = page.session.collection.parts[0].columns
    np.testing.assert_allclose(columns["confidence"], expected.max(1), rtol=1e-4)
    right = expected.argmax(1) == digits.labels
    assert f"120 fields read, {100 * right.mean():.2f} % right" in prediction._score.content
    assert "prediction" not in viewer.part.columns
    page.press("Gallery")
    until(lambda: red(page.picture()) > 100)
    page.save("predictions")
    word = CLASSES[expected[0].argmax()]
    page.pick("Predicted", word)
    assert page.session.chosen.tolist() == np.flatnonzero(expected.argmax(1) == CLASSES.index(word)).tolist()
    viewer.part = replace(viewer.part)
    page.session.do("grow", page.session.store_grew)
    page.rest()
    assert page.session.collection.predictions()
    page.press("Field")
    page.pick("Network", "regress (mlp)")
    assert "psnr predicted by regress" in prediction._title.content
    page.press("Predict all in view")
    assert np.isfinite(page.session.collection.column("predicted psnr")[page.session.chosen]).all()


def test_edited_and_decoded_fields_stand_beside_the_open_one(serve, look, digits, folders):
    page = look(serve(digits, networks=(folders["edit"], folders["embed"])))
    page.press("Field")
    alone = page.picture()
    page.page.get_by_label("edited", exact=True).check()
    page.rest()
    through, field = page.session.pane._alterations[1], digits[7:8]
    page.fill("Field", 7)
    ((name, edited),) = through.apply(field)
    assert name == "edited"
    assert torch.equal(edited.flat(), Editor.load(folders["edit"]).apply(field).flat())
    until(lambda: (np.abs(page.picture().astype(int) - alone).max(axis=-1) > 60).mean() > 0.05)
    page.page.get_by_label("decoded", exact=True).check()
    page.rest()
    (_, (name, decoded)), embedding = through.apply(field), Embedding.load(folders["embed"])
    assert name == "decoded"
    assert decoded.spec == embedding.decoded_spec != field.spec
    assert torch.equal(decoded.flat(), embedding.decode(embedding.encode(field)).flat())
    page.save("edited")
    assert through.apply(decoded) == []  # fields of another spec go through no network


def test_generated_fields_join_the_gallery(serve, look, digits, folders):
    viewer = serve(digits, networks=(folders["generate"],))
    page, generator = look(viewer), FieldGenerator.load(folders["generate"])
    page.pick("Of class", "4")
    page.press("Generate")
    made = page.session.collection.parts[1]
    assert (made.name, len(made), made.spec) == ("generated 1", 16, generator.generated_spec)
    expected = generator.generate(16, [4] * 16, steps=20, seed=0)
    torch.testing.assert_close(made.fields.flat(), expected.flat(), rtol=1e-4, atol=1e-5)
    assert set(made.column("label")) == {4}
    assert set(made.column("split")) == {"made"}
    assert page.session.chosen.tolist() == list(range(120, 136))
    gallery = page.session.pane
    grid = gallery.grid()
    for top, left in (grid.corner(12), grid.corner(15)):
        until(lambda at=(top, left): np.ptp(page.picture()[at[0] :, at[1] :][: grid.side, : grid.side]) > 20)
    page.save("generated")
    page.press("Generate")
    assert [part.name for part in page.session.collection.parts] == ["store", "generated 1", "generated 2"]
    assert not torch.equal(page.session.collection.parts[2].fields.flat(), made.fields.flat())
    page.session.open(140)
    page.rest()
    assert page.session.pane.label == "Field"
    assert len(viewer.part) == 120
