"""Writing a store: resuming, killing at every point, locks, full disks, folders of others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import neuralfields as nf
from neuralfields import inits
from neuralfields import store_files as files
from neuralfields.store import save
from neuralfields.store_writer import StoreWriter

SPEC = nf.SIREN(2, 3, hidden=(5, 4))

# Fills a store of 10 fields in shards of 4. It is the body of every child process here, and of this process too.
FILL = """
import numpy as np
import torch
import neuralfields as nf
from neuralfields import inits
from neuralfields.store_writer import StoreWriter

def fill(path, shards=3):
    spec = nf.SIREN(2, 3, hidden=(5, 4))
    fields = inits.initial(spec, np.arange(10, dtype=np.uint32), "random")
    with StoreWriter(path, spec, {"recipe": "x", "signal": {"shape": (4, 4)}}, 10, 4) as writer:
        for shard, part in writer.missing()[:shards]:
            count = part.stop - part.start
            rows = {"label": list(range(count)), "psnr": [30.5] * count, "extra": ["a"] * count}
            writer.write(shard, fields[part], rows, torch.ones(count, 2))
        if not writer.missing():
            writer.finish({"psnr_mean": np.float32(30.5), "worst": float("nan")})
"""

# Kills itself at the given change to the folder: before a file is created, flushed, renamed or removed.
KILLED = (
    FILL
    + """
import os, signal, sys

def die_at(path, last):
    seen = [0]
    def touch(*_):
        seen[0] += 1
        if seen[0] > last:
            os.kill(os.getpid(), signal.SIGKILL)
    flush = os.fsync
    def fsync(handle):
        touch()
        flush(handle)
    os.fsync = fsync
    def watch(event, args):
        creates = event == "open" and set("aw") & set(args[1] or "")
        if (creates or event in ("os.rename", "os.remove", "os.mkdir")) and str(args[0]).startswith(path):
            touch()
    sys.addaudithook(watch)

def child(path, last):
    if os.fork() == 0:
        if last is not None:
            die_at(path, last)
        fill(path)
        os._exit(0)
    return os.wait()[1]

point = 0
while True:
    path = os.path.join(sys.argv[1], f"killed-{point:03d}")
    status = child(path, point)
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    point += 1
print(point)
sys.stdout.flush()
if sys.stdin.readline():
    for number in range(point):
        assert child(os.path.join(sys.argv[1], f"killed-{number:03d}"), None) == 0
"""
)
_HERE: dict = {}
exec(FILL, _HERE)
fill = _HERE["fill"]


def rows(count: int) -> dict:
    return {"label": list(range(count))}


def test_killed_at_any_point_and_resumed_it_has_the_bytes_of_a_whole_one(tmp_path, digests):
    fill(tmp_path / "whole")
    whole = digests(tmp_path / "whole")
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        points = int(process.stdout.readline())
        torn = [tmp_path / f"killed-{number:03d}" for number in range(points)]
        seen = set()
        for path in torn:
            if (path / files.STORE_JSON).exists():
                store = nf.open(path)  # whatever the moment, what is there is whole
                store.verify()
                assert torch.equal(store[:].flat(), nf.open(tmp_path / "whole")[: len(store)].flat())
                seen.add((len(store), store.complete))
        process.stdin.write("resume\n")
        process.stdin.close()
    assert process.returncode == 0
    assert points > 30
    assert seen == {(0, False), (4, False), (8, False), (10, False), (10, True)}
    assert all(digests(path) == whole for path in torn)


def test_a_store_goes_on_at_the_first_missing_shard(tmp_path, digests):
    fill(tmp_path / "whole")
    fill(tmp_path / "s", shards=1)
    (tmp_path / "s" / "shard-00001.safetensors.tmp").write_bytes(b"left over")
    (tmp_path / "s" / "shard-00002.safetensors").write_bytes(b"without its index")
    (tmp_path / "s" / "notes.tmp").write_text("of somebody else")
    partial = nf.open(tmp_path / "s")
    assert (len(partial), partial.num_planned, partial.complete) == (4, 10, False)
    written = (tmp_path / "s" / files.shard_name(0)).stat().st_mtime_ns
    fill(tmp_path / "s")
    assert (tmp_path / "s" / files.shard_name(0)).stat().st_mtime_ns == written
    assert (tmp_path / "s" / "notes.tmp").read_text() == "of somebody else"
    (tmp_path / "s" / "notes.tmp").unlink()
    assert digests(tmp_path / "s") == digests(tmp_path / "whole")


def test_a_shard_lost_from_a_complete_store_can_be_written_again(tmp_path, digests):
    fill(tmp_path / "s")
    whole = digests(tmp_path / "s")
    (tmp_path / "s" / files.shard_name(1)).unlink()
    with pytest.raises(ValueError, match="shard 1 or its index is missing"):
        nf.open(tmp_path / "s")
    fill(tmp_path / "s")
    assert digests(tmp_path / "s") == whole


def test_a_complete_store_cannot_be_changed(tmp_path, digests):
    store = save(tmp_path, inits.initial(SPEC, np.arange(4, dtype=np.uint32), "random"), {}, {}, 4)
    before = digests(tmp_path)
    with StoreWriter(tmp_path, SPEC, {}, 4, 4) as writer:
        assert writer.complete
        with pytest.raises(ValueError, match="is complete: shard 0 cannot be replaced"):
            writer.write(0, store[:], {})
    with pytest.raises(ValueError, match="already holds a store"):
        save(tmp_path, store[:], {}, {}, 4)
    assert digests(tmp_path) == before


def test_a_save_that_was_cut_short_is_written_anew(tmp_path, population, digests):
    save(tmp_path / "whole", population(10), {}, {}, 4)
    with StoreWriter(tmp_path / "s", population(1).spec, {}, 10, 4) as writer:
        writer.write(0, population(10)[[9, 8, 7, 6]], {})
    save(tmp_path / "s", population(10), {}, {}, 4)
    assert digests(tmp_path / "s") == digests(tmp_path / "whole")


def test_arguments_that_do_not_fit_are_refused(tmp_path, population):
    fields = population(4)
    with pytest.raises(ValueError, match="num_fields=0, shard_size=4"):
        StoreWriter(tmp_path / "s", SPEC, {}, 0, 4)
    for meta in ({"signal": "digits"}, {"config": ["lr"]}):
        with pytest.raises(ValueError, match=r"meta\['(signal|config)'\]=.*: expected a dict or None"):
            StoreWriter(tmp_path / "s", SPEC, meta, 10, 4)
    outside = StoreWriter(tmp_path / "s", fields.spec, {"signal": None}, 10, 4)
    with pytest.raises(ValueError, match="use it as `with StoreWriter"):
        outside.write(0, fields, {})
    assert not (tmp_path / "s").exists()
    with outside as writer:
        for shard in (-1, 3):
            with pytest.raises(ValueError, match=f"shard={shard}: expected 0 to 2"):
                writer.write(shard, fields, {})
        with pytest.raises(ValueError, match="shard 2 takes 2 fields"):
            writer.write(2, fields, {})
        with pytest.raises(ValueError, match="got 4 fields of FieldSpec"):
            writer.write(0, inits.initial(SPEC, np.arange(4, dtype=np.uint32), "random"), {})
        for curves in (torch.zeros(4), torch.zeros(3, 2)):
            with pytest.raises(ValueError, match="curves has shape"):
                writer.write(0, fields, {}, curves)
        with pytest.raises(ValueError, match="3 shards are missing, the first is 0"):
            writer.finish({})
        assert len(writer.missing()) == 3


def test_another_population_or_other_files_in_the_folder_are_refused(tmp_path, make):
    make(tmp_path / "s")
    head = json.loads((tmp_path / "s" / files.STORE_JSON).read_text())
    spec, meta = nf.FieldSpec.from_json(head["spec"]), head["meta"]
    for other, reason in (
        ((spec, meta, 11, 4), "num_fields is 10 there, 11 now"),
        ((spec, {**meta, "recipe": "x"}, 10, 4), "meta.recipe is None there, 'x' now"),
        ((SPEC, meta, 10, 4), "spec.axes is 'xy' there, 'ij' now"),
    ):
        with pytest.raises(ValueError, match=f"holds another population: {reason}"):
            StoreWriter(tmp_path / "s", *other).__enter__()
    assert (tmp_path / "s" / files.LOCK).read_bytes() == b""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.tmp").write_text("mine")
    with pytest.raises(ValueError, match="holds files but no store"):
        make(tmp_path / "notes")
    with pytest.raises(ValueError, match="is a file"):
        make(tmp_path / "notes" / "todo.tmp")
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["todo.tmp"]


HOLD = """
import sys
import neuralfields as nf
from neuralfields.store_writer import StoreWriter
with StoreWriter(sys.argv[1], nf.SIREN(2, 3, hidden=(5, 4)), {}, 10, 4):
    print(flush=True)
    input()
"""


def test_two_processes_cannot_write_one_store(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        with pytest.raises(ValueError, match=rf"being written by another process \(pid {process.pid}\)"):
            StoreWriter(tmp_path, SPEC, {}, 10, 4).__enter__()
        assert len(nf.open(tmp_path)) == 0  # reading needs no lock
        process.kill()  # a lock must not outlive its owner, however it ends
    with StoreWriter(tmp_path, SPEC, {}, 10, 4) as writer:
        assert len(writer.missing()) == 3
    assert (tmp_path / files.LOCK).read_bytes() == b""


# A file may not grow beyond a limit: the same failure in the middle of a write as on a full disk.
FULL_DISK = """
import resource, sys
import numpy as np
import neuralfields as nf
from neuralfields import inits
from neuralfields.store_writer import StoreWriter
spec = nf.SIREN(2, 3, hidden=(5, 4))
fields = inits.initial(spec, np.arange(5000, dtype=np.uint32), "random")
with StoreWriter(sys.argv[1], spec, {}, 5000, 1000) as writer:
    for shard, part in writer.missing():
        if shard == 2 and sys.argv[2] == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            writer.write(shard, fields[part], {})
        except OSError as error:
            print(error)
            sys.exit(3)
    writer.finish({})
"""


def test_a_full_disk_keeps_what_was_written_and_the_work_goes_on_later(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "s")]
    full = subprocess.run([*command, "full"], capture_output=True, text=True, check=False)
    assert full.returncode == 3, full.stderr
    assert "no space for shard-00002.safetensors" in full.stdout
    assert "bytes needed" in full.stdout
    assert str(tmp_path / "s") in full.stdout
    assert full.stdout.count("\n") == 1
    assert len(nf.open(tmp_path / "s")) == 2000
    assert not files.left_overs(tmp_path / "s")
    subprocess.run([*command, "fine"], check=True)
    store = nf.open(tmp_path / "s")
    store.verify()
    assert store.complete
    assert torch.equal(store[4321].flat(), inits.initial(store.spec, np.array([4321], np.uint32), "random").flat())


def test_a_write_that_is_interrupted_leaves_the_old_file(tmp_path: Path, monkeypatch):
    path = tmp_path / "f"
    files.write_atomic(path, b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(path, b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"f": b"old"}
