"""The process in which the GPU check measures; after a failure another one takes its place.

A kernel that reads where it may not makes all later calls of its process fail, and one that never ends is not to be
interrupted: neither may cost what the other parts would have measured.
"""

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any

_END_S = 10  # a process in the driver may take that long to be gone
Job = Callable[[float], Iterable[Any]]


class Broken(Exception):
    """What a job raised, or how its process ended, in one line."""


class Worker:
    """Runs jobs by name in a process of its own, which starts with the first one.

    make: (settings, shared) -> jobs by name, called in that process, and importable there; settings: arguments of its
    own; shared: a dictionary that the jobs may read, kept here and sent along with every request.
    """

    def __init__(self, make: Callable[[Any, dict], dict[str, Job]], settings: Any) -> None:
        self._make, self._settings = make, settings
        self.shared: dict = {}
        self._process: Any = None
        self._pipe: Any = None

    def run(self, name: str, left: float) -> Iterator[Any]:
        """All that a job gives, each as soon as it does. Raises Broken where it raised, or took its process with it."""
        if self._process is None:
            context = get_context("spawn")
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other, self._make, self._settings))
            self._process.start()
            other.close()
        try:
            # Until when, and not how long: the clock is the machine's, and a process that starts takes its seconds.
            self._pipe.send((name, time.monotonic() + left, self.shared))
            answer, trouble, more = self._pipe.recv()
            while more:
                yield answer
                answer, trouble, more = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(_END_S)
            status = self._process.exitcode
            self.close()
            raise Broken(f"its process ended with status {status}") from None
        except BaseException:  # the deadline, or Ctrl-C
            self.close()
            raise
        if trouble:
            self.close()
            raise Broken(trouble)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.join(_END_S)
            self._pipe.close()
            self._process = None


def _serve(pipe: Connection, make: Callable[[Any, dict], dict[str, Job]], settings: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    shared: dict = {}
    jobs: dict[str, Job] = {}
    while True:
        try:
            name, until, sent = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            shared.update(sent)
            jobs = jobs or make(settings, shared)
            for answer in jobs[name](until - time.monotonic()):
                pipe.send((answer, "", True))
            trouble = ""
        except Exception as error:
            traceback.print_exc()
            trouble = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        pipe.send((None, trouble, False))


def _end_with_parent() -> None:
    """A job of a process that is gone would keep the card for itself."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
