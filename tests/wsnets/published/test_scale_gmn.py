"""Equality with the public ScaleGMN code.

scale_gmn.safetensors and scale_gmn_b.safetensors hold, per case, fields, weights of a public model of width 8, and what
that model made of those fields, all in float64. They come from jkalogero/scalegmn as it is: the models of its settings
files mnist_cls and mnist_editing, forward and bidirectional, with d_hid, d_k, d_rho = 8, d_out = 4, two or three layers
and the changes named with each case, built with torch's own initialisation in evaluation mode, on five random fields.
"""

from typing import Any

import pytest
import torch

from neuralfields import SIREN, ReLUField
from wsnets.models.scale_gmn import BidirectionalConfig, ScaleGMNConfig
from wsnets.published.scale_gmn import convert

SMALL, TALL, RELU = SIREN(2, 1, hidden=(5, 3)), SIREN(3, 2, hidden=(4, 5)), ReLUField(2, 1, hidden=(5, 3))
SIZE: dict[str, Any] = {"width": 8, "num_layers": 3}
# Case: fields, and our settings where they are not the published ones of size 8. What was changed on the public side:
READERS = {
    "scale_gmn/mnist": (SMALL, ScaleGMNConfig(**SIZE)),
    # readout_range full_graph, mlp_on_io, num_mlps 3
    "scale_gmn/full": (SMALL, ScaleGMNConfig(width=8, num_layers=2, readout="full_graph", ends="separate")),
    # symmetry scale
    "scale_gmn/relu": (RELU, ScaleGMNConfig(**SIZE)),
    # symmetry permutation
    "scale_gmn/permutation": (SMALL, ScaleGMNConfig(width=8, num_layers=2, group="permutation")),
    "scale_gmn_b/mnist": (TALL, BidirectionalConfig(**SIZE)),
    # readout_range full_graph
    "scale_gmn_b/full": (SMALL, BidirectionalConfig(width=8, num_layers=2, readout="full_graph")),
    # symmetry permutation
    "scale_gmn_b/permutation": (TALL, BidirectionalConfig(width=8, num_layers=2, group="permutation")),
}
EDITORS = {
    "scale_gmn/edit": (TALL, ScaleGMNConfig(**SIZE, embed_edges=False, symmetrised=False, ends="separate")),
    "scale_gmn_b/edit": (
        TALL,
        BidirectionalConfig(**SIZE, skip=True, constants=False, symmetrised=False, ends="shared"),
    ),
}


@pytest.mark.parametrize("case", READERS)
def test_a_reader_gives_the_numbers_of_the_public_one(published, case: str, generator: torch.Generator):
    spec, config = READERS[case]
    model = config.build(spec, 4, generator).double().eval()
    model.load_state_dict(convert(published.stored(case, "state")))
    published.assert_read(model, case, spec)


@pytest.mark.parametrize("case", EDITORS)
def test_an_editor_gives_the_numbers_of_the_public_one(published, case: str, generator: torch.Generator):
    spec, config = EDITORS[case]
    model = config.build_editor(spec, generator).double().eval()
    model.load_state_dict(convert(published.stored(case, "state")))
    published.assert_edited(model, case, spec)


def test_names_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"state has 'encoder\.weight': expected names of the public ScaleGMN"):
        convert({"encoder.weight": torch.zeros(1)})
