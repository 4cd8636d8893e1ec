"""Projections: clouds on a plane, by principal components or so that neighbours stay together."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np

from apps.viewer.clouds import ROOM, Cloud, spread
from apps.viewer.collection import Part, grown_rows

Progress = tuple[str, float]  # what is being done, and the share of it that is done

COMPONENTS = "Finding the principal components"
COVARIANCE = 2048  # numbers of a point up to which the axes are those of all fields
MOST_NEAR, NEAR_COMPONENTS = 3000, 50  # fields, and numbers of each, where neighbours are to stay together
PERPLEXITY, NEIGHBOURS = 30.0, 15
PIECES, STEPS = 4, 250  # of the descent of t-SNE
EXAGGERATION, LARGER = 12.0, 4.0  # of the first one; steps of the others: each begins anew, with little momentum


@dataclass(frozen=True, eq=False)
class FlatMap:
    """Fields `rows` (n,) of a part at `places` (n, 2), float32: x to the right, y upwards.

    total: fields that the part had then; num_bad: left out, as their weights are not finite; note: how they came there.
    """

    part: Part
    rows: np.ndarray
    places: np.ndarray
    total: int
    num_bad: int
    note: str

    def at(self, part: Part) -> "FlatMap":
        """The same fields at the rows where they stand now that the part has grown."""
        return self if part is self.part else replace(self, part=part, rows=grown_rows(self.part, part)[self.rows])


Projecting = Generator[Progress, None, FlatMap]


def pca(cloud: Cloud) -> Projecting:
    """The two directions in which the points vary most."""
    places, shares, num_fitted = yield from components(cloud, 2)
    note = f"the axes hold {percent(shares[0])} and {percent(shares[1])} of the variance"
    if num_fitted < len(cloud):
        note += f" of {num_fitted:,} fields"
    return FlatMap(cloud.part, cloud.rows, places, len(cloud.part), cloud.num_bad, note)


def tsne(cloud: Cloud) -> Projecting:
    """t-SNE of the first components of some fields. Van der Maaten and Hinton, "Visualizing data using t-SNE", 2008."""
    from sklearn.manifold import TSNE

    rows, near = yield from _some(cloud)
    places, perplexity = _start(near), max(1.0, min(PERPLEXITY, (len(near) - 1) / 3))
    rate = max(len(near) / EXAGGERATION / 4, 50.0)
    for piece in range(PIECES if len(near) > 2 else 0):
        yield (
            f"t-SNE of {len(near):,} fields",
            piece / PIECES,
        )  # a descent of its own each, so that it may be dropped in between
        places = TSNE(
            init=places,  # pyright: ignore[reportArgumentType]
            perplexity=perplexity,
            early_exaggeration=1.0 if piece else EXAGGERATION,
            learning_rate=rate * (LARGER if piece else 1.0),  # pyright: ignore[reportArgumentType]
            max_iter=STEPS,
            random_state=0,
        ).fit_transform(near)
    return _of_some(cloud, rows, places, "t-SNE")


def umap(cloud: Cloud) -> Projecting:
    """UMAP of the first components of some fields. McInnes, Healy and Melville, "UMAP", 2018."""
    from umap import UMAP  # type: ignore[import-not-found]

    rows, near = yield from _some(cloud)
    yield f"UMAP of {len(near):,} fields", 0.0
    places = _start(near)
    if len(near) > 3:
        found = UMAP(n_neighbors=min(NEIGHBOURS, len(near) - 1), init=places, random_state=0, n_jobs=1)
        places = found.fit_transform(near)
    return _of_some(cloud, rows, np.asarray(places), "UMAP")


def methods() -> dict[str, Callable[[Cloud], Projecting]]:
    """Projections by name; UMAP only where it is installed."""
    return {"PCA": pca, "t-SNE": tsne, **({"UMAP": umap} if find_spec("umap") else {})}


def components(cloud: Cloud, count: int) -> Generator[Progress, None, tuple[np.ndarray, np.ndarray, int]]:
    """Points on their first principal components: float32 (n, count), zeros where there are fewer.

    Also the shares of the variance (count,), and of how many fields: where points have more than COVARIANCE numbers,
    the axes are those of as many fields, spread evenly. Each axis points to where its largest number is positive.
    """
    axes, mean, shares, num_fitted = yield from _axes(cloud, count)
    places = np.zeros((len(cloud), count), np.float32)
    for here, points in cloud.pieces():
        places[here, : len(axes)] = (points - mean) @ axes.T
        yield COMPONENTS, here.stop / len(cloud)
    return places, shares, num_fitted


def _axes(cloud: Cloud, count: int) -> Generator[Progress, None, tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """Axes (k, dim), k <= count, the mean (dim,), shares of the variance (count,), and of how many fields."""
    from scipy.linalg import eigh

    if cloud.dim <= COVARIANCE:
        points, num_fitted = None, len(cloud)
        mean = np.zeros(cloud.dim)
        for _, piece in cloud.pieces():
            mean += piece.sum(axis=0, dtype=np.float64) / len(cloud)
            yield COMPONENTS, 0.0
        square = np.zeros((cloud.dim, cloud.dim))
        for _, piece in cloud.pieces():
            apart = piece - mean.astype(np.float32)
            square += apart.T @ apart
            yield COMPONENTS, 0.0
    else:
        points = cloud.at(spread(len(cloud), min(COVARIANCE, max(1, ROOM // cloud.dim))))
        num_fitted, mean = len(points), points.mean(axis=0, dtype=np.float64)
        points = points - mean.astype(np.float32)
        square = (points @ points.T).astype(np.float64)
        yield COMPONENTS, 0.0
    total, size = float(np.trace(square)), len(square)
    values, vectors = eigh(square, subset_by_index=(max(0, size - count), size - 1))
    is_real = values[::-1] > 1e-12 * total
    axes, values = vectors.T[::-1][is_real], values[::-1][is_real]
    if points is not None:
        axes = (axes @ points) / np.sqrt(values)[:, None]
    if len(axes):
        axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    shares = np.zeros(count)
    shares[: len(values)] = values / total if total > 0 else 0.0
    return axes.astype(np.float32), mean.astype(np.float32), shares, num_fitted


def _some(cloud: Cloud) -> Generator[Progress, None, tuple[np.ndarray, np.ndarray]]:
    """Rows of some fields, spread evenly, and their first components."""
    near, _, _ = yield from components(cloud, min(NEAR_COMPONENTS, max(2, cloud.dim)))
    chosen = spread(len(cloud), MOST_NEAR)
    return cloud.rows[chosen], near[chosen]


def _start(near: np.ndarray) -> np.ndarray:
    """The first two components, as small as descents want them."""
    first = near[:, :2]
    return first / (float(first[:, 0].std()) or 1.0) * 1e-4


def _of_some(cloud: Cloud, rows: np.ndarray, places: np.ndarray, name: str) -> FlatMap:
    note = f"{name} of their first {min(NEAR_COMPONENTS, cloud.dim)} principal components"
    return FlatMap(cloud.part, rows, places.astype(np.float32), len(cloud.part), cloud.num_bad, note)


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.1f} %"
