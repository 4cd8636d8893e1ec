"""Reading a store: round trips, random rows, damage."""

import copy
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import neuralfields as nf
from neuralfields import store_files as files
from neuralfields.store import save
from neuralfields.store_index import read_index, table_bytes
from neuralfields.store_shard import Shard


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_what_is_saved_is_read_bit_for_bit(make, population, tmp_path):
    written = make(tmp_path / "s")
    store = nf.open(tmp_path / "s")
    assert store.spec == written.spec == population(1).spec
    assert store.meta == {"recipe": None, "signal": {"kind": "image", "shape": [4, 4]}}
    assert store.complete
    assert len(store) == store.num_planned == 10
    assert torch.equal(store[:].flat(), population(10).flat())
    assert torch.equal(torch.cat([b.flat() for b in store.batches(3)]), population(10).flat())
    np.testing.assert_array_equal(store.labels, np.arange(10) % 3)
    np.testing.assert_array_equal(store.ids, np.arange(10))
    np.testing.assert_allclose(store.metrics.psnr, np.linspace(30, 40, 10), rtol=1e-6)
    assert store.curves() is None
    store.verify()


@pytest.mark.parametrize(
    "index",
    [3, -1, np.int64(4), slice(2, 9), slice(None, None, -3), [7, 0, 7, -4], np.array([9, 1], np.uint8), range(3, 6)],
)
def test_any_selection_equals_the_same_selection_in_memory(make, population, tmp_path, index):
    chosen = np.atleast_1d(np.arange(10)[index])
    assert torch.equal(make(tmp_path)[index].flat(), population(10).flat()[torch.from_numpy(chosen.copy())])


def test_masks_tensors_and_empty_selections(make, population, tmp_path):
    store, flat = make(tmp_path), population(10).flat()
    mask = np.arange(10) % 3 == 0
    assert torch.equal(store[mask].flat(), flat[torch.from_numpy(mask)])
    assert torch.equal(store[torch.tensor([8, 2])].flat(), flat[[8, 2]])
    for empty in ([], slice(4, 4), ~np.ones(10, bool), np.zeros(0, np.int64)):
        assert len(store[empty]) == 0
        assert store[empty].spec == store.spec


@pytest.mark.parametrize("index", [10, -11, [0, 10], [0.5], [[1, 2], [3, 4]], [True, False]])
def test_positions_that_are_none_are_refused(make, tmp_path, index):
    with pytest.raises(IndexError, match="expected"):
        make(tmp_path)[index]


def test_batches_refuse_a_size_of_none(make, tmp_path):
    with pytest.raises(ValueError, match="size=0"):
        make(tmp_path).batches(0)


def test_what_was_read_is_a_copy_that_may_be_changed(make, population, tmp_path):
    store = make(tmp_path)
    store[2:6].weights[0].zero_()
    assert torch.equal(store[:].flat(), population(10).flat())


def test_curves_travel_with_the_fields(population, tmp_path):
    curves = torch.arange(20.0).view(10, 2)
    curves[3, 1] = torch.nan
    save(tmp_path, population(10), {}, {}, 4, curves)
    np.testing.assert_array_equal(nf.open(tmp_path).curves(), curves.numpy())


def test_parameters_that_are_no_numbers_are_kept(population, tmp_path):
    flat = population(3).flat().clone()
    flat[1] = torch.nan
    flat[2, 0] = -torch.inf
    store = save(tmp_path, nf.FieldBatch.from_flat(population(3).spec, flat), {"psnr": [30.0, torch.nan, 9.0]}, {})
    torch.testing.assert_close(store[:].flat(), flat, rtol=0, atol=0, equal_nan=True)
    np.testing.assert_array_equal(np.isnan(store.metrics.psnr), [False, True, False])


@pytest.mark.parametrize(("dtype", "read"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_other_precisions(population, tmp_path, dtype, read):
    fields = population(6).to(dtype)
    store = save(tmp_path, fields, {}, {}, 4)
    for positions in (slice(None), [5, 1], [2]):
        assert torch.equal(store[positions].flat(), fields[positions].flat().to(read))


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_precisions_that_the_format_lacks_are_refused(population, tmp_path, dtype):
    with pytest.raises(ValueError, match=r"weights.0 is torch\..*: expected float32"):
        save(tmp_path, population(2).to(dtype), {}, {})


def test_columns_of_the_writer(population, tmp_path):
    store = save(tmp_path, population(4), {"iou": [0.1, 0.2, 0.3, 0.4], "label": [None, 1, 2, 3]}, {}, 3)
    np.testing.assert_allclose(store.metrics.iou, [0.1, 0.2, 0.3, 0.4])
    assert store.labels.tolist() == [-1, 1, 2, 3]
    assert store.column("split").tolist() == [""] * 4
    with pytest.raises(AttributeError, match="no 'dice': expected one of id, label, steps, psnr, iou"):
        _ = store.metrics.dice
    with pytest.raises(ValueError, match="column='dice'"):
        store.column("dice")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ({"label": [1, 2]}, "lengths"),
        ({"steps": ["many"] * 4}, r"rows\['steps'\]"),
        ({"id": [-1] * 4}, r"rows\['id'\]"),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_a_shard_is_written(population, tmp_path, rows, reason):
    with pytest.raises(ValueError, match=reason):
        save(tmp_path, population(4), rows, {})
    assert not list(tmp_path.glob("shard-*"))


def test_a_store_reaches_another_process_as_its_path(make, tmp_path):
    store = make(tmp_path)
    assert store[3].flat().numel()
    again = copy.copy(store)
    assert not again.__dict__["_shards"]
    assert torch.equal(again[:].flat(), store[:].flat())
    assert copy.deepcopy(store.metrics).psnr.shape == (10,)


def test_a_truncated_shard_is_named_on_opening(make, tmp_path):
    make(tmp_path)
    shard = tmp_path / files.shard_name(1)
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-7])
    expected = f"shard-00001.safetensors is truncated or altered: {size - 7:,} bytes, expected {size:,}"
    with pytest.raises(ValueError, match=expected):
        nf.open(tmp_path)


def test_an_altered_shard_is_named_when_first_read_and_only_then(make, tmp_path):
    make(tmp_path)
    flip_a_bit(tmp_path / files.shard_name(1))
    store = nf.open(tmp_path)
    assert len(store[0:4]) == 4
    for read in (lambda: store[5], lambda: store[[0, 9, 4]], store.verify):
        with pytest.raises(ValueError, match=r"shard-00001.safetensors is altered"):
            read()
    assert len(nf.open(tmp_path, verify=False)[5]) == 1


def test_an_altered_or_missing_index_is_named(make, tmp_path):
    make(tmp_path)
    index = tmp_path / files.index_name(2)
    good = index.read_bytes()
    table, size, _ = read_index(index, 2)
    forged = table.set_column(1, table.schema.field("label"), [[7, 7]])
    index.write_bytes(table_bytes(forged, {"shard_bytes": str(size), "shard_sha256": "0"}))
    with pytest.raises(ValueError, match=r"index-00002.parquet is altered"):
        nf.open(tmp_path)
    with pytest.raises(ValueError, match=r"index-00002.parquet is altered"):
        nf.open(tmp_path, verify=False).verify()
    for damaged in (b"", good[:-9], b"PAR1 nonsense PAR1"):
        index.write_bytes(damaged)
        for verify, reason in ((True, "altered"), (False, "damaged")):
            with pytest.raises(ValueError, match=rf"index-00002.parquet is {reason}"):
                nf.open(tmp_path, verify)
    index.unlink()
    with pytest.raises(ValueError, match="shard 2 or its index is missing, yet the store is complete"):
        nf.open(tmp_path)


def test_an_index_with_other_rows_or_columns_is_refused(make, tmp_path):
    make(tmp_path)
    index = tmp_path / files.index_name(0)
    table, size, checksum = read_index(index, 4)
    facts = {"shard_bytes": str(size), "shard_sha256": checksum}
    for changed, reason in (
        (table.slice(0, 3), "it has 3 rows, expected 4"),
        (table.drop_columns(["id"]), "column id is missing, expected uint32"),
        (table.set_column(1, "label", [["a"] * 4]), "column label is string, expected int64"),
        (table.set_column(1, "label", [pa.array([0, None, 1, 2])]), "column label has nulls, expected -1"),
    ):
        index.write_bytes(table_bytes(changed, facts))
        with pytest.raises(ValueError, match=f"index-00000.parquet is damaged: {reason}"):
            nf.open(tmp_path, verify=False)


def test_random_rows_of_many_shards_are_right(tmp_path):
    spec = nf.SIREN(1, 1, hidden=(2,))
    flat = torch.arange(20_000 * spec.num_params, dtype=torch.float32).view(20_000, -1)
    store = save(tmp_path, nf.FieldBatch.from_flat(spec, flat), {}, {}, shard_size=3000)
    positions = np.random.default_rng(0).permutation(20_000)[:1000]
    assert torch.equal(store[positions].flat(), flat[torch.from_numpy(positions)])


def test_a_few_rows_of_a_huge_shard_need_little_memory(population, tmp_path):
    fields, count = population(1), 8_000_000
    header, end = {}, 0
    for name, shape in fields.spec.shapes.items():
        size = count * 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": [count, *shape], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    shard = tmp_path / "huge.safetensors"
    with shard.open("wb") as file:  # a file of 1.7 GB with nothing in it but the last bias: it takes no space
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        file.seek(-4, 2)
        file.write(np.float32(7).tobytes())
    tracemalloc.start()
    try:
        opened = Shard(shard, fields.spec.shapes, count)
        rows = {name: opened.rows(name, np.array([count - 1, 5])) for name in fields.spec.shapes}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows["biases.2"].tolist() == [[0, 0, 7], [0, 0, 0]]
    assert peak < 1 << 20
