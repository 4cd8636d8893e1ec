"""Pane: one way to look at a population; a session shows one at a time."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from apps.viewer.jobs import Job

if TYPE_CHECKING:
    from apps.viewer.session import Session


class Pane(ABC):
    """Its controls stand in a folder of the panel, visible while the pane is shown.

    `build` adds the controls, once; `draw` shows the pane on the stage, piece by piece, and is called again whenever
    what it shows has changed; `leave` takes away what it put into the scene. `draw`, `enter` and `leave` run on the
    session's own thread; callbacks of controls run on others, and ask for work by `self.redraw()` or `session.do`.
    """

    label: ClassVar[str]  # on the button that shows it

    def __init__(self, session: "Session") -> None:
        self.session = session

    @classmethod
    def suits(cls, session: "Session") -> bool:
        """Whether there is anything to show of the session's collection."""
        return True

    @abstractmethod
    def build(self) -> None:
        """Add the controls, inside the pane's folder."""

    @abstractmethod
    def draw(self) -> Job | None:
        """Show the pane on the stage."""

    def redraw(self) -> None:
        """Ask for `draw`, if the pane is shown."""
        if self.session.pane is self:
            self.session.do("draw", self.draw)

    def add_zoom(self) -> None:
        """Add buttons that move the window of a flat page."""
        group = self.session.gui.add_button_group("Zoom", ("All", "In", "Out"))
        group.on_click(lambda event: self.session.do("zoom", lambda: self._zoom_by(str(event.target.value))))

    def _zoom_by(self, word: str) -> None:
        if word == "All":
            self.session.stage.reset_window()
        else:
            self.session.stage.zoom(2.0 if word == "In" else 0.5)
        self.redraw()

    def enter(self) -> None:  # noqa: B027 -- most panes have nothing to prepare
        """The pane is about to be shown."""

    def leave(self) -> None:  # noqa: B027 -- nor to take away
        """Another pane is about to be shown."""

    def changed(self) -> None:  # noqa: B027
        """The collection, or the field that is open, is another one."""

    def follow(self, now: np.ndarray) -> None:  # noqa: B027
        """The store grew: the field at position p stands at now[p] from here on."""

    def click(self, row: float, column: float) -> None:  # noqa: B027
        """A flat page was clicked, at shares of the canvas."""

    def moved(self) -> None:  # noqa: B027
        """The camera moved, or the canvas has another size."""
