"""How far two populations are from each other, from distances between their members alone, and by Gaussian fits.

Legend: G generated items, R reference items, N items of either of two sets of one size, D numbers of a feature.
"""

import numpy as np


def minimum_matching_distance(distances: np.ndarray) -> float:
    """Mean distance of a reference item to the nearest generated one: mean over r of min over g of d(g, r).

    distances: (G, R), in their own unit; inf where two items cannot be compared. 0 where every reference item is among
    the generated ones; says nothing about generated items that are far from all of them. Achlioptas et al., "Learning
    representations and generative models for 3D point clouds", ICML 2018. Raises ValueError as `check_distances`.
    """
    check_distances("distances", distances)
    return float(distances.min(axis=0).mean())


def coverage(distances: np.ndarray) -> float:
    """Share of reference items that are the nearest one of some generated item: |{argmin_r d(g, r)}| / R, in [0, 1].

    distances: (G, R). A generated item that cannot be compared with any (inf throughout) covers none. Two samples of
    one continuous distribution, G = R, cover about 0.5 to 0.65, and two equal sets of distinct items 1. Achlioptas et
    al., ICML 2018. Raises ValueError as `check_distances`.
    """
    check_distances("distances", distances)
    comparable = np.isfinite(distances).any(axis=1)
    return len(np.unique(distances[comparable].argmin(axis=1))) / distances.shape[1]


def nearest_neighbour_accuracy(within_a: np.ndarray, across: np.ndarray, within_b: np.ndarray) -> float:
    """How well the nearest other item tells which of two sets an item is from, in [0, 1]: 1-NNA.

    Share of all 2 N items whose nearest neighbour, itself left out, is of its own set; where the nearest ones of both
    sets are equally far, half counts, so that exchanging the sets changes nothing. 0.5: the sets cannot be told apart;
    1: they are far apart, or an item cannot be compared with any other (inf throughout) and shows itself by that;
    below 0.5: items of one set are copies of the other's. within_a, within_b: (N, N); across: (N, N), rows of a.
    Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017; Yang et al., "PointFlow", ICCV 2019.
    Raises ValueError as `check_distances`, for sets of different sizes and for fewer than two items in a set.
    """
    for name, matrix in (("within_a", within_a), ("across", across), ("within_b", within_b)):
        check_distances(name, matrix)
        if matrix.shape != (len(across), len(across)) or len(across) < 2:
            raise ValueError(f"{name} has shape {matrix.shape}: expected two sets of one size, from 2, as in across")
    other = np.concatenate([across.min(axis=1), across.min(axis=0)])
    own = np.concatenate([_nearest_other(within_a), _nearest_other(within_b)])
    alone = np.isinf(own) & np.isinf(other)
    return float(np.where(alone, 1.0, np.where(own == other, 0.5, own < other)).mean())


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features, squared, as the FID is: (A, D), (B, D).

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)). The root's trace is the sum of the square roots of the
    eigenvalues of S_a^(1/2) S_b S_a^(1/2), which is symmetric: real also where a covariance is singular. Estimates are
    too high for sets that are small beside D. Heusel et al., "GANs trained by a two time-scale update rule", NeurIPS
    2017. Raises ValueError for sets of fewer than two items, different D or values that are not finite.
    """
    for name, features in (("a", a), ("b", b)):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != a.shape[-1]:
            raise ValueError(f"{name} has shape {features.shape}: expected (N, D), N from 2, the same D in both")
        if not np.isfinite(features).all():
            raise ValueError(f"{name} has NaN or infinite entries: expected finite features")
    (mean_a, cov_a), (mean_b, cov_b) = (_gaussian(features) for features in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0.0)).sum()
    spread = np.trace(cov_a) + np.trace(cov_b) - 2.0 * shared
    return float(np.square(mean_a - mean_b).sum() + max(spread, 0.0))


def check_distances(name: str, distances: np.ndarray) -> None:
    """Raise ValueError unless `distances` is a matrix with entries, none of them negative or NaN."""
    if distances.ndim != 2 or 0 in distances.shape:
        raise ValueError(f"{name} has shape {distances.shape}: expected (G, R), neither of them 0")
    if not (distances >= 0).all():
        raise ValueError(f"{name} has negative or NaN entries: expected zero or more")


def _nearest_other(within: np.ndarray) -> np.ndarray:
    """Distance of every item to the nearest other one of its set: (N,)."""
    others = within.copy()
    np.fill_diagonal(others, np.inf)
    return others.min(axis=1)


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D), float64."""
    features = features.astype(np.float64)
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))
