"""Marching cubes on a list of cells: which triangles the 256 kinds of cell have, and the mesh of many cells.

Lorensen and Cline, "Marching cubes", SIGGRAPH 1987. Corner c of a cell lies at offset (c >> 2 & 1, c >> 1 & 1, c & 1).
Legend: M cells, V vertices, F faces.
"""

import functools

import numpy as np
import torch
from torch import Tensor

CORNERS = tuple((c >> 2 & 1, c >> 1 & 1, c & 1) for c in range(8))
# (first corner, axis): from there an edge runs to the corner one further along the axis
EDGES = tuple((c, axis) for axis in range(3) for c in range(8) if CORNERS[c][axis] == 0)
ENDS = tuple((c, c | 4 >> axis) for c, axis in EDGES)
_EDGE_OF = {frozenset(ends): edge for edge, ends in enumerate(ENDS)}


def _faces() -> list[tuple[int, ...]]:
    """The corners of the six faces, counter-clockwise seen from outside."""
    found = []
    for axis in range(3):
        first, second = 4 >> (axis + 1) % 3, 4 >> (axis + 2) % 3
        ring = (0, first, first | second, second)
        found.append(tuple(c | 4 >> axis for c in ring))
        found.append(ring[::-1])
    return found


_FACES = _faces()
_FACES_OF = [{f for f, ring in enumerate(_FACES) if set(ends) <= set(ring)} for ends in ENDS]


def _loops(case: int) -> list[list[int]]:
    """Closed loops of edges on which the surface leaves a cell whose corner c is inside where bit c of case is set.

    Each run of inside corners around a face is cut off by a segment of its own: a rule of the face alone, so that the
    cells on its two sides agree also where diagonal corners are inside, and no hole opens.
    """
    after: dict[int, int] = {}
    for ring in _FACES:
        for place in range(4):
            if not case >> ring[place] & 1 or case >> ring[place - 1] & 1:
                continue
            last = place
            while case >> ring[(last + 1) % 4] & 1:
                last += 1
            entry = _EDGE_OF[frozenset((ring[place - 1], ring[place]))]
            leave = _EDGE_OF[frozenset((ring[last % 4], ring[(last + 1) % 4]))]
            after[entry] = leave
    loops = []
    while after:
        loop = [next(iter(after))]
        while after[loop[-1]] != loop[0]:
            loop.append(after[loop[-1]])
        loops.append(loop)
        after = {edge: to for edge, to in after.items() if edge not in loop}
    return loops


def _triangles(loop: list[int]) -> list[tuple[int, int, int]] | None:
    """Cut a loop into triangles without a cut along a face of the cell: the next cell might make it too."""
    if len(loop) < 3:
        return []
    first, last = loop[0], loop[-1]
    for k in range(1, len(loop) - 1):
        cuts = [(first, loop[k])] * (k > 1) + [(loop[k], last)] * (k < len(loop) - 2)
        if any(_FACES_OF[a] & _FACES_OF[b] for a, b in cuts):
            continue
        left, right = _triangles(loop[: k + 1]), _triangles(loop[k:])
        if left is not None and right is not None:
            return [*left, *right, (first, loop[k], last)]
    return None


@functools.cache
def table() -> tuple[np.ndarray, np.ndarray]:
    """Number of triangles (256,) and the edges of their corners (256, T, 3) of every kind of cell, int64.

    Corners run counter-clockwise seen from the side that is outside; unused rows are 0.
    """
    found = []
    for case in range(256):
        cut = [_triangles(loop) for loop in _loops(case)]
        found.append([triangle for triangles in cut for triangle in triangles or ()])
    counts = np.array([len(triangles) for triangles in found], np.int64)
    edges = np.zeros((256, counts.max(), 3), np.int64)
    for case, triangles in enumerate(found):
        if triangles:
            edges[case, : len(triangles)] = triangles
    return counts, edges


def march(corners: Tensor, inside: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vertices and faces of M cells, vertices shared between cells.

    corners (M, 8) int64: ids in [0, count) of the lattice points at the corners of every cell; inside (M, 8) bool.
    Returns the points (V,) int64 that the edges with a vertex start from, the axes (V,) int64 that they run along, and
    faces (F, 3) int64, counter-clockwise from outside. The mesh is closed where every cell with a mixed face has its
    neighbour in the list.
    """
    device = corners.device
    counts, edges = (torch.from_numpy(rows).to(device) for rows in table())
    used = torch.zeros(count * 3, dtype=torch.bool, device=device)
    for (start, axis), (_, end) in zip(EDGES, ENDS, strict=True):
        crossed = inside[:, start] != inside[:, end]
        used[corners[crossed, start] * 3 + axis] = True
    keys = used.nonzero()[:, 0]
    vertex = torch.empty(count * 3, dtype=torch.int64, device=device)
    vertex[keys] = torch.arange(len(keys), device=device)
    bits = 2 ** torch.arange(8, device=device)
    case = (inside * bits).sum(1)
    starts = torch.tensor([start for start, _ in EDGES], device=device)
    axes = torch.tensor([axis for _, axis in EDGES], device=device)
    faces = []
    for place in range(edges.shape[1]):
        rows = (counts[case] > place).nonzero()[:, 0]
        edge = edges[case[rows], place]
        faces.append(vertex[corners[rows].gather(1, starts[edge]) * 3 + axes[edge]])
    return keys // 3, keys % 3, torch.cat(faces)
