"""How well fields were edited: errors and pictures, by what fields show and by the images that they were fitted to."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apps.options import ImageOptions

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fitting.signals.image import ImageSignals
    from neuralfields import FieldBatch
    from wsnets import Editor, Operation
    from wsnets.data import Population

WORDS = {"": "to what the fields show", "_image": "to the original images"}


@dataclass(frozen=True)
class Originals:
    """The images that the fields of a population were fitted to, in its order."""

    signals: "ImageSignals"
    places: np.ndarray

    @classmethod
    def of(cls, population: "Population", source: str | None, operation: "Operation") -> "Originals | None":
        """The images at `source`; None where none is named.

        Raises ValueError where there is no image for a field, and for images that are not those that were fitted.
        """
        from apps.render import check_fitted, places, source_images
        from neuralfields import FieldStore
        from wsnets.data import Subset

        if source is None:
            return None
        if not operation.on_pictures:
            raise ValueError(f"beside={source!r} with target={operation.name!r}: expected fields of pictures")
        signals = source_images(population.meta, source, ImageOptions())
        if signals.shape != operation.shape:
            raise ValueError(f"beside={source!r}: has images of {signals.shape}, expected {operation.shape}")
        chosen, store = places(signals, np.asarray(population.groups), source), population
        while isinstance(store, Subset):
            store = store.population
        if isinstance(store, FieldStore):
            check_fitted(store, signals, source, ImageOptions())
        return cls(signals, chosen)

    def __getitem__(self, positions: np.ndarray) -> "Tensor":
        """Images (n, H, W, C) in [0, 1] of the fields at these positions (n,)."""
        return self.signals.values(self.places[positions])


def judge(editor: "Editor", population: "Population", originals: Originals | None = None) -> dict[str, float]:
    """Mean squared errors of edited fields, and of fields left as they are: `mse` and `mse_unedited`, against the
    operation on what the field shows; `mse_image` and `mse_image_unedited`, against that on its original image."""
    import torch

    from wsnets.data import batches

    generator, sums, done = torch.Generator().manual_seed(0), [], 0
    for fields in batches(population):
        positions = np.arange(done, done + len(fields))
        images = None if originals is None else originals[positions]
        sums.append(errors(editor.operation, fields, editor.apply(fields), generator, images))
        done += len(fields)
    return named(np.sum(sums, axis=0) / len(population))


def named(figures: np.ndarray) -> dict[str, float]:
    """Means of `errors` by their names."""
    names = [f"mse{which}{side}" for which in WORDS for side in ("", "_unedited")]
    return dict(zip(names[: len(figures)], figures.tolist(), strict=True))


def error_words(found: dict[str, float], which: str) -> str:
    """'MSE 0.01820 to what the fields show (0.07770 unedited)'."""
    return f"MSE {found[f'mse{which}']:.5f} {WORDS[which]} ({found[f'mse{which}_unedited']:.5f} unedited)"


def errors(
    operation: "Operation",
    before: "FieldBatch",
    after: "FieldBatch",
    generator: "Generator",
    images: "Tensor | None" = None,
) -> np.ndarray:
    """Sums over fields of the mean squared error of edited fields and of fields as they were: against the operation on
    what the fields show, and on their original images where these are given. Shape (2,) or (4,)."""
    from neuralfields.evaluate import evaluate

    coords, wanted = operation(before, generator)
    targets = [wanted] if images is None else [wanted, operation.edit(images.flatten(1, 2))]
    shown = evaluate(after, coords), evaluate(before, coords)
    return np.array([float((side - target).square().mean(dim=(1, 2)).sum()) for target in targets for side in shown])


def contact_sheet(
    path: Path, operation: "Operation", before: "FieldBatch", after: "FieldBatch", images: "Tensor | None" = None
) -> str | None:
    """Draw field, edited field and target side by side, the original image first where there is one, which the target
    then comes from; None for fields that show no pictures."""
    from neuralfields.render import image
    from neuralfields.render.sheet import save_png, sheet

    if not operation.on_pictures:
        return None
    shown = image(before, operation.shape)
    source = shown if images is None else images
    wanted = operation.edit(source.flatten(1, 2)).view_as(shown)
    columns = {"image": images, "field": shown, "edited field": image(after, operation.shape), "target": wanted}
    kept = {name: pictures for name, pictures in columns.items() if pictures is not None}
    title = f"{operation.name} {operation.strength:g}: fields edited by their weights"
    save_png(path, sheet(list(kept.values()), headers=list(kept), title=title))
    return str(path)
