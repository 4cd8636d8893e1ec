"""What the field pane tells of how a field was fitted."""

import shlex

import torch

from apps.viewer.collection import of_store
from apps.viewer.refit import refit
from neuralfields.store import open_store


def test_the_command_it_gives_fits_the_same_fields(nf, tmp_path):
    words = ("--recipe", "siren-mnist", "--hidden", 8, 9, "--steps", 3, "--lr", 2e-3, "--seed", 5, "--backend", "torch")
    done = nf("fit", "images", "digits", "--limit", 12, *words, "--out", tmp_path / "first", "--quiet")
    assert done.code == 0, done.err
    first = open_store(tmp_path / "first")
    command = shlex.split(refit(of_store(first)) or "")
    assert command[:3] == ["nf", "fit", "images"]
    assert command[-2] == "--out"
    again = nf(*command[1:-1], tmp_path / "again", "--limit", 12, "--backend", "torch", "--quiet")
    assert again.code == 0, again.err
    assert torch.equal(open_store(tmp_path / "again")[:].flat(), first[:].flat())
