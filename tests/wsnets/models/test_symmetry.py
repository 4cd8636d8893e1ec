"""Every model against the group that it declares, in float64, and every kind that it does not declare is detected."""

import numpy as np
import pytest
import torch
from torch import Generator

from fitting import fit, images
from neuralfields import SIREN, FieldBatch, FieldSpec, ReLUField, symmetry
from neuralfields.inits import draw
from neuralfields.testing import assert_equivariant, assert_invariant
from wsnets import models
from wsnets.editor import edit
from wsnets.features import weight_features

SPECS = {
    "sine": SIREN(2, 1, hidden=(5, 3)),
    "deep sine": SIREN(3, 2, hidden=(3, 5, 4)),
    "relu": ReLUField(2, 3, hidden=(4, 5)),
    "one layer": SIREN(1, 1, hidden=(7,), w0=12.0),
}
EDITORS = [name for name in models.names() if models.edits(name)]


def reader(name: str, spec: FieldSpec, generator: Generator):
    model = models.kind(name).small().build(spec, 3, generator).double().eval()
    return lambda fields: model(weight_features(fields))


def editor(name: str, spec: FieldSpec, generator: Generator):
    model = models.build_editor(models.kind(name).small(), spec, generator).double().eval()
    # An untrained editor changes next to nothing, which would hide what it breaks.
    return lambda fields: edit(fields, model(weight_features(fields)).map(lambda x: x * 10.0))


def declared(name: str, spec: FieldSpec) -> tuple[str, ...]:
    return models.kind(name).small().symmetry(spec)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("name", models.names())
def test_readers_have_their_group_and_no_other(name: str, spec: FieldSpec, generator: Generator):
    read = reader(name, spec, generator)
    kinds = declared(name, spec)
    if kinds:
        assert_invariant(read, spec, kinds, generator, rtol=1e-9)
    for kind in symmetry.groups_of(spec):
        if kind not in kinds:
            with pytest.raises(AssertionError, match="not invariant"):
                assert_invariant(read, spec, [kind], generator, rtol=1e-9)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("name", EDITORS)
def test_editors_have_their_group_and_no_other(name: str, spec: FieldSpec, generator: Generator):
    change, kinds = editor(name, spec, generator), declared(name, spec)
    assert_equivariant(change, spec, kinds, generator, rtol=1e-9)
    for kind in symmetry.groups_of(spec):
        if kind not in kinds:
            with pytest.raises(AssertionError, match="not equivariant"):
                assert_equivariant(change, spec, [kind], generator, rtol=1e-9)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> FieldBatch:
    """Sine fields 2-9-7-1 fitted to three digits, as a store holds them, each from a start of its own."""
    digits = images.load("digits", limit=3)
    folder = tmp_path_factory.mktemp("stored") / "store"
    return fit(digits, SIREN(2, 1, hidden=(9, 7)), steps=40, lr=1e-3, init="random", out=folder)[:].to(torch.float64)


@pytest.mark.parametrize("name", models.names())
def test_readers_keep_their_group_on_stored_fields(name: str, stored: FieldBatch, generator: Generator):
    read, kinds = reader(name, stored.spec, generator), declared(name, stored.spec)
    expected = read(stored).detach()
    moved = symmetry.act(symmetry.sample(stored.spec, 3, generator, kinds or None), stored)
    error = float((read(moved).detach() - expected).abs().max() / expected.abs().max())
    assert error <= 1e-9 if kinds else error > 1e-3


@pytest.mark.parametrize("name", models.names())
def test_a_batch_reads_as_its_fields_do_alone(name: str, generator: Generator):
    spec = SPECS["sine"]
    read, fields = reader(name, spec, generator), draw(spec, np.arange(3, dtype=np.uint32)).to(torch.float64)
    alone = torch.cat([read(fields[n]) for n in range(3)])
    torch.testing.assert_close(read(fields), alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", models.names())
def test_settings_survive_json_and_sizes_differ(name: str):
    for settings in (models.kind(name)(), models.kind(name).small()):
        assert models.from_json(models.to_json(settings)) == settings
        assert models.name_of(settings) == name
