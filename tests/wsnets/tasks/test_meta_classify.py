"""Training end to end on images: it learns, resumes exactly, keeps what it says it keeps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from wsnets.data import held_out
from wsnets.models.mwt import MWTConfig
from wsnets.tasks.meta_classify import MetaConfig, MetaReader, MetaTask, augmented, meta_classify
from wsnets.train import TrainProgress

MODEL = MWTConfig(hidden=8, layers=2, steps=2, points=16, rate_speed=3.0, depth=1, width=8, head=8, layer_scale=1.0)
CONFIG = MetaConfig(model=MODEL, epochs=3, batch=12, lr=5e-3, val_fraction=0.25)


class StoppedError(Exception):
    pass


@pytest.fixture
def images(generator: Generator) -> Tensor:
    """120 grey images of 6 x 5 pixels in two classes: bright on the left, or not."""
    pixels = torch.randint(0, 90, (120, 6, 5, 1), generator=generator)
    pixels[1::2, :, :2] += 150
    return pixels.to(torch.uint8)


LABELS = np.arange(120) % 2


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "meta.json", "curves.csv")}


def test_it_learns_and_its_figures_are_those_of_the_reader(images: Tensor, tmp_path: Path):
    config = replace(CONFIG, epochs=12)
    reader = meta_classify(images, LABELS, config, tmp_path)
    held = held_out(np.arange(120, dtype=np.uint32), 0.25, 0)
    found = reader.evaluate(images[torch.from_numpy(held)], LABELS[held])
    assert found.accuracy == reader.training["val_accuracy"] > 0.9
    assert found.loss == pytest.approx(reader.training["val_loss"], rel=1e-4)
    history = reader.training["history"]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert history[-1]["val_psnr"] > history[0]["val_psnr"]
    assert reader.training["best_epoch"] == max(history, key=lambda row: row["score"])["epoch"]


def test_stopped_and_resumed_is_bit_identical(images: Tensor, tmp_path: Path):
    def stop(now: TrainProgress) -> None:
        if now.epoch == 2:
            raise StoppedError

    meta_classify(images, LABELS, CONFIG, tmp_path / "whole")
    with pytest.raises(StoppedError):
        meta_classify(images, LABELS, CONFIG, tmp_path / "cut", progress=stop)
    meta_classify(images, LABELS, CONFIG, tmp_path / "cut")
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    again: list[TrainProgress] = []
    meta_classify(images, LABELS, CONFIG, tmp_path / "whole", progress=again.append)
    assert again == []
    with pytest.raises(ValueError, match=r"another run: config.lr is 0.005 there, 0.1 here"):
        meta_classify(images, LABELS, replace(CONFIG, lr=0.1), tmp_path / "whole")
    with pytest.raises(ValueError, match=r"another run: images.sha256"):
        meta_classify(255 - images, LABELS, CONFIG, tmp_path / "whole")


def test_a_saved_reader_reads_and_fits_alike(images: Tensor, tmp_path: Path):
    reader = meta_classify(images, LABELS, CONFIG, tmp_path, classes=("dark", "bright"))
    again = MetaReader.load(tmp_path)
    assert again.classes == ("dark", "bright")
    assert again.training == reader.training == json.loads((tmp_path / "training.json").read_text())
    probabilities = reader.predict(images)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(120))
    assert torch.equal(again.predict(images), probabilities)
    fitted = again.fields(images)
    assert torch.equal(fitted.flat(), reader.fields(images / 255.0).flat())
    torch.testing.assert_close(again.read(fitted), probabilities)
    with pytest.raises(ValueError, match=r"images has shape .*: expected \(N, 6, 5, 1\)"):
        reader.predict(images.transpose(1, 2))
    with pytest.raises(FileNotFoundError, match=r"meta.json is not there"):
        MetaReader.load(tmp_path / "absent")
    path = tmp_path / "meta.json"
    about = json.loads(path.read_text())
    for change in ({"shape": 3}, {"shape": [6, 5]}, {"classes": 5}, {"model": 3}, {"model": {"hidden": "x"}}):
        path.write_text(json.dumps({**about, **change}))
        with pytest.raises(ValueError, match=rf"^{path}.*[:;] .*expected .*$"):
            MetaReader.load(tmp_path)


def test_the_loss_of_a_batch_is_the_mean_over_its_pieces(images: Tensor, generator: Generator):
    held = np.zeros(120, bool)
    task = MetaTask(images, torch.from_numpy(LABELS), held, replace(CONFIG, model=replace(MODEL, points=0)))
    model = replace(MODEL, points=0).build(1, 2, generator).train()

    def loss(positions: Tensor) -> Tensor:
        return task.loss(model, task.fetch(positions), generator)

    whole = loss(torch.arange(12))
    parts = torch.stack([loss(torch.arange(start, start + 4)) for start in (0, 4, 8)])
    torch.testing.assert_close(parts.mean(), whole)


def test_images_are_shifted_and_mirrored(generator: Generator):
    images = torch.arange(30.0).view(1, 6, 5, 1).expand(64, -1, -1, -1)
    assert torch.equal(augmented(images, 0, False, generator), images)
    moved = augmented(images, 1, False, generator)
    seen = {tuple(row.flatten().tolist()) for row in moved}
    assert len(seen) == 9
    inner = moved[:, 1:-1, 1:-1] - images[:, 1:-1, 1:-1]
    assert set(inner.flatten().tolist()) == {5.0 * row + column for row in (-1, 0, 1) for column in (-1, 0, 1)}
    mirrored = augmented(images, 0, True, generator)
    is_mirrored = (mirrored == images.flip(2)).flatten(1).all(dim=1)
    assert 16 < int(is_mirrored.sum()) < 48
    assert torch.equal(mirrored[~is_mirrored], images[~is_mirrored])


def test_settings_round_trip_and_are_checked(images: Tensor, tmp_path: Path):
    assert MetaConfig.from_json(json.loads(json.dumps(CONFIG.to_json()))) == CONFIG
    assert MetaConfig.small(lr=0.5).model == MWTConfig.small()
    with pytest.raises(ValueError, match="unknown keys"):
        MetaConfig.from_json({**CONFIG.to_json(), "steps": 3})
    with pytest.raises(ValueError, match=r"val_fraction=1.0: expected"):
        MetaConfig(val_fraction=1.0)
    with pytest.raises(ValueError, match="at least two classes"):
        meta_classify(images, np.zeros(120), CONFIG, tmp_path)
    with pytest.raises(ValueError, match="label 1 has no name"):
        meta_classify(images, LABELS, CONFIG, tmp_path, classes=("one",))
    with pytest.raises(ValueError, match="label 20000 is too large"):
        meta_classify(images, 20_000 * LABELS, replace(CONFIG, epochs=1), tmp_path)
    with pytest.raises(ValueError, match="images are left to train on"):
        meta_classify(images, LABELS, replace(CONFIG, val_fraction=0.999), tmp_path)
    with pytest.raises(ValueError, match=r"expected \(N, H, W, C\)"):
        meta_classify(images[..., 0], LABELS, CONFIG, tmp_path)
