"""Predictions: what trained readers say of fields: pieces of a population, columns of a part, a picture of one."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.viewer.collection import NO_LABEL, Collection, Part
from apps.viewer.page import Page, font
from apps.viewer.stage import ACCENT, FAINT, INK, LINE, WRONG

if TYPE_CHECKING:
    from neuralfields import FieldBatch, FieldSpec

AT_ONCE = 512  # fields read between two looks at whether it is still wanted
MOST_BARS = 12
WIDTH, ROW, NAMES, NUMBERS = 700, 40, 190, 110  # pixels of the picture of probabilities, twice those of the panel
SIZE = 24  # of its letters

Predict = Callable[["FieldBatch"], np.ndarray]  # fields -> (n, K) probabilities or (n,) numbers
Found = dict[str, tuple[np.ndarray, np.ndarray]]  # part -> rows (n,), what the network says of them (n,) or (n, K)


def read(
    collection: Collection, positions: np.ndarray, spec: "FieldSpec", predict: Predict, found: Found
) -> Iterator[float]:
    """Read fields in pieces, and give the share that is done after each; `found` has all at the end.

    positions: (n,); fields of another spec, or with NaN, are left out. Raises ValueError where none is left.
    """
    import torch

    places = [(part, rows) for part, rows in by_part(collection, positions) if part.spec == spec]
    total, done = sum(len(rows) for _, rows in places), 0
    if not total:
        raise ValueError(f"fields in view: none is {spec.describe()}, which this network reads")
    for part, rows in places:
        kept, said = [], []
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            fields = part.fields[some].to(torch.float32)
            finite = torch.isfinite(fields.flat()).all(dim=1)
            if bool(finite.any()):
                kept.append(some[finite.numpy()])
                said.append(predict(fields[finite]))
            done += len(some)
            yield done / total
        if kept:
            found[part.name] = np.concatenate(kept), np.concatenate(said)


def by_part(collection: Collection, positions: np.ndarray) -> list[tuple[Part, np.ndarray]]:
    """Positions as rows of their parts, in ascending order; parts without any are left out."""
    found, first = [], 0
    for part in collection.parts:
        rows = np.sort(positions[(positions >= first) & (positions < first + len(part))]) - first
        first += len(part)
        if len(rows):
            found.append((part, rows))
    return found


def class_columns(
    part: Part, rows: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Columns prediction, confidence and right (1, 0, NaN without a label) of a part; "" and NaN for other rows."""
    chosen, labels = probabilities.argmax(axis=1), part.columns["label"][rows]
    right = np.where(labels == NO_LABEL, np.nan, (chosen == labels).astype(np.float64))
    names = np.array(classes, object)[chosen]
    return {
        "prediction": spread(part, rows, names, ""),
        "confidence": spread(part, rows, probabilities.max(axis=1).astype(np.float64), np.nan),
        "right": spread(part, rows, right, np.nan),
    }


def value_columns(part: Part, rows: np.ndarray, values: np.ndarray, target: str) -> dict[str, np.ndarray]:
    """Columns "predicted <target>", and error = predicted - true, NaN where the part does not have the target."""
    values = values.astype(np.float64)
    truth = part.columns.get(target, np.full(len(part), np.nan)).astype(np.float64)[rows]
    return {
        f"predicted {target}": spread(part, rows, values, np.nan),
        "error": spread(part, rows, values - truth, np.nan),
    }


def spread(part: Part, rows: np.ndarray, values: np.ndarray, empty: Any) -> np.ndarray:
    """Values of some rows as a column of the whole part."""
    column = np.full(len(part), empty, values.dtype)
    column[rows] = values
    return column


def bars(probabilities: np.ndarray, classes: tuple[str, ...], label: int) -> np.ndarray:
    """Probabilities (K,) as bars, the largest ones and the true one where there are many: uint8 (H, WIDTH, 3).

    The predicted class has a strong colour, that of wrong answers where it is wrong; the true one is written bold.
    """
    chosen = int(probabilities.argmax())
    order = shown_classes(probabilities, label)
    page = Page((ROW * len(order) + 4, WIDTH), (255, 255, 255))
    long = WIDTH - NAMES - NUMBERS
    for row, number in enumerate(order):
        top, share = row * ROW, float(probabilities[number])
        is_true = number == label
        colour = (WRONG if label not in (NO_LABEL, chosen) else ACCENT) if number == chosen else FAINT
        words = page.fit(classes[number], NAMES - (74 if is_true else 20), SIZE)
        page.text(words, top + ROW / 2, NAMES - 16, INK if is_true or number == chosen else FAINT, SIZE, "rm", is_true)
        if is_true:
            page.text("true", top + ROW / 2, NAMES - 28 - font(SIZE, True).getlength(words), FAINT, SIZE - 4, "rm")
        page.box(top + 7, NAMES, ROW - 14, long, LINE)
        page.box(top + 7, NAMES, ROW - 14, round(long * share), colour)
        page.text(percent(share), top + ROW / 2, WIDTH - 2, INK if number == chosen else FAINT, SIZE, "rm")
    return page.array()


def shown_classes(probabilities: np.ndarray, label: int) -> list[int]:
    """Classes that bars are drawn of: all, in their order; of many, the likeliest first and the true one last."""
    count = len(probabilities)
    if count <= MOST_BARS:
        return list(range(count))
    order = np.argsort(-probabilities, kind="stable")[:MOST_BARS].tolist()
    return order if label == NO_LABEL or label in order else [*order[:-1], label]


def percent(share: float) -> str:
    """A probability for people; never 100 % of what is less."""
    return "> 99.9 %" if 0.999 < share < 1 else "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"
