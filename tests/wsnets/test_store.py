"""A reader trained from a store on disk, as people do it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neuralfields.store import save
from wsnets import ClassifyConfig, Subset, classify
from wsnets.models import MLPConfig

CONFIG = ClassifyConfig(model=MLPConfig(hidden=(16,)), epochs=3, batch=32)


def test_a_store_reads_like_the_same_population_in_memory(population, tmp_path: Path):
    rows = {"id": population.ids, "label": population.labels}
    store = save(tmp_path / "store", population.fields, rows, {"signal": {"classes": ["a", "b", "c"]}}, shard_size=100)
    assert torch.equal(Subset(store, np.array([230, 5]))[:].flat(), population.fields[[230, 5]].flat())
    from_store = classify(store, CONFIG, tmp_path / "a")
    in_memory = classify(population, CONFIG, tmp_path / "b")
    assert torch.equal(from_store.predict(population.fields), in_memory.predict(population.fields))
    assert from_store.classes == ("a", "b", "c")
    assert from_store.evaluate(store).accuracy == in_memory.evaluate(population).accuracy


def test_a_store_without_labels(population, tmp_path: Path):
    rows = {"id": population.ids, "label": np.full(len(population), -1)}
    store = save(tmp_path / "store", population.fields, rows, {})
    with pytest.raises(ValueError, match="240 of 240 fields have no label"):
        classify(store, CONFIG, tmp_path / "reader")
