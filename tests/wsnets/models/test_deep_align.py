"""Deep-Align: units' vectors move with units, answers do not depend on how a field was moved, it learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuralfields import SIREN, FieldBatch, FieldSpec, ReLUField, symmetry
from neuralfields.testing import random_fields
from wsnets import models
from wsnets.align import align, distance
from wsnets.deep_aligner import DeepAligner
from wsnets.features import Normaliser, weight_features
from wsnets.models.deep_align import DeepAlignConfig, scores, signed
from wsnets.tasks.align_pairs import AlignConfig, AlignPairsTask, align_pairs, copy_loss
from wsnets.tasks.field_task import Prepared

SPECS = {
    "sine": SIREN(2, 1, hidden=(6, 5), w0=9.0),
    "deep sine": SIREN(3, 2, hidden=(4, 5, 3), w0=9.0),
    "relu": ReLUField(2, 3, hidden=(5, 6)),
    "one layer": SIREN(1, 1, hidden=(7,), w0=12.0),
    "tanh": FieldSpec(in_dim=2, out_dim=1, hidden=(6, 5), activation="tanh"),
    "gauss": FieldSpec(in_dim=2, out_dim=1, hidden=(6, 5), activation="gauss", width=3.0),
}
TINY = DeepAlignConfig(coordinates=16, width=12, dim=8, hidden=10)
SINE = SPECS["sine"]


def aligner(spec: FieldSpec, generator: torch.Generator) -> DeepAligner:
    model = TINY.build_aligner(spec, generator).double().eval()
    return DeepAligner(spec=spec, settings=TINY, model=model, normaliser=Normaliser("none"))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_vectors_move_with_their_units(spec: FieldSpec, generator: torch.Generator) -> None:
    model = TINY.build_aligner(spec, generator).double()
    fields, g = random_fields(spec, 3, generator), symmetry.sample(spec, 3, generator)
    before, after = (model(weight_features(x)) for x in (fields, symmetry.act(g, fields)))
    for z, moved, (p, sign, k, _) in zip(before, after, g.layers(), strict=True):
        parity = sign * (1 - 2 * (k % 2)) if signed(spec) else torch.ones_like(sign)
        expected = z.gather(1, p.unsqueeze(2).expand_as(z)) * parity.unsqueeze(2)
        assert torch.allclose(moved, expected, rtol=1e-9, atol=1e-9)
        assert torch.allclose(z.norm(dim=2), torch.ones(z.shape[:2], dtype=z.dtype))
        assert (z[0] - z[1]).abs().max() > 1e-3


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("rounds", [0, 5])
def test_the_aligned_field_does_not_depend_on_how_it_was_moved(
    spec: FieldSpec, rounds: int, generator: torch.Generator
) -> None:
    network = aligner(spec, generator)
    fields, reference = random_fields(spec, 6, generator), random_fields(spec, 6, generator)
    g = symmetry.sample(spec, 6, generator)
    found = network.element(fields, reference, rounds)
    again = symmetry.compose(network.element(symmetry.act(g, fields), reference, rounds), g)
    for (p, sign, k, scale), (q, other, turns, size) in zip(found.layers(), again.layers(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(sign, other)
        assert torch.equal(k, turns)
        assert torch.allclose(scale, size, rtol=1e-6)
    moved = symmetry.act(symmetry.sample(spec, 6, generator), reference)
    # So a copy of the reference comes back, whatever the network: it is as near to itself as can be.
    assert torch.allclose(network.aligned(moved, reference).flat(), reference.flat(), rtol=1e-5, atol=1e-5)
    one = network.element(fields, reference[0], rounds)
    each = network.element(fields, reference[[0] * 6], rounds)
    assert all(torch.equal(a, b) for a, b in zip(one.permutation, each.permutation, strict=True))


def test_weight_matching_afterwards_only_comes_nearer(generator: torch.Generator) -> None:
    network = aligner(SINE, generator)
    fields, reference = random_fields(SINE, 5, generator), random_fields(SINE, 5, generator)
    near = [distance(network.aligned(fields, reference, rounds), reference) for rounds in (0, 1, 50)]
    assert (near[1] <= near[0] + 1e-9).all()
    assert (near[2] <= near[1] + 1e-9).all()
    assert len(network.element(fields[:0], reference[0]).permutation[0]) == 0


def test_the_loss_of_copies_tells_right_from_wrong(generator: torch.Generator) -> None:
    g = symmetry.sample(SINE, 4, generator)
    right = []
    for p, sign, k, _ in g.layers():
        parity = (sign * (1 - 2 * (k % 2))).double()
        right.append(torch.nn.functional.one_hot(p, p.shape[1]) * parity.unsqueeze(2))
    loss, back = copy_loss(right, g, True, 0.05, 20)
    assert back == 1.0
    assert loss < 1e-3
    turned, lost = copy_loss([-score for score in right], g, True, 0.05, 20)
    assert lost == 0.0
    assert turned > 5.0


class Store:
    """Forty fields in memory, with the reading interface of a store."""

    meta: dict = {}  # noqa: RUF012

    def __init__(self, fields: FieldBatch) -> None:
        self.fields, self.spec = fields, fields.spec
        self.ids = self.groups = np.arange(len(fields), dtype=np.uint32)
        self.labels = np.zeros(len(fields), np.int64)

    def __len__(self) -> int:
        return len(self.fields)

    def __getitem__(self, positions: Any, /) -> FieldBatch:
        return self.fields[torch.as_tensor(positions)]


def test_it_trains_resumes_bit_for_bit_and_comes_back_from_its_folder(
    tmp_path: Path, generator: torch.Generator
) -> None:
    store = Store(random_fields(SINE, 40, generator, torch.float32))
    config = AlignConfig.tuned(TINY, epochs=2, batch=8, val_fraction=0.3, midpoint=1.0, points=16, seed=3, lr=1e-3)
    whole = align_pairs(store, config, tmp_path / "whole")

    class Stopped(Exception):
        """Raised after the first epoch."""

    def stop(_: object) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        align_pairs(store, config, tmp_path / "parts", stop)
    resumed = align_pairs(store, config, tmp_path / "parts")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
    loaded = DeepAligner.load(tmp_path / "parts")
    found, again = (x.element(store.fields[:5], store.fields[5:10]) for x in (whole, loaded))
    assert all(torch.equal(a, b) for a, b in zip(found.permutation, again.permutation, strict=True))
    assert {"val_loss", "val_units"} <= loaded.training.keys()
    with pytest.raises(ValueError, match=r"tau"):
        align_pairs(store, replace(config, tau=0.1), tmp_path / "parts")


def test_training_brings_noisy_copies_back(tmp_path: Path, generator: torch.Generator) -> None:
    store = Store(random_fields(SINE, 160, generator, torch.float32))
    config = AlignConfig.tuned(TINY, epochs=5, batch=16, val_fraction=0.2, weights=0.0, lr=1e-2, ema=0.5)
    history = align_pairs(store, config, tmp_path / "out").training["history"]
    assert history[-1]["val_units"] > history[0]["val_units"]
    assert history[-1]["val_loss"] < history[0]["val_loss"]


def pairs_task(generator: torch.Generator, **given: Any) -> tuple[torch.nn.Module, AlignPairsTask]:
    store = Store(random_fields(SINE, 12, generator, torch.float32))
    config = AlignConfig.tuned(TINY, batch=4, val_last=5, midpoint=1.0, points=16, **given)
    return TINY.build_aligner(SINE, generator), AlignPairsTask(Prepared.of(store, config), config)


def test_a_field_that_is_alone_in_its_piece_is_not_its_own_neighbour(generator: torch.Generator) -> None:
    model, task = pairs_task(generator)

    def loss(*positions: int) -> torch.Tensor:
        return task.loss(model, task.fetch(torch.tensor(positions)), torch.Generator().manual_seed(5))

    alone, two = loss(3), loss(3, 4)
    alone.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert 0.1 < alone.item() < 2 * two.item() < 100
    with torch.no_grad():
        assert 0.1 < task.validate(model)["val_loss"] < 100  # of a piece of four and one of one


def test_pairs_are_judged_in_single_precision_under_autocast(generator: torch.Generator) -> None:
    model, task = pairs_task(generator)
    batch, losses = task.fetch(torch.arange(4)), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(task.loss(model, batch, torch.Generator().manual_seed(5)))
    assert torch.equal(*losses)


def test_settings_and_bad_input(generator: torch.Generator) -> None:
    assert models.from_json(models.to_json(TINY)) == TINY
    assert scores([torch.ones(2, 3, 4)], [torch.ones(2, 3, 4)])[0].shape == (2, 3, 3)
    network, fields = aligner(SINE, generator), random_fields(SINE, 3, generator)
    bad = FieldBatch.from_flat(SINE, fields.flat() * torch.nan)
    cases = [
        (lambda: DeepAlignConfig(dim=0), "dim=0"),
        (lambda: AlignConfig(model="mlp"), "expected a network that aligns: deep_align"),
        (lambda: AlignConfig(model=TINY, supervised=0.0, weights=0.0), "expected one loss that counts"),
        (lambda: AlignConfig(model=TINY, tau=0.0), "tau=0.0"),
        (lambda: AlignConfig(model=TINY, copy_noise=-1.0), "copy_noise=-1.0"),
        (lambda: AlignConfig(model=TINY, align="exact"), "align='exact'"),
        (lambda: network.element(fields, fields[:2]), "reference holds 2 fields: expected 1 or 3"),
        (lambda: network.element(bad, fields), "NaN"),
        (
            lambda: network.element(fields, random_fields(SPECS["relu"], 3, generator)),
            "fields are relu .*: expected sine",
        ),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_align_is_what_element_ends_in(generator: torch.Generator) -> None:
    network = aligner(SINE, generator)
    fields, reference = random_fields(SINE, 4, generator), random_fields(SINE, 4, generator)
    start = network.aligned(fields, reference)
    after = symmetry.act(align(start, reference, starts=("identity",)), start)
    assert torch.allclose(network.aligned(fields, reference, 100).flat(), after.flat())
