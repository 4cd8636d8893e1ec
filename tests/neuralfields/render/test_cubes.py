"""Laws of the table of marching cubes, for all 256 kinds of cell."""

from collections import Counter

import pytest
import torch

from neuralfields.render.cubes import CORNERS, ENDS, march, table

FACES = [{c for c in range(8) if CORNERS[c][axis] == side} for axis in range(3) for side in (0, 1)]


def triangles(case: int) -> list[list[int]]:
    counts, edges = table()
    return edges[case, : counts[case]].tolist()


def on_faces(case: int) -> list[Counter[tuple[int, int]]]:
    """The sides of the triangles of a case that are not shared by two of them, by the face of the cell they lie on."""
    sides = Counter((t[i], t[(i + 1) % 3]) for t in triangles(case) for i in range(3))
    rim = [side for side in sides if side[::-1] not in sides]
    assert all(count == 1 for count in sides.values())
    found = [Counter(s for s in rim if set(ENDS[s[0]]) | set(ENDS[s[1]]) <= face) for face in FACES]
    assert sum(map(len, found)) == len(rim)  # nothing ends within a cell
    return found


@pytest.mark.parametrize("case", range(256))
def test_vertices_lie_on_the_edges_with_one_end_inside(case: int) -> None:
    crossed = {e for e, (a, b) in enumerate(ENDS) if (case >> a ^ case >> b) & 1}
    assert {e for t in triangles(case) for e in t} == crossed


def test_neighbours_cut_the_face_between_them_alike() -> None:
    """Whatever the other four corners are: the sides on a face depend on its corners alone, and run the other way."""
    for axis in range(3):
        bit = 4 >> axis
        by_face: dict[tuple[int, ...], list[Counter]] = {}
        for case in range(256):
            low, high = on_faces(case)[2 * axis : 2 * axis + 2]
            ring = [c for c in range(8) if not c & bit]
            below, above = (tuple(case >> (c | b) & 1 for c in ring) for b in (0, bit))
            moved = Counter((ENDS.index(_shift(b, bit)), ENDS.index(_shift(a, bit))) for a, b in high)
            by_face.setdefault(below, []).append(low)
            by_face.setdefault(above, []).append(moved)
        assert len(by_face) == 16
        assert all(cut == cuts[0] for cuts in by_face.values() for cut in cuts)


def _shift(edge: int, bit: int) -> tuple[int, int]:
    """The ends of an edge of the upper face as the cell above sees them, as its lower face."""
    a, b = ENDS[edge]
    return a & ~bit, b & ~bit


@pytest.mark.parametrize("case", range(256))
def test_no_cut_runs_along_a_face(case: int) -> None:
    """The next cell might make the same cut, and the edge would have four faces."""
    sides = {(t[i], t[(i + 1) % 3]) for t in triangles(case) for i in range(3)}
    cuts = [set(ENDS[a]) | set(ENDS[b]) for a, b in sides if (b, a) in sides]
    assert not any(cut <= face for cut in cuts for face in FACES)


def test_triangles_face_away_from_the_inside() -> None:
    for corner in range(8):
        inside = torch.zeros(1, 8, dtype=torch.bool)
        inside[0, corner] = True
        start, axis, faces = march(torch.arange(8)[None], inside, 8)
        at = torch.tensor(CORNERS, dtype=torch.float32)
        a, b, c = (at[start] + 0.5 * torch.eye(3)[axis])[faces[0]]
        assert torch.linalg.cross(b - a, c - a) @ (a - at[corner]) > 0


def test_no_cells_make_no_faces() -> None:
    none = torch.zeros(0, 8)
    start, axis, faces = march(none.long(), none.bool(), 0)
    assert (len(start), len(axis), tuple(faces.shape)) == (0, 0, (0, 3))
