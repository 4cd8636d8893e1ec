"""`nf bench mesh`: both sides find the same surface, and the command measures and saves."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.bench import mesh
from apps.bench.mesh import BenchMesh, run
from apps.options import OutputOptions
from neuralfields import inits
from neuralfields.evaluate import evaluate
from neuralfields.spec import SIREN

QUIET = OutputOptions(quiet=True)


@pytest.fixture
def random_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that needs no fit: its level set 0 is rough."""
    field = inits.initial(SIREN(3, 1, hidden=(16, 16), w0=12.0), np.arange(1, dtype=np.uint32), "random")
    monkeypatch.setattr(mesh, "make_field", lambda spec: field)


@pytest.mark.usefixtures("random_field")
def test_one_small_run_measures_and_saves(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    options = BenchMesh(
        spec="3-16-16-1", resolution=(40, 64), threads=1, rounds=2, save=True, out=str(tmp_path), output=QUIET
    )
    found = run(options)
    assert [(row["resolution"], row["side"]) for row in found] == [
        (40, "sparse"),
        (40, "dense"),
        (64, "sparse"),
        (64, "dense"),
    ]
    for row in found:
        assert row["faces"] > 100
        assert row["farthest"] < 1.0
        assert row["seconds"] > 0
        assert row["ratio"] > 0
    assert [row["points"] for row in found if row["side"] == "dense"] == [41**3, 65**3]
    assert [row["ratio"] for row in found if row["side"] == "sparse"] == [1.0, 1.0]
    mesh.append(tmp_path / "mesh.csv", [])
    with (tmp_path / "mesh.csv").open(newline="", encoding="utf-8") as file:
        saved = list(csv.DictReader(file))
    assert [{name: str(value) for name, value in row.items()} for row in found] == saved


@pytest.mark.usefixtures("random_field")
def test_what_was_measured_is_kept_when_a_later_resolution_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    measure = mesh._measure

    def dying(field, resolution, rounds):
        if resolution == 50:
            raise MemoryError
        return measure(field, resolution, rounds)

    monkeypatch.setattr(mesh, "_measure", dying)
    with pytest.raises(MemoryError):
        run(BenchMesh(resolution=(40, 50), threads=1, rounds=1, save=True, out=str(tmp_path), output=QUIET))
    with (tmp_path / "mesh.csv").open(newline="", encoding="utf-8") as file:
        assert [(row["resolution"], row["side"]) for row in csv.DictReader(file)] == [("40", "sparse"), ("40", "dense")]


def test_what_cannot_be_saved_is_refused_before_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "make_field", lambda spec: pytest.fail("was measured"))
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "mesh.csv").write_text("a,b\n", encoding="utf-8")
    for out, words in ((tmp_path, "has columns"), (tmp_path / "file", "is a file")):
        with pytest.raises(ValueError, match=words):
            run(BenchMesh(save=True, out=str(out), output=QUIET))


def test_the_field_becomes_more_like_its_target() -> None:
    points = torch.tensor([[0.0, 0.0, 0.0], [0.7, 0.0, 0.0], [0.9, 0.9, 0.9]])
    values = evaluate(mesh.make_field("3-32-32-1", steps=50), points)[0, :, 0]
    assert values[2] > values[:2].max()


def test_a_file_with_other_columns_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "mesh.csv"
    path.write_text("a,b\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"has columns \['a', 'b'\]: expected \['spec'"):
        mesh.append(path, [])
    assert path.read_text(encoding="utf-8") == "a,b\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resolution": (1,)}, "resolution="),
        ({"resolution": ()}, "resolution="),
        ({"rounds": 0}, "rounds=0"),
        ({"threads": 0}, "threads=0"),
        ({"spec": "2-8-1"}, "spec='2-8-1': expected three coordinates"),
        ({"spec": "three"}, "spec="),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(BenchMesh(output=QUIET, **options))
