"""Videos from frames: H.264 in .mp4, or an endless .gif; whole or not there.

Legend: H rows, W columns.
"""

import errno
import os
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

SUFFIXES = (".mp4", ".gif")
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
QUALITY = 8  # of 10, imageio-ffmpeg's scale: flat shading shows no blocks


def save_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = 24.0) -> None:
    """Write frames, uint8 (H, W, 3), all of one size, as .mp4 (H.264, yuv420p) or endless .gif, by the suffix.

    Frames are taken one at a time, so that a generator needs no memory for all. H.264 needs even sizes: an odd last row
    or column is repeated. fps: frames per second, more than 0 and at most 120; a GIF counts in hundredths of a second
    and shows at most 50. The file is written under a temporary name and renamed: it exists whole or not at all. Raises
    ValueError for another suffix, other frames or none, FileNotFoundError for a folder that does not exist, and OSError
    with the path for a file that could not be written whole.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"path={path.name!r}: expected a name ending in {' or '.join(SUFFIXES)}")
    if not 0.0 < fps <= 120.0:
        raise ValueError(f"fps={fps}: expected more than 0 and at most 120 frames per second")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: the folder does not exist")
    part = path.with_name(f".{path.stem}.{os.getpid()}{suffix}")
    try:
        _WRITERS[suffix](part, _checked(frames), fps)
        os.replace(part, path)
    except OSError as error:
        # The frames may come from files of their own, whose errors say which.
        if error.errno not in _FULL or error.filename not in (None, str(part)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, each checked; at least one."""
    first = None
    for number, frame in enumerate(frames):
        first = frame.shape if first is None else first
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or frame.size == 0:
            raise ValueError(f"frame {number} has shape {frame.shape}, dtype {frame.dtype}: expected (H, W, 3) uint8")
        if frame.shape != first:
            raise ValueError(f"frame {number} has shape {frame.shape}: expected {first}, as the first")
        yield frame
    if first is None:
        raise ValueError("frames is empty: expected at least one")


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    import imageio_ffmpeg

    first = _even(next(frames))
    size = (first.shape[1], first.shape[0])
    writer = imageio_ffmpeg.write_frames(
        str(path),
        size,
        fps=fps,  # pyright: ignore[reportArgumentType]
        codec="libx264",
        quality=QUALITY,
        macro_block_size=2,
        ffmpeg_log_level="quiet",  # what it would print beside the one line that is raised
    )
    writer.send(None)  # starts the process
    count = 0
    try:
        for frame in chain([first], map(_even, frames)):
            died = None
            try:
                writer.send(np.ascontiguousarray(frame))
            except OSError as error:
                died = error
            if died is not None:
                with warnings.catch_warnings():  # imageio-ffmpeg does not close the pipe to a process that has died
                    warnings.simplefilter("ignore", ResourceWarning)
                    del died  # and with it what holds the pipe
                raise _not_whole(path)
            count += 1
    finally:
        writer.close()
    # The writer does not say how its process ended.
    try:
        found, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    except RuntimeError:
        raise _not_whole(path) from None
    if found != count:
        raise _not_whole(path)


def _not_whole(path: Path) -> OSError:
    return OSError(errno.ENOSPC, "ffmpeg could not write the film whole, most likely for want of space", str(path))


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    from PIL import Image

    first = Image.fromarray(next(frames))
    rest = (Image.fromarray(frame) for frame in frames)
    duration = max(2, round(100.0 / fps)) * 10  # milliseconds; viewers slow down anything below 20
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=duration, loop=0)


def _even(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


_WRITERS = {".mp4": _write_mp4, ".gif": _write_gif}
