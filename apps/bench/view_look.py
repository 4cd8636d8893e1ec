"""Who looks at a viewer while it is measured: a headless Chromium, or a client that draws nothing."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--use-gl=angle", "--use-angle=swiftshader")
SIZE = {"width": 1280, "height": 800}
PATIENCE_S = 120.0
TRIES = 5
STEP = 1.6  # pixels that a slider is moved: more than a step of its value
CANVAS = "[...document.querySelectorAll('canvas')].slice(-1).flatMap(c => [c.clientHeight, c.clientWidth])"
CONTRAST = 60  # grey levels between the darkest and the lightest pixel of a thumbnail
CELLS = "cells along the box"
COARSE, FINE = "coarse surface", "fine surface"
# Times, by the page's own clock: of the button that moves the slider; of the words of a surface, which are sent after
# it, and messages are handled in their order; of the second frame after those, by when it has been painted.
WATCH = """
(() => {
  const words = () => [...document.querySelectorAll("p")].map(p => p.textContent).find(t => t.includes("CELLS"));
  window.marks = {};
  window.addEventListener("mousedown", () => { window.marks = {moved: performance.now()}; }, true);
  let last = words();
  new MutationObserver(() => {
    const now = words(), marks = window.marks;
    if (!now || now == last) return;
    last = now;
    const cells = now.match(/(\\d+) CELLS/)[1];
    marks[cells] = performance.now();
    requestAnimationFrame(() => requestAnimationFrame(() => { marks["painted" + cells] = performance.now(); }));
  }).observe(document, {subtree: true, childList: true, characterData: true});
})()
""".replace("CELLS", CELLS)


class Looker(Protocol):
    """One client of a viewer."""

    name: str

    def open(self, address: str) -> None:
        """Go to the page."""
        ...

    def move(self, label: str, cells: tuple[int, int]) -> dict[str, float]:
        """Move a slider by a step: seconds until the surface of so many cells came, coarse and fine, by name."""
        ...

    def turn(self) -> None:
        """Turn to the next page of the gallery."""
        ...

    def sees(self, size: tuple[int, int], row: float, column: float, side: int) -> bool:
        """Whether the canvas has a size, and a square of it, in pixels, shows more than one colour."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


class Chromium:
    """A page in a headless Chromium. Raises ValueError where it or playwright is not installed."""

    name = "browser"

    def __init__(self) -> None:
        path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            raise ValueError("playwright is not installed: expected it, and a Chromium, to measure a browser") from None
        if path is None:
            raise ValueError(f"none of {', '.join(BROWSERS)} is installed: expected one, to measure a browser")
        self._stack = contextlib.ExitStack()
        playwright = self._stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        self._stack.callback(browser.close)
        self._moves = 0
        self._page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]

    def open(self, address: str) -> None:
        """Go to the page."""
        self._page.goto(address)

    def move(self, label: str, cells: tuple[int, int]) -> dict[str, float]:
        """From the mouse button to the words that follow the surface, and to the second frame after them: painted."""
        page = self._page
        if not page.evaluate("'marks' in window"):
            page.evaluate(WATCH)
        words = page.locator("label").filter(has_text=label).first
        track = words.locator("xpath=ancestor::*[.//*[@role='slider']][1]").locator(".mantine-Slider-track")
        box = track.bounding_box()
        assert box is not None
        for _ in range(TRIES):
            self._moves += 1
            # Not by a key: those turn the camera, too.
            page.mouse.click(box["x"] + box["width"] / 2 + STEP * self._moves, box["y"] + box["height"] / 2)
            page.wait_for_function(f"window.marks.painted{cells[1]}", timeout=1000 * PATIENCE_S)
            marks = page.evaluate("window.marks")
            if f"painted{cells[0]}" in marks:  # else the coarse one was overtaken before it was painted
                break
        else:
            raise RuntimeError(f"{label}: in {TRIES} moves the browser painted no surface of {cells[0]} cells")
        found = {}
        for name, number in zip((COARSE, FINE), cells, strict=True):
            found[name] = (marks[str(number)] - marks["moved"]) / 1000
            found[f"{name}, painted"] = (marks[f"painted{number}"] - marks["moved"]) / 1000
        return found

    def turn(self) -> None:
        """Click the button."""
        self._page.get_by_role("button", name="Next", exact=True).first.click()

    def sees(self, size: tuple[int, int], row: float, column: float, side: int) -> bool:
        """By a screenshot, which counts into the time."""
        import io

        import numpy as np
        from PIL import Image

        if self._page.evaluate(CANVAS) != [*size]:
            return False
        clip = {"x": column, "y": row, "width": side, "height": side}
        shot = self._page.screenshot(clip=clip)  # type: ignore[arg-type]
        return bool(np.ptp(np.asarray(Image.open(io.BytesIO(shot)).convert("L"))) > CONTRAST)

    def close(self) -> None:
        """End the browser."""
        self._stack.close()


class Wire:
    """A client that speaks viser's protocol and draws nothing: what is left is the work of the server."""

    name = "server"

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._inputs: dict[str, tuple[str, dict]] = {}
        self._told: list[float] = []
        self._socket: Any = None

    def open(self, address: str) -> None:
        """Connect, and say how large the canvas is, as browsers do."""
        import viser
        from viser._messages import ViewerCameraMessage
        from websockets.sync.client import connect
        from websockets.typing import Subprotocol

        uri = address.replace("http://", "ws://")
        self._socket = connect(uri, subprotocols=[Subprotocol(f"viser-v{viser.__version__}")], max_size=None)
        threading.Thread(target=self._listen, name="bench-wire", daemon=True).start()
        height, width = SIZE["height"], SIZE["width"] - 384
        turned, at, middle, up = (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 4.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0)
        self._say(ViewerCameraMessage(turned, at, 0.8, 0.1, 100.0, height, width, middle, up))

    def move(self, label: str, cells: tuple[int, int]) -> dict[str, float]:
        """From the message that a browser sends for the slider to the words that follow the surfaces."""
        uuid, about = self._input(label)
        value = min(about["value"] + about["props"]["step"], about["props"]["max"])
        about["value"] = value
        with self._arrived:
            self._told.clear()
        begin = time.perf_counter()
        self._update(uuid, value)
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self._told) > 1, PATIENCE_S):
                raise RuntimeError(f"{label}: no surface came for value {value}")
            return {COARSE: self._told[0] - begin, FINE: self._told[1] - begin}

    def turn(self) -> None:
        """Say that the button was clicked."""
        self._update(self._input("Page")[0], "Next")

    def sees(self, size: tuple[int, int], row: float, column: float, side: int) -> bool:
        """It sees nothing, and believes the server."""
        return True

    def close(self) -> None:
        """Disconnect."""
        if self._socket is not None:
            self._socket.close()

    def _input(self, label: str) -> tuple[str, dict]:
        with self._arrived:
            if not self._arrived.wait_for(lambda: label in self._inputs, PATIENCE_S):
                raise RuntimeError(f"{label}: the page has no such control")
            return self._inputs[label]

    def _update(self, uuid: str, value: object) -> None:
        from viser._messages import GuiUpdateMessage

        self._say(GuiUpdateMessage(uuid, {"value": value}))

    def _say(self, message: Any) -> None:
        import msgspec.msgpack

        self._socket.send(msgspec.msgpack.encode(message.as_serializable_dict()))

    def _listen(self) -> None:
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed):
            for frame in self._socket:
                now = time.perf_counter()
                with self._arrived:
                    for message in messages(frame):
                        self._take(message, now)
                    self._arrived.notify_all()

    def _take(self, message: dict, now: float) -> None:
        kind, props = message["type"], message.get("props")
        if kind == "GuiUpdateMessage":
            if any(CELLS in value for value in message["updates"].values() if isinstance(value, str)):
                self._told.append(now)
            for uuid, about in self._inputs.values():
                if uuid == message["uuid"]:
                    about["value"] = message["updates"].get("value", about["value"])
                    about["props"].update({k: v for k, v in message["updates"].items() if k in about["props"]})
        elif kind.startswith("Gui") and isinstance(props, dict) and props.get("label"):
            about = {"value": message.get("value"), "props": props}
            self._inputs.setdefault(str(props["label"]), (message["uuid"], about))


def messages(frame: bytes) -> Iterator[dict]:
    """What a server sent at once: two lengths of 8 bytes, then MessagePack compressed by zstd, then arrays."""
    import msgspec.msgpack
    import zstandard

    whole, packed = (int.from_bytes(frame[at : at + 8], "little") for at in (0, 8))
    plain = zstandard.ZstdDecompressor().decompress(frame[16 : 16 + packed], max_output_size=whole)
    yield from msgspec.msgpack.decode(plain)["messages"]
