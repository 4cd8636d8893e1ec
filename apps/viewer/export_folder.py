"""ExportFolder: the controls that write what a browser looks at into the viewer's folder of exports."""

import io
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from apps.mesh import FORMATS
from apps.output import file_size
from apps.render_shapes import FPS
from apps.viewer import export
from apps.viewer.collection import Part
from apps.viewer.export_store import save_selection
from apps.viewer.jobs import Job
from apps.viewer.share import share
from apps.viewer.surfaces import stored_level

if TYPE_CHECKING:
    from apps.viewer.session import Session

FITTED = "as fitted"
SIDES = {
    "pictures": (FITTED, "256", "512", "1024", "2048"),
    "shapes": ("512", "1024", "2048"),
    "scenes": ("256", "512", "1024"),
}
FILM_SIDES = ("128", "256", "512")
CELLS = ("64", "128", "256")
KEYS = PICTURE, MESH, FILM, STORE, PAGE = tuple(
    f"export {word}" for word in ("picture", "mesh", "film", "store", "page")
)
MOST_SENT = 50_000_000  # bytes: larger files stay where they are, and are not sent to the browser
Write = Callable[[Path, export.Say], Generator[float, None, None]]  # writes to a path that was reserved for it


class ExportFolder:
    """A folder of buttons below the panes. Names of files are made here; a browser chooses among the options alone."""

    def __init__(self, session: "Session") -> None:
        self.session = session
        self._running = 0  # exports that are being made

    def build(self) -> None:
        """Add the controls that suit the kind of the fields."""
        gui, kind = self.session.gui, self.session.viewer.part.kind
        with gui.add_folder("Export", expand_by_default=False):
            self._side = gui.add_dropdown("Picture size", SIDES[kind], initial_value=SIDES[kind][1])
            gui.add_button("Picture").on_click(lambda _: self.session.do(PICTURE, self._picture))
            if kind != "pictures":
                self._cells = gui.add_dropdown("Mesh cells", CELLS, initial_value=CELLS[1])
                self._format = gui.add_dropdown("Mesh format", FORMATS, initial_value="ply")
                gui.add_button("Mesh").on_click(lambda _: self.session.do(MESH, self._mesh))
                self._film_side = gui.add_dropdown("Film size", FILM_SIDES, initial_value=FILM_SIDES[1])
                words = "Turntable" if kind == "shapes" else "Flight"
                gui.add_button(words).on_click(lambda _: self.session.do(FILM, self._film))
            gui.add_button("Fields in view as a store").on_click(lambda _: self.session.do(STORE, self._store))
            gui.add_button("Page to share").on_click(lambda _: self.session.do(PAGE, self._page))
            self._stop = gui.add_button("Stop", visible=False, color="gray")
            self._stop.on_click(lambda _: self._drop())

    def _level(self, part: Part) -> float | None:
        """The level that the surface is looked at; None for the stored one."""
        level = getattr(self.session.panes.get("Field"), "level", None)
        return None if level is None or level == stored_level(part)[0] else level

    def _picture(self) -> Job:
        position, part, row = self._open()
        side, level = self._chosen(self._side, SIDES[part.kind]), self._level(part)
        longest = None if side == FITTED else int(side)

        def write(path: Path, say: export.Say) -> Generator[float, None, None]:
            from neuralfields.render.sheet import save_png

            save_png(path, (yield from export.picture(part, row, longest, level)))

        return self._run("Picture", f"picture-{position}{named(level)}", ".png", write)

    def _mesh(self) -> Job:
        position, part, row = self._open()
        cells = int(self._chosen(self._cells, CELLS))
        suffix, level = f".{self._chosen(self._format, FORMATS)}", self._level(part)

        def write(path: Path, say: export.Say) -> Generator[float, None, None]:
            yield 0.0
            export.mesh(part, row, cells, level).save(path)

        return self._run("Mesh", f"mesh-{position}{named(level)}", suffix, write)

    def _film(self) -> Job:
        position, part, row = self._open()
        side, level = int(self._chosen(self._film_side, FILM_SIDES)), self._level(part)

        def write(path: Path, say: export.Say) -> Generator[float, None, None]:
            from neuralfields.render.video import save_video

            frames = yield from export.film(part, row, side, level, say)
            save_video(path, frames, fps=FPS)

        words = "turntable" if part.kind == "shapes" else "flight"
        return self._run(words.capitalize(), f"{words}-{position}{named(level)}", ".mp4", write)

    def _store(self) -> Job:
        collection, chosen = self.session.collection, self.session.chosen
        return self._run("Store", "fields", "", lambda path, say: save_selection(collection, chosen, path, say))

    def _page(self) -> Job:
        session = self.session
        collection, chosen, query = session.collection, session.chosen, session.query
        title = session.viewer.store.path.name

        def write(path: Path, say: export.Say) -> Generator[float, None, None]:
            path.write_text((yield from share(collection, chosen, query, title, say)), encoding="utf-8")

        return self._run("Page", "page", ".html", write)

    def _drop(self) -> None:
        """End what is being made; what there is of it is taken back."""
        for key in KEYS:
            self.session.do(key, lambda: None)

    def _open(self) -> tuple:
        position = self.session.position
        return position, *self.session.collection.place(position)

    def _chosen(self, handle, options: tuple[str, ...]) -> str:
        """The option that a dropdown shows; a browser may say anything, so that it has to be one of them."""
        value = str(handle.value)
        if value not in options:
            raise ValueError(f"{handle.label}: expected one of {', '.join(options)}")
        return value

    def _run(self, words: str, stem: str, suffix: str, write: Write) -> Job:
        """Write one thing under a new name, with a note while it is made; then say where, and send it."""
        client, path = self.session.client, export.reserved(self.session.viewer.config.exports, stem, suffix)
        is_done = False
        self._count(1)
        with self.session.telling(f"{words} is made") as note:

            def say(text: str) -> None:
                note.body = text

            try:
                yield from write(path, say)
                is_done = True
            finally:
                if not is_done:
                    export.discard(path)
                self._count(-1)
        size = sum(one.stat().st_size for one in ([path] if suffix else path.iterdir()))
        self.session.tell(f"{words} is written", f"{path}, {file_size(size)}", "green")
        if size < MOST_SENT:
            name = path.name if suffix else f"{path.name}.zip"
            client.send_file_download(name, path.read_bytes() if suffix else zipped(path))

    def _count(self, step: int) -> None:
        self._running += step
        if not self.session.is_closed:
            self._stop.visible = self._running > 0


def named(level: float | None) -> str:
    """A level as the part of a name."""
    return "" if level is None else f"-level{level:+.4g}"


def zipped(folder: Path) -> bytes:
    """The files of a folder, in a folder of its name, as a zip archive."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.glob("[!.]*")):
            archive.write(path, f"{folder.name}/{path.name}")
    return data.getvalue()
