"""Jobs: the work of one browser, on a thread of its own; what was asked last drops what it makes needless."""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Wherever a job yields, it may be dropped or overtaken; it goes on so many seconds later at the earliest.
Job = Iterator[float]


@dataclass
class _Task:
    key: str
    start: Callable[[], Job | None]
    due: float = 0.0
    job: Job | None = None


class Jobs:
    """A queue of jobs with keys. A new job drops an unfinished one of its key; started ones go on after waiting ones.

    complain: told of every error that a job ends with.
    """

    def __init__(self, name: str, complain: Callable[[Exception], None]) -> None:
        self._complain = complain
        self._tasks: list[_Task] = []
        self._changed = threading.Condition()
        self._closed = self._busy = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def do(self, key: str, start: Callable[[], Job | None]) -> None:
        """Queue a job: a function, or one that yields where it may be dropped. Those of its key are dropped."""
        with self._changed:
            self._tasks = [task for task in self._tasks if task.key != key]
            self._tasks.append(_Task(key, start))
            self._changed.notify_all()

    def drop(self, key: str) -> None:
        """Drop the job of a key, if there is one."""
        with self._changed:
            self._tasks = [task for task in self._tasks if task.key != key]

    def wait(self, timeout: float) -> bool:
        """Wait until nothing is left to do; whether that came to be within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._tasks and not self._busy, timeout)

    def close(self) -> None:
        """Drop everything and end the thread, after the piece of work that it is at."""
        with self._changed:
            self._closed, self._tasks = True, []
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        while (task := self._take()) is not None:
            again = self._piece(task)
            with self._changed:
                self._busy = False
                newer = any(other.key == task.key for other in self._tasks)
                if again is not None and not newer and not self._closed:
                    task.due = time.monotonic() + again
                    self._tasks.append(task)
                self._changed.notify_all()

    def _take(self) -> _Task | None:
        """The first task that is due, those not begun before the others; None once closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                due = [task for task in self._tasks if task.due <= now]
                if due:
                    task = min(due, key=lambda task: task.job is not None)
                    self._tasks.remove(task)
                    self._busy = True
                    return task
                self._changed.wait(min((task.due - now for task in self._tasks), default=None))
            return None

    def _piece(self, task: _Task) -> float | None:
        """Run a task up to its next yield: the seconds it waits there, None at its end."""
        try:
            if task.job is None:
                task.job = task.start()
            return None if task.job is None else next(task.job, None)
        except Exception as error:  # a browser must not lose its thread to one picture that failed
            if not isinstance(error, ValueError):
                traceback.print_exc(file=sys.stderr)
            self._complain(error)
            return None
