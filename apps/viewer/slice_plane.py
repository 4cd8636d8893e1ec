"""SlicePlane: the values of a field on a slice across an axis, as a picture and where it stands in the scene."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from neuralfields import FieldBatch

AXES = {"x": 0, "y": 1, "z": 2}
SPACING = 0.15  # of thin lines, as a share of the limit: none at the round numbers where distances were cut off


@dataclass(frozen=True, eq=False)
class SlicePlane:
    """picture: uint8 (H, W, 3); rotation: (w, x, y, z) that turns a viser image there; position: (3,) of its middle."""

    picture: np.ndarray
    rotation: np.ndarray
    position: np.ndarray


def slice_plane(
    field: "FieldBatch", axis: str, offset: float, level: float, inside: Any, limit: float, resolution: int = 192
) -> SlicePlane:
    """Draw one field's values less the level on a slice through the box: blue inside, a thick line at the level.

    limit: the value of the strongest colours. Raises ValueError for another axis than x, y and z.
    """
    import torch

    from neuralfields.evaluate import evaluate
    from neuralfields.render.slices import slice_picture, slice_points

    points = slice_points(axis, offset, resolution)
    with torch.no_grad():
        values = evaluate(field, points.flatten(0, 1))[0, :, 0] - level
    values = (values if inside == "below" else -values).view(points.shape[:2])
    place = np.zeros(3)
    place[AXES[axis]] = offset
    return SlicePlane(slice_picture(values, limit, SPACING * limit, title=None), rotation(axis), place)


def rotation(axis: str) -> np.ndarray:
    """The rotation (w, x, y, z) of an image that is seen from the positive end of an axis, not mirrored.

    A viser image has its first axis to the right, its second down, its third away from who reads it.
    """
    from viser.transforms import SO3

    from neuralfields.render.slices import VIEWS

    right, up = (sign * np.eye(3)[number] for number, sign in VIEWS[axis])
    return SO3.from_matrix(np.stack([right, -up, np.cross(right, -up)], axis=1)).wxyz
