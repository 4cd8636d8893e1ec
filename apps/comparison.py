"""Several models under the same settings, one table."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from apps.output import Output, duration
from apps.training import MODELS, is_lead, speed

if TYPE_CHECKING:
    from wsnets.network import Network

Row = dict[str, Any]
Config = TypeVar("Config")
_SHARES = ("validation", "test")  # accuracies in [0, 1]
_LEADING = ("test", "validation", "test R2", "validation R2")
_ERRORS = ("test MSE", "validation MSE")


def compare(
    names: str,
    out: str,
    prepare: Callable[[str], Config],
    train: Callable[[str, Config, str], Row],
    output: Output,
) -> list[Row]:
    """Train each named model by `train(name, settings, folder)` and print one table, best first; also as compare.csv
    and .json. prepare: settings of the model called so.

    A model whose training was finished before is not trained again. Raises ValueError for unknown or repeated names,
    and what `prepare` raises for any of them, before the first is trained.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    wrong = [name for name in chosen if name not in MODELS]
    if wrong or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"compare={names!r}: expected different names out of {', '.join(MODELS)}")
    configs = {name: prepare(name) for name in chosen}
    rows: list[Row] = []
    for name, config in configs.items():
        rows.append({"model": name, **train(name, config, str(Path(out) / name))})
        if is_lead():
            write(Path(out), rows)
    rows.sort(key=lambda row: _rank(row), reverse=True)
    if is_lead():
        output.table([*rows[0]], [[show(name, value) for name, value in row.items()] for row in rows])
        write(Path(out), rows)
        output.facts([("out", str(Path(out) / "compare.csv"))])
        output.record(compare=rows, out=out)
    return rows


def measures(network: "Network", out: str) -> Row:
    """What every comparison shows of a training: seconds, fields per second, epochs, parameters; draws its curves."""
    from wsnets.train import plot_history

    training = network.training
    if is_lead():
        plot_history(training, Path(out) / "curves.png")
    return {
        "seconds": training["seconds"],
        "fields/s": speed(training),
        "epochs": training["epochs"],
        "parameters": training["parameters"],
    }


def show(name: str, value: Any) -> str:
    """One cell of the table."""
    if value is None:
        return "-"
    if name in _SHARES:
        return f"{100 * value:.2f}%"
    if name == "seconds":
        return duration(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write(out: Path, rows: list[Row]) -> None:
    """Write the table as compare.csv and compare.json."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "compare.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    (out / "compare.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _rank(row: Row) -> float:
    signs = {**dict.fromkeys(_LEADING, 1.0), **dict.fromkeys(_ERRORS, -1.0)}
    return next((sign * row[name] for name, sign in signs.items() if row.get(name) is not None), 0.0)
