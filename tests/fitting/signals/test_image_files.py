import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitting import images


def write_idx(path: Path, array: np.ndarray) -> Path:
    head = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:
        file.write(head + array.tobytes())
    return path


def test_archive_gives_each_part_with_labels_classes_and_its_own_ids(archive):
    stored = np.load(archive)
    train, test = images.load(archive, "train"), images.load(archive, "test")
    assert np.array_equal(train.pixels[..., 0], stored["x_train"])
    assert np.array_equal(test.pixels[..., 0], stored["x_test"])
    assert train.pixels.dtype == np.uint8
    assert train.labels is not None
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == [0, 1, 2] * 3
    assert train.ids.dtype == test.ids.dtype == np.uint32
    assert train.ids.tolist() == list(range(9))
    assert test.ids.tolist() == [2**30 + i for i in range(4)]
    assert train.describe() == {
        "kind": "image",
        "shape": [6, 5],
        "channels": 1,
        "source": "set.npz",
        "split": "train",
        "classes": ["a", "b", "c"],
        "sha256": hashlib.sha256(train.pixels.tobytes()).hexdigest(),
    }


def test_without_a_split_the_training_part_is_taken_and_named(archive):
    signals = images.load(archive)
    assert signals.split == "train"
    assert len(signals) == 9


def test_limit_takes_the_first_and_keeps_their_ids(archive):
    whole, part = images.load(archive, "test"), images.load(archive, "test", limit=3)
    assert np.array_equal(part.pixels, whole.pixels[:3])
    assert np.array_equal(part.ids, whole.ids[:3])
    assert part.names == whole.names[:3]
    assert len(images.load(archive, limit=1000)) == 9


def test_keys_name_arrays_and_known_pairs_bring_their_labels(archive):
    named = images.load(archive, x_key="x_test", y_key="y_test")
    paired = images.load(archive, x_key="x_test")
    for signals in (named, paired):
        assert signals.labels is not None
        assert signals.labels.tolist() == [0, 0, 0, 0]
        assert signals.split == "test"
        assert signals.ids[0] == 2**30


@pytest.mark.parametrize(
    ("x", "y"), [("images", "labels"), ("X", "y"), ("train_images", "train_labels"), ("imgs", None)]
)
def test_usual_names_of_arrays_are_found(random_bytes, tmp_path, x, y):
    pixels, labels = random_bytes(3, 4, 4, 3), np.array([[2], [0], [1]])
    arrays: dict[str, Any] = {x: pixels} if y is None else {x: pixels, y: labels}
    np.savez(tmp_path / "a.npz", **arrays)
    signals = images.load(tmp_path / "a.npz", x_key=None if y else x)
    assert np.array_equal(signals.pixels, pixels)
    assert (None if signals.labels is None else signals.labels.tolist()) == (None if y is None else [2, 0, 1])


def test_unknown_keys_and_parts_are_refused_with_the_keys_there_are(refused, archive):
    refused("x_key='foo': .* has no such array; it has classes, x_test, x_train, y_test, y_train", archive, x_key="foo")
    refused("y_key='bar': .* it has classes, x_test", archive, y_key="bar")
    refused("split='val': .* has none of x_val, .*it has classes, x_test", archive, "val")
    refused("split='dev': expected one of train, test, val", archive, "dev")


def test_labels_of_another_length_or_kind_are_refused(refused, tmp_path):
    pixels = np.zeros((3, 4, 4), np.uint8)
    np.savez(tmp_path / "short.npz", x=pixels, y=np.zeros(2, np.int64))
    refused(r"short.npz\['y'\] has shape \(2,\): expected one label for each of the 3", tmp_path / "short.npz", limit=1)
    np.savez(tmp_path / "float.npz", x=pixels, y=np.zeros(3))
    refused("dtype float64: expected integers", tmp_path / "float.npz")


def test_objects_and_broken_archives_are_refused(refused, tmp_path):
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}, None], dtype=object))
    refused(r"objects.npz\['x'\] is not a plain array", tmp_path / "objects.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not really")
    refused("broken.npz': not a readable .npz archive", tmp_path / "broken.npz")
    for name, content in (("text.npz", b"hello"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        refused(f"{name}': not a readable .npz archive", tmp_path / name)
    np.savez_compressed(tmp_path / "flipped.npz", x=np.arange(4 * 30 * 30, dtype=np.uint8).reshape(4, 30, 30))
    content = bytearray((tmp_path / "flipped.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(content)
    refused("flipped.npz': not a readable .npz archive", tmp_path / "flipped.npz")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_bring_the_labels_beside_them(refused, random_bytes, tmp_path, suffix):
    pixels, labels = random_bytes(5, 7, 6), random_bytes(5)
    path = write_idx(tmp_path / f"t10k-images-idx3-ubyte{suffix}", pixels)
    assert images.load(path).labels is None
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels)
    signals = images.load(path, limit=4)
    assert np.array_equal(signals.pixels[..., 0], pixels[:4])
    assert signals.labels is not None
    assert signals.labels.tolist() == labels[:4].tolist()
    assert (signals.split, signals.ids[0]) == ("test", 2**30)
    assert np.array_equal(images.load(tmp_path, "test").pixels[..., 0], pixels)
    refused("split='train': t10k-images.* is named as the test part", path, "train")


def test_idx_files_that_lie_are_refused(refused, random_bytes, tmp_path):
    pixels = random_bytes(5, 7, 6)
    whole = write_idx(tmp_path / "train-images-idx3-ubyte", pixels).read_bytes()
    short = tmp_path / "short-images-idx3-ubyte"
    short.write_bytes(whole[:-1])
    refused("holds 209 values, its header promises 210", short)
    short.write_bytes(b"\x89PNG" + whole)
    refused("header 89504e47 is not that of an idx3 file", short)
    packed = tmp_path / "cut-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(whole)[:40])
    refused("not a readable idx file", packed)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(4, np.uint8))
    refused("train-labels-idx1-ubyte has shape .4,.: expected one label for each of the 5", tmp_path, "train", limit=2)
