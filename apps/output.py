"""What a person reads on stdout: aligned facts, small tables, the next command; and the same figures as JSON."""

import json
import math
import re
import shlex
import sys
from collections.abc import Sequence

import numpy as np

FACT_WIDTH = 10  # so that the facts of one command line up although they are printed one after another
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?%?|nan|inf")


class Output:
    """Prints lines unless quiet, and collects every figure for the JSON line at the end."""

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.figures: dict[str, object] = {}

    def say(self, text: str = "") -> None:
        """Print one line."""
        if not self.quiet:
            print(text, flush=True)

    def facts(self, rows: Sequence[tuple[str, object]]) -> None:
        """Print names and values in two aligned columns; rows whose value is None are left out."""
        kept = [(name, value) for name, value in rows if value is not None]
        width = max([FACT_WIDTH, *(len(name) for name, _ in kept)])
        for name, value in kept:
            self.say(f"  {name:<{width}}  {value}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table: columns of numbers right-aligned, others, and the first one, left-aligned."""
        cells = [[str(cell) for cell in row] for row in rows]
        widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
        text = [i == 0 or not all(NUMBER.fullmatch(row[i]) for row in cells) for i in range(len(header))]
        for row in [list(header), *cells]:
            columns = [
                f"{cell:<{w}}" if left else f"{cell:>{w}}" for cell, w, left in zip(row, widths, text, strict=True)
            ]
            self.say("  " + "  ".join(columns).rstrip())

    def record(self, **figures: object) -> None:
        """Keep figures for the JSON line."""
        self.figures.update(figures)

    def next(self, *commands: Sequence[object]) -> None:
        """Print commands that a person may want now, quoted so that they can be pasted."""
        for number, words in enumerate(commands):
            self.say(("next:  " if number == 0 else "       ") + shlex.join(str(word) for word in words))

    def close(self) -> None:
        """Print the JSON line when it was asked for."""
        if self.as_json:
            print(json.dumps(plain(self.figures), allow_nan=False), flush=True)


def plain(value: object) -> object:
    """Turn arrays, NumPy numbers and paths into JSON values; NaN and infinities become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def psnr_figures(psnr: np.ndarray) -> dict[str, float]:
    """Mean, median and 5th percentile of per-field PSNR in dB, with the names used everywhere; empty without fields."""
    if len(psnr) == 0:
        return {}
    values = psnr.astype(np.float64)
    return {
        "psnr_mean": float(values.mean()),
        "psnr_median": float(np.median(values)),
        "psnr_p5": float(np.percentile(values, 5)),
    }


def psnr_line(figures: dict[str, float]) -> str | None:
    """The same as text: '41.20 dB mean, 41.00 median, 37.51 at the 5th percentile'; '41.20 dB' where all are equal."""
    if not figures:
        return None
    mean, median, p5 = (figures[f"psnr_{name}"] for name in ("mean", "median", "p5"))
    if mean == median == p5:
        return f"{mean:.2f} dB"
    return f"{mean:.2f} dB mean, {median:.2f} median, {p5:.2f} at the 5th percentile"


def duration(seconds: float) -> str:
    """Seconds for people: '0.42 s', '38 s', '4 min 10 s', '2 h 05 min'."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def file_size(num_bytes: int) -> str:
    """Bytes for people: '812 B', '4.6 MB'."""
    size = float(num_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def sparkline(values: np.ndarray, bins: int = 24) -> str:
    """A histogram in one line of blocks, or '' where stdout cannot print them."""
    marks = " ▁▂▃▄▅▆▇█"
    try:
        marks.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ""
    counts, _ = np.histogram(values, bins=bins)
    heights = np.ceil(counts / max(1, counts.max()) * (len(marks) - 1)).astype(int)
    return "".join(marks[height] for height in heights)
