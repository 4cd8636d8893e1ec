"""Benchmark rows: what one measurement says, as CSV that only grows and as a table for people."""

import csv
import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """One side on one spec.

    us_per_field_step: median over rounds, microseconds of wall time per field and optimizer step, p20 and p80 its
    quantiles; ratio: median over rounds of this side's time / the native side's (None without the native side);
    gflops: matrix work per second; sgemm_gflops: a 2048 x 2048 float32 matrix product in the same rounds; share:
    median over rounds of gflops / sgemm_gflops; cores: CPU seconds / wall seconds while it was timed, at most
    `threads` when the limit holds, clearly less when other work took the cores.
    """

    spec: str
    points: int
    threads: int
    side: str
    us_per_field_step: float
    p20: float
    p80: float
    ratio: float | None
    gflops: float
    sgemm_gflops: float
    share: float
    cores: float
    fields: int
    rounds: int
    date: str
    cpu: str
    versions: str

    def to_json(self) -> dict:
        """Return plain JSON values."""
        return asdict(self)


KEY = ("spec", "points", "threads", "side")


def parse_dims(spec: str) -> tuple[int, ...]:
    """Read '2-32-32-1' as (2, 32, 32, 1). Raises ValueError for anything but three or more positive numbers."""
    parts = spec.split("-")
    if len(parts) < 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"spec={spec!r}: expected widths such as 2-32-32-1")
    return tuple(int(part) for part in parts)


def parse_case(spec: str, points: int) -> tuple[int, ...]:
    """Read the widths of fields over a square picture of so many points.

    Raises ValueError for widths that are none or not over two coordinates, and for points that are no square.
    """
    dims = parse_dims(spec)
    if dims[0] != 2:
        raise ValueError(f"spec={spec!r}: expected two coordinates, as in 2-32-32-1")
    if points < 1 or math.isqrt(points) ** 2 != points:
        raise ValueError(f"points={points}: expected a square number, such as 784 for 28 x 28")
    return dims


def flop_per_point(dims: Sequence[int]) -> int:
    """Matrix work of one training step for one point: 2 * 3 * MACs, less the first layer's input gradient.

    6,592 for 2-32-32-1. Sines, losses and the optimizer are not counted, so that no side gains by doing more of them.
    """
    macs = sum(a * b for a, b in pairwise(dims))
    return 6 * macs - 2 * dims[0] * dims[1]


def quantile(values: Iterable[float], q: float) -> float:
    """Quantile of a few numbers by linear interpolation, q in [0, 1]."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def append_csv(path: Path, rows: Sequence[Row]) -> None:
    """Append rows, with a header if the file is new. Raises ValueError when the file has other columns."""
    append_records(path, columns(Row), [row.to_json() for row in rows])


def columns(kind: type) -> list[str]:
    """Names of the columns under which rows of a dataclass are saved."""
    return [field.name for field in fields(kind)]


def check_appendable(path: Path, names: list[str]) -> None:
    """Raise ValueError unless records under these columns can be appended: to be asked before they are measured."""
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"out={str(path.parent)!r}: {above} is a file, expected a folder")
    if path.exists() and _header(path) != names:
        raise ValueError(f"{path} has columns {_header(path)}: expected {names}")


def append_records(path: Path, names: list[str], records: Sequence[dict[str, Any]]) -> None:
    """Append records under columns, with a header if the file is new. Raises ValueError for a file of other columns."""
    check_appendable(path, names)
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(records)


def read_csv(path: Path) -> list[Row]:
    """Read rows that `append_csv` wrote."""
    text = ("spec", "side", "date", "cpu", "versions")
    whole = ("points", "threads", "fields", "rounds")
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for record in csv.DictReader(file):
            values: dict = {name: record[name] for name in text} | {name: int(record[name]) for name in whole}
            others = [f.name for f in fields(Row) if f.name not in values]
            values |= {name: float(record[name]) if record[name] else None for name in others}
            rows.append(Row(**values))
    return rows


def latest(rows: Iterable[Row]) -> list[Row]:
    """Keep the last row of every (spec, points, threads, side), in order of first appearance."""
    return list({tuple(getattr(row, name) for name in KEY): row for row in rows}.values())


HEADER = ("spec", "points", "threads", "side", "us/field-step", "p20-p80", "ratio", "GFLOP/s", "of sgemm", "cores")


def cells(row: Row) -> tuple[str, ...]:
    """One row as text, in the order of HEADER."""
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    return (
        row.spec,
        f"{row.points:,}",
        str(row.threads),
        row.side,
        f"{row.us_per_field_step:,.1f}",
        f"{row.p20:,.1f}-{row.p80:,.1f}",
        ratio,
        f"{row.gflops:.1f}",
        f"{row.share:.0%}",
        f"{row.cores:.2f}",
    )


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table of rows."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|--:|--:|---|--:|--:|--:|--:|--:|--:|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def now() -> str:
    """The time of a measurement: UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")


def cpu_name() -> str:
    """Model name and number of cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {usable_cores()} cores"


def usable_cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*packages: str) -> str:
    """Python and installed packages: 'python 3.11.7, torch 2.13.0, jax 0.10.2'."""
    found = [f"python {platform.python_version()}"]
    for name in packages:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
