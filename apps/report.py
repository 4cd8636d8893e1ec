"""The report of a demo run: report.json with every figure, report.md for people."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.output import duration, plain, psnr_line
from apps.training import validation_line
from apps.versions import cores, processor, versions

JSON_NAME, MARKDOWN_NAME = "report.json", "report.md"
MOST_CONFUSIONS = 5


def read(path: Path) -> dict[str, Any] | None:
    """Read report.json; None when it is not there or was written by other versions, so that it has to be made anew."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("versions") == versions() else None


def write(out: Path, figures: dict[str, Any]) -> dict[str, Any]:
    """Write report.md, then report.json with figures, versions and machine; return what report.json holds."""
    full = plain({**figures, "versions": versions(), "processor": processor(), "cores": cores()})
    assert isinstance(full, dict)
    _replace(out / MARKDOWN_NAME, markdown(out, full))
    _replace(out / JSON_NAME, json.dumps(full, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return full


def markdown(out: Path, figures: dict[str, Any]) -> str:
    """The report for people."""
    times = figures["times"]
    parts = [
        "# Digits as fields\n",
        f"{figures['fields']:,} digits of 8 x 8 pixels, one field each; a network then read the class of a digit from"
        " the weights of its field, without seeing a pixel.\n",
        _table(
            ("", ""),
            [
                ("test accuracy", f"**{100 * figures['test_accuracy']:.2f} %** of {figures['test_fields']:,} digits"),
                ("validation accuracy", validation_line(figures)),
                ("PSNR of the fields", psnr_line(figures)),
                ("recipe", f"`{figures['recipe']}`, {figures['backend']} backend"),
                ("seed", figures["seed"]),
                ("fields", f"{figures['train_fields']:,} to train on, {figures['test_fields']:,} held out"),
            ],
        ),
        "## Fields\n\n![digits and fields](grid.png)\n",
        "## Reading\n\n![confusion matrix](confusion.png)\n",
        _table(
            ("class", "precision", "recall", "F1", "fields"),
            [
                (row["label"], *(f"{100 * row[name]:.1f} %" for name in ("precision", "recall", "f1")), row["count"])
                for row in figures["per_class"]
            ],
        ),
        _confusions(figures),
        "![digits that were misread](misread.png)\n" if (out / "misread.png").is_file() else "",
        "![training](curves.png)\n",
        "## Time\n",
        _table(("step", "time"), [(name, duration(times[name])) for name in times]),
        f"In all {duration(figures['seconds'])} on {figures['cores']} cores ({figures['processor']}).",
        f" {figures['resumed_fields']:,} fields were there from an earlier run.\n" if figures["resumed_fields"] else "",
        "\n## Versions\n",
        _table(("package", "version"), list(figures["versions"].items())),
    ]
    return "\n".join(part for part in parts if part)


def _confusions(figures: dict[str, Any]) -> str:
    classes = [row["label"] for row in figures["per_class"]]
    pairs = [
        (count, classes[true], classes[read])
        for true, row in enumerate(figures["confusion"])
        for read, count in enumerate(row)
        if true != read and count
    ]
    if not pairs:
        return "None was misread.\n"
    worst = sorted(pairs, key=lambda pair: -pair[0])[:MOST_CONFUSIONS]
    return "Most often misread: " + ", ".join(f"{true} as {read} ({count})" for count, true, read in worst) + ".\n"


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _replace(path: Path, text: str) -> None:
    """Write a file under a temporary name first, so that it exists whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
