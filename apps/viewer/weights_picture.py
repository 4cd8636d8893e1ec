"""Weights of one field as pictures: a histogram for every layer, and how fast its hidden units vary along a line."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from neuralfields import FieldBatch

SIZE = (3.5, 2.0)  # inches of a row, at DPI
DPI = 110
LINE_POINTS = 512
COLOURS = ("#2266cc", "#d1682a", "#2a8c59", "#8d4bb8", "#b8323f", "#5b6470", "#b58a00", "#0f8a94")


def histograms(field: "FieldBatch") -> np.ndarray:
    """Weights and biases of every layer: uint8 (H, W, 3)."""
    layers = [weight[0].flatten().cpu().numpy() for weight in field.weights]
    figure, axes = _figure(len(layers))
    for number, (axis, values) in enumerate(zip(axes, layers, strict=True)):
        bias = field.biases[number][0].flatten().cpu().numpy()
        axis.hist(values, 48, color=COLOURS[0], alpha=0.8, label=f"weights, spread {values.std():.3g}")
        axis.hist(bias, 24, color=COLOURS[1], alpha=0.8, label=f"biases, spread {bias.std():.3g}")
        axis.set_title(f"layer {number + 1}", loc="left", fontsize=8)
        axis.set_yscale("log")
        axis.legend(fontsize=6, frameon=False)
    return _drawn(figure)


def spectrum(field: "FieldBatch") -> np.ndarray:
    """Mean amplitude of hidden units by frequency, along the line through the middle: uint8 (H, W, 3).

    a_l(k) = mean over units of |FFT of h_l(x)| at k cycles over [-1, 1]; the first coordinate varies, others are 0.
    """
    figure, (axis,) = _figure(1)
    for number, values in enumerate(hidden_units(field)):
        amplitude = np.abs(np.fft.rfft(values - values.mean(axis=0), axis=0)).mean(axis=1) / len(values)
        axis.plot(np.arange(1, len(amplitude)), amplitude[1:], color=COLOURS[number % len(COLOURS)], lw=1)
        axis.lines[-1].set_label(f"layer {number + 1}")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_title("amplitude of hidden units by cycles over the box", loc="left", fontsize=8)
    axis.legend(fontsize=6, frameon=False)
    return _drawn(figure)


def hidden_units(field: "FieldBatch") -> list[np.ndarray]:
    """Activations (points, H) of every hidden layer of one field along the first coordinate."""
    import torch

    from neuralfields.evaluate import activate, encode

    coords = torch.zeros(LINE_POINTS, 3 if field.spec.view is not None else field.spec.in_dim)
    coords[:, 0] = torch.linspace(-1, 1, LINE_POINTS)
    with torch.no_grad():
        h = encode(field, coords)
        h, found = h[0] if h.ndim == 3 else h, []
        for layer in range(len(field.weights) - 1):
            h = activate(h @ field.weights[layer][0].T + field.biases[layer][0], field.spec, layer)
            found.append(h.numpy())
    return found


def curve(values: np.ndarray, every: int | None) -> np.ndarray:
    """Loss while a field was fitted: uint8 (H, W, 3). every: steps between two values, None where unknown."""
    figure, (axis,) = _figure(1)
    steps = np.arange(1, len(values) + 1) * (every or 1)
    axis.plot(steps, values, color=COLOURS[0], lw=1.2, marker=".", ms=3)
    axis.set_yscale("log")
    axis.set_title(f"loss by {'step' if every else 'place in the curve'}", loc="left", fontsize=8)
    return _drawn(figure)


def _figure(rows: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0], SIZE[1] * rows), dpi=DPI, layout="constrained")
    axes = [figure.add_subplot(rows, 1, number + 1) for number in range(rows)]
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, lw=0.5)
    return figure, axes


def _drawn(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
