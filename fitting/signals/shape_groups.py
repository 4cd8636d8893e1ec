"""Copies among shapes, whatever their position, size, pose of the whole or triangulation, for grouped splits."""

import hashlib
from collections.abc import Sequence

import numpy as np

from fitting.signals.mesh_files import Geometry
from fitting.signals.mesh_repair import face_normals

NUM_QUANTILES = 16
TOLERANCE = 0.0115


def signature(geometry: Geometry) -> np.ndarray:
    """Return numbers that no similarity transform and hardly any remeshing changes: (18,) float64.

    With r the distances of the surface from its area-weighted centroid and s = sqrt(mean r^2): sqrt(area) / (3 s),
    cbrt(|volume|) / s, and the quantiles (k - 0.5) / 16 of r / s. Osada et al., "Shape distributions", TOG 2002, use
    such distributions for retrieval. Every face counts at its centre: the quantiles of a mesh of few large or long
    faces (a box of 12, a cylinder without rings) do change when it is remeshed. Point clouds count every point alike
    and have no area or volume.
    """
    if geometry.is_cloud:
        centres, weights = geometry.vertices, np.ones(len(geometry.vertices))
        middle = centres.mean(0)
        own = np.zeros(2)
        spread = float(np.sqrt(np.square(centres - middle).sum(1).mean()))
    else:
        _, weights = face_normals(geometry)
        total = weights.sum()
        corners = geometry.vertices[geometry.faces]
        centres = corners.mean(1)
        middle = weights @ centres / total
        a, b, c = (corners[:, i] - middle for i in range(3))
        # The exact second moment over a triangle: area / 12 (|a|^2 + |b|^2 + |c|^2 + |a + b + c|^2).
        squares = sum(np.square(x).sum(1) for x in (a, b, c, a + b + c)) / 12
        spread = float(np.sqrt(weights @ squares / total))
        volume = abs(float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum())) / 6
        own = np.array([np.sqrt(total) / 3, np.cbrt(volume)])
    radius = np.linalg.norm(centres - middle, axis=1)
    order = np.argsort(radius)
    below = np.cumsum(weights[order])
    levels = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES * below[-1]
    quantiles = radius[order][np.minimum(np.searchsorted(below, levels), len(order) - 1)]
    return np.concatenate([own, quantiles]) / spread


def groups(signatures: Sequence[np.ndarray], tolerance: float = TOLERANCE) -> tuple[str, ...]:
    """Return one name per shape, the same for shapes linked by signatures that differ by at most the tolerance.

    Single linkage in the largest difference of any number. Too much is grouped rather than too little: a pair kept
    together costs a split nothing, a copy on both sides makes its result worthless. The name is a hash of the least of
    its members' signatures, so that neither their order nor other groups change it.
    """
    count = len(signatures)
    if not count:
        return ()
    table = np.stack(signatures)
    root = np.arange(count)
    by_first = np.argsort(table[:, 0], kind="stable")  # shapes that differ there by more are never compared
    ends = np.searchsorted(table[by_first, 0], table[by_first, 0] + tolerance, side="right")
    for start, end in enumerate(ends):
        near = by_first[start + 1 : end]
        near = near[np.abs(table[near] - table[by_first[start]]).max(1, initial=0.0) <= tolerance]
        for other in near:
            low, high = sorted((root[by_first[start]], root[other]))
            if low != high:
                root[root == high] = low
    rounded = np.round(table, 3)
    least = {first: min(rounded[root == first].tolist()) for first in np.unique(root)}
    names = {first: hashlib.sha256(np.array(row).tobytes()).hexdigest()[:12] for first, row in least.items()}
    return tuple(names[first] for first in root)
