"""nf mesh: every field in a file of its own."""

from pathlib import Path

import numpy as np
import pytest

from apps.mesh import file_names
from neuralfields import SIREN, inits
from neuralfields.store import save

NAMES = ["scan.001.ply", "scan.002.ply", "chair.obj", "chair.off", "a/b.obj", "a-b.obj", "Lid.stl.gz", "lid", "../v1.5"]
FILES = ["scan.001", "scan.002", "chair-2", "chair-3", "a-b-4", "a-b-5", "Lid-6", "lid-7", "v1.5"]


@pytest.fixture
def named_store(tmp_path: Path) -> Path:
    """Random fields of three coordinates whose names are those of files."""
    spec, count = SIREN(3, 1, hidden=(4,)), len(NAMES)
    fields = inits.draw(spec, np.arange(count))
    save(tmp_path / "named", fields, {"name": NAMES}, {"signal": {"kind": "sdf", "level": 0.0, "inside": "below"}})
    return tmp_path / "named"


def test_fields_have_files_of_their_own_whichever_are_chosen(nf, named_store: Path, tmp_path: Path) -> None:
    done = nf("mesh", named_store, "--out", tmp_path / "m", "--resolution", 6, "--level", 0, "--json")
    assert done.code == 0, done.err
    said = {entry["name"] for entry in [*done.figures["meshes"], *done.figures["failures"]]}
    assert said == set(FILES)
    assert len(list((tmp_path / "m").iterdir())) == len(done.figures["meshes"])
    for row, name in enumerate(FILES):
        if name not in {entry["name"] for entry in done.figures["meshes"]}:
            continue
        out = tmp_path / str(row)
        assert nf("mesh", named_store, "--fields", row, "--out", out, "--resolution", 6, "--level", 0).code == 0
        assert (out / f"{name}.ply").read_bytes() == (tmp_path / "m" / f"{name}.ply").read_bytes()


def test_a_position_that_is_added_makes_no_other_field_its_equal() -> None:
    assert file_names(["a.obj", "a.off", "a-0.ply"]) == ["a-0-0", "a-1", "a-0"]
    assert file_names(["", "field-0", "/"]) == ["field-0-0", "field-0-1", "field-2"]
