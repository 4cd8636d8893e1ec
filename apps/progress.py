"""Progress on stderr: a bar with the time left on a terminal, otherwise a plain line every few seconds."""

import sys
import time
from types import TracebackType
from typing import Any

from apps.output import duration

PLAIN_EVERY_S = 5.0


class Progress:
    """Shows how far one long piece of work is; a context manager.

    what: a word for the work; unit: a word for what is counted. Nothing is printed when quiet.
    """

    def __init__(self, what: str, unit: str, quiet: bool = False) -> None:
        self.what, self.unit, self.quiet = what, unit, quiet
        self.last_line = time.perf_counter()
        self.first: tuple[float, float] | None = None
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> "Progress":
        if not self.quiet and sys.stderr.isatty():
            self.bar = _bar()
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=None, note="")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, done: float, total: float, count: str, note: str = "") -> None:
        """Show that `done` of `total` parts of the work are finished; count and note are words beside the bar."""
        if self.quiet:
            return
        text = f"{count} {self.unit}" + (f", {note}" if note else "")
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total, note=text)
            return
        now = time.perf_counter()
        # From when the first parts were done: what comes before, such as reading a store, is not repeated for the rest.
        self.first = (now, done) if self.first is None else self.first
        if now - self.last_line >= PLAIN_EVERY_S:
            self.last_line = now
            seconds, gained = now - self.first[0], done - self.first[1]
            left = seconds * (total - done) / gained if gained > 0 else None
            eta = "" if left is None else f", {duration(left)} left"
            print(f"{self.what}: {text}{eta}", file=sys.stderr, flush=True)


def _bar() -> Any:
    """A rich bar: description, bar, percentage, note, time used and left."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("<"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
