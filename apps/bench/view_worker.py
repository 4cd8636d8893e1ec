"""The serving process of `nf bench view`: a viewer and what it knows of its sessions and its memory.

Started as `python -m apps.bench.view_worker JSON`; the request names a store and a number of threads. It first says
the memory of an empty server, then that it has opened the store; from then on every line on stdin is a command, and is
answered by one line of JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apps.viewer.server import Viewer
    from apps.viewer.session import Session
    from neuralfields import FieldStore

PATIENCE_S = 120.0
SETTLED_S = 0.3


def rss_mb() -> float:
    """Resident memory of this process, in units of 10^6 bytes; where the system does not tell, the most so far."""
    import os

    from apps.bench.memory import peak_mb

    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_mb()
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(request: dict) -> None:
    """Serve until stdin ends."""
    import contextlib
    import io

    from apps.viewer.server import LOCAL, Viewer, ViewerConfig, serve

    empty = serve(LOCAL, 0)
    time.sleep(SETTLED_S)
    say(empty_mb=rss_mb())
    with contextlib.redirect_stdout(io.StringIO()):
        empty.stop()
    store = load(request)
    say(opened=len(store))
    viewer = None
    for line in sys.stdin:
        command = line.strip()
        if command == "start":
            viewer = Viewer(store, ViewerConfig(port=0))
            say(address=viewer.address, rss_mb=rss_mb())
        elif viewer is not None:
            answer(viewer, command)
    if viewer is not None:
        viewer.stop()


def load(request: dict) -> "FieldStore":
    """Open the store, as `nf view` does before it starts its viewer."""
    import torch

    from neuralfields.store import open_store

    torch.set_num_threads(request["threads"])
    return open_store(request["store"])


def answer(viewer: "Viewer", command: str) -> None:
    """rest: wait until the one session has nothing left to do; field: open the first field, and rest."""
    from apps.viewer.gallery import Gallery

    session = only_session(viewer)
    if command == "field":
        session.open(0)
    elif command != "rest":
        raise ValueError(f"command={command!r}: expected start, field or rest")
    if not session.wait(PATIENCE_S):
        raise RuntimeError(f"the session was at work for more than {PATIENCE_S:.0f} s")
    height, width = session.stage.size
    gallery = session.panes["Gallery"]
    assert isinstance(gallery, Gallery)
    shown = gallery.shown(gallery.grid())
    say(rss_mb=rss_mb(), height=height, width=width, first=int(shown[0]), last=int(shown[-1]))


def only_session(viewer: "Viewer") -> "Session":
    """The session of the one browser. Raises RuntimeError where none comes."""
    end = time.monotonic() + PATIENCE_S
    while not viewer.sessions:
        if time.monotonic() > end:
            raise RuntimeError(f"no browser came within {PATIENCE_S:.0f} s")
        time.sleep(0.002)
    return viewer.sessions[-1]


def say(**facts: object) -> None:
    """One line of JSON."""
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
