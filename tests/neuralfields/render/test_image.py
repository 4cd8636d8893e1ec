import numpy as np
import pytest
import torch

from neuralfields import SIREN, FieldBatch, ReLUField, evaluate, inits
from neuralfields.grids import image_coords
from neuralfields.render import image


def fields(spec, count: int = 3) -> FieldBatch:
    return inits.draw(spec, np.arange(count, dtype=np.uint32), seed=0)


def test_picture_is_the_field_at_the_pixels_of_any_resolution():
    spec = SIREN(2, 3, (8,))
    batch = fields(spec)
    for shape in ((4, 7), (9, 2)):
        values = evaluate(batch, image_coords(spec, shape))
        assert torch.equal(image(batch, shape, clip=False), values.reshape(3, *shape, 3))


def test_clip_limits_to_the_unit_interval():
    batch = fields(SIREN(2, 1, (8,), scale=(50.0,)), 20)
    free, clipped = image(batch, (6, 6), clip=False), image(batch, (6, 6))
    assert free.min() < 0.0
    assert free.max() > 1.0
    assert torch.equal(clipped, free.clamp(0.0, 1.0))


def test_rows_are_the_first_axis_of_an_ij_field_and_the_second_of_an_xy_field():
    first_coordinate = [torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0]]])]
    for axes, axis in (("ij", 1), ("xy", 2)):
        spec = ReLUField(2, 1, (1,), axes=axes)
        field = FieldBatch.from_layers(spec, first_coordinate, [torch.ones(1, 1), torch.zeros(1, 1)])
        picture = image(field, (4, 5), clip=False)[..., 0]
        assert (picture.diff(dim=axis) > 0.1).all()
        assert (picture.diff(dim=3 - axis) == 0.0).all()


def test_memory_limit_does_not_change_the_picture():
    batch = fields(SIREN(2, 1, (16, 16)), 5)
    torch.testing.assert_close(image(batch, (40, 40), memory_mb=1), image(batch, (40, 40)), rtol=1e-6, atol=1e-6)


def test_fields_over_three_coordinates_are_refused():
    with pytest.raises(ValueError, match="in_dim=3: expected 2"):
        image(fields(SIREN(3, 1, (8,))), (4, 4))
