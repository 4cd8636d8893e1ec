"""nf view: look at a population in the browser."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from apps.options import SHOWN, OriginalOptions, Originals, Shown, StorePath, Threads
from apps.output import Output
from apps.training import limit_threads

INSTALL = "pip install 'neuralfields[viewer]'"


@dataclass(frozen=True, kw_only=True)
class View:
    """Serve a page that shows the fields of STORE: a gallery, a map, single fields, the way from one to another.

    The store is only read; what a browser exports goes to --out. The page is for this machine alone unless --host says
    otherwise; from elsewhere, `ssh -L 8080:localhost:8080 MACHINE` brings it here. Ctrl-C ends it.
    """

    store: StorePath
    """Folder of a store, finished or being written."""
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="(default: STORE-view)")] = None
    """Folder that exports are written to."""
    beside: Annotated[str | None, arg(metavar="SOURCE", help_behavior_hint="(default: none)")] = None
    """Where the originals are, to show them beside their fields; as the SOURCE that was fitted."""
    images: Originals = field(default_factory=OriginalOptions)
    network: Annotated[tuple[str, ...], arg(metavar="DIR [DIR ...]", help_behavior_hint="(default: none)")] = ()
    """Folders of trained networks, to predict, edit, embed and generate with."""
    host: str = "127.0.0.1"
    """Address to serve at; 0.0.0.0 lets every machine in that reaches this one."""
    port: int = 8080
    """Port to serve at; 0 takes a free one, and the next free one is taken where it is in use."""
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def view(options: View, output: Output) -> None:
    """Run `nf view`."""
    from neuralfields.store import open_store

    limit_threads(options.threads)
    store = open_store(options.store)
    if not len(store):
        raise ValueError(
            f"store={options.store!r} holds no fields yet: expected one at least; `nf fit ... --view` waits"
        )
    viewer = start(options, store)
    with viewer:
        output.facts([("store", f"{store.path}, {len(store):,} fields")])
        output.facts([("exports", viewer.config.exports), ("address", viewer.address)])
        output.say("Ctrl-C ends it.")
        output.record(address=viewer.address, fields=len(store), exports=viewer.config.exports)
        wait_for_interrupt()


def wait_for_interrupt() -> None:
    """Wait until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        wait()


def wait() -> None:
    """Wait for good."""
    while True:
        time.sleep(3600)


@contextlib.contextmanager
def needs_viser() -> Iterator[None]:
    """Import the viewer. Raises ValueError where viser, or what it needs, is not installed."""
    try:
        import viser  # noqa: F401

        yield
    except ImportError as error:
        raise ValueError(f"the viewer needs {error.name}, which is not installed: {INSTALL}") from None


def start(options: View, store):
    """The server. Raises ValueError where viser is not installed."""
    with needs_viser():
        from apps.viewer.server import Viewer, ViewerConfig
    exports = Path(options.out or f"{options.store.rstrip('/')}-view")
    config = ViewerConfig(
        host=options.host,
        port=options.port,
        exports=exports,
        networks=options.network,
        beside=options.beside,
        images=options.images,
    )
    return Viewer(store, config)
