"""Benchmark rows: work counted as stated, files that only grow, and a table with the newest row of each kind."""

from dataclasses import replace
from pathlib import Path

import pytest

from apps.bench import rows as table
from apps.bench.rows import Row

ROW = Row(
    spec="2-32-32-1",
    points=784,
    threads=1,
    side="native",
    us_per_field_step=40.0,
    p20=39.0,
    p80=42.5,
    ratio=1.0,
    gflops=129.2,
    sgemm_gflops=168.0,
    share=0.769,
    cores=1.0,
    fields=16,
    rounds=7,
    date="2026-01-01T00:00Z",
    cpu="some, cpu",
    versions="python 3.11.7, torch 2.13.0",
)


def test_work_of_a_step() -> None:
    assert table.flop_per_point((2, 32, 32, 1)) == 6592
    # forward, gradient of the weights, gradient of the inputs but for the first layer's
    layers = [(2, 64), (64, 64), (64, 3)]
    assert table.flop_per_point((2, 64, 64, 3)) == sum(2 * a * b * (2 if a == 2 else 3) for a, b in layers)


@pytest.mark.parametrize("spec", ["", "2-1", "2-x-1", "2-0-1", "2--1", "-2-3-1"])
def test_specs_that_make_no_sense_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="spec="):
        table.parse_dims(spec)


def test_csv_grows_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "fit.csv"
    peer = replace(ROW, side="jax", ratio=None, cores=0.5)
    table.append_csv(path, [ROW])
    table.append_csv(path, [peer])
    assert table.read_csv(path) == [ROW, peer]
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3


def test_csv_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "fit.csv"
    path.write_text("spec,points\n", encoding="utf-8")
    with pytest.raises(ValueError, match="columns"):
        table.append_csv(path, [ROW])
    assert path.read_text(encoding="utf-8") == "spec,points\n"


def test_table_shows_the_newest_row_of_each_kind() -> None:
    newer, other = replace(ROW, us_per_field_step=38.0), replace(ROW, threads=2)
    assert table.latest([ROW, other, newer]) == [newer, other]
    text = table.markdown([newer, replace(other, ratio=None)])
    columns = [line.count("|") for line in text.splitlines()]
    assert columns == [columns[0]] * 4
    assert "38.0" in text


def test_quantiles_interpolate() -> None:
    values = [4.0, 1.0, 3.0, 2.0, 5.0]
    assert [table.quantile(values, q) for q in (0.0, 0.25, 0.5, 0.9, 1.0)] == pytest.approx([1, 2, 3, 4.6, 5])
    assert table.quantile([7.0], 0.8) == 7.0
