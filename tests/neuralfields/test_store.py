"""The store: round trips, random rows, damage, foreign folders, locks, full disks."""

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import neuralfields as nf
from neuralfields import inits, store_files
from neuralfields.store import save
from neuralfields.store_writer import StoreWriter

SPEC = nf.SIREN(2, 3, hidden=(5, 4), offset=(0.5,), grid="corners", axes="xy")
META = {"recipe": None, "signal": {"kind": "image", "shape": [4, 4]}}


def population(count: int) -> nf.FieldBatch:
    return inits.initial(SPEC, np.arange(count, dtype=np.uint32), "random")


def make(path: Path, count: int = 10, shard_size: int = 4) -> nf.FieldStore:
    rows = {"label": np.arange(count) % 3, "split": ["train"] * count, "psnr": np.linspace(30, 40, count)}
    return save(path, population(count), rows, META, shard_size)


def test_what_is_saved_is_read_bit_for_bit(tmp_path):
    make(tmp_path / "s")
    store = nf.open(tmp_path / "s")
    assert store.spec == SPEC
    assert store.meta == META
    assert store.complete
    assert len(store) == store.num_planned == 10
    assert torch.equal(store[:].flat(), population(10).flat())
    assert torch.equal(torch.cat([b.flat() for b in store.batches(3)]), population(10).flat())
    np.testing.assert_array_equal(store.labels, np.arange(10) % 3)
    np.testing.assert_array_equal(store.ids, np.arange(10))
    np.testing.assert_allclose(store.metrics.psnr, np.linspace(30, 40, 10), rtol=1e-6)
    assert store.curves() is None
    store.verify()


@pytest.mark.parametrize("index", [3, -1, slice(2, 9), slice(None, None, -3), [7, 0, 7, 4], np.array([9, 1])])
def test_any_selection_equals_the_same_selection_in_memory(tmp_path, index):
    store = make(tmp_path / "s")
    rows = np.atleast_1d(np.arange(10)[index])
    assert torch.equal(store[index].flat(), population(10).flat()[torch.from_numpy(rows.copy())])


def test_an_empty_selection_is_an_empty_population(tmp_path):
    assert len(make(tmp_path / "s")[[]]) == 0


def test_positions_outside_are_refused(tmp_path):
    with pytest.raises(IndexError):
        make(tmp_path / "s")[10]


def test_curves_travel_with_the_fields(tmp_path):
    curves = torch.arange(20.0).view(10, 2)
    save(tmp_path / "s", population(10), {}, META, 4, curves)
    np.testing.assert_array_equal(nf.open(tmp_path / "s").curves(), curves.numpy())


def test_bfloat16_shards_are_read_as_float32(tmp_path):
    store = make(tmp_path / "s", count=4)
    fields = population(4).to(torch.bfloat16)
    shard = tmp_path / "s" / store_files.shard_name(0)
    save_file({n: v.contiguous() for n, v in fields.parameters.items()}, shard)
    table, _ = store_files.read_index(tmp_path / "s" / store_files.index_name(0))
    facts = {"shard_bytes": str(shard.stat().st_size), "shard_sha256": store_files.digest(shard)}
    (tmp_path / "s" / store_files.index_name(0)).write_bytes(store_files.table_bytes(table, facts))
    assert torch.equal(nf.open(tmp_path / "s")[:].flat(), fields.to(torch.float32).flat())
    assert store.spec == SPEC


def test_the_same_population_has_the_same_bytes(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_unknown_columns_and_wrong_lengths(tmp_path):
    store = save(tmp_path / "s", population(4), {"iou": [0.1, 0.2, 0.3, 0.4]}, META)
    np.testing.assert_allclose(store.metrics.iou, [0.1, 0.2, 0.3, 0.4])
    with pytest.raises(AttributeError, match="no 'dice'"):
        _ = store.metrics.dice
    with pytest.raises(ValueError, match="column='dice'"):
        store.column("dice")
    with pytest.raises(ValueError, match="lengths"), StoreWriter(tmp_path / "t", SPEC, META, 4, 4) as writer:
        writer.write(0, population(4), {"label": [1, 2]})


def test_a_truncated_shard_is_named_on_opening(tmp_path):
    make(tmp_path / "s")
    shard = tmp_path / "s" / store_files.shard_name(1)
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"shard-00001.safetensors is truncated or altered: .* bytes, expected"):
        nf.open(tmp_path / "s")


def test_an_altered_shard_is_named_when_first_read_and_only_then(tmp_path):
    make(tmp_path / "s")
    shard = tmp_path / "s" / store_files.shard_name(1)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    store = nf.open(tmp_path / "s")
    assert len(store[0:4]) == 4
    with pytest.raises(ValueError, match=r"shard-00001.safetensors is altered"):
        _ = store[5]
    with pytest.raises(ValueError, match=r"shard-00001.safetensors is altered"):
        store.verify()
    assert len(nf.open(tmp_path / "s", verify=False)[5]) == 1


def test_an_altered_or_missing_index_is_named(tmp_path):
    make(tmp_path / "s")
    index = tmp_path / "s" / store_files.index_name(0)
    other = make(tmp_path / "t", count=12)
    index.write_bytes((other.path / index.name).read_bytes().replace(b"train", b"trail"))
    with pytest.raises(ValueError, match=r"index-00000.parquet is (altered|damaged)"):
        nf.open(tmp_path / "s").verify()
    index.write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(ValueError, match=r"index-00000.parquet is damaged"):
        nf.open(tmp_path / "s")
    index.unlink()
    with pytest.raises(ValueError, match=r"index-00000.parquet is missing"):
        nf.open(tmp_path / "s")


def test_what_is_no_store_and_what_is_too_new(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        nf.open(tmp_path / "none")
    with pytest.raises(ValueError, match=r"not a store \(it has no store.json\)"):
        nf.open(tmp_path)
    make(tmp_path / "s")
    head = json.loads((tmp_path / "s" / "store.json").read_text())
    (tmp_path / "s" / "store.json").write_text(json.dumps({**head, "version": 7}))
    with pytest.raises(ValueError, match="format version 7; this version reads up to 1: upgrade"):
        nf.open(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text(json.dumps({**head, "format": "other"}))
    with pytest.raises(ValueError, match="format 'other'"):
        nf.open(tmp_path / "s")
    for broken in ("{", "[]", json.dumps({k: v for k, v in head.items() if k != "spec"})):
        (tmp_path / "s" / "store.json").write_text(broken)
        with pytest.raises(ValueError, match="damaged"):
            nf.open(tmp_path / "s")


def test_another_population_or_other_files_in_the_folder_are_refused(tmp_path):
    make(tmp_path / "s")
    with pytest.raises(ValueError, match="holds another population: num_fields is 10 there, 11 now"):
        StoreWriter(tmp_path / "s", SPEC, META, 11, 4).__enter__()
    with pytest.raises(ValueError, match="meta.recipe is None there, 'x' now"):
        StoreWriter(tmp_path / "s", SPEC, {**META, "recipe": "x"}, 10, 4).__enter__()
    with pytest.raises(ValueError, match="already holds a store"):
        make(tmp_path / "s")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files but no store"):
        make(tmp_path / "notes")
    with pytest.raises(ValueError, match="is a file"):
        make(tmp_path / "notes" / "todo.txt")
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["todo.txt"]


def test_a_partial_store_opens_and_is_finished_later_with_the_same_bytes(tmp_path):
    whole = make(tmp_path / "whole")
    rows = {"label": np.arange(10) % 3, "split": ["train"] * 10, "psnr": np.linspace(30, 40, 10)}
    with StoreWriter(tmp_path / "s", SPEC, META, 10, 4) as writer:
        shard, part = writer.missing()[0]
        writer.write(shard, population(10)[part], {n: v[part] for n, v in rows.items()})
        with pytest.raises(ValueError, match="2 shards are missing"):
            writer.finish({})
    (tmp_path / "s" / "shard-00001.safetensors.tmp").write_bytes(b"left over")
    (tmp_path / "s" / "shard-00002.safetensors").write_bytes(b"without its index")
    partial = nf.open(tmp_path / "s")
    assert (len(partial), partial.complete) == (4, False)
    with StoreWriter(tmp_path / "s", SPEC, META, 10, 4) as writer:
        assert [number for number, _ in writer.missing()] == [1, 2]
        for shard, part in writer.missing():
            writer.write(shard, population(10)[part], {n: v[part] for n, v in rows.items()})
        writer.finish({})
    assert {p.name: p.read_bytes() for p in whole.path.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()
    }


def hold(path: Path, ready, done) -> None:
    with StoreWriter(path, SPEC, META, 10, 4):
        ready.set()
        done.wait(30)


def test_two_processes_cannot_write_one_store(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "s", ready, done))
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(ValueError, match=rf"being written by another process \(pid {process.pid}\)"):
            StoreWriter(tmp_path / "s", SPEC, META, 10, 4).__enter__()
        process.kill()  # a lock must not outlive its owner, however it ends
        process.join()
        with StoreWriter(tmp_path / "s", SPEC, META, 10, 4) as writer:
            assert len(writer.missing()) == 3
    finally:
        done.set()
        process.join()


FULL_DISK = """
import resource, signal, sys
import numpy as np
import neuralfields as nf
from neuralfields import inits
from neuralfields.store_writer import StoreWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spec = nf.SIREN(2, 3, hidden=(5, 4))
fields = inits.initial(spec, np.arange(5000, dtype=np.uint32), "random")
with StoreWriter(sys.argv[1], spec, {}, 5000, 1000) as writer:
    for shard, part in writer.missing():
        if shard == 2 and sys.argv[2] == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            writer.write(shard, fields[part], {})
        except OSError as error:
            print("caught", error)
            sys.exit(3)
    writer.finish({})
"""


def test_a_full_disk_keeps_what_was_written_and_the_fit_goes_on_later(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "s")]
    full = subprocess.run([*command, "full"], capture_output=True, text=True)
    assert full.returncode == 3, full.stderr
    assert "no space for shard-00002.safetensors" in full.stdout
    assert len(nf.open(tmp_path / "s")) == 2000
    assert not list((tmp_path / "s").glob("*.tmp"))
    subprocess.run([*command, "fine"], check=True)
    store = nf.open(tmp_path / "s")
    store.verify()
    assert store.complete
    assert torch.equal(store[4321].flat(), inits.initial(store.spec, np.array([4321], np.uint32), "random").flat())


def test_random_rows_of_a_large_store_are_right(tmp_path):
    spec = nf.SIREN(1, 1, hidden=(2,))
    flat = torch.arange(20_000 * spec.num_params, dtype=torch.float32).view(20_000, -1)
    store = save(tmp_path / "s", nf.FieldBatch.from_flat(spec, flat), {}, {}, shard_size=3000)
    positions = np.random.default_rng(0).permutation(20_000)[:1000]
    assert torch.equal(store[positions].flat(), flat[torch.from_numpy(positions)])
