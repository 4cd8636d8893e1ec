"""Pictures of what latents know: fields and their nearest neighbours, decoded fields, paths between fields."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from neuralfields import FieldBatch
    from wsnets.data import Population
    from wsnets.latents import Embedding

NEIGHBOURS, QUERIES, PAIRS, STEPS, DECODED = 8, 10, 6, 9, 24


def pictured(population: "Population") -> bool:
    """Whether the fields show grey or colour pictures."""
    return population.spec.in_dim == 2 and population.spec.out_dim in (1, 3)


def picture_shape(population: "Population") -> tuple[int, int]:
    """Height and width of the pictures that the fields were fitted to; 28 x 28 where the store does not say."""
    height, width = ((population.meta.get("signal") or {}).get("shape") or (28, 28))[:2]
    return int(height), int(width)


def queries(labels: np.ndarray) -> np.ndarray:
    """Positions of the fields to ask about: the first of each class, or some spread evenly where a label is missing."""
    if len(labels) and (labels >= 0).all():
        return np.unique(labels, return_index=True)[1][:QUERIES]
    return np.unique(np.linspace(0, len(labels) - 1, min(QUERIES, len(labels))).round().astype(np.int64))


def nearest(points: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Positions (M, count) of the nearest to M points of the points (n, D) `among`, by Euclidean distance, in order."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=count).fit(among).kneighbors(points, return_distance=False)


def draw_retrieval(
    path: Path, asked: "Population", points: np.ndarray, known: "Population", among: np.ndarray
) -> np.ndarray:
    """Draw one field of each class and its nearest among the known ones; return their positions (M, neighbours).

    points (N, D) are the vectors of the fields asked about, `among` (n, D) those of the known ones.
    """
    chosen = queries(np.asarray(asked.labels))
    found = nearest(points[chosen], among, min(NEIGHBOURS, len(known)))
    columns = [asked[chosen], *(known[column] for column in found.T)]
    headers = ["field", *(f"{number}" for number in range(1, len(columns)))]
    title = "fields held out, and their nearest training fields by latent"
    _save(path, [_render(column, picture_shape(asked)) for column in columns], headers, title)
    return found


def draw_reconstruction(path: Path, embedding: "Embedding", population: "Population") -> None:
    """Draw some fields beside what their latents decode to."""
    count = min(DECODED, len(population))
    fields = population[np.unique(np.linspace(0, len(population) - 1, count).round().astype(np.int64))]
    decoded = embedding.decode(embedding.encode(fields))
    shape = picture_shape(population)
    _save(path, [_render(side, shape) for side in (fields, decoded)], ["field", "decoded"], None, columns=None)


def draw_interpolation(path: Path, embedding: "Embedding", population: "Population") -> None:
    """Draw paths z(t) = (1 - t) z_a + t z_b between pairs of fields, decoded; the fields themselves at both ends.

    Two fields are needed.
    """
    import torch

    count = min(PAIRS, len(population) // 2)
    places = np.linspace(0, len(population) - 1, 2 * count).round().astype(np.int64)
    ends = [population[side] for side in (places[:count], places[count:])]
    start, end = (embedding.encode(side) for side in ends)
    times = torch.linspace(0.0, 1.0, STEPS)
    shape = picture_shape(population)
    path_pictures = [_render(embedding.decode(torch.lerp(start, end, float(t))), shape) for t in times]
    pictures = [_render(ends[0], shape), *path_pictures, _render(ends[1], shape)]
    headers = ["field", *(f"t = {float(t):.3g}" for t in times), "field"]
    _save(path, pictures, headers, "decoded along the straight line between two latents")


def _render(fields: "FieldBatch", shape: tuple[int, int]) -> "Tensor":
    from neuralfields.render import image

    return image(fields, shape)


def _save(path: Path, pictures: list["Tensor"], headers: list[str], title: str | None, columns: int | None = 1) -> None:
    from neuralfields.render.sheet import save_png, sheet

    save_png(path, sheet(pictures, headers=headers, title=title, columns=columns))
