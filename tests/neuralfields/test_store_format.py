"""FORMAT.md is enough: a reader and a writer that use nothing of this package, and files that are not what it says."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file

import neuralfields as nf
from neuralfields import store_files as files
from neuralfields.store_index import COLUMNS
from neuralfields.store_shard import Shard

PAGE = (Path(nf.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")


def write_by_the_page(path: Path, weights: dict[str, np.ndarray], shard_size: int) -> None:
    count = len(weights["weights.0"])
    spec = {"in_dim": 2, "out_dim": 1, "hidden": [3], "w0_first": 20.0, "w0_hidden": 20.0, "offset": [0.5]}
    head = {"format": "neuralfields-store", "version": 1, "spec": spec, "meta": {"anything": [1]}, "complete": True}
    head |= {"num_fields": count, "shard_size": shard_size, "statistics": {}, "checksums": {}}
    path.mkdir()
    for shard, start in enumerate(range(0, count, shard_size)):
        part = slice(start, start + shard_size)
        own = {name: np.ascontiguousarray(value[part]) for name, value in weights.items()}
        data, index = path / f"shard-{shard:05d}.safetensors", path / f"index-{shard:05d}.parquet"
        save_file(own, data, metadata={"made_by": "hand"})
        n = len(own["weights.0"])
        columns = {"id": pa.array(range(start, start + n), pa.uint32()), "label": pa.array([7] * n, pa.int64())}
        columns |= {name: pa.array([""] * n, pa.string()) for name in ("split", "name", "init_id")}
        columns |= {"steps": pa.array([-1] * n, pa.int32()), "psnr": pa.array([np.nan] * n, pa.float32())}
        facts = {"shard_bytes": str(data.stat().st_size), "shard_sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
        pq.write_table(pa.table(columns).replace_schema_metadata(facts), index)
        head["checksums"][index.name] = hashlib.sha256(index.read_bytes()).hexdigest()
    (path / "store.json").write_text(json.dumps(head), encoding="utf-8")


def test_a_store_written_by_the_page_is_read(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"weights.0": (3, 2), "biases.0": (3,), "weights.1": (1, 3), "biases.1": (1,)}
    weights = {name: rng.normal(size=(5, *shape)).astype(np.float32) for name, shape in shapes.items()}
    write_by_the_page(tmp_path / "s", weights, 2)
    store = nf.open(tmp_path / "s")
    store.verify()
    assert store.spec == nf.SIREN(2, 1, hidden=(3,), w0=20.0, offset=(0.5,))
    assert store.labels.tolist() == [7] * 5
    for name, value in store[[4, 0, 3]].parameters.items():
        np.testing.assert_array_equal(value.numpy(), weights[name][[4, 0, 3]])


def test_a_store_is_read_by_the_page(make, population, tmp_path):
    make(tmp_path)
    head = json.loads((tmp_path / "store.json").read_text(encoding="utf-8"))
    assert (head["format"], head["version"], head["complete"]) == ("neuralfields-store", 1, True)
    found, labels = [], []
    for shard in range(-(-head["num_fields"] // head["shard_size"])):
        data, index = tmp_path / f"shard-{shard:05d}.safetensors", tmp_path / f"index-{shard:05d}.parquet"
        assert head["checksums"][index.name] == hashlib.sha256(index.read_bytes()).hexdigest()
        table = pq.read_table(index)
        assert table.schema.metadata[b"shard_bytes"] == str(data.stat().st_size).encode()
        assert table.schema.metadata[b"shard_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest().encode()
        found.append(load_file(data))
        labels += table["label"].to_pylist()
    assert labels == [i % 3 for i in range(10)]
    for name, value in population(10).parameters.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in found]), value.numpy())


def test_the_page_names_every_key_and_column(make, tmp_path):
    head = files.read_head(make(tmp_path).path)
    documented = set(re.findall(r"`([a-z_0-9.]+)`", PAGE))
    assert set(head) <= documented
    assert set(head["spec"]) <= documented
    for name, kind in COLUMNS.items():
        page_name = {pa.float32(): "float32"}.get(kind, str(kind))
        assert f"| `{name}` | {page_name} |" in PAGE


def change(path: Path, **keys: object) -> None:
    head = {k: v for k, v in {**json.loads((path / "store.json").read_text()), **keys}.items() if v is not ...}
    (path / "store.json").write_text(json.dumps(head))


def test_what_is_no_store_and_what_is_too_new(make, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        nf.open(tmp_path / "none")
    with pytest.raises(ValueError, match=r"not a store \(it has no store.json\)"):
        nf.open(tmp_path)
    make(tmp_path / "s")
    change(tmp_path / "s", version=7)
    with pytest.raises(ValueError, match="written by format 7; this version reads up to 1: upgrade"):
        nf.open(tmp_path / "s")
    change(tmp_path / "s", format="other")
    with pytest.raises(ValueError, match="format is 'other', expected 'neuralfields-store'"):
        nf.open(tmp_path / "s")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"version": 1}'])
def test_a_store_json_that_is_none_is_refused_in_one_line(make, tmp_path, text):
    make(tmp_path)
    (tmp_path / "store.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"store\.json(:| is damaged:) .*") as caught:
        nf.open(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", "1"), ("version", 0), ("spec", ...), ("spec", []), ("spec", {}), ("spec", {"in_dim": 2}),
        ("spec", {"in_dim": "2", "out_dim": 1, "hidden": [3]}), ("spec", {"in_dim": 2, "out_dim": 1, "hidden": 3}),
        ("spec", {"in_dim": 2, "out_dim": 1, "hidden": [3], "encoding": 4}), ("meta", 3),
        ("meta", {"signal": "digits"}), ("meta", {"config": [1]}),
        ("num_fields", 0), ("num_fields", "10"), ("num_fields", True), ("shard_size", -4), ("shard_size", 4.0),
        ("complete", "yes"), ("complete", ...), ("checksums", []), ("statistics", None),
    ],
)  # fmt: skip
def test_keys_that_are_missing_or_of_another_type_are_named(make, tmp_path, key, value):
    make(tmp_path)
    change(tmp_path, **{key: value})
    with pytest.raises(ValueError, match=rf"store\.json is damaged: .*{key}") as caught:
        nf.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_numbers_of_fields_that_the_files_do_not_have(make, tmp_path):
    make(tmp_path)
    change(tmp_path, num_fields=10**15, shard_size=4)  # must not count to 10^15
    with pytest.raises(ValueError, match=r"shard 3 or its index is missing|it has 2 rows"):
        nf.open(tmp_path, verify=False)
    change(tmp_path, num_fields=10, shard_size=5)
    with pytest.raises(ValueError, match="it has 4 rows, expected 5"):
        nf.open(tmp_path, verify=False)


def test_a_checksum_that_is_missing_is_not_taken_for_a_match(make, tmp_path):
    make(tmp_path)
    change(tmp_path, checksums={})
    with pytest.raises(ValueError, match=r"index-00000.parquet is altered"):
        nf.open(tmp_path)


def header(**entries: object) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 7, b"\xff" * 40, (5).to_bytes(8, "little") + b"{bad}", (2).to_bytes(8, "little") + b"[]",
        header(x=GOOD) + b"\0" * 23, header(y=GOOD) + b"\0" * 24, header(x={}), header(x=[]),
        header(x={**GOOD, "dtype": "I8"}) + b"\0" * 24, header(x={**GOOD, "data_offsets": [-24, 0]}) + b"\0" * 24,
        header(x={**GOOD, "data_offsets": [24, 0]}) + b"\0" * 24, header(x={**GOOD, "shape": [3, 2]}) + b"\0" * 24,
        header(x={**GOOD, "shape": [-2, -3]}) + b"\0" * 24, header(x={**GOOD, "data_offsets": [0, "24"]}) + b"\0" * 24,
        header(x=GOOD, curves={**GOOD, "shape": [6]}) + b"\0" * 24,
        header(x=GOOD, curves={**GOOD, "dtype": "BF16", "shape": [2, 6]}) + b"\0" * 24,
    ],
)  # fmt: skip
def test_a_shard_that_is_none_is_named(tmp_path, data):
    path = tmp_path / "shard-00000.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"shard-00000.safetensors is damaged") as caught:
        Shard(path, {"x": (3,)}, 2)
    assert "\n" not in str(caught.value)


def test_a_good_shard_is_read_beside_tensors_that_are_unknown(tmp_path):
    path = tmp_path / "shard-00000.safetensors"
    unknown = {"dtype": "U8", "shape": [1], "data_offsets": [24, 25]}
    path.write_bytes(header(x=GOOD, more=unknown) + np.arange(6, dtype="<f4").tobytes() + b"?")
    assert torch.equal(Shard(path, {"x": (3,)}, 2).rows("x", slice(1, 2)), torch.tensor([[3.0, 4.0, 5.0]]))
