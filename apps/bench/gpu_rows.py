"""Rows of the GPU benchmark: what one measurement on one card says, as CSV that only grows and as a table."""

import csv
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from apps.bench import rows as table

NUMBERS = ("seconds", "p20", "p80", "rate", "tflops", "share", "ratio", "psnr")
COUNTS = ("fields", "steps")


@dataclass(frozen=True, kw_only=True)
class GpuRow:
    """One side on one piece of work; None is what was not measured.

    part: fit, evaluate, population or matmul; seconds: median over rounds of device events, p20 and p80 its quantiles;
    rate: `unit` per second; tflops: matrix work (that of rows.flop_per_point) per second / 1e12; share: of what a
    matrix product of that precision reaches on the card in this run; ratio: this side's time per unit / that of our
    default precision, in the same rounds; psnr: mean in dB.
    """

    part: str
    case: str
    side: str
    precision: str
    fields: int
    steps: int
    unit: str
    seconds: float | None = None
    p20: float | None = None
    p80: float | None = None
    rate: float | None = None
    tflops: float | None = None
    share: float | None = None
    ratio: float | None = None
    psnr: float | None = None
    note: str = ""
    date: str = ""
    card: str = ""
    clocks: str = ""
    driver: str = ""
    versions: str = ""

    def to_json(self) -> dict:
        """Return plain JSON values."""
        return asdict(self)


KEY = ("part", "case", "side", "precision", "card")
HEADER = (
    *("work", "case", "side", "precision", "fields", "steps", "seconds", "p20-p80", "rate", "TFLOP/s"),
    *("of matmul", "ratio", "PSNR", "note"),
)
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Card:
    """The device: name, clocks (SM and memory, now and at most, power limit) and driver, as nvidia-smi says them."""

    name: str
    clocks: str
    driver: str


def card(device: int = 0) -> Card:
    """Ask nvidia-smi about a device; what it does not say is "not known"."""
    query = "name,clocks.sm,clocks.max.sm,clocks.mem,power.limit,driver_version"
    command = [shutil.which("nvidia-smi") or "", f"--query-gpu={query}", "--format=csv,noheader", f"--id={device}"]
    try:
        return read_card(subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout)
    except (OSError, subprocess.SubprocessError, ValueError):  # absent, not allowed, or a card that is shared out
        import torch

        return Card(torch.cuda.get_device_name(device), "not known", "not known")


def read_card(line: str) -> Card:
    """Read one line of nvidia-smi's answer to `card`'s question."""
    name, now, most, memory, power, driver = (part.strip() for part in line.strip().split(","))
    return Card(name, f"SM {now} of {most}, memory {memory}, {power}", driver)


def cells(row: GpuRow) -> tuple[str, ...]:
    """One row as text, in the order of HEADER."""
    return (
        row.part,
        row.case,
        row.side,
        row.precision,
        f"{row.fields:,}" if row.fields else "-",
        f"{row.steps:,}" if row.steps else "-",
        _or_dash(row.seconds, "{:.4g}"),
        "-" if row.p20 is None or row.p80 is None else f"{row.p20:.3g}-{row.p80:.3g}",
        "not measured" if row.rate is None else f"{_scaled(row.rate)} {row.unit}/s",
        _or_dash(row.tflops, "{:.1f}"),
        _or_dash(row.share, "{:.0%}"),
        _or_dash(row.ratio, "{:.2f}"),
        _or_dash(row.psnr, "{:.2f}"),
        row.note or "-",
    )


def markdown(rows: Sequence[GpuRow]) -> str:
    """A Markdown table of rows."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---|---|---|" + "--:|" * 9 + "---|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def text_table(rows: Sequence[GpuRow]) -> str:
    """The same for a terminal: columns as wide as their widest cell."""
    lines = [HEADER, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def append_csv(path: Path, rows: Sequence[GpuRow]) -> None:
    """Append rows, with a header if the file is new. Raises ValueError when the file has other columns."""
    names = [f.name for f in fields(GpuRow)]
    new = not path.exists()
    if not new and (found := _header(path)) != names:
        raise ValueError(f"{path} has columns {found}: expected {names}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(row.to_json() for row in rows)


def read_csv(path: Path) -> list[GpuRow]:
    """Read rows that `append_csv` wrote."""
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for record in csv.DictReader(file):
            values: dict = dict(record)
            values |= {name: float(record[name]) if record[name] else None for name in NUMBERS}
            values |= {name: int(record[name]) for name in COUNTS}
            rows.append(GpuRow(**values))
    return rows


def latest(rows: Iterable[GpuRow]) -> list[GpuRow]:
    """Keep the last row of every (part, case, side, precision, card), in order of first appearance."""
    return list({tuple(getattr(row, name) for name in KEY): row for row in rows}.values())


def unmeasured(planned: Iterable[GpuRow], rows: Iterable[GpuRow]) -> list[GpuRow]:
    """The planned rows that no measured row, of whatever card, stands for."""
    have = {tuple(getattr(row, name) for name in KEY[:-1]) for row in rows}
    return [row for row in planned if tuple(getattr(row, name) for name in KEY[:-1]) not in have]


def measured(seconds: Sequence[float], units: float, flop: float, **rest) -> GpuRow:
    """A row from the seconds of each round. units: done in one round; flop: matrix work of one round."""
    median = table.quantile(seconds, 0.5)
    return GpuRow(
        seconds=median,
        p20=table.quantile(seconds, 0.2),
        p80=table.quantile(seconds, 0.8),
        rate=units / median,
        tflops=flop / median / 1e12 if flop else None,
        **rest,
    )


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _scaled(value: float) -> str:
    for size, letter in _UNITS:
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"
