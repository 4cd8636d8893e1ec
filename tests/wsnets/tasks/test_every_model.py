"""Every task with every model that can do it: it trains, resumes bit for bit, and comes back from its folder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neuralfields import SIREN, FieldBatch, FieldSpec
from neuralfields.inits import initial
from wsnets import Editor, Embedder, Operation, Reader, Regressor, models, train
from wsnets.augment import AugmentConfig
from wsnets.network import Network
from wsnets.train import ClassifyConfig, ContrastConfig, EditConfig, RegressConfig, TrainProgress

COUNT, SPEC = 20, SIREN(2, 1, hidden=(6, 5))
FEW = {"epochs": 2, "batch": 8, "val_fraction": 0.2, "lr": 1e-3, "seed": 3}


@dataclass(frozen=True)
class Store:
    """Twenty fields in memory, with the reading interface of a store."""

    fields: FieldBatch
    meta: dict[str, Any]

    @property
    def spec(self) -> FieldSpec:
        return self.fields.spec

    @property
    def ids(self) -> np.ndarray:
        return np.arange(COUNT, dtype=np.uint32)

    groups = ids

    @property
    def labels(self) -> np.ndarray:
        return np.arange(COUNT, dtype=np.int64) % 2

    def column(self, name: str) -> np.ndarray:
        assert name == "size"
        return self.fields.flat().square().sum(1).numpy()

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, positions: Any, /) -> FieldBatch:
        return self.fields[torch.as_tensor(positions)]


@pytest.fixture(scope="module")
def store() -> Store:
    start = initial(SPEC, np.zeros(COUNT, np.uint32)).flat()
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    return Store(FieldBatch.from_flat(SPEC, start + 0.05 * noise), {})


@dataclass(frozen=True)
class Task:
    """How one task is run: its training, settings, class of network, and what the network makes of fields."""

    run: Callable[..., Network]
    config: Callable[..., Any]
    network: type[Network]
    use: Callable[[Any, FieldBatch], Tensor]


TASKS = {
    "classify": Task(train.classify, ClassifyConfig.tuned, Reader, lambda net, fields: net.predict(fields)),
    "regress": Task(
        train.regress,
        lambda model, **few: RegressConfig.tuned(model, target="size", **few),
        Regressor,
        lambda net, fields: net.predict(fields),
    ),
    "edit": Task(
        train.edit,
        lambda model, **few: EditConfig.tuned(model, target=Operation(name="contrast", shape=(5, 4)), **few),
        Editor,
        lambda net, fields: net.apply(fields).flat(),
    ),
    "contrast": Task(
        train.contrast,
        lambda model, **few: ContrastConfig.tuned(model, dim=4, augment=AugmentConfig(noise=0.1), **few),
        Embedder,
        lambda net, fields: net.embed(fields),
    ),
}
PAIRS = [(task, name) for task in TASKS for name in models.names() if task != "edit" or models.edits(name)]


class StoppedError(Exception):
    pass


def stop(now: TrainProgress) -> None:
    raise StoppedError(f"after epoch {now.epoch}")


@pytest.mark.parametrize(("task", "name"), PAIRS, ids=[f"{task}-{name}" for task, name in PAIRS])
def test_it_trains_resumes_exactly_and_survives_its_folder(task: str, name: str, store: Store, tmp_path: Path) -> None:
    how = TASKS[task]
    config = how.config(models.kind(name).small(), **FEW)
    network = how.run(store, config, tmp_path / "whole")
    assert [row["epoch"] for row in network.training["history"]] == [1, 2]
    assert all(np.isfinite(list(row.values())).all() for row in network.training["history"])

    with pytest.raises(StoppedError):
        how.run(store, config, tmp_path / "cut", stop)
    how.run(store, config, tmp_path / "cut")
    for file in ("model.safetensors", "network.json", "curves.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes(), file

    made = how.use(how.network.load(tmp_path / "whole"), store.fields)
    assert torch.equal(made, how.use(network, store.fields))
    assert made.isfinite().all()
    assert len(made) == COUNT

    other = how.run(store, replace(config, seed=4), tmp_path / "other")
    assert not torch.equal(how.use(other, store.fields), made)


@pytest.mark.parametrize(("task", "name"), PAIRS, ids=[f"{task}-{name}" for task, name in PAIRS])
def test_half_precision_trains_near_to_single(task: str, name: str, store: Store, tmp_path: Path) -> None:
    how = TASKS[task]
    config = how.config(models.kind(name).small(), **{**FEW, "epochs": 1})
    single = how.run(store, config, tmp_path / "single")
    half = how.run(store, replace(config, precision="bf16"), tmp_path / "half")
    losses = [network.training["history"][0]["loss"] for network in (single, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    if task == "edit" and name in ("dws", "orbit"):
        return  # all that theirs compute is kept in single precision
    weights = [torch.cat([p.flatten() for p in network.model.parameters()]) for network in (single, half)]
    assert not torch.equal(*weights)


def test_every_model_that_edits_is_asked_to_and_no_other() -> None:
    asked = {name for task, name in PAIRS if task == "edit"}
    assert asked == {name for name in models.names() if models.edits(name)}
    assert set(models.names()) - asked


def test_what_a_network_does_not_do_is_refused_by_what_it_does() -> None:
    spec, draws = SIREN(2, 1, hidden=(4, 4)), torch.Generator()
    with pytest.raises(ValueError, match="model='sane' embeds fields and does not edit them"):
        models.build_editor(models.kind("sane").small(), spec, draws)
    with pytest.raises(ValueError, match="model='deep_align' aligns fields and does not read them"):
        models.build_reader(models.kind("deep_align").small(), spec, 3, draws)
