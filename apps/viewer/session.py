"""Session: what one browser sees and has chosen; nothing of it is shared with another browser."""

import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.collection import Collection, Part, Query, grown_rows, moved, with_columns
from apps.viewer.export_folder import ExportFolder
from apps.viewer.jobs import Job, Jobs
from apps.viewer.live import RunningFit
from apps.viewer.pane import Pane
from apps.viewer.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    import viser

    from apps.viewer.server import Viewer

PANEL_WIDTH = 380


class Session:
    """One client: its collection, the positions in view, the field that is open, its panes and its thread."""

    def __init__(self, client: "viser.ClientHandle", viewer: "Viewer") -> None:
        self.client, self.viewer, self.stage = client, viewer, Stage(client)
        self.collection = Collection([viewer.part])
        self._own: dict[str, np.ndarray] = {}  # columns of the store that this browser alone has
        self.query = Query()
        self.chosen = self.collection.choose(self.query)
        self.position = 0  # of the field that is open
        self.is_closed = False  # nothing may be sent to a browser that is gone
        self._size = (0, 0)
        self._lock = threading.Lock()
        self._jobs = Jobs(f"view-{client.client_id}", lambda error: self.tell("That did not work", str(error), "red"))
        self.panes = {kind.label: kind(self) for kind in viewer.panes if kind.suits(self)}
        self.pane: Pane = next(iter(self.panes.values()))
        self.do("build", self._build)

    @property
    def gui(self) -> "viser.GuiApi":
        """Where controls of this browser are added."""
        return self.client.gui

    def do(self, key: str, start: Callable[[], Job | None]) -> None:
        """Queue work on the session's thread; it drops unfinished work of the same key."""
        self._jobs.do(key, start)

    def wait(self, timeout: float) -> bool:
        """Wait until everything asked for is done; whether that came to be."""
        return self._jobs.wait(timeout)

    def tell(self, title: str, text: str, colour: str | None = None) -> None:
        """Show a note in the browser for a few seconds."""
        self.client.add_notification(title, text, auto_close_seconds=8.0, color=colour)  # type: ignore[arg-type]

    @contextmanager
    def telling(self, text: str) -> "Iterator[viser.NotificationHandle]":
        """Show a note while something takes its time; its body may be changed."""
        note = self.client.add_notification(text, "", loading=True, with_close_button=False, auto_close_seconds=False)
        try:
            yield note
        finally:
            if not self.is_closed:
                note.remove()

    def show(self, label: str) -> None:
        """Show a pane."""
        self.do("show", lambda: self._show(label))

    def open(self, position: int) -> None:
        """Open a field, in the pane that shows single fields."""
        self.choose_field(position)
        if "Field" in self.panes:
            self.show("Field")

    def choose_field(self, position: int) -> None:
        """Make another field the open one, in whatever pane is shown."""
        self.collection.place(position)
        self.position = int(position)
        self._tell_panes()

    def find(self, query: Query) -> None:
        """Take other fields into view."""
        self.query = query
        self.chosen = self.collection.choose(query)
        self._tell_panes()

    def add(self, part: Part) -> None:
        """Append fields that were made while looking. A part of the same name is replaced."""
        with self._lock:
            parts = [old for old in self.collection.parts if old.name != part.name]
            self.collection = Collection([*parts, part])
        self.position = min(self.position, len(self.collection) - 1)
        self.find(self.query)

    def add_columns(self, columns: dict[str, dict[str, np.ndarray]], of: Collection) -> None:
        """Say more of the fields of some parts, to this browser alone: name of a part -> columns, of as many fields as
        it has in the collection `of`, an earlier one."""
        with self._lock:
            store = self.collection.parts[0]
            own = moved(columns.get(store.name, {}), grown_rows(of.parts[0], store), store)
            columns = {**columns, store.name: own}
            parts = [with_columns(part, columns.get(part.name, {})) for part in self.collection.parts]
            self.collection = Collection(parts)
            self._own.update(own)
        self.find(self.query)

    def store_grew(self) -> None:
        """The store has more fields than before."""
        with self._lock:
            part, (before, *made) = self.viewer.part, self.collection.parts
            rows = grown_rows(before, part)
            self._own = moved(self._own, rows, part)
            self.collection = Collection([with_columns(part, self._own), *made])
            made_at = np.arange(sum(map(len, made))) + len(part)
            now = np.concatenate([rows, made_at])
            self.position = int(now[self.position])  # the open field stays the same one, wherever it stands now
        for pane in self.panes.values():
            pane.follow(now)
        self._headline.content = self.viewer.headline()
        self._running.update(self.viewer.store.complete)
        self.find(self.query)

    def close(self) -> None:
        """The browser is gone: end its thread."""
        self.is_closed = True
        self._jobs.close()

    def _tell_panes(self) -> None:
        for pane in self.panes.values():
            pane.changed()
        self.pane.redraw()

    def _build(self) -> None:
        gui, client = self.gui, self.client
        self._size = self.stage.size
        furnish(gui)
        self._headline = gui.add_markdown(self.viewer.headline())
        self._running = RunningFit(gui, None if self.viewer.store.complete else self.viewer.live)
        self._switch = gui.add_button_group("Show", tuple(self.panes))
        self._switch.on_click(lambda event: self.show(str(event.target.value)))
        self._folders = {}
        for label, pane in self.panes.items():
            self._folders[label] = gui.add_folder(label, visible=pane is self.pane)
            with self._folders[label]:
                pane.build()
        ExportFolder(self).build()
        client.scene.on_click()(lambda event: self._clicked(*event.screen_pos))
        client.camera.on_update(lambda _: self._moved())
        self._running.update(self.viewer.store.complete)
        self._show(self.pane.label)

    def _show(self, label: str) -> None:
        if label not in self.panes:
            raise ValueError(f"pane={label!r}: expected one of {', '.join(self.panes)}")
        self.pane.leave()
        self.pane = self.panes[label]
        for name, folder in self._folders.items():
            folder.visible = name == label
        self.pane.enter()
        self.pane.redraw()

    def _clicked(self, column: float, row: float) -> None:
        if self.stage.is_flat:
            self.do("click", lambda: self.pane.click(float(row), float(column)))

    def _moved(self) -> None:
        size = self.stage.size
        if size != self._size:
            self._size = size
            self.pane.redraw()
        self.pane.moved()


def furnish(gui: "viser.GuiApi") -> None:
    """Give a browser its panel, empty."""
    gui.configure_theme(show_logo=False, show_share_button=False, brand_color=(34, 102, 204))
    gui.set_panel_label("neuralfields")
    gui.main_panel.dock_right()
    gui.main_panel.set_width(PANEL_WIDTH)


def nearest_position(chosen: np.ndarray, position: int, step: int) -> int:
    """The position `step` places after `position` in the chosen order; the first chosen one where it is not there."""
    if not len(chosen):
        raise ValueError("no field is in view: expected a filter that keeps some")
    at = np.flatnonzero(chosen == position)
    return int(chosen[(int(at[0]) + step) % len(chosen)] if len(at) else chosen[0])
