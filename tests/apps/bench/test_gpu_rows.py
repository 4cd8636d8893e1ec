"""Rows of the GPU benchmark: files that only grow, tables that say what was not measured, the card as it is called."""

from dataclasses import replace
from pathlib import Path

import pytest

from apps.bench import gpu_rows, gpu_time
from apps.bench.gpu_rows import GpuRow

ROW = GpuRow(
    part="fit", case="2-32-32-1 @784", side="triton", precision="tf32x3", fields=8192, steps=200, unit="field-steps",
    seconds=0.41, p20=0.4, p80=0.43, rate=8192 * 200 / 0.41, tflops=20.6, share=0.05, ratio=1.0, psnr=None,
    note="with, a comma", date="2026-01-01T00:00Z", card="Some Card", clocks="SM 1 MHz", driver="1.2", versions="a 1",
)  # fmt: skip


def test_files_grow_and_say_again_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "gpu.csv"
    other = replace(ROW, side="jax", seconds=None, rate=None, ratio=None, note="")
    gpu_rows.append_csv(path, [ROW])
    gpu_rows.append_csv(path, [other])
    assert gpu_rows.read_csv(path) == [ROW, other]
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"has columns \['a', 'b'\]"):
        gpu_rows.append_csv(path, [ROW])


def test_the_latest_of_a_kind_stays() -> None:
    newer, card = replace(ROW, seconds=0.3), replace(ROW, card="Another")
    assert gpu_rows.latest([ROW, card, newer]) == [newer, card]


def test_what_was_not_measured_is_said() -> None:
    row = replace(ROW, seconds=None, p20=None, p80=None, rate=None, tflops=None, share=None, ratio=None, note="")
    line = gpu_rows.markdown([row]).splitlines()[-1]
    assert line == "| fit | 2-32-32-1 @784 | triton | tf32x3 | 8,192 | 200 | - | - | not measured | - | - | - | - | - |"


def test_tables_have_a_cell_for_every_column() -> None:
    head, rule, line = gpu_rows.markdown([ROW]).splitlines()
    assert head.count("|") == rule.count("|") == line.count("|")
    assert "4 M field-steps/s" in line
    assert len(gpu_rows.cells(ROW)) == len(gpu_rows.HEADER)
    assert "Some Card" not in gpu_rows.text_table([ROW])
    assert len(gpu_rows.text_table([ROW, ROW]).splitlines()) == 3


def test_rates_come_from_the_median() -> None:
    row = gpu_rows.measured(
        [3.0, 1.0, 2.0], 10, 4e12, part="fit", case="c", side="s", precision="tf32x3", fields=1, steps=10, unit="x"
    )
    assert (row.seconds, row.rate, row.tflops) == (2.0, 5.0, 2.0)
    assert gpu_time.matmul_of(row, {"tf32": 8e12}).share == 0.25
    assert gpu_time.matmul_of(row, {"bf16": 8e12}).share is None


def test_the_card_is_read() -> None:
    card = gpu_rows.read_card("NVIDIA H100 80GB HBM3, 1980 MHz, 1980 MHz, 2619 MHz, 700.00 W, 570.1\n")
    assert card == gpu_rows.Card("NVIDIA H100 80GB HBM3", "SM 1980 MHz of 1980 MHz, memory 2619 MHz, 700.00 W", "570.1")


def test_products_are_timed_in_each_precision() -> None:
    rates = gpu_time.matmul_rates(1, size=64, device="cpu", timed=lambda action: [action(), 0.5][1])
    assert rates == dict.fromkeys(("fp32", "tf32", "bf16"), 2 * 64**3 / 0.5)


def test_actions_are_repeated_until_a_slice_is_full() -> None:
    calls = []
    assert gpu_time.fill(lambda: calls.append(1), lambda action: [action(), 0.03][1], 0.1) == 4
    assert len(calls) == 2
    assert gpu_time.fill(lambda: None, lambda action: 9.0, 0.1, least=2) == 2
