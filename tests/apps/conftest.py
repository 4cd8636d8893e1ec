"""Fixtures of the command line's tests: run a command in this process, and small images to run it on."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from apps.cli import main


@dataclass(frozen=True)
class Result:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str

    @property
    def figures(self) -> dict:
        """The last line of stdout, read as JSON."""
        return json.loads(self.out.splitlines()[-1])

    def assert_refused(self, *words: str) -> None:
        """Assert bad input: exit code 2 and exactly one line on stderr, which holds the words."""
        assert self.code == 2, self.out + self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("nf: error: ")
        for word in words:
            assert word in lines[0]


@dataclass(frozen=True)
class Nf:
    """Runs command lines in this process; `quick` are options that make a fit short and the same everywhere."""

    capsys: pytest.CaptureFixture[str]
    quick = ("--steps", 5, "--hidden", 8, 8, "--backend", "torch", "--threads", 1, "--lr", 1e-3, "--shard", 16)

    def __call__(self, *words: object) -> Result:
        code = main([str(word) for word in words])
        return Result(code, *self.capsys.readouterr())


@pytest.fixture
def nf(capsys: pytest.CaptureFixture[str]) -> Nf:
    """Run one command line in this process."""
    return Nf(capsys)


@pytest.fixture
def images_file(tmp_path: Path) -> Path:
    """40 grey images of 6 x 5 pixels in two classes, 32 to train on and 8 to test."""
    generator = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    labels = np.arange(40) % 2
    pixels = generator.integers(0, 90, (40, 6, 5)).astype(np.uint8)
    pixels[labels == 1, :, :2] += 150  # the classes differ at a glance
    np.savez(path, x_train=pixels[:32], y_train=labels[:32], x_test=pixels[32:], y_test=labels[32:])
    return path


@pytest.fixture
def store(tmp_path: Path, images_file: Path, nf: Nf) -> Path:
    """A store of 32 small fields, in two shards, fitted to `images_file`."""
    path = tmp_path / "store"
    assert nf("fit", "images", images_file, "--split", "train", "--out", path, *nf.quick, "--quiet").code == 0
    return path
