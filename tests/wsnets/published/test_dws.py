"""Equality with the public DWSNets code.

dws.safetensors holds, per case, five random fields (normal parameters of standard deviation 0.7), weights of a public
model, and what that model made of those fields, all in float64. They come from AvivNavon/DWSNets as it is:
DWSModelForClassification with n_classes=4 and DWSModel with output_features=1 and init_scale=1.0, input_features=1, and
the arguments named with each case, others by default (reduction "max", set_layer "sab", n_fc_layers=1, no skips).
Normal noise of standard deviation 0.2 on every weight moved what starts near 0 or at 1; statistics of batch norm were
drawn; all was run in evaluation mode without dropout, which the public code would not switch off.

Fields have one output: to several, the public code says the same from some tensors, which ours and the paper do not.
"""

import pytest
import torch

from neuralfields import SIREN
from wsnets.models.dws import DWSConfig
from wsnets.published.dws import convert

SMALL, TALL = SIREN(2, 1, hidden=(5, 3)), SIREN(3, 1, hidden=(4, 5, 3))
# Case: fields, and our settings. The public arguments:
READERS = {
    # hidden_dim=4, n_hidden=2, num_heads=2, bn=True
    "read": (SMALL, DWSConfig(width=4, num_hidden=2, heads=2)),
    # hidden_dim=5, n_hidden=1, set_layer="ds", reduction="mean", n_out_fc=2
    "read_sets": (
        SMALL,
        DWSConfig(width=5, num_hidden=1, set_layer="ds", pool="mean", head_depth=2, norm="none"),
    ),
    # hidden_dim=4, n_hidden=1, set_layer="ds", reduction="sum", diagonal=True, bn=True
    "read_near": (TALL, DWSConfig(width=4, num_hidden=1, set_layer="ds", pool="sum", near=True)),
}
EDITORS = {
    # hidden_dim=4, n_hidden=1, num_heads=2
    "edit": (TALL, DWSConfig(width=4, num_hidden=1, heads=2, norm="none")),
    # hidden_dim=5, n_hidden=1, set_layer="ds", bn=True
    "edit_sets": (SMALL, DWSConfig(width=5, num_hidden=1, set_layer="ds")),
}


@pytest.mark.parametrize("case", READERS)
def test_a_reader_gives_the_numbers_of_the_public_one(published, case: str, generator: torch.Generator):
    spec, config = READERS[case]
    model = config.build(spec, 4, generator).double().eval()
    model.load_state_dict(convert(published.stored(case, "state"), spec, config))
    published.assert_read(model, case, spec)


@pytest.mark.parametrize("case", EDITORS)
def test_an_editor_gives_the_numbers_of_the_public_one(published, case: str, generator: torch.Generator):
    spec, config = EDITORS[case]
    model = config.build_editor(spec, generator).double().eval()
    model.load_state_dict(convert(published.stored(case, "state"), spec, config))
    published.assert_edited(model, case, spec)


@pytest.mark.parametrize("case", READERS)
def test_sizes_are_those_of_the_public_model(published, case: str, generator: torch.Generator):
    spec, config = READERS[case]
    theirs = {name: value for name, value in published.stored(case, "state").items() if ".running_" not in name}
    ours = sum(p.numel() for p in config.build(spec, 4, generator).parameters())
    assert ours == sum(value.numel() for value in theirs.values())


def test_what_has_no_counterpart_is_refused(published):
    state, (spec, config) = published.stored("read_sets", "state"), READERS["read_sets"]
    with pytest.raises(
        ValueError, match=r"state has 'skip\.weight' and 0 more: expected no tensors beside the model's"
    ):
        convert({**state, "skip.weight": torch.zeros(1)}, spec, config)
    with pytest.raises(ValueError, match=r"spec\.out_dim=3: expected 1"):
        convert(state, SIREN(2, 3, hidden=(5, 3)), config)
    with pytest.raises(ValueError, match="depth=2: expected 1"):
        convert(state, spec, DWSConfig(width=5, num_hidden=1, set_layer="ds", depth=2))
