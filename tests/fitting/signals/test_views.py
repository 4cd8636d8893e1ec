import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fitting.signals import views
from fitting.signals.view_set import camera_directions
from neuralfields.render.cameras import look_at, orbit, project

ANGLE = 0.7
LENS = {"k1": 0.06, "k2": -0.08, "p1": -1e-3, "p2": 2e-4}
FOX = {"fl_x": 12.0, "fl_y": 11.0, "cx": 5.5, "cy": 3.5, "w": 10, "h": 8, **LENS}

WriteScene = Callable[..., Path]


def write_json(path: Path, names: list[str], poses: np.ndarray, **extra: Any) -> Path:
    frames = [{"file_path": n, "transform_matrix": p.tolist()} for n, p in zip(names, poses, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**extra, "frames": frames}))
    return path


@pytest.fixture
def write_scene(random_bytes, tmp_path) -> WriteScene:
    """write_scene(folder, count, **keys): a transforms.json with `count` pictures of 8 x 10 around the origin."""

    def write(folder: str | Path = "", count: int = 9, channels: int = 3, **keys: Any) -> Path:
        root = tmp_path / folder
        names = [f"images/v{i}.png" for i in range(count)]
        write_json(root / "transforms.json", names, orbit(count, 4.0), **({"camera_angle_x": ANGLE} | keys))
        (root / "images").mkdir()
        for name in names:
            Image.fromarray(random_bytes(8, 10, channels)).save(root / name)
        return root

    return write


@pytest.fixture
def refused() -> Callable[..., None]:
    def check(match: str, *args: Any, error: type[Exception] = ValueError, **options: Any) -> None:
        with pytest.raises(error, match=match) as caught:
            views.load(*args, **options)
        assert "\n" not in str(caught.value)

    return check


@pytest.fixture
def synthetic(random_bytes, tmp_path) -> Path:
    """A scene laid out as nerf-synthetic: RGBA pictures without an extension in the file, three parts."""
    for part, count in (("train", 11), ("test", 3), ("val", 2)):
        names = [f"./{part}/r_{i}" for i in range(count)]
        write_json(tmp_path / f"transforms_{part}.json", names, orbit(count, 4.0), camera_angle_x=ANGLE)
        (tmp_path / part).mkdir()
        for name in names:
            Image.fromarray(random_bytes(8, 8, 4)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_parts_of_nerf_synthetic(synthetic, refused):
    scene = views.load(synthetic)
    assert (len(scene), scene.shape) == (14, (8, 8))
    assert scene.box == views.SceneBox((0.0, 0.0, 0.0), 1.5)
    assert [name for name, held in zip(scene.names, scene.held_out, strict=True) if held] == [
        *("test/r_0", "test/r_1", "test/r_2")
    ]
    train, test, val = (views.load(synthetic, split) for split in ("train", "test", "val"))
    assert train.names == tuple(f"train/r_{i}" for i in range(11)) == scene.train.names
    assert torch.equal(test.images, scene.test.images)
    assert val.names == ("val/r_0", "val/r_1")
    assert train.box == test.box == val.box
    assert np.allclose([np.linalg.norm(c.position) for c in train.cameras], 4.0 / 1.5)
    assert train.cameras[0].angle_x == pytest.approx(ANGLE)
    (synthetic / "transforms_val.json").unlink()
    refused("split='val': .* has no transforms_val.json", synthetic, "val")


@pytest.mark.parametrize("background", ["white", "black", (0.2, 0.5, 1.0)])
def test_alpha_is_blended_over_the_background(synthetic, background):
    scene = views.load(synthetic, "test", background=background)
    stored = np.array(Image.open(synthetic / "test" / "r_1.png")).astype(np.float64) / 255
    behind = {"white": (1, 1, 1), "black": (0, 0, 0)}.get(background, background)
    expected = stored[..., 3:] * stored[..., :3] + (1 - stored[..., 3:]) * np.array(behind)
    assert np.abs(scene.images[1].numpy() - expected).max() < 1e-6
    assert scene.background == tuple(behind)


def test_every_eighth_view_is_held_out(write_scene, refused):
    root = write_scene(count=18)
    scene = views.load(root)
    assert np.flatnonzero(scene.held_out).tolist() == [0, 8, 16]
    assert views.load(root, "test").names == scene.test.names == ("images/v0.png", "images/v8.png", "images/v16.png")
    assert views.load(root, "train").names == scene.train.names
    assert np.flatnonzero(views.load(root, holdout=5).held_out).tolist() == [0, 5, 10, 15]
    assert not views.load(root, holdout=0).held_out.any()
    refused("split='test': .* has 18 views, none of them in this part", root, "test", holdout=0)
    content = json.loads((root / "transforms.json").read_text())
    content["frames"].reverse()
    (root / "transforms.json").write_text(json.dumps(content))
    assert views.load(root).test.names == scene.test.names


def test_rays_point_at_what_the_pixels_show(write_scene, generator):
    scene = views.load(write_scene(aabb_scale=1, **FOX))
    assert scene.box.half == pytest.approx(0.5 / 0.33)
    rays = views.rays(scene)
    assert rays.origins.shape == rays.directions.shape == rays.colours.shape == (len(scene) * 80, 3)
    assert torch.equal(rays.colours.view(scene.images.shape), scene.images)
    points = (torch.rand(50, 3, generator=generator).double() - 0.5).numpy()
    for view, (camera, lens) in enumerate(zip(scene.cameras, scene.lenses, strict=True)):
        assert lens == views.Lens(**LENS)
        pixels, depth = project(camera, points)
        middle, focal = np.array([camera.cx, camera.cy]), np.array([camera.fl_x, camera.fl_y])
        seen = lens.distort((pixels - middle) / focal) * focal + middle  # where the real camera shows the points
        assert np.abs(seen - pixels).max() > 1e-3
        local = camera_directions(camera, lens, torch.from_numpy(seen)).numpy()
        world = camera.position + depth[:, None] * local @ camera.pose[:3, :3].T
        assert np.abs(world - points).max() < 1e-6
        corner = camera_directions(camera, lens, torch.tensor([[9.5, 2.5]])).numpy()[0] @ camera.pose[:3, :3].T
        found = rays.directions[view * 80 + 2 * 10 + 9].numpy()  # row 2, column 9
        assert np.abs(found - corner / np.linalg.norm(corner)).max() < 1e-6
        assert np.allclose(rays.origins[view * 80].numpy(), camera.position, atol=1e-6)
    hit = rays.near < rays.far
    assert 0.0 < hit.float().mean() < 1.0
    assert scene.near <= rays.near[hit].min()
    assert rays.far.max() <= scene.far


def test_scale_shrinks_pictures_by_area_and_cameras_with_them(write_scene, refused):
    root = write_scene(**FOX)
    full, half, odd = (views.load(root, scale=scale) for scale in (1.0, 0.5, 0.3))
    assert (half.shape, odd.shape) == ((4, 5), (2, 3))
    means = full.images.view(-1, 4, 2, 5, 2, 3).mean(dim=(2, 4))
    assert torch.allclose(half.images, means, atol=1e-6)
    assert torch.allclose(odd.images.mean(dim=(1, 2)), full.images.mean(dim=(1, 2)), atol=1e-6)
    small, large = half.cameras[3], full.cameras[3]
    at = torch.tensor([[0.5, 0.5], [4.5, 2.5]])
    assert torch.allclose(
        camera_directions(small, half.lenses[3], at), camera_directions(large, full.lenses[3], 2.0 * at), atol=1e-12
    )
    for scale in (0.0, 1.5, -1.0):
        refused("scale=.*expected a number above 0 and at most 1", root, scale=scale)


def test_intrinsics_of_larger_pictures_are_scaled_to_those_that_are_there(write_scene):
    twice = {
        name: value * 2 if name in ("fl_x", "fl_y", "cx", "cy", "w", "h") else value for name, value in FOX.items()
    }
    here, there = (views.load(write_scene(name, **keys)) for name, keys in (("here", FOX), ("there", twice)))
    assert here.shape == there.shape == (8, 10)
    assert torch.allclose(views.rays(here).directions, views.rays(there).directions, atol=1e-6)


def test_views_that_cannot_be_used_are_listed(write_scene, random_bytes, refused):
    root = write_scene(count=10, aabb_scale=1, camera_angle_x=ANGLE, w=10, h=8)
    content = json.loads((root / "transforms.json").read_text())
    content["frames"][5]["transform_matrix"] = look_at((0.0, 0.0, 4.0), (0.0, 0.0, 9.0)).tolist()
    (root / "transforms.json").write_text(json.dumps(content))
    (root / "images/v1.png").unlink()
    (root / "images/v2.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    Image.fromarray(random_bytes(10, 8, 3)).save(root / "images/v3.png")
    Image.fromarray(random_bytes(16, 20, 3)).save(root / "images/v4.png")
    scene = views.load(root)
    reasons = {
        "images/v1.png": "no such file",
        "images/v2.png": "not a readable picture",
        "images/v3.png": "picture is 10x8, its camera 8x10",
        "images/v4.png": "picture is 16x20, most are 8x10",
        "images/v5.png": "sees nothing",
    }
    assert scene.skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in scene.skipped[name]
        assert "\n" not in scene.skipped[name]
    assert scene.names == tuple(f"images/v{i}.png" for i in (0, 6, 7, 8, 9))
    for i in (0, 2, 3, 4, 6, 7, 8, 9):
        (root / f"images/v{i}.png").unlink()
    refused("none of 10 views can be used; 'images/v0.png': no such file", root, holdout=0)


def test_one_view_leaves_nothing_to_fit(write_scene, refused):
    root = write_scene(count=1, aabb_scale=1)
    refused("all 1 views are held out; give holdout=0", root)
    assert len(views.load(root, holdout=0)) == 1
    refused("parallel views", write_scene("other", count=1))
    assert views.load(root.parent / root.name / "other", holdout=0, box=views.SceneBox((0, 0, 0), 2.0)).box.half == 2.0


def test_pictures_of_other_kinds(write_scene, random_bytes):
    root = write_scene(count=5)
    grey = random_bytes(8, 10)
    Image.fromarray(grey).save(root / "images/v0.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(root / "images/v1.png")
    Image.fromarray(random_bytes(8, 10, 3)).save(root / "images/v2.jpeg")
    (root / "images/v2.png").unlink()
    palette = Image.fromarray(random_bytes(8, 10, 3)).quantize(5)
    palette.save(root / "images/v3.png")
    content = json.loads((root / "transforms.json").read_text())
    content["frames"][2]["file_path"] = "images\\v2"
    content["frames"][4]["file_path"] = "images/v4.tiff"
    Image.fromarray(grey.astype(np.float32)).save(root / "images/v4.tiff")
    (root / "transforms.json").write_text(json.dumps(content))
    scene = views.load(root, holdout=0)
    assert scene.names == ("images/v0.png", "images/v1.png", "images/v2", "images/v3.png")
    assert "pixels of mode F" in scene.skipped["images/v4.tiff"]
    by_name = dict(zip(scene.names, scene.images, strict=True))
    for name in ("images/v0.png", "images/v1.png"):
        assert np.abs(by_name[name].numpy() - grey[..., None] / 255.0).max() < 1e-6
    assert np.abs(by_name["images/v3.png"].numpy() - np.array(palette.convert("RGB")) / 255.0).max() < 1e-6


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"is_fisheye": True}, "is_fisheye=True: this lens is not read"),
        ({"camera_model": "OPENCV_FISHEYE"}, "camera_model='OPENCV_FISHEYE': expected one of SIMPLE_PINHOLE"),
        ({"k3": 0.1}, "k3=0.1: this lens is not read"),
        ({"rolling_shutter": [0, 0, 0.1, 0]}, "rolling_shutter"),
        ({"k1": "0.1"}, "k1='0.1': expected a finite number"),
        ({"camera_angle_x": None}, "neither fl_x nor camera_angle_x"),
        ({"camera_angle_x": 4.0}, "camera_angle_x=4: expected radians"),
        ({"fl_x": 0.0}, "fl_x=0: expected a positive"),
        ({"w": float("nan")}, "w=nan: expected a finite number"),
        ({"aabb_scale": 0}, "aabb_scale=0"),
        ({"aabb_scale": 1, "offset": [0.5]}, "offset=.*expected three numbers"),
        ({"k1": -3.0}, "none of 9 views can be used; .* folds the picture over itself"),
    ],
)
def test_cameras_that_are_not_understood_are_refused(write_scene, refused, keys, message):
    refused(message, write_scene(**keys))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"file_path": "../secret.png"}, "'../secret.png' is not a path inside the scene's folder"),
        ({"file_path": "a\\..\\..\\b.png"}, "is not a path inside"),
        ({"file_path": "/etc/x.png"}, "'/etc/x.png' is not a path inside the scene's folder"),
        ({"file_path": "C:\\x.png"}, "is not a path inside"),
        ({"file_path": "."}, "is not a path inside"),
        ({"file_path": 3}, r"frames\[2\] has no file_path"),
        ({"file_path": "./images/v1.png"}, "'images/v1.png' is listed a second time"),
        ({"transform_matrix": None}, r"frames\[2\].transform_matrix: pose has shape"),
        ({"transform_matrix": [[1, 2], [3]]}, "pose has shape"),
        ({"transform_matrix": [[10**400] * 4] * 4}, "pose has shape"),
        ({"cx": 10**400}, "cx=.*: expected a finite number"),
        ({"transform_matrix": (2.0 * np.eye(4)).tolist()}, "expected a rotation"),
    ],
)
def test_frames_that_are_not_understood_are_refused(write_scene, refused, frame, message):
    root = write_scene()
    content = json.loads((root / "transforms.json").read_text())
    content["frames"][2].update(frame)
    (root / "transforms.json").write_text(json.dumps(content))
    refused(message, root)


def test_sources_that_are_no_scene_are_refused(refused, write_scene, tmp_path):
    refused("no such file or folder", tmp_path / "absent", error=FileNotFoundError)
    refused("no scene in this folder, expected transforms.json", tmp_path)
    root = write_scene()
    refused("expected a folder, or a .json", root / "images" / "v0.png")
    refused("split='half': expected one of train, test", root, "half")
    refused("background='green'", root, background="green")
    refused("background=.*expected", root, background=(0, 0, 255))
    for holdout in (1, -8, 2.0, True):
        refused("holdout=", root, holdout=holdout)
    for text in ("{", "[]", '{"frames": []}', '{"frames": 3}'):
        (root / "transforms.json").write_text(text)
        refused("transforms.json': (not a readable JSON|expected an object with a list of 'frames')", root)


def test_a_folder_of_scenes(write_scene, tmp_path):
    for name in ("a", "b", "c"):
        write_scene(f"set/{name}", count=5)
    (tmp_path / "set/b/transforms.json").write_text("{")
    (tmp_path / "set/notes").mkdir()
    signals = views.load_many(tmp_path / "set")
    assert (signals.names, signals.ids.tolist(), signals.labels) == (("a", "c"), [0, 2], None)
    assert "not a readable JSON" in signals.failed["b"]
    assert [len(scene) for scene in signals] == [5, 5]
    last = signals.select(slice(1, None))
    assert (last.names, last.ids.tolist(), last[0].name) == (("c",), [2], "c")
    assert views.load_many(tmp_path / "set", limit=1).names == ("a",)
    again = views.from_scenes(list(signals), [4, 2], split="test")
    assert (again.names, again.ids.tolist()) == (("a", "c"), [2**30, 2**30 + 1])
    assert again.select([1]).labels == [2]
    with pytest.raises(ValueError, match="labels has 1 entries: expected 2, one per scene"):
        views.from_scenes(list(signals), [1])
    alone = views.load_many(tmp_path / "set" / "c")
    assert (alone.names, alone.ids.tolist()) == (("c",), [0])
    described = json.loads(json.dumps(signals.describe()))
    assert described["failed"].keys() == {"b"}
    assert described["scenes"][0]["held_out"] == ["images/v0.png"]
    for name in ("a", "c"):
        (tmp_path / "set" / name / "transforms.json").write_text("{")
    with pytest.raises(ValueError, match=r"none of 3 scenes can be read; 'a': .*not a readable JSON"):
        views.load_many(tmp_path / "set")


def test_labels_are_folders_of_classes_shared_by_the_parts(write_scene, tmp_path):
    for name in ("train/cat/0", "train/dog/0", "train/eel/0", "train/eel/1", "test/eel/0"):
        write_scene(f"set/{name}", count=3)
    train, test = views.load_many(tmp_path / "set"), views.load_many(tmp_path / "set", "test")
    assert (train.split, train.names) == ("train", ("cat/0", "dog/0", "eel/0", "eel/1"))
    assert train.classes == test.classes == ("cat", "dog", "eel")
    assert train.labels is not None
    assert test.labels is not None
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2, 2], [2])
    assert test.ids.tolist() == [2**30]
    for match, folder, split in (
        ("split='val': .* has no sub-folder of that name", "set", "val"),
        ("split='half'", "set", "half"),
        ("no scenes", "set/train/cat/0/images", None),
    ):
        with pytest.raises(ValueError, match=match):
            views.load_many(tmp_path / folder, split)
    write_scene("set/train/loose", count=3)
    with pytest.raises(ValueError, match="scene 'loose' lies beside classes"):
        views.load_many(tmp_path / "set")


def test_photographs_of_a_fox(shared_data):
    scene = views.load(shared_data / "nerf" / "fox" / "transforms_all_frames.json", scale=0.1)
    assert (len(scene), scene.shape, len(scene.skipped)) == (50, (96, 54), 17)
    assert scene.held_out.sum() == 7
    assert views.load(shared_data / "nerf" / "fox", "test", scale=0.1).names == scene.test.names
    assert max(np.abs(camera.position).max() for camera in scene.cameras) < 1.0
    rays = views.rays(scene)
    assert (rays.near < rays.far).all()
    middle = rays.directions.view(50, 96, 54, 3)[:, 48, 27].double()
    forward = torch.from_numpy(np.stack([camera.forward for camera in scene.cameras]))
    assert ((middle * forward).sum(dim=-1) > 0.99).all()
