"""Loss barriers between pairs of fields before and after alignment: a table, curves, and pictures of the midpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.output import Output
from apps.pictures import FAINT, INK

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields import FieldBatch

SHARES = 11  # points of a path, both ends among them
AT_ONCE = 32  # pairs evaluated together
DRAWN = 12
COLOURS = {"before": "#8a8a90", "permutation": "#c2703d", "exact": "#2f6f9f"}
OTHER_COLOUR = "#4f8a4f"


@dataclass(frozen=True, eq=False)
class Paths:
    """What was measured on P pairs along T points of every path, and the fields.

    excess: name -> loss less the line between the losses of the ends (P, T); distance: name -> squared distance of all
    parameters (P,); ends: mean loss of the ends; flat: mean loss of the best constant.
    """

    reference: "FieldBatch"
    moved: Mapping[str, "FieldBatch"]
    excess: Mapping[str, np.ndarray]
    distance: Mapping[str, np.ndarray]
    ends: float
    flat: float


def measure(reference: "FieldBatch", moved: Mapping[str, "FieldBatch"], coords: "Tensor") -> Paths:
    """Walk from every reference to its field as moved in each way; coords (B, I), everything in float64.

    The loss of a field is the mean squared error, over coordinates and channels, against the mean of what the
    reference and the field show: the signal itself is not in a store, and the two ends then have the same loss.
    """
    import torch

    from neuralfields.evaluate import evaluate
    from wsnets.align import barrier, distance

    count, ends, flat = len(reference), [], []
    excess: dict[str, list[Tensor]] = {name: [] for name in moved}
    with torch.no_grad():
        for start in range(0, count, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            a = reference[part].to(torch.float64)
            shown = [evaluate(x.to(torch.float64), coords) for x in (a, next(iter(moved.values()))[part])]
            target = (shown[0] + shown[1]) / 2

            def loss(fields: "FieldBatch", target: "Tensor" = target) -> "Tensor":
                return (evaluate(fields, coords) - target).square().mean((1, 2))

            for name, fields in moved.items():
                excess[name].append(barrier(a, fields[part].to(torch.float64), loss, SHARES)[0])
            ends.append(loss(a))
            flat.append((target - target.mean(1, keepdim=True)).square().mean((1, 2)))
    return Paths(
        reference,
        moved,
        {name: torch.cat(rows).numpy() for name, rows in excess.items()},
        {name: distance(fields, reference).numpy() for name, fields in moved.items()},
        float(torch.cat(ends).mean()),
        float(torch.cat(flat).mean()),
    )


def show(paths: Paths, output: Output) -> None:
    """Print and record the table."""
    found = figures(paths)
    header = ("moved by", "midpoint", "largest", "median midpoint", "of permutation", "squared distance")
    names = ("midpoint", "largest", "median", "of_permutation", "distance")
    rows = [(name, *("-" if row[key] is None else f"{row[key]:.4f}" for key in names)) for name, row in found.items()]
    output.facts([("barriers", f"{len(paths.reference):,} pairs; loss: MSE to the mean of what both ends show")])
    output.table(header, rows)
    output.facts([("for scale", f"loss of the ends {paths.ends:.5f}, of the best constant {paths.flat:.4f}")])
    curves = {name: rows.mean(0).tolist() for name, rows in paths.excess.items()}
    output.record(pairs=len(paths.reference), barriers=found, curves=curves)
    output.record(loss_of_ends=paths.ends, loss_of_constant=paths.flat)


def figures(paths: Paths) -> dict[str, dict[str, float | None]]:
    """Per way of moving: mean barrier at the midpoint and largest of each path, median and share of permutation's."""
    middle = SHARES // 2
    base = float(paths.excess["permutation"][:, middle].mean()) if "permutation" in paths.excess else 0.0
    return {
        name: {
            "midpoint": float(rows[:, middle].mean()),
            "largest": float(rows.max(1).mean()),
            "median": float(np.median(rows[:, middle])),
            "of_permutation": float(rows[:, middle].mean()) / base if base > 0 else None,
            "distance": float(paths.distance[name].mean()),
        }
        for name, rows in paths.excess.items()
    }


def draw_curves(path: Path, paths: Paths) -> None:
    """Draw the mean excess loss along the path, a band between the quartiles of pairs, one colour for each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    shares = np.linspace(0, 1, SHARES)
    for name, rows in paths.excess.items():
        colour = COLOURS.get(name, OTHER_COLOUR)
        low, high = np.quantile(rows, (0.25, 0.75), axis=0)
        axes.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(shares, rows.mean(0), color=colour, marker="o", markersize=3, label=name)
    axes.axhline(paths.flat, color=FAINT, linewidth=0.8, linestyle=":", label="loss of the best constant")
    axes.set_xlabel("share of the moved field")
    axes.set_ylabel("loss above the line between the ends")
    axes.set_title(f"Straight paths between {len(paths.reference):,} pairs of fits", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)


def draw_midpoints(path: Path, paths: Paths, shape: tuple[int, int]) -> None:
    """Draw some pairs, both ends and the midpoint after each way of moving."""
    from apps.edit import spread
    from neuralfields.render import image
    from neuralfields.render.sheet import save_png, sheet
    from wsnets.align import lerp

    rows = spread(len(paths.reference), DRAWN).tolist()
    a = paths.reference[rows]
    pictures: list[Any] = [image(a, shape), image(next(iter(paths.moved.values()))[rows], shape)]
    pictures += [image(lerp(a, fields[rows], 0.5), shape) for fields in paths.moved.values()]
    headers = ["reference", "field", *paths.moved]
    save_png(path, sheet(pictures, headers=headers, title="Midpoints of the straight path between two fits"))
