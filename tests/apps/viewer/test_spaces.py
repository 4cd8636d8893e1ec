"""Spaces, clouds and maps: principal components, neighbours, what is left out, and who works when."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from apps.viewer import projections
from apps.viewer.clouds import Cloud, spread
from apps.viewer.collection import Collection, Part, of_batch
from apps.viewer.map_strip import find_near
from apps.viewer.maps import WAITING, Maps
from apps.viewer.networks import Networks
from apps.viewer.projections import components, methods, pca, tsne, umap
from apps.viewer.spaces import Space, spaces
from neuralfields import SIREN, FieldBatch, HashField, symmetry
from neuralfields.hash_grid import HashGrid
from neuralfields.testing import random_fields
from wsnets import Embedder, Reader, models
from wsnets.align import Aligner, aligned
from wsnets.features import Normaliser

NO_NETWORKS: Any = SimpleNamespace(of=lambda *tasks: [])
WEIGHTS, ALIGNED = 0, 1


def run(work) -> Any:
    """What pieces of work give at their end."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def filled(part: Part, space: Space) -> Cloud:
    cloud = Cloud(part, space)
    run(cloud.fill())
    return cloud


def space_of(part: Part, number: int = WEIGHTS) -> Space:
    return spaces(NO_NETWORKS, part.spec)[0][number]


def with_bad(part: Part, rows: list[int]) -> Part:
    """The first twenty fields, some of them with a NaN."""
    flat = part.fields[:20].flat().clone()
    flat[rows, 3] = float("nan")
    return of_batch("bad", FieldBatch.from_flat(part.spec, flat), {}, part)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces of a small store, the last one smaller."""
    monkeypatch.setattr("apps.viewer.clouds.AT_ONCE", 50)


@pytest.mark.parametrize("most", [2048, 130])
def test_components_are_those_of_numpy_by_covariance_and_by_products(digits_part, monkeypatch, most):
    monkeypatch.setattr(projections, "COVARIANCE", most)
    found, shares, num_fitted = run(components(filled(digits_part, space_of(digits_part)), 3))
    flat = digits_part.fields[:].flat().double().numpy()
    u, s, _ = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    expected = u[:, :3] * s[:3]
    signs = np.sign((expected * found).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=2e-4 * s[0])
    np.testing.assert_allclose(shares, s[:3] ** 2 / (s**2).sum(), rtol=1e-3)
    assert num_fitted == 120


def test_axes_of_some_fields_are_said_to_be_so(digits_part, monkeypatch):
    monkeypatch.setattr(projections, "COVARIANCE", 40)
    flat = run(pca(filled(digits_part, space_of(digits_part))))
    assert flat.note.endswith("of the variance of 40 fields")
    assert flat.places.shape == (120, 2)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_fields_have_places_too(digits_part, count):
    part = of_batch("few", digits_part.fields[:count], {}, digits_part)
    for method in (pca, tsne):
        places = run(method(filled(part, space_of(part)))).places
        assert places.shape == (count, 2)
        assert np.isfinite(places).all()
    distances = np.linalg.norm(part.fields[:].flat().numpy()[0] - part.fields[:].flat().numpy(), axis=1)
    places = run(pca(filled(part, space_of(part)))).places
    np.testing.assert_allclose(np.linalg.norm(places[0] - places, axis=1), distances, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("number", [WEIGHTS, ALIGNED])
def test_neighbours_are_those_of_brute_force(digits_part, number):
    cloud = filled(digits_part, space_of(digits_part, number))
    points = digits_part.fields[:].flat()
    if number == ALIGNED:
        reference = Aligner.fit([digits_part.fields[:]]).reference
        points = aligned(digits_part.fields[:], reference).flat()
    far = (points[33].double() - points.double()).norm(dim=1).numpy()
    order = np.argsort(far)[1:11]
    near = run(find_near(cloud, Collection([digits_part]), 33))
    assert near.positions.tolist() == order.tolist()
    np.testing.assert_allclose(near.distances, far[order], rtol=1e-4)


def test_a_moved_copy_is_beside_its_field_only_when_aligned(digits_part):
    fields = digits_part.fields[:30]
    moved = symmetry.act(symmetry.sample(fields.spec, 1, Generator().manual_seed(4)), fields[7])
    part = of_batch("both", FieldBatch.cat([fields, moved]), {}, digits_part)
    for number, is_near in ((WEIGHTS, False), (ALIGNED, True)):
        near = run(find_near(filled(part, space_of(part, number)), Collection([part]), 7))
        assert (near.positions[0] == 30 and near.distances[0] < 1e-3) == is_near


def test_a_made_field_has_neighbours_in_the_store_and_others_have_none(digits_part):
    made = of_batch("made", digits_part.fields[5:6], {}, digits_part)
    other = of_batch("other", random_fields(SIREN(2, 1, (4,)), 1, Generator()).to(torch.float32), {}, digits_part)
    bad = with_bad(digits_part, [2])
    cloud, collection = filled(digits_part, space_of(digits_part)), Collection([digits_part, made, other, bad])
    near = run(find_near(cloud, collection, 120))
    assert (near.positions[0], near.distances[0]) == (5, 0.0)
    with pytest.raises(ValueError, match=r"#121 is sine 2-4-1.*: it has no place among sine 2-16-16-1"):
        run(find_near(cloud, collection, 121))
    with pytest.raises(ValueError, match=r"#124 has NaN or infinite weights"):
        run(find_near(cloud, collection, 124))


@pytest.mark.parametrize("number", [WEIGHTS, ALIGNED])
def test_fields_with_nan_are_left_out_and_counted(digits_part, number):
    part = with_bad(digits_part, [0, 11])
    cloud = filled(part, space_of(part, number))
    flat = run(pca(cloud))
    assert (flat.total, flat.num_bad) == (20, 2)
    assert flat.rows.tolist() == [row for row in range(20) if row not in (0, 11)]
    assert np.isfinite(flat.places).all()
    nothing = with_bad(digits_part, list(range(20)))
    with pytest.raises(ValueError, match="none has finite weights"):
        filled(nothing, space_of(nothing, number))


def test_large_populations_are_thinned_evenly(digits_part, monkeypatch):
    monkeypatch.setattr("apps.viewer.clouds.MOST", 50)
    assert filled(digits_part, space_of(digits_part)).rows.tolist() == (np.arange(50) * 120 // 50).tolist()
    monkeypatch.setattr("apps.viewer.clouds.ROOM", 20 * digits_part.spec.num_params)
    kept = filled(digits_part, space_of(digits_part, ALIGNED))
    assert len(kept) == 20
    assert kept.num_bytes == 20 * digits_part.spec.num_params * 4
    assert filled(digits_part, space_of(digits_part)).num_bytes == 0
    assert spread(3, 10).tolist() == [0, 1, 2]


def test_neighbours_stay_together_in_tsne(digits_part, monkeypatch):
    fields, labels = digits_part.fields[:40], np.arange(40) % 4
    flat = fields.flat() + 3.0 * torch.from_numpy(labels)[:, None]
    part = of_batch("apart", FieldBatch.from_flat(fields.spec, flat), {}, digits_part)
    found = run(tsne(filled(part, space_of(part))))
    far = np.linalg.norm(found.places[:, None] - found.places, axis=-1) + 1e9 * np.eye(40)
    assert (labels[far.argmin(axis=1)] == labels).mean() > 0.95
    monkeypatch.setattr(projections, "MOST_NEAR", 10)
    again = run(tsne(filled(part, space_of(part))))
    assert again.rows.tolist() == list(range(0, 40, 4))
    assert "principal components" in again.note


def test_umap_is_offered_where_it_is_installed(digits_part, monkeypatch):
    class Stub:
        def __init__(self, **settings: Any) -> None:
            self.settings = settings

        def fit_transform(self, near: np.ndarray) -> np.ndarray:
            assert self.settings["n_neighbors"] == 15
            return near[:, :2]

    monkeypatch.setattr(projections, "find_spec", lambda name: None)
    assert list(methods()) == ["PCA", "t-SNE"]
    monkeypatch.setattr(projections, "find_spec", lambda name: name == "umap")
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Stub))
    assert methods()["UMAP"] is umap
    assert run(umap(filled(digits_part, space_of(digits_part)))).places.shape == (120, 2)


def test_networks_that_fit_are_spaces_and_others_are_noted(digits, digits_part, tmp_path):
    mlp, draws = models.MLPConfig(hidden=(8,)), Generator().manual_seed(0)
    made = {}
    for name, spec in (("own", digits.spec), ("other", SIREN(2, 1, hidden=(4,)))):
        about: Any = {"spec": spec, "settings": mlp, "model": models.build_reader(mlp, spec, 3, draws).eval()}
        about["normaliser"] = Normaliser.fit("none", [random_fields(spec, 2, draws, torch.float32)])
        made[f"{name} reader"] = Reader(**about, classes=("a", "b", "c"))
        made[f"{name} embedder"] = Embedder(**about, dim=3)
    for name, network in made.items():
        network.save(tmp_path / name)
    networks = Networks([str(tmp_path / "own reader"), str(tmp_path / "own embedder")], digits)
    others = Networks([str(tmp_path / "other reader")], SimpleNamespace(spec=SIREN(2, 1, hidden=(4,))))  # type: ignore[arg-type]
    networks.entries += others.entries
    found, notices = spaces(networks, digits.spec)
    names = ["weights", "aligned weights", "scores of own reader", "features of own embedder"]
    assert [space.name for space in found] == names
    assert notices == ["other reader is left out: it reads sine 2-4-1, 17 parameters."]
    fields = digits[:]
    expected = {names[2]: made["own reader"].vectors(fields), names[3]: made["own embedder"].embed(fields)}
    for space in found[2:]:
        cloud = filled(digits_part, space)
        np.testing.assert_allclose(cloud.at(np.arange(120)), expected[space.name].numpy(), rtol=1e-4, atol=1e-5)


def test_fields_without_symmetries_are_not_aligned():
    hashed = HashField(3, 1, hidden=(8,), encoding=HashGrid(levels=2, log2_size=6, base=4))
    found, notices = spaces(NO_NETWORKS, hashed)
    assert [space.name for space in found] == ["weights"]
    assert notices == ["No aligned weights: no symmetry is known of trained encodings and view heads."]


def test_maps_are_worked_out_once_by_one_browser_at_a_time(digits_part):
    maps, space = Maps(), space_of(digits_part, ALIGNED)
    first = maps.make(digits_part, space, "PCA")
    assert next(first)[0] == space.doing
    second = maps.make(digits_part, space, "PCA")
    assert next(second)[0] == WAITING
    del first  # dropped: whoever waits goes on from there
    run(second)
    found = maps.find(space, "PCA")
    assert found is not None
    assert list(maps.make(digits_part, space, "PCA")) == []
    assert maps.find(space, "PCA") is found
    fewer = of_batch("fewer", digits_part.fields[:60], {}, digits_part)
    run(maps.make(fewer, space, "PCA"))
    assert maps.find(space, "PCA") is found


def test_points_that_were_not_asked_for_make_room(digits_part, monkeypatch):
    maps, near = Maps(), space_of(digits_part, ALIGNED)
    others = [Space(f"other {number}", "", near.prepare) for number in range(2)]
    clouds = [run(maps.cloud(digits_part, space)) for space in (near, *others)]
    assert run(maps.cloud(digits_part, near)) is clouds[0]
    monkeypatch.setattr("apps.viewer.maps.ROOM", clouds[0].num_bytes)
    run(maps.cloud(digits_part, others[1]))
    assert run(maps.cloud(digits_part, others[1])) is clouds[2]
    assert run(maps.cloud(digits_part, near)) is not clouds[0]
