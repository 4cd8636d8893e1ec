"""The confusion matrix of a reader as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

INK, FAINT = "#26262a", "#8a8a90"
MOST_NUMBERED = 20  # classes; beyond this the counts in the cells could not be read


def confusion(path: Path, counts: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Draw a confusion matrix (K, K): rows the true class, columns the one read; colour is the share of the row."""
    from matplotlib.figure import Figure

    size = float(np.clip(1.8 + 0.42 * len(classes), 4.2, 12.0))
    figure = Figure(figsize=(size + 0.9, size), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    if len(classes) <= MOST_NUMBERED:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if share[row, column] > 0.5 else INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9)
    ticks = range(len(classes))
    names = [str(name) for name in classes]
    slant = {"rotation": 60, "ha": "right"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(ticks, names, **slant)
    axes.set_yticks(ticks, names)
    axes.set_xlabel("read from the weights")
    axes.set_ylabel("true class")
    axes.set_title(title, fontsize=11, color=INK)
    axes.tick_params(length=0)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("share of the true class", color=FAINT)
    figure.savefig(path)
