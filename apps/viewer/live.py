"""Live: follows a store that is being written, and tells every browser of the fields that landed."""

import contextlib
import threading
from typing import TYPE_CHECKING

import numpy as np

from apps.viewer.collection import of_store

if TYPE_CHECKING:
    import viser

    from apps.viewer.server import Viewer
    from neuralfields import FieldStore

THREAD = "view-live"
AT_ONCE = 256  # learning curves read at one look, spread over the fields that landed
QUALITY = {"psnr": "PSNR {:.2f} dB", "psnr_heldout": "PSNR {:.2f} dB of held-out views", "iou": "IoU {:.4f}"}


class Live:
    """A thread that looks at the viewer's store every `seconds`, reopens it where it grew, and ends when it is
    complete or `stop` is called."""

    def __init__(self, viewer: "Viewer", seconds: float) -> None:
        self._viewer, self._seconds = viewer, seconds
        self._stopped = threading.Event()
        self.curve = MeanCurve()
        self._thread = threading.Thread(target=self._watch, name=THREAD, daemon=True)
        self._thread.start()

    @property
    def figures(self) -> str:
        """How far and how good the fit is so far, as markdown."""
        store = self._viewer.store
        lines = [f"{len(store):,} of {store.num_planned:,} fields"]
        for name, words in QUALITY.items():
            values = store.column(name) if name in store.index.column_names else np.zeros(0)
            values = values[np.isfinite(values)]
            if len(values):
                lines.append(f"mean {words.format(float(values.mean(dtype=np.float64)))}")
        return "  \n".join(lines)

    def picture(self) -> np.ndarray | None:
        """The mean loss over the steps: uint8 (H, W, 3); None where the writer gives no curves."""
        from apps.viewer.weights_picture import curve

        values = self.curve.mean()
        return (
            None if values is None else curve(values, (self._viewer.store.meta.get("config") or {}).get("curve_every"))
        )

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _watch(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            self.curve.add(self._viewer.store)
            self._tell()
        while not self._viewer.store.complete and not self._stopped.wait(self._seconds):
            self.look()

    def look(self) -> bool:
        """Look once; whether the store grew, or was completed."""
        viewer = self._viewer
        store = reopened(viewer.store)
        if store is None:
            return False
        with contextlib.suppress(ValueError, OSError):  # no curve of a shard that is being replaced
            self.curve.add(store)
        viewer.store, viewer.part = store, of_store(store)
        self._tell()
        return True

    def _tell(self) -> None:
        for session in self._viewer.sessions:
            session.do("grow", session.store_grew)


def reopened(store: "FieldStore") -> "FieldStore | None":
    """The same store with what was written since; None where nothing was, or it cannot be read at this moment."""
    from neuralfields.store import open_store
    from neuralfields.store_files import read_head, shard_positions, written_shards

    try:
        written = [shard_positions(n, store.num_planned, store.shard_size) for n in written_shards(store.path)]
        if not read_head(store.path)["complete"] and sum(at.stop - at.start for at in written) == len(store):
            return None
        return open_store(store.path)
    except (ValueError, OSError):  # a shard is being replaced: the next look finds it whole
        return None


class MeanCurve:
    """The mean of learning curves, added up as fields land; each field counts once, by its id."""

    def __init__(self) -> None:
        self._seen = np.zeros(0, np.uint32)
        self._sum, self._count = np.zeros(0), np.zeros(0)
        self._lock = threading.Lock()

    def add(self, store: "FieldStore") -> None:
        """Take in fields that were not there before: AT_ONCE of them at most, evenly spread."""
        fresh = np.flatnonzero(~np.isin(store.ids, self._seen))
        self._seen = store.ids
        if not len(fresh):
            return
        spread = np.unique(np.linspace(0, len(fresh) - 1, min(len(fresh), AT_ONCE)).round().astype(int))
        curves = [curve for row in fresh[spread] if (curve := store.curve(int(row))) is not None]
        with self._lock:
            for curve in curves:
                finite, longer = np.isfinite(curve), len(curve) - len(self._sum)
                if longer > 0:
                    self._sum, self._count = np.pad(self._sum, (0, longer)), np.pad(self._count, (0, longer))
                self._sum[: len(curve)] += np.where(finite, curve, 0.0)
                self._count[: len(curve)] += finite

    def mean(self) -> np.ndarray | None:
        """Mean loss (K,) at every point that some field reached; None without curves."""
        with self._lock:
            reached = self._count > 0
            return self._sum[reached] / self._count[reached] if reached.any() else None


class RunningFit:
    """A folder of one browser's panel: how far the fit is, how good, and its loss; gone once the fit is complete."""

    def __init__(self, gui: "viser.GuiApi", live: Live | None) -> None:
        self._live, self._folder = live, None
        if live is None:
            return
        self._folder = gui.add_folder("Running fit")
        with self._folder:
            self._figures = gui.add_markdown("")
            self._curve = gui.add_image(np.full((8, 16, 3), 255, np.uint8), label="Mean loss so far", visible=False)

    def update(self, complete: bool) -> None:
        """Show what is known now."""
        if self._live is None or self._folder is None:
            return
        if complete:
            self._folder.remove()
            self._folder = None
            return
        self._figures.content = self._live.figures
        picture = self._live.picture()
        self._curve.visible = picture is not None
        if picture is not None:
            self._curve.image = picture
