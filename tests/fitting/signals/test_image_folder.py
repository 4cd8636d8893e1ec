from pathlib import Path

import numpy as np
from PIL import Image

from fitting import images


def write_png(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path)
    return path


def test_folder_is_ordered_by_path_and_its_folders_are_the_classes(random_bytes, tmp_path):
    stored = {}
    for name in ("dog/2.png", "cat/b.png", "dog/1.PNG", "cat/deep/a.png"):
        stored[name] = random_bytes(5, 4, 3)
        write_png(tmp_path / name, stored[name])
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "cat" / "._b.png").write_text("not a picture either")
    signals = images.load(tmp_path)
    assert signals.names == ("cat/b.png", "cat/deep/a.png", "dog/1.PNG", "dog/2.png")
    assert np.array_equal(signals.pixels, np.stack([stored[name] for name in signals.names]))
    assert signals.classes == ("cat", "dog")
    assert signals.labels is not None
    assert signals.labels.tolist() == [0, 0, 1, 1]
    part = images.load(tmp_path, limit=3)
    assert np.array_equal(part.ids, signals.ids[:3])
    assert part.classes == signals.classes


def test_parts_of_a_folder_share_one_list_of_classes(refused, random_bytes, tmp_path):
    for name in ("train/a/0.png", "train/b/0.png", "train/c/0.png", "test/c/0.png"):
        write_png(tmp_path / name, random_bytes(4, 4))
    train, test = images.load(tmp_path), images.load(tmp_path, "test")
    assert (train.split, len(train)) == ("train", 3)
    assert test.classes == train.classes == ("a", "b", "c")
    assert test.labels is not None
    assert (test.labels.tolist(), test.ids.tolist(), test.names) == ([2], [2**30], ("c/0.png",))
    refused("split='val': .* has no sub-folder of that name", tmp_path, "val")


def test_folders_that_make_no_population_are_refused(refused, random_bytes, tmp_path):
    refused("no PNG or JPEG files", tmp_path)
    write_png(tmp_path / "a.png", random_bytes(4, 5))
    write_png(tmp_path / "b.png", random_bytes(5, 4))
    refused(r"a.png is 4x5, b.png is 5x4; give resize=\(H, W\)", tmp_path)
    assert images.load(tmp_path, resize=(8, 6)).shape == (8, 6)
    write_png(tmp_path / "class" / "c.png", random_bytes(4, 5))
    refused("'a.png' lies beside class folders", tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    (tmp_path / "class" / "c.png").unlink()
    refused("a.png' is not a readable picture", tmp_path)


def test_grey_pictures_among_coloured_ones_become_grey_rgb(random_bytes, tmp_path):
    grey, colour = random_bytes(4, 4), random_bytes(4, 4, 3)
    write_png(tmp_path / "a.png", grey)
    write_png(tmp_path / "b.png", colour)
    write_png(tmp_path / "c.png", grey)
    signals = images.load(tmp_path)
    assert np.array_equal(signals.pixels[1], colour)
    for row in (0, 2):
        assert (signals.pixels[row] == grey[..., None]).all()


def test_modes_of_pictures(refused, random_bytes, tmp_path):
    colour = random_bytes(6, 4, 3)
    grey = colour[..., 0]
    opaque = np.concatenate([colour, np.full((6, 4, 1), 255, np.uint8)], axis=-1)
    transparent = opaque.copy()
    transparent[3, 2, 3] = 254
    deep = grey.astype(np.uint16) * 257
    black_and_white = (grey > 127).astype(np.uint8) * np.uint8(255)
    palette = np.array(Image.fromarray(colour).quantize(7).convert("RGB"))
    Image.fromarray(colour).quantize(7).save(tmp_path / "palette.png")
    assert np.array_equal(images.load(tmp_path / "palette.png").pixels[0], palette)
    assert np.array_equal(images.load(write_png(tmp_path / "la.png", grey, "LA")).pixels[0, ..., 0], grey)
    assert np.array_equal(images.load(write_png(tmp_path / "rgba.png", opaque)).pixels[0], colour)
    one_bit = images.load(write_png(tmp_path / "bw.png", black_and_white, "1"))
    assert np.array_equal(one_bit.pixels[0, ..., 0], black_and_white)
    sixteen = images.load(write_png(tmp_path / "deep.png", deep))
    np.testing.assert_allclose(sixteen.pixels[0, ..., 0], grey / 255.0, rtol=1e-6)
    refused("has transparent pixels .RGBA.: convert it to RGB", write_png(tmp_path / "see.png", transparent))


def test_jpeg_is_turned_the_way_the_camera_was_held(tmp_path):
    picture = Image.fromarray(
        np.repeat(np.array([[0, 255]], np.uint8), 8, axis=1).repeat(8, axis=0)
    )  # 8 rows, 16 columns
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise for display
    picture.save(tmp_path / "turned.jpg", exif=exif)
    signals = images.load(tmp_path / "turned.jpg")
    assert signals.shape == (16, 8)
    assert signals.pixels[0, :6].mean() < 20
    assert signals.pixels[0, -6:].mean() > 235


def test_names_of_built_in_pictures(refused):
    camera = images.load("camera")
    assert np.array_equal(camera.pixels, images.load("skimage:camera").pixels)
    assert (camera.shape, camera.channels, camera.source) == ((512, 512), 1, "skimage:camera")
    assert images.load("cat", resize=(20, 30)).pixels.shape == (1, 20, 30, 3)
    refused("skimage:kidney': not among the pictures inside .*nothing is downloaded.*astronaut", "skimage:kidney")
    refused("split='test': 'camera' is one picture", "camera", "test")
