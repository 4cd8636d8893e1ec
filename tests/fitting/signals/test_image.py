import numpy as np
import pytest
import torch

from fitting import images
from neuralfields import SIREN
from neuralfields.grids import image_coords


def test_digits_parts_do_not_overlap_and_make_up_the_whole(refused):
    whole, train, test = (images.load("digits", split) for split in (None, "train", "test"))
    assert (len(whole), whole.shape, whole.channels) == (1797, (8, 8), 1)
    assert np.array_equal(np.concatenate([train.pixels, test.pixels]), whole.pixels)
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    assert whole.pixels.max() == 1.0
    for part in (train, test):
        assert part.labels is not None
        assert set(part.labels.tolist()) == set(range(10))
    refused("split='val': 'digits' has train", "digits", "val")


def test_missing_and_unknown_sources(refused, tmp_path):
    refused("missing.npz': no such file", tmp_path / "missing.npz", error=FileNotFoundError)
    refused("source='nosuchname': .*'digits'.*expected one of these", "nosuchname")
    (tmp_path / "a.txt").write_text("text")
    refused("a.txt': expected a folder, an .npz, an idx file, a PNG or a JPEG", tmp_path / "a.txt")
    refused("x_key='x'.*expected an .npz source", "digits", x_key="x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit=0: expected a positive integer"),
        ({"limit": -1}, "limit=-1: expected a positive integer"),
        ({"resize": (1, 8)}, r"resize=\(1, 8\): expected \(H, W\)"),
        ({"split": "all"}, "split='all': expected one of"),
    ],
)
def test_arguments_out_of_range(refused, options, message):
    refused(message, "digits", **options)


def test_values_are_copies_even_of_arrays_that_cannot_be_written(generator):
    pixels = torch.rand(3, 4, 4, generator=generator).numpy()
    pixels.flags.writeable = False
    signals = images.from_array(pixels)
    signals.values(slice(0, 2)).zero_()
    assert np.array_equal(signals.pixels[..., 0], pixels)


def test_targets_follow_the_pixels_of_the_coordinates_and_undo_scale_and_offset(random_bytes):
    signals = images.from_array(random_bytes(4, 3, 5, 3))
    spec = SIREN(2, 3, (8,), offset=(0.5,), scale=(0.5, 1.0, 2.0))
    targets, coords = signals.targets(spec, slice(1, 3)), signals.coords(spec)
    assert targets.shape == (2, 15, 3)
    assert torch.equal(coords, image_coords(spec, (3, 5)))
    values = targets * torch.tensor(spec.scale) + torch.tensor(spec.offset)
    for point, (row, column) in enumerate(coords):
        i, j = round(float((row + 1) / 2 * 3 - 0.5)), round(float((column + 1) / 2 * 5 - 0.5))
        torch.testing.assert_close(values[:, point], signals.values(slice(1, 3))[:, i, j])
    with pytest.raises(ValueError, match="out_dim=1: expected 3, the channels"):
        signals.targets(SIREN(2, 1, (8,)))


def test_selection_keeps_labels_names_and_ids_together(archive):
    signals = images.load(archive, "test")
    for positions in (slice(1, 3), [3, 0], np.array([True, False, False, True])):
        part, rows = signals.select(positions), np.arange(4)[positions]
        assert np.array_equal(part.pixels, signals.pixels[rows])
        assert part.ids.tolist() == [2**30 + row for row in rows]
        assert part.names == tuple(signals.names[row] for row in rows)
        assert torch.equal(part.values(), signals.values(positions))
        assert part.describe() | {"sha256": ""} == signals.describe() | {"sha256": ""}
        assert part.describe()["sha256"] != signals.describe()["sha256"]


def test_an_image_can_be_there_several_times(archive):
    signals = images.load(archive, split="test")
    assert signals.repeated(1) is signals
    several = signals.repeated(3)
    assert len(np.unique(several.ids)) == len(several) == 3 * len(signals)
    assert several.groups is not None
    assert (several.groups == np.repeat(signals.ids, 3)).all()
    assert (several.ids[::3] == signals.ids).all()
    assert (several.pixels[1::3] == signals.pixels).all()
    assert several.names[2::3] == signals.names
    part = several.select(slice(1, 5))
    assert (part.columns()["group"] == several.groups[1:5]).all()
    assert signals.columns() == {}
    for fits in (0, 65):
        with pytest.raises(ValueError, match=f"fits={fits}: expected a whole number from 1 to 64"):
            signals.repeated(fits)
    with pytest.raises(ValueError, match="each there once"):
        several.repeated(2)


def test_signals_check_what_they_are_made_of():
    pixels, ids = np.zeros((2, 4, 4, 1), np.uint8), np.arange(2, dtype=np.uint32)
    with pytest.raises(ValueError, match="names has 1 entries: expected 2"):
        images.ImageSignals(pixels, None, ("a",), ids)
    with pytest.raises(ValueError, match="labels run from 0 to 5: expected 0 to 1"):
        images.ImageSignals(pixels, np.array([0, 5]), ("a", "b"), ids, classes=("x", "y"))
    with pytest.raises(ValueError, match=r"expected \(N, H, W, C\) uint8 or float32"):
        images.ImageSignals(pixels[..., 0], None, ("a", "b"), ids)


def test_real_mnist_stays_bytes(shared_data):
    signals = images.load(shared_data / "mnist.npz", "train")
    assert signals.labels is not None
    assert (len(signals), signals.shape, signals.channels, signals.pixels.dtype) == (60000, (28, 28), 1, np.uint8)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(signals.labels).tolist() == counts


def test_real_colour_images_and_photographs(shared_data):
    cifar = images.load(shared_data / "cifar10.npz", "test", limit=7)
    assert (cifar.pixels.shape, len(cifar.classes or ())) == ((7, 32, 32, 3), 10)
    kodak = images.load(shared_data / "images", grey=True)
    assert (kodak.pixels.shape, kodak.names[0]) == ((4, 512, 768, 1), "kodim03.png")
    assert kodak.labels is None
