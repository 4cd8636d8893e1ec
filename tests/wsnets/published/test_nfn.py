"""Equality with the public NFN code.

nfn.safetensors holds, per case, four random fields (normal parameters of standard deviation 0.3), weights of a public
model, and what that model made of those fields, all in float64. They come from AllanYangZhou/nfn as it is: InvariantNFN
with MlpHead(num_out=4, h_size=5) and TransferNet, both with GaussianFourierFeatureTransform(mapping_size=2, scale=3),
"np" in mode NP and "hnp" in mode HNP; where our settings have bands, IOSinusoidalEncoding(max_freq=3, num_bands=2,
enc_layers=False). hchannels, or hidden_chan and hidden_layers, are our channels. They were built with float64 as
torch's default and run in evaluation mode; normal noise of standard deviation 0.25 on every weight, and of 1 on the
scales of editors, moved what starts near 0.

Both readers' heads pool by HNPPool, the default of MlpHead.
"""

from typing import Any

import pytest
import torch

from neuralfields import SIREN
from wsnets.models.nfn import HNPConfig, NPConfig
from wsnets.published.nfn import convert

FLAT, SMALL, TALL = SIREN(2, 2, hidden=(5,)), SIREN(2, 1, hidden=(5, 3)), SIREN(3, 2, hidden=(4, 5, 3))
SIZE: dict[str, Any] = {"num_frequencies": 2, "head": 5}
READERS = {
    "np_read": (SMALL, NPConfig(channels=(4, 3), bands=2, **SIZE)),
    "np_read_tall": (TALL, NPConfig(channels=(3, 3), bands=0, **SIZE)),
    "hnp_read": (SMALL, HNPConfig(channels=(4, 3), **SIZE)),
    "hnp_read_tall": (TALL, HNPConfig(channels=(3, 3), **SIZE)),
}
EDITORS = {
    "np_edit": (TALL, NPConfig(channels=(3, 3), bands=2, **SIZE)),
    "np_edit_flat": (FLAT, NPConfig(channels=(4,), bands=2, **SIZE)),
    "hnp_edit": (TALL, HNPConfig(channels=(3, 3), **SIZE)),
    "hnp_edit_flat": (FLAT, HNPConfig(channels=(4,), **SIZE)),
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


@pytest.mark.parametrize("case", [case for case in READERS if case.startswith("np")])
def test_np_has_all_numbers_of_the_public_model_but_doubled_biases(published, case: str, generator: torch.Generator):
    spec, config = READERS[case]
    theirs = sum(value.numel() for name, value in published.stored(case, "state").items() if not name.endswith("._B"))
    ours = sum(p.numel() for p in config.build(spec, 4, generator).parameters())
    # Of the four biases of a weight tensor and the two of a bias tensor, one is left.
    assert theirs - ours == 4 * spec.num_layers * sum(config.channels)


def test_the_public_hnp_layer_lacks_the_last_hidden_biases_in_the_last_weights(published, generator: torch.Generator):
    spec, config = READERS["hnp_read_tall"]
    converted = convert(published.stored("hnp_read_tall", "state"), spec, config)
    sets, width, channels = (1, 1, 2), config.channels[0], 2 * config.num_frequencies
    weight = converted["trunk.layers.0.node.3"].view(sum(sets), width, sum(sets), channels)
    assert bool((weight[2:, :, 1] == 0).all())
    assert bool((weight[:2] != 0).all())
    assert bool((weight[2:, :, [0, 2, 3]] != 0).all())
    drawn = config.build(spec, 4, generator).state_dict()["trunk.layers.0.node.3"]
    assert bool((drawn != 0).all())


def test_what_has_no_counterpart_is_refused(published):
    state, (spec, config) = published.stored("np_read", "state"), READERS["np_read"]
    for name in ("nfnet_features.2.in_embed", "nfnet_features.3.gamma", "stats.weight"):
        with pytest.raises(ValueError, match=f"state has '{name}' and 0 more: expected no tensors beside the model's"):
            convert({**state, name: torch.zeros(1)}, spec, config)
