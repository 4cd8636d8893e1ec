"""LongWork: a button that begins work of many pieces and a bar that says how far it is; the button stops it, too."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from apps.viewer.jobs import Job

if TYPE_CHECKING:
    from apps.viewer.session import Session


class LongWork:
    """key: of the job; words: on the button; start: gives the share that is done, in (0, 1], after every piece."""

    def __init__(self, session: "Session", key: str, words: str, start: Callable[[], Iterator[float]]) -> None:
        self._session, self._key, self._words, self._start = session, key, words, start
        self._is_running = False

    def build(self) -> None:
        """Add the button and the bar."""
        self._button = self._session.gui.add_button(self._words)
        self._bar = self._session.gui.add_progress_bar(0.0, visible=False)
        self._button.on_click(lambda _: self._session.do(self._key, self._ended if self._is_running else self._run))

    def _run(self) -> Job:
        self._is_running = True
        self._bar.value, self._bar.visible, self._button.label = 0.0, True, "Stop"
        try:
            yield 0.0
            for share in self._start():
                self._bar.value = 100 * share
                yield 0.0
        except Exception:
            self._ended()
            raise
        self._ended()

    def _ended(self) -> None:
        self._is_running = False
        self._bar.visible, self._button.label = False, self._words
