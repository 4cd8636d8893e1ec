"""Geometry of fields: shift, rotate, mirror and scale what a field shows, exactly, through its first layer.

f'(x) = f(A x + t)   where   W_1' = W_1 A,   b_1' = b_1 + W_1 t

holds for any activation, since it sees only W_1 (A x + t) + b_1 (w0 multiplies both terms). Public code also shifts
later layers, which the activations between do not allow. What moves in from outside [-1, 1] is what the field has
there, which nobody fitted. Legend: N fields, I coordinates, H units of the first layer.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec


def reparametrise(fields: FieldBatch, matrix: Tensor | None = None, offset: Tensor | None = None) -> FieldBatch:
    """Fields f'(x) = f(A x + t): matrix A (N, I, I), offset t (N, I), or one for all without N; None: 1 and 0.

    Coordinates are the spec's own. Raises ValueError for fields with an encoding, whose first layer does not see the
    coordinates, and for shapes that do not fit.
    """
    _check(fields.spec)
    n, size = len(fields), fields.spec.in_dim
    first, bias = fields.weights[0], fields.biases[0]
    changed = dict(fields.parameters)
    if offset is not None:
        t = _expand("offset", offset, (n, size), first)
        changed["biases.0"] = bias + torch.matmul(first, t.unsqueeze(2)).squeeze(2)
    if matrix is not None:
        changed["weights.0"] = torch.matmul(first, _expand("matrix", matrix, (n, size, size), first))
    return FieldBatch(fields.spec, changed)


def shift(fields: FieldBatch, by: Tensor) -> FieldBatch:
    """Move what fields show by `by`, in coordinates: f'(x) = f(x - by).

    by: (N, I) or (I,), in the spec's order, a side of the domain being 2 long: for pictures (down, right) with axes
    "ij", (right, down) with "xy", which `screen` gives from directions on the screen.
    """
    return reparametrise(fields, offset=-by)


def rotate(fields: FieldBatch, degrees: Tensor, axis: Tensor | None = None) -> FieldBatch:
    """Turn what fields show about the origin: f'(x) = f(R^-1 x).

    degrees: (N,) or one number. Two coordinates: counter-clockwise as a person sees the picture, rows running down,
    whatever the axes of the spec. Three: about axis (N, 3) or (3,), of any length but 0, right-handed. Raises
    ValueError for other coordinates, and for three without an axis or two with one.
    """
    size = fields.spec.in_dim
    if size not in (2, 3) or (axis is None) != (size == 2):
        said = "no axis" if axis is None else "an axis"
        raise ValueError(f"fields have {size} coordinates and {said} is given: expected 2 without or 3 with one")
    angle = torch.deg2rad(degrees.double())
    if axis is None:
        angle = angle if fields.spec.axes == "ij" else -angle  # the two coordinates trade places
        turn = torch.stack(
            [torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], -2
        )
    else:
        turn = _rodrigues(angle, axis.double())
    return reparametrise(fields, matrix=turn.transpose(-1, -2))


def resize(fields: FieldBatch, factor: Tensor) -> FieldBatch:
    """Make what fields show larger by `factor` about the origin: f'(x) = f(x / factor).

    factor: (N, I), one for each coordinate, (N, 1) or one number, positive. Raises ValueError for others.
    """
    if not bool((factor > 0).all()):
        raise ValueError(f"factor={factor.tolist()}: expected positive numbers")
    size = fields.spec.in_dim
    inverse = (1.0 / factor.double()).expand(*factor.shape[:-1], size)
    return reparametrise(fields, matrix=torch.diag_embed(inverse))


def flip(fields: FieldBatch, mirrored: Tensor) -> FieldBatch:
    """Mirror what fields show about the origin: f'(x) = f(S x), S = -1 where `mirrored`, 1 elsewhere, on the diagonal.

    mirrored: (N, I) or (I,) bool, coordinates in the spec's order, as in `shift`. What is seen stays inside [-1, 1].
    """
    return reparametrise(fields, matrix=torch.diag_embed(1.0 - 2.0 * mirrored.double()))


@dataclass(frozen=True)
class Place:
    """Where geometry puts what N fields showed: of f'(x) = f(A x + t), A (N, I, I) and t (N, I), as the first layer of
    `frame`, fields of one hidden layer that is x itself before any change."""

    frame: FieldBatch

    @classmethod
    def still(cls, spec: FieldSpec, count: int, device: torch.device) -> Self:
        """Fields over the coordinates of `spec`, where they were."""
        size = spec.in_dim
        frame = FieldSpec(in_dim=size, out_dim=1, hidden=(size,), axes=spec.axes)
        one = torch.eye(size, dtype=torch.float64, device=device).expand(count, size, size)
        zero = torch.zeros(count, size, dtype=torch.float64, device=device)
        return cls(FieldBatch.from_layers(frame, (one, zero.unsqueeze(1)), (zero, zero[:, :1])))

    def find(self, coords: Tensor) -> Tensor:
        """Where the changed fields show what was at coords (B, I): A^-1 (coords - t), (N, B, I), in coords' dtype."""
        matrix, offset = self.frame.weights[0], self.frame.biases[0]
        moved = coords.to(matrix) - offset.unsqueeze(1)
        return torch.linalg.solve(matrix, moved.transpose(1, 2)).transpose(1, 2).to(coords.dtype)


def screen(spec: FieldSpec, right: Tensor, down: Tensor) -> Tensor:
    """Coordinates (..., 2) of a step to the right and down on the screen, in the order of spec.axes.

    Raises ValueError for a spec over other than two coordinates.
    """
    if spec.in_dim != 2:
        raise ValueError(f"spec has in_dim={spec.in_dim}: expected 2 for a picture")
    return torch.stack([down, right] if spec.axes == "ij" else [right, down], dim=-1)


def _check(spec: FieldSpec) -> None:
    spec.check_dense("reparametrise")
    if spec.encoding is not None:
        name = type(spec.encoding).__name__
        raise ValueError(f"encoding={name}: expected fields without an encoding, whose first layer sees coordinates")


def _expand(name: str, value: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    if value.shape not in (shape, shape[1:]):
        raise ValueError(f"{name} has shape {tuple(value.shape)}: expected {shape} or {shape[1:]}")
    return value.to(like).expand(shape)


def _rodrigues(angle: Tensor, axis: Tensor) -> Tensor:
    """cos(a) 1 + sin(a) [k]_x + (1 - cos(a)) k k^T, k the unit axis: (..., 3, 3)."""
    k = axis / axis.norm(dim=-1, keepdim=True)
    zero = torch.zeros_like(k[..., 0])
    x, y, z = k.unbind(-1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    angle = angle[..., None, None]
    outer = k.unsqueeze(-1) * k.unsqueeze(-2)
    return angle.cos() * torch.eye(3, dtype=k.dtype, device=k.device) + angle.sin() * cross + (1 - angle.cos()) * outer
