"""A headless browser, viewers of small stores, and one page that looks at one of them."""

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apps.viewer.collection import Part, of_store
from fitting import fit, images
from neuralfields import SIREN, FieldStore

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
PATIENCE_S = 60.0
CANVAS = "[...document.querySelectorAll('canvas')].slice(-1).flatMap(c => [c.clientHeight, c.clientWidth])"
SIZE = {"width": 1280, "height": 800}


class Look:
    """One browser page that looks at a viewer, and the session that serves it."""

    def __init__(self, page: Any, viewer: Any) -> None:
        before = set(viewer.sessions)
        self.page = page
        page.goto(viewer.address)
        until(lambda: set(viewer.sessions) - before)
        (self.session,) = set(viewer.sessions) - before
        self.rest()

    def rest(self) -> None:
        """Wait until everything asked for is done and drawn, and the browser shows it."""
        self.page.wait_for_timeout(300)
        until(lambda: self.page.evaluate(CANVAS) == list(self.session.stage.size))
        assert self.session.wait(PATIENCE_S)
        self.session.client.local_storage.get_item(
            "anything", timeout=PATIENCE_S
        )  # it has had all that was sent before
        self.page.wait_for_timeout(300)

    def pick(self, label: str, option: str) -> None:
        """Choose an option of a dropdown."""
        self.page.get_by_label(label, exact=True).click()
        self.page.get_by_role("option", name=option, exact=True).click()
        self.rest()

    def fill(self, label: str, value: object) -> None:
        """Type a value into an input."""
        entry = self.page.get_by_label(label, exact=True)
        entry.fill(str(value))
        entry.press("Enter")
        self.rest()

    def press(self, name: str) -> None:
        """Click a button by its words."""
        self.page.get_by_role("button", name=name, exact=True).first.click()
        self.rest()

    def click(self, row: float, column: float) -> None:
        """Click the canvas at shares of its height and width."""
        height, width = self.session.stage.size
        self.page.mouse.click(column * width, row * height)
        self.rest()

    def picture(self) -> np.ndarray:
        """What the canvas shows once it stays the same, or after some seconds: uint8 (H, W, 3)."""
        shot = self._shot()
        for _ in range(10):
            before, shot = shot, self._shot()
            if np.array_equal(before, shot):
                break
        return shot

    def _shot(self) -> np.ndarray:
        height, width = self.session.stage.size
        shot = self.page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height})
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))

    def save(self, name: str) -> None:
        """Keep a screenshot where NF_SCREENSHOTS says, if it says so."""
        if folder := os.environ.get("NF_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))


def until(true: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
    """Wait until something is true. Raises AssertionError when it does not come to be."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium of the system; tests that need it are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def look(chromium: Any) -> Iterator[Callable[..., Look]]:
    """Open a page of a viewer: look(viewer) -> Look. Every page has a browser context of its own."""
    contexts = []

    def open_page(viewer: Any, size: dict[str, int] = SIZE) -> Look:
        contexts.append(chromium.new_context(viewport=size))
        return Look(contexts[-1].new_page(), viewer)

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Serve a store on a free port: serve(store, **settings of ViewerConfig) -> Viewer; stopped after the test."""
    pytest.importorskip("viser")
    from apps.viewer.server import Viewer, ViewerConfig

    viewers = []

    def start(store: FieldStore, **settings: Any) -> Viewer:
        viewers.append(Viewer(store, ViewerConfig(port=0, **settings)))
        return viewers[-1]

    yield start
    for viewer in viewers:
        viewer.stop()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> FieldStore:
    """120 fields of scikit-learn's digits, 2-16-16-1."""
    signals = images.load("digits", split="train", limit=120)
    return fit(
        signals, SIREN(2, 1, hidden=(16, 16), w0=10.0), steps=60, out=tmp_path_factory.mktemp("digits") / "store"
    )


@pytest.fixture(scope="session")
def digits_part(digits: FieldStore) -> Part:
    """The same as a part of a collection."""
    return of_store(digits)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads would only wait for the browser, which draws on the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
