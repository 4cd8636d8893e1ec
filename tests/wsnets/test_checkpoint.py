"""Checkpoints exist whole or not at all."""

from pathlib import Path

import pytest
import torch

from wsnets import checkpoint


def test_round_trip_is_exact(tmp_path: Path, generator: torch.Generator):
    tensors = {"a.b": torch.randn(3, 4, generator=generator), "step": torch.tensor(7.0), "n": torch.tensor(3)}
    data = {"x": [0.1, 1e-30], "none": None, "deep": {"k": "v"}}
    checkpoint.write(tmp_path / "c.safetensors", tensors, data)
    found, read = checkpoint.read(tmp_path / "c.safetensors")
    assert read == data
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path):
    file = tmp_path / "c.safetensors"
    checkpoint.write(file, {"a": torch.ones(2)}, {"epoch": 1})
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.write(file, {"a": torch.zeros(2)}, {"epoch": float("nan")})
    assert checkpoint.read(file)[1] == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_damaged_and_missing_files(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is not there"):
        checkpoint.read(tmp_path / "none.safetensors")
    file = tmp_path / "c.safetensors"
    checkpoint.write(file, {"a": torch.ones(100)}, {})
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.read(file)


def test_pick_undoes_under():
    tensors = {"w.0": torch.ones(1), "b": torch.zeros(1)}
    both = {**checkpoint.under("model", tensors), **checkpoint.under("models", tensors)}
    assert checkpoint.pick(both, "model") == tensors
