"""Exclusive lock on a folder that holds across processes and is released when its owner ends, however it ends."""

import errno
import os
from pathlib import Path
from typing import IO

_HELD = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN, getattr(errno, "EDEADLOCK", errno.EAGAIN))
# On Windows a locked range cannot be read by others: this one lies far behind the pid.
_FAR = 1 << 30


def acquire(folder: Path, name: str) -> IO:
    """Take the lock of `folder`, a file of that name which holds the owner's pid meanwhile.

    Raises ValueError, one line, when another process has it.
    """
    lock = (folder / name).open("a+")
    try:
        _try_lock(lock)
    except OSError as error:
        lock.seek(0)
        owner = lock.read(20).strip() or "unknown"
        lock.close()
        if error.errno not in _HELD:
            raise ValueError(f"out={str(folder)!r} cannot be locked: {error.strerror}; choose another disk") from None
        raise ValueError(
            f"out={str(folder)!r} is being written by another process (pid {owner}): wait or stop it"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def release(lock: IO) -> None:
    """Give the lock back; its file stays, empty, because removing it would race with the next owner."""
    lock.truncate(0)
    lock.close()


def _try_lock(lock: IO) -> None:
    if os.name == "posix":
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        lock.seek(_FAR)
        msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
