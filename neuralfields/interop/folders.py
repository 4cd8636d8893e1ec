"""Write a foreign folder whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Progress = Callable[[int, int], None]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside `out` that becomes `out` when the block ends without an error.

    Raises ValueError when `out` exists and is not an empty folder.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out}: exists already, expected a new or empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes a private folder, an export is an ordinary one
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def need_folder(folder: str | Path) -> Path:
    """Return the path of an existing folder. Raises FileNotFoundError otherwise."""
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"path={str(folder)!r}: expected an existing folder")
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
