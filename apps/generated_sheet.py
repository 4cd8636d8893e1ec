"""Contact sheets of generated fields, a class a row: pictures, or shaded surfaces of shapes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields import FieldBatch, FieldStore
    from wsnets.field_generator import FieldGenerator

ROWS, COLUMNS = 10, 10
SIDE, CELLS = 96, 48  # of a shaded tile in pixels, of the box when its surface is extracted
STEPS = 50
EMPTY = 235  # grey of a field without a surface


class SampleSheets:
    """Draws samples of a generator to one file, every so many times that it is called; 0: never when called."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every, self.calls = path, every, 0

    def __call__(self, generator: "FieldGenerator") -> None:
        self.calls += 1
        if self.every and self.calls % self.every == 0:
            self.draw(generator)

    def draw(self, generator: "FieldGenerator") -> bool:
        """Draw samples now; False where the fields show nothing that can be drawn."""
        labels = balanced(ROWS * COLUMNS, np.arange(min(ROWS, len(generator.classes))))
        if not drawable(generator.generated_spec, generator.signal):
            return False
        fields = generator.generate(len(labels), labels, steps=min(STEPS, generator.diffusion.steps))
        return draw(self.path, fields, labels, generator.signal)


def balanced(count: int, classes: np.ndarray) -> np.ndarray:
    """Class of each of `count` fields, (count,) int64: as many of each as can be, in order; -1 without classes."""
    if len(classes) == 0:
        return np.full(count, -1, np.int64)
    return classes[np.arange(count) * len(classes) // count].astype(np.int64)


def drawable(spec: Any, signal: dict) -> bool:
    """Whether fields are pictures of one or three channels, or shapes whose surface is known."""
    if spec.in_dim == 2:
        return spec.out_dim in (1, 3)
    return spec.in_dim == 3 and "level" in signal


def draw(path: Path, fields: "FieldBatch | FieldStore", labels: np.ndarray, signal: dict) -> bool:
    """Draw some fields, the first ones of each class in a row; False where they show nothing that can be drawn.

    labels: (N,), -1 for none; signal: of the store that the generator was trained on, which says how to draw.
    """
    from neuralfields.render.sheet import save_png, sheet

    if not drawable(fields.spec, signal):
        return False
    rows, columns = arranged(labels)
    chosen = fields[rows]
    pictures = drawn(chosen, signal)
    names, classes = [], signal.get("classes") or []
    for label in labels[rows]:
        names.append("" if label < 0 else str(classes[label]) if label < len(classes) else str(label))
    captions = names if any(names) else None
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, sheet(pictures, columns=columns, captions=captions, scale=None if fields.spec.in_dim == 2 else 1))
    return True


def arranged(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Positions of the fields to draw, and the number of columns: a row a class, all rows of one length."""
    classes = np.unique(labels)
    if len(classes) < 2:
        return np.arange(min(len(labels), ROWS * COLUMNS)), COLUMNS
    columns = min(COLUMNS, *(int((labels == label).sum()) for label in classes[:ROWS]))
    return np.concatenate([np.flatnonzero(labels == label)[:columns] for label in classes[:ROWS]]), columns


def drawn(fields: "FieldBatch", signal: dict) -> "Tensor":
    """Pictures (N, H, W, C) of the fields."""
    import torch

    from neuralfields.render import image

    if fields.spec.in_dim == 2:
        height, width = (signal.get("shape") or (28, 28))[:2]
        return image(fields, (int(height), int(width)))
    from apps.mesh import extract
    from apps.render_shapes import picture

    meshes = extract(fields, CELLS, signal["level"], signal.get("inside", "below"))
    blank = np.full((SIDE, SIDE, 3), EMPTY, np.uint8)
    tiles = [picture(mesh, (SIDE, SIDE), "shaded")[..., :3] if len(mesh.faces) else blank for mesh in meshes]
    return torch.from_numpy(np.stack(tiles).astype(np.float32) / 255)
