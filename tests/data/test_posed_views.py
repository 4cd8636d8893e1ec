import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--views", "3", "--test-views", "2", "--size", "16", "--supersample", "2"]


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """data/posed_views/prepare.py; skipped where the packages that it needs are not installed."""
    for name in ("open3d", "trimesh"):
        pytest.importorskip(name)
    spec = importlib.util.spec_from_file_location("posed_views_prepare", ROOT / "data" / "posed_views" / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # tyro looks the types of the options up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    """Two classes: three balls (of points, as an octasphere) and a box."""
    folder = tmp_path / "meshes"
    (folder / "ball").mkdir(parents=True)
    (folder / "box").mkdir()
    for name, radius in (("1", 1.0), ("2", 2.0), ("10", 0.5)):
        write_off(folder / "ball" / f"{name}.off", *octasphere(radius))
    corners = np.array([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 2.0) for z in (0.0, 4.0)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    write_off(folder / "box" / "b.off", corners, np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]))
    return folder


def octasphere(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A ball from an octahedron whose faces are cut in four, four times."""
    points = [np.array(p, float) for p in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))]
    faces = [(0, 2, 4), (2, 1, 4), (1, 3, 4), (3, 0, 4), (2, 0, 5), (1, 2, 5), (3, 1, 5), (0, 3, 5)]
    for _ in range(4):
        finer = []
        for a, b, c in faces:
            ab, bc, ca = len(points), len(points) + 1, len(points) + 2
            points += [points[a] + points[b], points[b] + points[c], points[c] + points[a]]
            finer += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        points = [p / np.linalg.norm(p) for p in points]
        faces = finer
    return radius * np.stack(points) + 3.0, np.array(faces)


def write_off(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    lines = ["OFF", f"{len(vertices)} {len(faces)} 0", *(f"{x!r} {y!r} {z!r}" for x, y, z in vertices.tolist())]
    path.write_text("\n".join([*lines, *(f"3 {a} {b} {c}" for a, b, c in faces.tolist())]) + "\n", encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def test_a_scene_is_as_nerf_synthetic_has_it(program, meshes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert program.main([str(meshes), "--out", str(out), *SMALL]) == 0
    assert sorted(p.relative_to(out).as_posix() for p in out.glob("*/*")) == ["ball/1", "ball/10", "ball/2", "box/b"]
    scene = out / "box" / "b"
    every = json.loads((scene / "transforms.json").read_text())
    frames = []
    for name, count in (("train", 3), ("test", 2)):
        part = json.loads((scene / f"transforms_{name}.json").read_text())
        assert part["camera_angle_x"] == pytest.approx(2 * math.atan(0.5 * every["w"] / every["fl_x"]))
        assert len(part["frames"]) == count
        for frame in part["frames"]:
            assert picture(scene / f"{frame['file_path']}.png").shape == (16, 16, 4)
            frames.append(np.array(frame["transform_matrix"]))
    assert [(scene / frame["file_path"]).is_file() for frame in every["frames"]] == [True] * 5
    np.testing.assert_array_equal([f["transform_matrix"] for f in every["frames"]], frames)
    positions = np.stack(frames)[:, :3, 3]
    apart = np.linalg.norm(positions[:, None] - positions, axis=-1) + 9 * np.eye(5)
    assert apart.min() > 0.1  # no test view is a training view
    shape = every["rendering"]["shape"]
    assert shape["scale"] == pytest.approx(1.8 / 4.0)
    assert shape["offset"] == pytest.approx([0.5, 1.0, 2.0])


def test_cameras_say_where_the_pixels_are(program, meshes: Path, tmp_path: Path) -> None:
    """A pixel is covered exactly where its ray, by the formulas of nerf-synthetic, meets the ball of radius 0.9."""
    program.main([str(meshes), "--out", str(tmp_path / "out"), "--size", "48", "--views", "5", "--limit", "1"])
    scene = tmp_path / "out" / "ball" / "1"
    about = json.loads((scene / "transforms_train.json").read_text())
    focal = 0.5 * 48 / math.tan(0.5 * about["camera_angle_x"])
    y, x = np.meshgrid(np.arange(48) + 0.5 - 24, np.arange(48) + 0.5 - 24, indexing="ij")
    local = np.stack([x / focal, -y / focal, -np.ones_like(x)], axis=-1)
    for frame in about["frames"]:
        pose = np.array(frame["transform_matrix"])
        rays = local @ pose[:3, :3].T
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        past = np.linalg.norm(np.cross(np.broadcast_to(pose[:3, 3], rays.shape), rays), axis=-1)  # from the centre
        alpha = picture(scene / f"{frame['file_path']}.png")[..., 3]
        assert (alpha[past < 0.86] == 255).all()
        assert (alpha[past > 0.94] == 0).all()
        assert (past < 0.86).mean() > 0.4  # it fills the picture


def test_a_point_looks_the_same_from_everywhere(program, meshes: Path, tmp_path: Path) -> None:
    """The colours of a ball are a function of the normal: neighbours among the points of all views agree."""
    program.main([str(meshes), "--out", str(tmp_path / "out"), "--size", "48", "--views", "32", "--limit", "1"])
    scene = tmp_path / "out" / "ball" / "1"
    about = json.loads((scene / "transforms_train.json").read_text())
    colours, normals = [], []
    for frame in about["frames"]:
        pose = np.array(frame["transform_matrix"])
        normals.append(pose[:3, 2])  # what the middle of the picture shows looks at the camera
        colours.append(picture(scene / f"{frame['file_path']}.png")[23:25, 23:25, :3].mean(axis=(0, 1)))
    assert np.std(colours, axis=0).min() > 10  # something to learn
    compared = 0
    for normal, colour in zip(normals, colours, strict=True):
        for frame in about["frames"]:
            at = project_normal(np.array(frame["transform_matrix"]), normal, about["camera_angle_x"])
            if at is not None:
                shown = picture(scene / f"{frame['file_path']}.png")[at[1], at[0], :3]
                assert np.abs(shown - colour).max() < 14  # half a pixel of curvature
                compared += 1
    assert compared > 3 * 32  # besides every view with itself


def project_normal(pose: np.ndarray, normal: np.ndarray, angle: float) -> tuple[int, int] | None:
    """Column and row where a ball of radius 0.9 shows a normal, None unless it looks at the camera."""
    out = pose[:3, 3] - 0.9 * normal
    if normal @ out < 0.6 * np.linalg.norm(out):
        return None
    local = (0.9 * normal - pose[:3, 3]) @ pose[:3, :3]
    focal = 0.5 * 48 / math.tan(0.5 * angle)
    return int(24 - focal * local[0] / local[2]), int(24 + focal * local[1] / local[2])


def test_an_interrupted_run_goes_on_and_ends_the_same(program, meshes: Path, tmp_path: Path, monkeypatch) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    program.main([str(meshes), "--out", str(whole), *SMALL])
    original, made = program.mesh_picture, []

    def interrupted(*arguments):
        if len(made) == 7:  # in the middle of the second scene
            raise KeyboardInterrupt
        made.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(program, "mesh_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        program.main([str(meshes), "--out", str(cut), *SMALL])
    assert len(list(cut.rglob("transforms.json"))) == 1
    assert not list(cut.rglob("*.part"))
    monkeypatch.setattr(program, "mesh_picture", lambda *arguments: made.append(arguments) or original(*arguments))
    assert program.main([str(meshes), "--out", str(cut), *SMALL]) == 0
    assert len(made) == 7 + 3 * 5  # the first scene was not rendered again
    assert contents(cut) == contents(whole)
    assert program.main([str(meshes), "--out", str(cut), *SMALL]) == 0
    assert len(made) == 7 + 3 * 5


def test_failures_are_listed_and_the_others_go_on(program, meshes: Path, tmp_path: Path, capsys) -> None:
    (meshes / "ball" / "broken.off").write_text("OFF\n3 1 0\n0 0 0\n", encoding="utf-8")
    np.save(meshes / "box" / "cloud.npy", np.eye(3))
    shutil.copy(meshes / "box" / "b.off", meshes / "box" / "b.off.off")
    (meshes / "box" / "b.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", encoding="utf-8")
    out = tmp_path / "out"
    assert program.main([str(meshes), "--out", str(out), *SMALL]) == 1
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert len(listed) == 3
    for name, reason in (("broken.off", "OFF"), ("cloud.npy", "point cloud"), ("b.off", "is there with mesh='b.obj'")):
        assert any(name in line and reason in line for line in listed)  # the last: one name, two files
    assert len(list(out.rglob("transforms.json"))) == 5
    assert not list(out.rglob("*.part"))


def test_scenes_with_other_settings_are_never_overwritten(program, meshes: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    program.main([str(meshes), "--out", str(out), *SMALL, "--limit", "1"])
    before = contents(out)
    capsys.readouterr()
    assert program.main([str(meshes), "--out", str(out), *SMALL[:-4], "--size", "20", "--limit", "1"]) == 1
    assert "size=16" in capsys.readouterr().out
    assert contents(out) == before
    write_off(meshes / "ball" / "1.off", *octasphere(1.5))  # another mesh of that name
    assert program.main([str(meshes), "--out", str(out), *SMALL, "--limit", "1"]) == 1
    assert "sha256=" in capsys.readouterr().out
    (out / "ball" / "1" / "transforms.json").write_text("[]", encoding="utf-8")
    assert program.main([str(meshes), "--out", str(out), *SMALL, "--limit", "1"]) == 1
    assert "not a scene of this program" in capsys.readouterr().out


def test_white_is_the_transparent_picture_over_white(program, meshes: Path, tmp_path: Path) -> None:
    for name, more in (("clear", []), ("white", ["--white"])):
        program.main([str(meshes), "--out", str(tmp_path / name), *SMALL, "--limit", "1", *more])
    clear = picture(tmp_path / "clear" / "ball" / "1" / "train" / "r_0.png").astype(float)
    white = picture(tmp_path / "white" / "ball" / "1" / "train" / "r_0.png")
    assert white.shape == (16, 16, 3)
    alpha = clear[..., 3:] / 255
    assert np.abs(clear[..., :3] * alpha + 255 * (1 - alpha) - white).max() <= 1.5


def test_a_few_meshes_are_of_all_classes(program, meshes: Path) -> None:
    chosen = [path.relative_to(meshes).as_posix() for path in program.choose(meshes, 3)]
    assert chosen == ["ball/1.off", "box/b.off", "ball/2.off"]
    assert len(program.choose(meshes, None)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--views", "0"], "views=0: expected 1 to"),
        (["--test-views", "0"], "test_views=0"),
        (["--size", "4"], "size=4: expected 8 to 4096"),
        (["--supersample", "9"], "supersample=9"),
        (["--limit", "0"], "limit=0: expected 1 or more"),
    ],
)
def test_options_out_of_range_are_one_line(
    program, meshes: Path, tmp_path: Path, capsys, options: list[str], message: str
) -> None:
    assert program.main([str(meshes), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_meshes_is_one_line(program, tmp_path: Path, capsys) -> None:
    assert program.main([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith("expected a folder\n")
    assert program.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no shape files" in capsys.readouterr().err
