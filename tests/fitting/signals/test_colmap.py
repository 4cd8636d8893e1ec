import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from fitting.signals import views
from neuralfields.render.cameras import orbit

OPENCV = (30.0, 31.0, 9.5, 7.0, 0.05, -0.08, -0.001, 0.002)  # fl_x fl_y cx cy k1 k2 p1 p2
CAMERA_LINE = "1 OPENCV 20 14 " + " ".join(map(str, OPENCV))


def image_line(number: int, pose: np.ndarray, name: str) -> str:
    """The line of images.txt for a camera-to-world pose with OpenGL axes."""
    looking = pose[:3, :3] @ np.diag([1.0, -1.0, -1.0])
    x, y, z, w = Rotation.from_matrix(looking.T).as_quat()
    translation = -looking.T @ pose[:3, 3]
    numbers = " ".join(repr(float(v)) for v in (w, x, y, z, *translation))
    return f"{number} {numbers} 1 {name}"


def write_model(folder: Path, poses: np.ndarray, cameras: str = CAMERA_LINE, pictures: str = "images") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.txt").write_text(f"# Camera list\n{cameras}\n")
    lines = ["# Image list"]
    for i, pose in enumerate(poses):
        lines += [image_line(i + 1, pose, f"a view {i}.png"), "" if i % 2 else "1.5 2.5 -1 3.5 4.5 7"]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def scene(random_bytes, tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(random_bytes(14, 20, 3)).save(tmp_path / "images" / f"a view {i}.png")
    write_model(tmp_path / "sparse" / "0", orbit(4, 5.0, (1.0, 0.5, -2.0)))
    return tmp_path


def test_the_same_cameras_from_colmap_and_from_transforms_see_the_same(scene):
    names = ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2")
    frames = [
        {"file_path": f"images/a view {i}.png", "transform_matrix": pose.tolist()}
        for i, pose in enumerate(orbit(4, 5.0, (1.0, 0.5, -2.0)))
    ]
    content = {**dict(zip(names, OPENCV, strict=True)), "w": 20, "h": 14, "frames": frames}
    from_colmap = views.load(scene, holdout=2)
    (scene / "transforms.json").write_text(json.dumps(content))
    from_json = views.load(scene, holdout=2)
    assert np.allclose(from_colmap.box.centre, (1.0, 0.5, -2.0))
    assert from_colmap.box.half == pytest.approx(from_json.box.half)
    assert from_colmap.names == tuple(f"a view {i}.png" for i in range(4))
    assert from_colmap.held_out.tolist() == from_json.held_out.tolist() == [True, False, True, False]
    ours, theirs = views.rays(from_colmap), views.rays(from_json)
    for name in ("origins", "directions", "near", "far"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5)
    assert torch.equal(ours.colours, theirs.colours)


@pytest.mark.parametrize(
    ("line", "focal", "lens"),
    [
        ("1 SIMPLE_PINHOLE 20 14 30 9 7", (30.0, 30.0), (0.0, 0.0, 0.0, 0.0)),
        ("1 PINHOLE 20 14 30 31 9 7", (30.0, 31.0), (0.0, 0.0, 0.0, 0.0)),
        ("1 SIMPLE_RADIAL 20 14 30 9 7 0.1", (30.0, 30.0), (0.1, 0.0, 0.0, 0.0)),
        ("1 RADIAL 20 14 30 9 7 0.1 -0.02", (30.0, 30.0), (0.1, -0.02, 0.0, 0.0)),
        ("1\tOPENCV 20 14 30 31 9 7 0.1 -0.02 0.01 0.02", (30.0, 31.0), (0.1, -0.02, 0.01, 0.02)),
    ],
)
def test_camera_models(scene, line, focal, lens):
    write_model(scene / "sparse" / "0", orbit(4, 5.0), line)
    found = views.load(scene)
    camera = found.cameras[0]
    assert (camera.fl_x, camera.fl_y, camera.cx, camera.cy) == (*focal, 9.0, 7.0)
    assert found.lenses[0] == views.Lens(*lens)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 OPENCV_FISHEYE 20 14 30 31 9 7 0 0 0 0", "cameras.txt, line 2: camera model 'OPENCV_FISHEYE'"),
        ("1 PINHOLE 20 14 30 31 9", "5 values for PINHOLE: expected w h fl_x fl_y cx cy"),
        ("1 PINHOLE 20 14 30 x 9 7", "could not convert string to float: 'x'"),
        ("1 PINHOLE 20 14 30 -1 9 7", "fl_y=-1: expected a positive number"),
        ("1 PINHOLE 20 14 30 nan 9 7", "expected finite numbers"),
        ("1", "camera model ''"),
        ("7 PINHOLE 20 14 30 30 9 7", "images.txt, line 2: camera '1': expected one of cameras.txt"),
    ],
)
def test_bad_cameras_are_refused_in_one_line(scene, line, message):
    write_model(scene / "sparse" / "0", orbit(4, 5.0), line)
    with pytest.raises(ValueError, match=message) as caught:
        views.load(scene)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 1 0 0 0 0 0 0 1", "line 1: 9 values: expected ID QW"),
        ("1 0 0 0 0 0 0 0 1 a.png", "quaternion .* expected a length of 1"),
        ("1 1 0 0 0 0 0 0 1 ../a.png", "'../a.png' is not a path inside the scene's folder"),
        ("1 1 0 0 0 0 0 0 1 /etc/a.png", "'/etc/a.png' is not a path inside the scene's folder"),
        ("1 1 0 0 0 0 0 0 1 a.png\n\n2 1 0 0 0 0 0 0 1 a.png", "line 3: 'a.png' is listed a second time"),
        ("# nothing", "no images"),
    ],
)
def test_bad_images_are_refused_in_one_line(scene, line, message):
    (scene / "sparse" / "0" / "images.txt").write_text(line)
    with pytest.raises(ValueError, match=message) as caught:
        views.load(scene)
    assert "\n" not in str(caught.value)


def test_models_that_are_not_text_are_refused(scene):
    model = scene / "sparse" / "0"
    (model / "images.txt").unlink()
    with pytest.raises(ValueError, match=r"images.txt': not a readable file"):
        views.load(scene)
    (model / "cameras.txt").rename(model / "cameras.bin")
    with pytest.raises(ValueError, match="a binary model; expected text"):
        views.load(scene)
    with pytest.raises(ValueError, match="no scene in this folder, expected transforms_val"):
        views.load(scene, "val")
