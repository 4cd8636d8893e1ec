"""A viewer of a store that is being written: fields appear as they land; a fit that is followed."""

import sys
import threading
import time
import urllib.request
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from apps.options import ImageOptions
from apps.viewer.collection import Collection, of_batch, of_store
from apps.viewer.live import AT_ONCE, MeanCurve, reopened
from apps.viewer.map_pane import MapPane
from apps.viewer.maps import Maps
from apps.viewer.networks import Networks
from apps.viewer.pair_pane import PairPane
from apps.viewer.session import Session
from apps.viewer.spaces import spaces
from apps.viewer.truth import Truth
from neuralfields import SIREN, inits
from neuralfields.store import open_store
from neuralfields.store_writer import StoreWriter
from tests.apps.viewer.conftest import until

SPEC = SIREN(2, 1, hidden=(4,))
META = {"signal": {"kind": "images", "shape": [6, 6]}, "config": {"curve_every": 5}}
TOTAL, SIZE = 8, 3


def write(writer: StoreWriter, shard: int, loss: float = 1.0) -> None:
    """Write one shard of random fields."""
    start, stop = shard * SIZE, min(TOTAL, (shard + 1) * SIZE)
    fields = inits.initial(SPEC, np.arange(start, stop, dtype=np.uint32), "random", 0)
    curves = torch.full((stop - start, 4), loss) * torch.tensor([1.0, 0.5, 0.25, torch.nan])
    writer.write(shard, fields, {"psnr": [20.0 + shard] * (stop - start), "label": [shard] * (stop - start)}, curves)


@pytest.fixture
def writer(tmp_path):
    """A writer of a store of 8 fields in 3 shards."""
    with StoreWriter(tmp_path / "store", SPEC, META, TOTAL, SIZE) as one:
        yield one


class Watcher:
    """Stands in for a session: notes how many fields it is told of."""

    def __init__(self, viewer) -> None:
        self.viewer, self.counts = viewer, []

    def do(self, key, start) -> None:
        start()

    def store_grew(self) -> None:
        self.counts.append(len(Collection([self.viewer.part])))

    def close(self) -> None:
        pass


def live_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "view-live"]


def test_sessions_are_told_of_fields_as_they_land(writer, serve, monkeypatch):
    monkeypatch.setattr("apps.viewer.server.POLL_S", 0.01)
    write(writer, 0)
    viewer = serve(open_store(writer.path))
    viewer._sessions[1] = watcher = Watcher(viewer)
    assert "3 of 8 fields so far" in viewer.headline()
    for shard, count in ((1, 6), (2, 8)):
        write(writer, shard)
        until(lambda count=count: watcher.counts[-1:] == [count])
    assert live_threads()
    assert "mean PSNR 20.88 dB" in viewer.live.figures
    assert viewer.live.picture().ndim == 3
    writer.finish({})
    until(lambda: not live_threads())
    assert viewer.store.complete
    assert "8 fields  " in viewer.headline()


def test_stop_ends_the_thread_of_an_unfinished_store(writer, serve):
    write(writer, 0)
    viewer = serve(open_store(writer.path))
    assert live_threads()
    viewer.stop()
    assert not live_threads()


def test_a_complete_store_is_not_looked_at_again(serve, digits):
    assert serve(digits).live is None
    assert not live_threads()


def test_a_store_is_reopened_only_where_it_grew(writer):
    write(writer, 0)
    store = open_store(writer.path)
    assert reopened(store) is None
    write(writer, 2)
    grown = reopened(store)
    assert grown is not None
    assert grown.ids.tolist() == [0, 1, 2, 6, 7]
    (writer.path / "shard-00002.safetensors").write_bytes(b"half")  # a writer in the middle of a shard
    assert reopened(store) is None


def test_thumbnails_stay_with_their_fields_as_shards_land_before_them(writer, serve, monkeypatch):
    monkeypatch.setattr("apps.viewer.server.POLL_S", 600.0)
    write(writer, 1)
    viewer = serve(open_store(writer.path))
    (drawn,) = viewer.thumbnails.draw(viewer.part, np.array([0]), 16, -1)
    for shard in (2, 0):
        write(writer, shard)
        assert viewer.live.look()
    assert viewer.thumbnails.find(viewer.part, 3, 16, -1) is drawn
    assert viewer.thumbnails.find(viewer.part, 0, 16, -1) is None


def test_dots_stay_with_their_fields_as_shards_land_before_them(writer):
    write(writer, 1)
    part = of_store(open_store(writer.path))
    maps, (weights, *_) = Maps(), spaces(Networks((), part.fields), part.spec)[0]
    for _ in maps.make(part, weights, "PCA"):
        pass
    flat = maps.find(weights, "PCA")
    assert flat is not None
    assert flat.at(part).rows.tolist() == [0, 1, 2]
    write(writer, 0)
    grown = of_store(open_store(writer.path))
    for _ in range(2):
        flat = flat.at(grown)
        assert (flat.rows.tolist(), flat.total) == ([3, 4, 5], 3)


def test_panes_are_told_where_fields_stand_as_shards_land_before_them(writer, serve, monkeypatch):
    monkeypatch.setattr("apps.viewer.server.POLL_S", 600.0)
    write(writer, 1)
    viewer = serve(open_store(writer.path))
    start = Collection([viewer.part, of_batch("made", viewer.part.fields[0:2], {}, viewer.part)])
    session: Any = MagicMock(viewer=viewer, collection=start, position=0, _own={})
    pair, dots = PairPane(session), MapPane(session)
    pair._ends = [MagicMock(value=2), MagicMock(value=4)]
    dots._open, dots._chosen = 0, 1
    session.panes = {"pair": pair, "map": dots}
    write(writer, 0)
    assert viewer.live.look()
    Session.store_grew(session)
    assert [end.value for end in pair._ends] == [5, 7]
    assert (dots._open, dots._chosen, session.position) == (3, 4, 3)


def test_an_original_is_that_of_a_row_of_the_part_that_is_asked_of(writer, pictures):
    truth = Truth(str(pictures), ImageOptions())
    meta = {"signal": {"kind": "images", "shape": [6, 6], "channels": 1}}
    values = np.load(pictures)["images"] / 255
    for shard in (1, 0):  # the field of row 0 is another one once both have landed
        write(writer, shard)
        part = replace(of_store(open_store(writer.path)), meta=meta)
        np.testing.assert_allclose(truth.picture(part, 0)[..., 0], values[3 * shard], atol=1e-6)


def test_a_made_field_stays_open_while_the_store_grows(writer, serve, look, monkeypatch):
    monkeypatch.setattr("apps.viewer.server.POLL_S", 600.0)
    write(writer, 0)
    viewer = serve(open_store(writer.path))
    page = look(viewer)
    made = of_batch("made", viewer.part.fields[0:2], {}, viewer.part)
    page.session.add(made)
    page.session.choose_field(len(viewer.part) + 1)
    write(writer, 1)
    assert viewer.live.look()
    page.rest()
    part, row = page.session.collection.place(page.session.position)
    assert (part.name, row) == ("made", 1)


@pytest.mark.parametrize("position", [0, 2, 4])
def test_the_open_field_and_what_was_read_of_fields_follow_them_as_shards_land(writer, serve, monkeypatch, position):
    monkeypatch.setattr("apps.viewer.server.POLL_S", 600.0)
    write(writer, 1)
    viewer = serve(open_store(writer.path))
    start = Collection([viewer.part, of_batch("made", viewer.part.fields[0:2], {}, viewer.part)])
    session: Any = MagicMock(viewer=viewer, collection=start, position=position, _own={})
    name = start.name(position)
    early = {"confidence": start.parts[0].column("id").astype(float), "prediction": np.array(["3", "4", "5"], object)}
    Session.add_columns(session, {"store": early, "made": {"confidence": np.array([0.1, 0.2])}}, start)
    for shard in (2, 0):
        write(writer, shard)
        assert viewer.live.look()
        Session.store_grew(session)
    now = session.collection
    assert now.name(session.position).split(" · ")[1:] == name.split(" · ")[1:]
    part, row = now.place(session.position)
    assert (part.name, row) == (("store", 3 + position) if position < 3 else ("made", position - 3))
    np.testing.assert_array_equal(now.parts[0].column("confidence"), [np.nan] * 3 + [3.0, 4.0, 5.0] + [np.nan] * 2)
    assert now.parts[0].column("prediction").tolist() == ["", "", "", "3", "4", "5", "", ""]
    late = {"error": np.arange(3.0)}  # read while the shards landed
    Session.add_columns(session, {"store": late}, start)
    np.testing.assert_array_equal(session.collection.column("error")[3:6], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(session.collection.column("confidence")[-2:], [0.1, 0.2])


def test_the_mean_curve_counts_each_field_once(writer):
    curve = MeanCurve()
    write(writer, 0, loss=1.0)
    curve.add(open_store(writer.path))
    write(writer, 1, loss=3.0)
    for _ in range(2):
        curve.add(open_store(writer.path))
    mean = curve.mean()
    assert mean is not None
    np.testing.assert_allclose(mean, [2.0, 1.0, 0.5])
    assert AT_ONCE >= TOTAL


def test_a_browser_waits_and_sees_the_gallery_fill(chromium, tmp_path, monkeypatch):
    from apps.viewer.lobby import Lobby
    from apps.viewer.server import ViewerConfig

    monkeypatch.setattr("apps.viewer.server.POLL_S", 0.05)
    lobby = Lobby(tmp_path / "later", ViewerConfig(port=0), seconds=0.05)
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    try:
        page = context.new_page()
        page.goto(lobby.address)
        page.get_by_text("waiting for its first fields").wait_for()
        with StoreWriter(tmp_path / "later", SPEC, META, TOTAL, SIZE) as writer:
            write(writer, 0)
            page.get_by_text("3 of 8 fields so far").wait_for()
            assert not page.get_by_text("waiting for its first fields").count()
            page.get_by_text("mean PSNR 20.00 dB").wait_for()
            write(writer, 1)
            page.get_by_text("6 of 8 fields so far").wait_for()
            assert lobby.viewer is not None
            (session,) = lobby.viewer.sessions
            assert session.wait(30)
            assert len(session.chosen) == 6
            write(writer, 2)
            writer.finish({})
        page.get_by_text("Running fit").wait_for(state="detached")
        assert session.wait(30)
        assert len(session.chosen) == 8
    finally:
        context.close()
        lobby.stop()
    until(lambda: not live_threads())


def browser(number: int) -> Any:
    """Stands in for one that looks at a lobby."""
    client = MagicMock(client_id=number)
    client.camera.image_height, client.camera.image_width = 300, 400
    return client


def said(client: Any) -> str:
    """What the panel of a browser says last."""
    return client.gui.add_markdown.call_args.args[0]


def test_a_page_says_why_fields_cannot_be_shown_and_waits_no_longer(tmp_path):
    pytest.importorskip("viser")
    from apps.viewer.lobby import Lobby
    from apps.viewer.server import ViewerConfig

    folder = tmp_path / "<b>later</b>"
    lobby, early, late = Lobby(folder, ViewerConfig(port=0), seconds=0.01), browser(1), browser(2)
    try:
        lobby._welcome(early)
        assert "waiting for its first fields" in said(early)
        with StoreWriter(folder, SIREN(4, 1, hidden=(4,)), {}, 2, 1) as writer:
            time.sleep(0.1)
            assert live_threads()  # a store without fields is waited for
            writer.write(0, inits.initial(writer.spec, np.arange(1, dtype=np.uint32), "random", 0), {})
            until(lambda: not live_threads())
        lobby._welcome(late)
        for client in (early, late):
            assert "cannot show these fields" in said(client)
            assert "expected fields of pictures, shapes or scenes" in said(client)
            assert "<" not in said(client)
        early.gui.add_markdown.return_value.remove.assert_called_once()
        assert lobby.viewer is None
    finally:
        lobby.stop()


@pytest.fixture
def lobbies(monkeypatch):
    """The pages that a fit starts."""
    from apps import follow

    found, start = [], follow.start
    monkeypatch.setattr(follow, "start", lambda *args: found.append(start(*args)) or found[-1])
    return found


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures of noise."""
    path = tmp_path / "pictures.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 255, (12, 6, 6)).astype(np.uint8))
    return path


QUICK = ("--steps", "4", "--hidden", "4", "--shard", "5", "--threads", "1", "--view", "--view-port", "0")


def test_a_fit_is_followed_until_interrupted(lobbies, pictures, tmp_path, monkeypatch, capsys):
    pytest.importorskip("viser")
    from apps.cli import main

    def wait() -> None:
        (lobby,) = lobbies
        until(lambda: lobby.viewer is not None)
        assert lobby.viewer.store.complete
        assert len(lobby.viewer.store) == 12
        assert lobby.viewer.truth is not None
        with urllib.request.urlopen(lobby.address) as answer:
            assert answer.status == 200
        raise KeyboardInterrupt

    monkeypatch.setattr("apps.view.wait", wait)
    assert main(["fit", "images", str(pictures), "--out", str(tmp_path / "s"), *QUICK, "--json"]) == 0
    said = capsys.readouterr().out
    assert f"address     {lobbies[0].address}" in said
    assert f'"address": "{lobbies[0].address}"' in said.splitlines()[-1]
    assert not live_threads()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(lobbies[0].address)


def test_a_fit_that_fails_ends_its_page(lobbies, tmp_path, capsys):
    pytest.importorskip("viser")
    from apps.cli import main

    assert main(["fit", "images", str(tmp_path / "no.npz"), "--out", str(tmp_path / "s"), *QUICK]) == 2
    assert "no.npz" in capsys.readouterr().err
    assert len(lobbies) == 1
    assert not live_threads()


def test_a_fit_that_is_interrupted_ends_its_page(lobbies, pictures, tmp_path, monkeypatch, capsys):
    pytest.importorskip("viser")
    from apps.cli import main

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("apps.fit.fit_store", interrupted)
    assert main(["fit", "images", str(pictures), "--out", str(tmp_path / "s"), *QUICK]) == 130
    assert capsys.readouterr().err.endswith("nf: interrupted\n")  # before there was anything to keep
    assert not live_threads()


def test_without_viser_the_fit_does_not_begin(pictures, tmp_path, monkeypatch, capsys):
    from apps.cli import main

    monkeypatch.setitem(sys.modules, "viser", None)
    assert main(["fit", "images", str(pictures), "--out", str(tmp_path / "s"), *QUICK]) == 2
    assert "the viewer needs viser, which is not installed" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_store_without_fields_is_refused_by_nf_view(writer, capsys):
    from apps.cli import main

    assert main(["view", str(writer.path), "--port", "0"]) == 2
    assert "holds no fields yet" in capsys.readouterr().err
