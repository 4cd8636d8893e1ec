"""Lobby: the page of a store that may not be there yet: a note to wait at first, the viewer once fields landed."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from apps.viewer.live import THREAD
from apps.viewer.markdown import plain
from apps.viewer.page import FAINT, INK, Page
from apps.viewer.server import POLL_S, Viewer, ViewerConfig, address, end, serve
from apps.viewer.session import furnish
from apps.viewer.stage import Stage

if TYPE_CHECKING:
    import viser


WAITING = "The fit has begun: waiting for its first fields."
WAITING_PAGE = "Waiting for the first fields", "They are shown here as soon as they are fitted."
REFUSED_PAGE = "These fields cannot be shown", "The panel says why."


class Lobby:
    """Serves the store at `path` from the moment that it holds fields, looking for it every `seconds`.

    Fields that the viewer cannot show are not waited for any longer: the page says why. Raises OSError for a port that
    is taken. `stop` ends everything.
    """

    def __init__(self, path: str | Path, config: ViewerConfig, seconds: float = POLL_S) -> None:
        self._path, self._config, self._seconds = path, config, seconds
        self.viewer: Viewer | None = None
        self._refused = ""  # why the fields cannot be shown
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._notes: dict[int, tuple[viser.ClientHandle, viser.GuiMarkdownHandle]] = {}
        self._server = serve(config.host, config.port)
        self._server.on_client_connect(self._welcome)
        self._server.on_client_disconnect(self._farewell)
        self._thread = threading.Thread(target=self._wait, name=THREAD, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return address(self._config.host, self._server)

    def stop(self) -> None:
        """End the viewer, or the waiting for it, and the server."""
        self._stopped.set()
        self._thread.join()
        if self.viewer is not None:
            self.viewer.stop()
        else:
            end(self._server)

    def _wait(self) -> None:
        while not self.look() and not self._stopped.wait(self._seconds):
            pass

    def look(self) -> bool:
        """Look once; whether there is no more to wait for: the viewer serves the store, or the page says why not."""
        from neuralfields.store import open_store

        try:
            store = open_store(self._path)
        except (ValueError, OSError):  # no store yet
            return False
        if not len(store):
            return False
        with self._lock:
            notes, self._notes = self._notes, {}
            for _, note in notes.values():
                note.remove()
            try:
                self.viewer = Viewer(store, self._config, self._server)
            except ValueError as error:
                self._refused = str(error)
                for client, _ in notes.values():
                    self._tell(client)
        return True

    def _welcome(self, client: "viser.ClientHandle") -> None:
        with self._lock:
            if self.viewer is not None:
                return
            furnish(client.gui)
            self._tell(client)
        client.camera.on_update(lambda _: self._moved(client))  # the canvas has another size once the panel is docked

    def _tell(self, client: "viser.ClientHandle") -> None:
        words = f"The viewer cannot show these fields: {plain(self._refused)}" if self._refused else WAITING
        self._notes[client.client_id] = client, client.gui.add_markdown(words)
        self._draw(client)

    def _moved(self, client: "viser.ClientHandle") -> None:
        with self._lock:
            if self.viewer is None:
                self._draw(client)

    def _draw(self, client: "viser.ClientHandle") -> None:
        stage = Stage(client)
        (height, width), page = stage.size, Page(stage.size)
        title, more = REFUSED_PAGE if self._refused else WAITING_PAGE
        page.text(title, height / 2 - 24, width / 2, INK, 18, "mm", bold=True)
        page.text(more, height / 2 + 6, width / 2, FAINT, 14, "mm")
        stage.flat(page.array())

    def _farewell(self, client: "viser.ClientHandle") -> None:
        with self._lock:
            self._notes.pop(client.client_id, None)
