"""`nf bench view`: how soon the viewer shows a surface after its slider moved, and how a large store opens."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from apps.bench import rows as table
from apps.bench.view_look import PATIENCE_S, Chromium, Looker, Wire
from apps.options import SHOWN, OutPath, Shown
from apps.output import Output

_PACKAGES = ("viser", "torch", "numpy", "playwright", "neuralfields")
_IMAGES = "2-32-32-1"  # of the large store
SHARD = 4096
MOST_MOVES = 50
WARM = 2  # moves that are not counted
GOALS = {"coarse": 0.15, "fine": 1.0, "first": 3.0, "memory": 500.0}  # seconds, megabytes


@dataclass(frozen=True, kw_only=True)
class BenchView:
    """Time the viewer: from its level slider to the surface, and from its start to the first page of a large store.

    Each is measured by a client that draws nothing, which leaves the server's work, and by a headless Chromium where
    that and playwright are installed. The server runs in a process of its own, whose memory is told.
    """

    spec: str = "3-64-64-64-1"
    """Widths of the sine field whose level moves."""
    moves: int = 24
    """Moves of the slider."""
    fields: int = 100_000
    """Fields of the large store, 2-32-32-1; written to a temporary folder, 4.8 kB each."""
    pages: int = 20
    """Pages turned after the first one."""
    threads: int = min(2, table.usable_cores())
    """Threads of torch."""
    without_browser: bool = False
    """Leave Chromium out."""
    save: bool = False
    """Append the rows to view.csv in the folder `out`."""
    out: OutPath = "benchmarks"
    """Folder for --save."""
    output: Shown = SHOWN


@dataclass(frozen=True, kw_only=True)
class ViewRow:
    """One figure.

    side: server, up to the message that a client receives which draws nothing, or browser, a headless Chromium.
    measured: "coarse surface" and "fine surface", from the move of the slider until the browser has handled the mesh,
    "painted" until the second frame after that (the fine one waits until the slider has rested for a quarter of a
    second); "first page", from the start of the viewer on an open store until all thumbnails are seen;
    "memory ...", resident memory of the serving process less that of an empty viser server in it. median, p20, p80: of
    `rounds` measurements, in `unit`. goal: what it shall not exceed.
    """

    spec: str
    fields: int
    threads: int
    side: str
    measured: str
    median: float
    p20: float
    p80: float
    unit: str
    goal: float
    rounds: int
    date: str
    cpu: str
    versions: str


class Server:
    """The serving process."""

    def __init__(self, store: Path, threads: int) -> None:
        request = json.dumps({"store": str(store), "threads": threads})
        command = [sys.executable, "-m", "apps.bench.view_worker", request]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.empty_mb = self._line()["empty_mb"]
        self._line()  # the store is open

    def ask(self, command: str) -> dict:
        """Send a command; return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _line(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the serving process ended with code {self._process.wait()}: see above")
        return json.loads(line)


def run(options: BenchView) -> list[dict]:
    """Measure, print a table, save where asked, and return the rows as plain JSON values.

    Raises ValueError for numbers out of range and a spec that is not over three coordinates.
    """
    if min(options.moves, options.fields, options.pages, options.threads) < 1 or options.moves > MOST_MOVES:
        given = f"moves={options.moves}, fields={options.fields}, pages={options.pages}, threads={options.threads}"
        raise ValueError(f"{given}: expected positive numbers, and {MOST_MOVES} moves at most: the slider ends there")
    output = Output(quiet=options.output.quiet)
    output.say(table.cpu_name())
    lookers: list[type[Chromium] | type[Wire]] = [Wire] if options.without_browser else [Wire, Chromium]
    measured: list[ViewRow] = []
    with tempfile.TemporaryDirectory() as folder:
        for measure, store in ((slider, shape_store), (opening, large_store)):
            path = store(Path(folder), options)
            for kind in lookers:
                try:
                    looker = kind()
                except ValueError as error:
                    output.say(f"  {kind.name}: {error}")
                    continue
                try:
                    found = measure(path, looker, options)
                finally:
                    looker.close()
                output.table(HEADER, [cells(row) for row in found])
                measured += found
    if options.save:
        append(Path(options.out) / "view.csv", measured)
        output.say(f"saved in {Path(options.out) / 'view.csv'}")
    return [asdict(row) for row in measured]


def shape_store(folder: Path, options: BenchView) -> Path:
    """A store of one field that was fitted to a ball in a ring."""
    from apps.bench.mesh import make_field
    from neuralfields.store import save

    meta = {"signal": {"kind": "sdf", "level": 0.0, "inside": "below"}}
    save(folder / "shape", make_field(options.spec), {"name": ["ball in a ring"]}, meta)
    return folder / "shape"


def large_store(folder: Path, options: BenchView) -> Path:
    """A store of many fields: one random batch over and over, which reads and draws as any other."""
    from neuralfields import SIREN, inits
    from neuralfields.store_writer import StoreWriter

    spec = SIREN(2, 1, hidden=table.parse_dims(_IMAGES)[1:-1], scale=(4.0,), offset=(0.5,))
    batch = inits.initial(spec, np.arange(min(SHARD, options.fields), dtype=np.uint32), "random")
    batch.biases[-1].zero_()  # around grey: what is all black or all white could not be told from nothing
    random = np.random.default_rng(0)
    meta = {"signal": {"kind": "image", "shape": [28, 28], "classes": [str(digit) for digit in range(10)]}}
    with StoreWriter(folder / "large", spec, meta, options.fields, SHARD) as writer:
        for shard, part in writer.missing():
            count = part.stop - part.start
            rows = {"label": random.integers(0, 10, count), "psnr": random.normal(30.0, 3.0, count)}
            writer.write(shard, batch[:count], rows)
        writer.finish({})
    return folder / "large"


def slider(path: Path, looker: Looker, options: BenchView) -> list[ViewRow]:
    """Move the level slider step by step, each time until the fine surface is there; the first moves warm up."""
    from apps.viewer.shape_pane import COARSE, FINE

    sizes = (COARSE, int(FINE[1]))
    with serving(path, options.threads) as server:
        looker.open(server.ask("start")["address"])
        server.ask("rest")
        server.ask("field")
        seconds = [looker.move("Level", sizes) for _ in range(WARM + options.moves)][WARM:]
    return [row(options, looker, name, "s", [one[name] for one in seconds], options.spec, 1) for name in seconds[0]]


def opening(path: Path, looker: Looker, options: BenchView) -> list[ViewRow]:
    """Start the viewer, wait for the first page, turn pages; memory at each stage."""
    with serving(path, options.threads) as server:
        begin = time.perf_counter()
        started = server.ask("start")
        looker.open(started["address"])
        first = first_page(server, looker, options.fields)
        seconds = time.perf_counter() - begin
        last = first
        for _ in range(options.pages):
            last = next_page(server, looker, last, options.fields)
    memory = {"before": started, "after": first, f"{options.pages} pages after": last}
    found = [row(options, looker, "first page", "s", [seconds], _IMAGES, options.fields)]
    for when, told in memory.items():
        above = told["rss_mb"] - server.empty_mb
        found.append(row(options, looker, f"memory {when} the first page", "MB", [above], _IMAGES, options.fields))
    return found


def first_page(server: Server, looker: Looker, count: int) -> dict:
    """Wait until the last thumbnail of the page is seen; what the server said last.

    The canvas of a browser becomes smaller while the page is built: what was drawn before does not count.
    """
    from apps.viewer.gallery import SIDES, Grid

    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        told = server.ask("rest")
        grid = Grid((told["height"], told["width"]), SIDES["medium"])
        if looker.sees(grid.size, *grid.corner(min(grid.count, count) - 1), grid.side):
            return told
        time.sleep(0.01)
    raise RuntimeError(f"the gallery was not seen within {PATIENCE_S:.0f} s")


def next_page(server: Server, looker: Looker, told: dict, count: int) -> dict:
    """Turn to the next page, if there is one; what the server said once it had drawn it."""
    now = told
    if told["last"] < count - 1:
        looker.turn()
        while now["first"] == told["first"]:
            time.sleep(0.01)  # the click is on its way
            now = server.ask("rest")
    return now


@contextmanager
def serving(path: Path, threads: int) -> Iterator[Server]:
    """A serving process of its own, ended afterwards."""
    server = Server(path, threads)
    try:
        yield server
    finally:
        server.close()


def row(
    options: BenchView, looker: Looker, name: str, unit: str, values: "np.ndarray | list[float]", spec: str, count: int
) -> ViewRow:
    """A row from its measurements."""
    low, middle, high = (round(float(np.quantile(values, q)), 4) for q in (0.2, 0.5, 0.8))
    return ViewRow(
        spec=spec,
        fields=count,
        threads=options.threads,
        side=looker.name,
        measured=name,
        median=middle,
        p20=low,
        p80=high,
        unit=unit,
        goal=GOALS[name.split()[0]],
        rounds=len(values),
        date=table.now(),
        cpu=table.cpu_name(),
        versions=table.versions(*_PACKAGES),
    )


HEADER = ("spec", "fields", "side", "measured", "median", "p20-p80", "goal", "")


def cells(row: ViewRow) -> tuple[str, ...]:
    """One row as text, in the order of HEADER."""
    places = 3 if row.unit == "s" else 0
    return (
        row.spec,
        f"{row.fields:,}",
        row.side,
        row.measured,
        f"{row.median:,.{places}f} {row.unit}",
        f"{row.p20:,.{places}f}-{row.p80:,.{places}f}",
        f"{row.goal:g} {row.unit}",
        "met" if row.median <= row.goal else "missed",
    )


def append(path: Path, measured: list[ViewRow]) -> None:
    """Append rows, with a header if the file is new. Raises ValueError when the file has other columns."""
    table.append_records(path, [field.name for field in fields(ViewRow)], [asdict(row) for row in measured])
