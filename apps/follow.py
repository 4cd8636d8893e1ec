"""--view: look at the fields of a fit in the browser while it runs."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

from tyro.conf import OmitArgPrefixes

from apps.options import ImageOptions
from apps.output import Output

if TYPE_CHECKING:
    from apps.viewer.lobby import Lobby


@dataclass(frozen=True, kw_only=True)
class FollowOptions:
    """Looking at the fit."""

    view: bool = False
    """Serve a page that shows the fields as they are fitted, and afterwards, until Ctrl-C."""
    view_port: int = 8080
    """Port of that page; 0 takes a free one, and the next free one is taken where it is in use."""


Follow: TypeAlias = Annotated[FollowOptions, OmitArgPrefixes]


@contextlib.contextmanager
def followed(
    options: FollowOptions, out: str, output: Output, beside: str, images: ImageOptions | None = None
) -> Iterator[None]:
    """Serve the store `out` while the body runs, and after it until Ctrl-C; where --view is not given, run the body.

    beside, images: the source that is fitted and how it is read. An error of the body ends the page and goes on as it
    came. Raises ValueError where viser is not installed, before the body.
    """
    if not options.view:
        yield
        return
    from apps.view import wait_for_interrupt

    lobby = start(options, out, beside, images)
    try:
        output.facts([("address", lobby.address)])
        output.record(address=lobby.address)
        yield
        output.say(f"The page goes on at {lobby.address}; Ctrl-C ends it.")
        wait_for_interrupt()
    finally:
        lobby.stop()


def start(options: FollowOptions, out: str, beside: str, images: ImageOptions | None) -> "Lobby":
    """The page of a store that is about to be written. Raises ValueError where viser is not installed."""
    from pathlib import Path

    from apps.view import needs_viser

    with needs_viser():
        from apps.viewer.lobby import Lobby
        from apps.viewer.server import ViewerConfig
    exports = Path(f"{out.rstrip('/')}-view")
    config = ViewerConfig(port=options.view_port, exports=exports, beside=beside, images=images or ImageOptions())
    return Lobby(out, config)
