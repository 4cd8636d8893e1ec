"""Training: it learns, it is exact after an interruption, it touches no global state, it refuses bad populations."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wsnets import Reader, Subset
from wsnets.data import held_out
from wsnets.models import MLPConfig
from wsnets.tasks.field_task import fingerprint
from wsnets.train import ClassifyConfig, TrainProgress, classify, plot_history

SMALL = MLPConfig(hidden=(16,), p_dropout=0.2)
CONFIG = ClassifyConfig(model=SMALL, epochs=6, batch=32, lr=3e-3, noise=0.1, mixup=0.4, val_fraction=0.25)


class StoppedError(Exception):
    pass


def interrupt_after(epoch: int):
    def update(now: TrainProgress) -> None:
        if now.epoch == epoch:
            raise StoppedError

    return update


def results(folder: Path) -> dict[str, bytes]:
    """The files that must be equal after a resume (training.json holds seconds)."""
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "network.json", "curves.csv")}


def test_it_learns_and_chance_labels_stay_at_chance(population, tmp_path: Path):
    train, test = Subset(population, np.arange(180)), Subset(population, np.arange(180, 240))
    config = replace(CONFIG, epochs=20)
    assert classify(train, config, tmp_path / "a").evaluate(test).accuracy > 0.9
    shuffled = replace(population, labels=np.random.default_rng(0).permutation(population.labels))
    reader = classify(Subset(shuffled, np.arange(180)), config, tmp_path / "b")
    assert reader.evaluate(Subset(shuffled, np.arange(180, 240))).accuracy < 0.6


def test_stopped_after_any_epoch_and_resumed_is_bit_identical(population, tmp_path: Path):
    classify(population, CONFIG, tmp_path / "whole")
    for epoch in (1, 3, 6):
        with pytest.raises(StoppedError):
            classify(population, CONFIG, tmp_path / f"cut{epoch}", interrupt_after(epoch))
        classify(population, CONFIG, tmp_path / f"cut{epoch}")
        assert results(tmp_path / f"cut{epoch}") == results(tmp_path / "whole")


SCRIPT = """
import sys
import numpy as np
import torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from conftest import Memory, SPEC
from neuralfields import FieldBatch
from wsnets.models import MLPConfig
from wsnets.train import ClassifyConfig, classify
torch.set_num_threads(1)
flat = torch.from_numpy(np.load(sys.argv[2]))
labels = np.arange(len(flat), dtype=np.int64) % 3
population = Memory(FieldBatch.from_flat(SPEC, flat), labels, np.arange(len(flat), dtype=np.uint32), {})
config = ClassifyConfig(model=MLPConfig(hidden=(16,)), epochs=20, batch=8)
classify(population, config, Path(sys.argv[3]), lambda now: print(now.epoch, flush=True))
"""


def test_killed_and_resumed_is_bit_identical(population, tmp_path: Path):
    np.save(tmp_path / "flat.npy", population.fields.flat().numpy())
    base = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / "flat.npy")]
    subprocess.run([*base, str(tmp_path / "whole")], check=True, capture_output=True)
    process = subprocess.Popen([*base, str(tmp_path / "cut")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    time.sleep(0.013)  # so that the kill falls somewhere inside an epoch
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "network.json").exists()
    subprocess.run([*base, str(tmp_path / "cut")], check=True, capture_output=True)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_a_finished_run_is_not_trained_again(population, tmp_path: Path):
    first = classify(population, CONFIG, tmp_path)
    seen: list[TrainProgress] = []
    again = classify(population, CONFIG, tmp_path, seen.append)
    assert seen == []
    assert torch.equal(first.predict(population.fields), again.predict(population.fields))


def test_another_run_in_the_folder_is_refused(population, tmp_path: Path):
    classify(population, CONFIG, tmp_path)
    with pytest.raises(ValueError, match=r"another run: config.lr is 0.003 there, 0.1 here"):
        classify(population, replace(CONFIG, lr=0.1), tmp_path)
    with pytest.raises(ValueError, match=r"another run: population.sha256"):
        classify(population.with_flat(population.fields.flat() * 1.01), CONFIG, tmp_path)


def test_streamed_and_resident_training_agree_exactly(population, tmp_path: Path):
    resident = classify(population, CONFIG, tmp_path / "resident")
    streamed = classify(population, replace(CONFIG, memory_mb=0), tmp_path / "streamed")
    assert torch.equal(resident.predict(population.fields), streamed.predict(population.fields))


def test_global_generators_are_neither_used_nor_changed(population, tmp_path: Path):
    torch.random.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.random.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tobytes()  # noqa: NPY002
    classify(population, CONFIG, tmp_path / "a")
    after = torch.random.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tobytes()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    torch.random.manual_seed(2)
    classify(population, CONFIG, tmp_path / "b")
    assert results(tmp_path / "a") == results(tmp_path / "b")
    classify(population, replace(CONFIG, seed=1), tmp_path / "c")
    assert results(tmp_path / "a")["model.safetensors"] != results(tmp_path / "c")["model.safetensors"]


def test_the_kept_epoch_is_the_best_one_and_its_figures_are_those_of_the_reader(population, tmp_path: Path):
    reader = classify(population, replace(CONFIG, epochs=12, schedule="constant", lr=0.02), tmp_path)
    training = json.loads((tmp_path / "training.json").read_text())
    best = max(training["history"], key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert training["best_epoch"] == best["epoch"]
    assert training == reader.training
    held = Subset(population, np.flatnonzero(held_out(population.ids, CONFIG.val_fraction, CONFIG.seed)))
    found = Reader.load(tmp_path).evaluate(held)
    assert found.accuracy == training["val_accuracy"]
    assert found.loss == pytest.approx(training["val_loss"], rel=1e-5)


def test_without_validation_the_last_epoch_is_kept(population, tmp_path: Path):
    reader = classify(population, replace(CONFIG, val_fraction=0.0, epochs=3), tmp_path)
    assert (reader.training["best_epoch"], reader.training.get("val_accuracy", "none")) == (3, "none")
    plot_history(reader.training, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_settings_round_trip_and_are_checked():
    assert ClassifyConfig.from_json(json.loads(json.dumps(CONFIG.to_json()))) == CONFIG
    assert ClassifyConfig(model="mlp") == ClassifyConfig(model=MLPConfig())
    with pytest.raises(ValueError, match="unknown keys \\['depth'\\]"):
        ClassifyConfig.from_json({**CONFIG.to_json(), "depth": 3})
    for options in ({"lr": 0.0}, {"batch": 1}, {"ema": 1.0}, {"schedule": "step"}, {"mixup": -1.0}, {"seed": -1}):
        (name,) = options
        with pytest.raises(ValueError, match=f"{name}=.*: expected"):
            ClassifyConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [False, True], ids=["training", "held out"])
def test_a_streamed_field_with_bad_weights_is_named_when_it_is_read(population, side: bool, tmp_path: Path):
    bad = int(np.flatnonzero(held_out(population.ids, CONFIG.val_fraction, CONFIG.seed) == side)[0])
    flat = population.fields.flat().clone()
    flat[bad, 3] = float("nan")
    config = replace(CONFIG, normalise="none", memory_mb=0)
    with pytest.raises(ValueError, match=f"field id {bad} has NaN or infinite weights"):
        classify(population.with_flat(flat), config, tmp_path)


class Paired(Subset):
    """Fields of which every two belong together."""

    @property
    def groups(self) -> np.ndarray:
        return self.ids // 2


def test_a_population_grouped_anew_is_another_run(population, tmp_path: Path):
    classify(population, CONFIG, tmp_path)
    with pytest.raises(ValueError, match=r"another run: population.sha256"):
        classify(Paired(population, np.arange(240)), CONFIG, tmp_path)


def test_what_tells_a_population_without_groups_is_its_ids_labels_and_weights(population):
    parts = (population.ids, population.labels, population.fields.flat().numpy())
    digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    assert fingerprint(population) == {"fields": 240, "sha256": digest}


def test_populations_that_cannot_be_trained_on(population, tmp_path: Path):
    flat = population.fields.flat().clone()
    flat[7, 3] = float("inf")
    with pytest.raises(ValueError, match="field id 7 has NaN or infinite weights"):
        classify(population.with_flat(flat), CONFIG, tmp_path / "a")
    one_item = replace(population, ids=np.zeros(240, np.uint32))
    with pytest.raises(ValueError, match="fields are left to train on"):
        classify(one_item, replace(CONFIG, val_fraction=0.999), tmp_path / "a")
    assert not (tmp_path / "a").exists()
