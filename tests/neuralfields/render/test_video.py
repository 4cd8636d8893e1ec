import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from neuralfields.render.video import save_video


def frames(count: int = 6, shape: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """A bright bar that walks to the right over grey."""
    out = np.full((count, *shape, 3), 90, np.uint8)
    for number in range(count):
        out[number, :, 8 * number : 8 * number + 16] = (230, 200, 40)
    return list(out)


def read(path: Path) -> tuple[np.ndarray, float]:
    """Frames (T, H, W, 3) and frames per second, by programs that took no part in writing."""
    if path.suffix.lower() == ".gif":
        with Image.open(path) as file:
            assert file.info["loop"] == 0
            return np.stack([np.array(f.convert("RGB")) for f in ImageSequence.Iterator(file)]), 1000 / file.info[
                "duration"
            ]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    about = re.search(r"Video: h264.*yuv420p.*?, (\d+)x(\d+).*?, ([\d.]+) fps", done.stderr.decode())
    assert about is not None, done.stderr.decode()
    width, height = int(about[1]), int(about[2])
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3), float(about[3])


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".MP4"])
def test_a_video_reads_back_frame_by_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    save_video(path, frames(), 20)
    back, _ = read(path)
    assert back.shape == (6, 48, 64, 3)
    assert np.abs(back.astype(int) - np.stack(frames())).mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_speed_is_kept(tmp_path: Path) -> None:
    for name, fps, shown in (("a.mp4", 12.5, 12.5), ("a.gif", 12.5, 12.5), ("b.mp4", 60, 60), ("b.gif", 120, 50)):
        save_video(tmp_path / name, frames(), fps)
        assert read(tmp_path / name)[1] == pytest.approx(shown)


@pytest.mark.parametrize("shape", [(47, 63), (48, 63), (47, 64)])
def test_odd_sizes_are_padded_not_stretched(tmp_path: Path, shape: tuple[int, int]) -> None:
    save_video(tmp_path / "odd.mp4", frames(3, shape))
    back, _ = read(tmp_path / "odd.mp4")
    assert back.shape == (3, 48, 64, 3)
    assert np.abs(back[:, : shape[0], : shape[1]].astype(int) - np.stack(frames(3, shape))).mean() < 6
    save_video(tmp_path / "odd.gif", frames(3, shape))
    assert read(tmp_path / "odd.gif")[0].shape[1:3] == shape


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from frames(3)
        raise RuntimeError("the mesh went away")

    path = tmp_path / f"film{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="the mesh went away"):
        save_video(path, broken())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    save_video(path, frames())
    assert len(read(path)[0]) == 6


@contextlib.contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """As on a disk that is full: no file of this process and of those that it starts grows beyond so many bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
@pytest.mark.parametrize("count", [6, 400])  # the writer of films dies at their end, and while frames come
def test_a_full_disk_leaves_the_old_file_and_says_the_path(tmp_path: Path, suffix: str, count: int) -> None:
    draws = np.random.default_rng(0)
    film = (draws.integers(0, 256, (120, 160, 3)).astype(np.uint8) for _ in range(count))
    path = tmp_path / f"film{suffix}"
    path.write_bytes(b"old")
    with files_of_at_most(2048), pytest.raises(OSError) as caught:
        save_video(path, film)
    assert caught.value.filename == str(path)
    assert caught.value.strerror
    assert "\n" not in caught.value.strerror
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fps", [0.1, 12.5, 24000 / 1001, 120])
def test_films_of_any_speed_are_whole(tmp_path: Path, fps: float) -> None:
    for count in (1, 7):
        save_video(tmp_path / "film.mp4", frames(count), fps)
        assert len(read(tmp_path / "film.mp4")[0]) == count


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "frames is empty"),
        ([np.zeros((8, 8, 3))], r"frame 0 has shape \(8, 8, 3\), dtype float64"),
        ([np.zeros((8, 8, 4), np.uint8)], "frame 0 has shape"),
        ([*frames(2), frames(1, (8, 8))[0]], r"frame 2 has shape \(8, 8, 3\): expected \(48, 64, 3\), as the first"),
    ],
)
def test_frames_that_do_not_fit_are_named(tmp_path: Path, suffix: str, bad: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_video(tmp_path / f"film{suffix}", bad)
    assert list(tmp_path.iterdir()) == []


def test_other_files_and_speeds_are_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("film.avi", "film", "film.mp4.gz"):
        with pytest.raises(ValueError, match=r"expected a name ending in \.mp4 or \.gif"):
            save_video(tmp_path / name, frames())
    for fps in (0, -1, float("nan"), 1000):
        with pytest.raises(ValueError, match="expected more than 0 and at most 120"):
            save_video(tmp_path / "film.mp4", frames(), fps)
    with pytest.raises(FileNotFoundError, match="the folder does not exist"):
        save_video(tmp_path / "none" / "film.mp4", frames())
