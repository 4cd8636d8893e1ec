"""What edited fields are to show: against scipy, in closed form, and refused where it makes no sense."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator

from neuralfields import SIREN, FieldBatch, ReLUField, evaluate
from neuralfields.testing import random_fields
from wsnets.operations import Operation, operation_from_json


@pytest.fixture
def pictures(generator: Generator) -> torch.Tensor:
    return torch.rand(3, 9, 7, 2, generator=generator)


@pytest.mark.parametrize("size", [3, 5])
def test_dilate_and_erode_are_those_of_scipy(pictures: torch.Tensor, size: int):
    # Outside the picture there is nothing: no value there can be the largest, or the smallest.
    for name, reference, outside in (
        ("dilate", ndimage.grey_dilation, -np.inf),
        ("erode", ndimage.grey_erosion, np.inf),
    ):
        ours = Operation(name=name, shape=(9, 7), strength=size).edit(pictures.flatten(1, 2)).view_as(pictures)
        for n in range(3):
            for c in range(2):
                theirs = reference(pictures[n, ..., c].numpy(), size=(size, size), mode="constant", cval=outside)
                np.testing.assert_array_equal(ours[n, ..., c].numpy(), theirs)


def test_contrast_keeps_the_mean_and_stretches(pictures: torch.Tensor):
    grey = 0.4 + 0.2 * pictures
    out = Operation(name="contrast", shape=(9, 7), strength=1.5).edit(grey.flatten(1, 2)).view_as(grey)
    torch.testing.assert_close(out.mean((1, 2)), grey.mean((1, 2)))
    torch.testing.assert_close(out.std((1, 2)), 1.5 * grey.std((1, 2)))


def test_pictures_are_rendered_and_clipped(generator: Generator):
    fields = random_fields(SIREN(2, 1, hidden=(5,)), 2, generator, torch.float32)
    coords, wanted = Operation(name="dilate", shape=(6, 4))(fields, generator)
    assert coords.shape == (24, 2)
    shown = evaluate(fields, coords).clamp(0, 1)
    assert bool((wanted >= shown).all())
    assert 0 <= float(wanted.min()) <= float(wanted.max()) <= 1


def test_inflating_lowers_and_smoothing_keeps_a_plane(generator: Generator):
    spec = ReLUField(3, 1, hidden=(2,))
    # relu(x) - relu(-x) = x: a plane.
    weights = [torch.tensor([[[1.0, 0, 0], [-1.0, 0, 0]]]), torch.tensor([[[1.0, -1.0]]])]
    plane = FieldBatch.from_layers(spec, weights, [torch.zeros(1, 2), torch.zeros(1, 1)])
    coords, lower = Operation(name="inflate", strength=0.25, points=50)(plane, generator)
    torch.testing.assert_close(lower[0, :, 0], coords[:, 0] - 0.25)
    coords, smooth = Operation(name="smooth", points=50)(plane, generator)
    torch.testing.assert_close(smooth[0, :, 0], coords[:, 0], rtol=0, atol=1e-6)


def test_refusals_and_round_trip():
    operation = Operation(name="erode", shape=(5, 6))
    assert operation.strength == 3
    assert operation_from_json(operation.to_json()) == operation
    for options, message in (
        ({"name": "blur"}, "target='blur': expected one of dilate, erode, contrast, inflate, smooth"),
        ({"name": "dilate", "strength": 2.5}, "strength=2.5: expected an odd number of pixels"),
        ({"name": "smooth", "strength": -1.0}, "expected positive"),
    ):
        with pytest.raises(ValueError, match=message):
            Operation(**options)
    with pytest.raises(ValueError, match="target='inflate': expected fields over 3 coordinates, these have 2"):
        Operation(name="inflate").check(2)
    with pytest.raises(ValueError, match=r"expected fields of signed distances \(sdf\), these show occupancy"):
        Operation(name="inflate").check(3, "occupancy")
    Operation(name="inflate").check(3, "sdf")
    Operation(name="smooth").check(3, "occupancy")
    with pytest.raises(ValueError, match="unknown keys \\['size'\\]"):
        operation_from_json({**operation.to_json(), "size": 3})
