"""Viewer: one store served to any number of browsers."""

import contextlib
import io
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from apps.options import ImageOptions
from apps.viewer.collection import of_store
from apps.viewer.gallery import Gallery
from apps.viewer.live import Live
from apps.viewer.map_pane import MapPane
from apps.viewer.maps import Maps
from apps.viewer.markdown import plain
from apps.viewer.networks import Networks
from apps.viewer.pair_pane import PairPane
from apps.viewer.pane import Pane
from apps.viewer.picture_pane import PicturePane
from apps.viewer.scene_pane import ScenePane
from apps.viewer.session import Session
from apps.viewer.shape_pane import ShapePane
from apps.viewer.thumbnails import Thumbnails
from apps.viewer.truth import Truth

if TYPE_CHECKING:
    import viser

    from neuralfields import FieldStore

LOCAL = "127.0.0.1"
PORT = 8080
PANES: tuple[type[Pane], ...] = (Gallery, MapPane, PicturePane, ShapePane, ScenePane, PairPane)
POLL_S = 1.0  # between two looks at a store that is being written


@dataclass(frozen=True, kw_only=True)
class ViewerConfig:
    """host, port: where the page is served, port 0 takes a free one; exports: folder that exports are written to;
    networks: folders of trained networks; beside: where the originals are, images: how they are read."""

    host: str = LOCAL
    port: int = PORT
    exports: Path = Path("runs/view")
    networks: tuple[str, ...] = ()
    beside: str | None = None
    images: ImageOptions = field(default_factory=ImageOptions)


class Viewer:
    """Serves a store, read-only; a context manager. Each browser has a Session, the pictures are shared.

    server: one that runs already, instead of one of the viewer's own. Raises ValueError for a store that cannot be
    looked at, OSError for a port that is taken.
    """

    def __init__(
        self, store: "FieldStore", config: ViewerConfig | None = None, server: "viser.ViserServer | None" = None
    ) -> None:
        self.config = config or ViewerConfig()
        self.store, self.part = store, of_store(store)
        self.thumbnails, self.maps, self.panes = Thumbnails(), Maps(), PANES
        self.networks = Networks(self.config.networks, store)
        beside = self.config.beside
        self.truth = None if beside is None else Truth(beside, self.config.images)
        self._sessions: dict[int, Session] = {}
        self._lock = threading.Lock()
        self._server = serve(self.config.host, self.config.port) if server is None else server
        self.live = None if store.complete else Live(self, POLL_S)
        self._server.on_client_connect(self._connect)
        self._server.on_client_disconnect(self._disconnect)

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return address(self.config.host, self._server)

    @property
    def sessions(self) -> list[Session]:
        """Of the browsers that look at the moment."""
        with self._lock:
            return list(self._sessions.values())

    def headline(self) -> str:
        """What is looked at, as markdown."""
        spec = self.store.spec
        count = f"{len(self.store):,} field" + "s" * (len(self.store) != 1)
        if not self.store.complete:
            count = f"{len(self.store):,} of {self.store.num_planned:,} fields so far"
        return f"**{plain(self.store.path.name)}** — {count}  \n{spec.describe()}"

    def stop(self) -> None:
        """End every session and the server."""
        if self.live is not None:
            self.live.stop()
        for session in self.sessions:
            session.close()
        end(self._server)

    def _connect(self, client: "viser.ClientHandle") -> None:
        with self._lock:
            self._sessions[client.client_id] = Session(client, self)

    def _disconnect(self, client: "viser.ClientHandle") -> None:
        with self._lock:
            session = self._sessions.pop(client.client_id, None)
        if session is not None:
            session.close()
            self.thumbnails.forget(client.client_id)


def address(host: str, server: "viser.ViserServer") -> str:
    """What to open in a browser. Where a machine draws slowly, viser would shrink the canvas and blur what is on it."""
    return f"http://{host}:{server.get_port()}/?fixedDpr=1"


def check_address(host: str, port: int) -> None:
    """Raise ValueError for an address that cannot be listened at: viser would wait for its own thread for ever."""
    if not 0 <= port < 2**16:
        raise ValueError(f"port={port}: expected a whole number from 0 to 65535")
    try:
        socket.create_server((host, 0)).close()
    except OSError as error:
        raise ValueError(f"host={host!r}: {error.strerror}; expected an address of this machine") from None


def serve(host: str, port: int) -> "viser.ViserServer":
    """A viser server that prints nothing and opens no tunnel to elsewhere. Raises ValueError where it cannot listen."""
    import viser

    check_address(host, port)

    with contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host=host, port=port, verbose=False)
    # A browser can ask for a public address through somebody else's machine, button or not.
    server.request_share_url = lambda *_, **__: None
    return server


def end(server: "viser.ViserServer") -> None:
    """Stop a server, without what it would print."""
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()
