"""Readers on a GPU: the same run on a processor, small."""

import csv
from pathlib import Path

import pytest

from apps.bench import gpu_readers


def words(folder: Path, data: Path) -> list[str]:
    given = {"--limit": 60, "--minutes": 0.02, "--size": "small", "--batch": 16, "--device": "cpu"}
    given |= {"--data": data, "--work": folder / "work", "--out": folder}
    return [str(word) for pair in given.items() for word in pair]


def test_fields_and_images_are_read_and_kept(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_readers.main([*words(tmp_path, shared_data), "--readers", "probe_gen", "--images", "cifar10"]) == 0
    with (tmp_path / "readers_gpu.csv").open(encoding="utf-8") as file:
        fields, images = csv.DictReader(file)
    assert (fields["data"], fields["model"], fields["items"]) == ("dws-mnist-train", "probe_gen", "55")
    assert (images["data"], images["model"], images["items"]) == ("cifar10", "mwt, flip, shift", "53")
    for row in (fields, images):
        assert 0 <= float(row["test"]) <= 1
        assert float(row["epochs"]) > 0
        assert 5 < float(row["psnr"]) < 60
        assert row["device"] == "cpu"
    assert "of fields" not in capsys.readouterr().err
    stored = sorted(path.name for path in (tmp_path / "work").iterdir())
    assert stored == [
        "dws-mnist-test-limit60",
        "dws-mnist-train-limit60",
        "dws-mnist-train-limit60-probe_gen-small-b16-min0.02",
        "mwt-cifar10-small-limit60-min0.02",
    ]
    again = [*words(tmp_path, shared_data), "--readers", "probe_gen", "--images", "cifar10"]
    assert gpu_readers.main(again) == 0
    assert len((tmp_path / "readers_gpu.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--minutes", "0"], "--minutes 0.0: expected a positive number"),
        (["--readers", "orbits"], "--readers orbits: expected some of mlp"),
        (["--images", "svhn"], "invalid choice: 'svhn'"),
        (["--data", "nowhere"], "nowhere"),
        (["--recipe", "none"], "none"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_told_in_a_line(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = gpu_readers.main(["--work", str(tmp_path), *given])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
