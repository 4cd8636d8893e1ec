"""How well a classifier does: accuracy, confusion, and figures for each class, in plain numpy.

Legend: N fields, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Evaluation:
    """Result on labelled fields.

    accuracy in [0, 1]; confusion (K, K): rows true, columns predicted; per_class: list of {label, precision, recall,
    f1, count}; loss: mean negative log-likelihood in nats; predictions, labels (N,) int64; classes: K names.
    """

    accuracy: float
    confusion: np.ndarray
    per_class: list[dict[str, Any]]
    loss: float
    predictions: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pairs (true, predicted): (N,), (N,) -> (K, K) int64. Raises ValueError for a label outside [0, K)."""
    for name, values in (("labels", labels), ("predictions", predictions)):
        if len(values) and not (values.min() >= 0 and values.max() < num_classes):
            raise ValueError(f"{name} range over {values.min()}..{values.max()}: expected 0..{num_classes - 1}")
    pairs = labels.astype(np.int64) * num_classes + predictions.astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(confusion: np.ndarray, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Precision tp/(tp+fp), recall tp/(tp+fn), f1 2tp/(2tp+fp+fn) and count tp+fn of each class; 0 where undefined."""
    hits, predicted, count = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(count, 1)
    f1 = 2 * hits / np.maximum(predicted + count, 1)
    return [
        {"label": name, "precision": float(p), "recall": float(r), "f1": float(f), "count": int(n)}
        for name, p, r, f, n in zip(classes, precision, recall, f1, count, strict=True)
    ]


def assess(probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Evaluation:
    """Compare probabilities (N, K), rows summing to 1, with labels (N,). Raises ValueError without any field."""
    if len(labels) == 0:
        raise ValueError("labels is empty: expected at least one field to evaluate on")
    predictions = probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, predictions, len(classes))
    likelihood = probabilities[np.arange(len(labels)), labels]
    return Evaluation(
        accuracy=float((predictions == labels).mean()),
        confusion=confusion,
        per_class=per_class(confusion, classes),
        loss=float(-np.log(np.maximum(likelihood, 1e-30)).mean()),
        predictions=predictions,
        labels=labels,
        classes=classes,
    )


def format_table(evaluation: Evaluation) -> str:
    """The per-class figures as aligned text, in percent, with the accuracy below."""
    width = max(5, *(len(row["label"]) for row in evaluation.per_class))
    lines = [f"{'class':<{width}}  precision  recall     f1  fields"]
    for row in evaluation.per_class:
        figures = f"{100 * row['precision']:9.1f}  {100 * row['recall']:6.1f}  {100 * row['f1']:5.1f}"
        lines.append(f"{row['label']:<{width}}  {figures}  {row['count']:6d}")
    right = int(np.trace(evaluation.confusion))
    lines.append(f"accuracy {100 * evaluation.accuracy:.2f} % ({right} of {len(evaluation.labels)})")
    return "\n".join(lines)
