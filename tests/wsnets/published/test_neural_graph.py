"""Equality with the public neural graphs code.

ng_gnn.safetensors and ng_t.safetensors hold, per case, five random fields, weights of a public model, and what that
model made of those fields, all in float64. They come from mkofinas/neural-graphs with torch_geometric 2.8.1, its import
of TrimToLayer led to where that version keeps it: GNNForClassification and RelationalTransformer by the settings files
pna.yaml and rtransformer.yaml of inr_classification, GNNParams and RelationalTransformerParams by those of
style_editing, with rev_edge_features but where noted, no statistics of weights, d_out = 4 in readers, d_hid = 7, or
d_node, d_node_hid, d_out_hid = 6, 12, 12, d_edge, d_edge_hid = 5, 10, d_attn_hid = 8, n_heads = 2; sin_emb_dim = 5,
three layers, and the changes named with each case. They were built with float64 as torch's default, so that the average
degree is not rounded, and in evaluation mode; normal noise of standard deviation 0.1 on every weight, and of 1 on the
scales of editors, moved what starts at 0 or 1. inr_model is INRPerLayer of the sizes of the fields.

Every field went through alone, as their norm of nodes reads the whole batch ("together" is the batch of five); their
NG-GNN editor takes changes of biases from the wrong nodes. Both are shown below.
"""

from typing import Any

import pytest
import torch

from neuralfields import SIREN
from wsnets.models.neural_graph import FieldNorm, GNNConfig
from wsnets.models.neural_graph_transformer import TransformerConfig
from wsnets.published.neural_graph import convert

SMALL, TALL = SIREN(2, 1, hidden=(5, 3)), SIREN(3, 2, hidden=(4, 5, 3))
# Their fields add 0.5 to their outputs.
PROBED, PROBED_TALL = SIREN(2, 1, hidden=(5, 5), offset=(0.5,)), SIREN(3, 2, hidden=(3, 3, 3), offset=(0.5, 0.5))
GNN: dict[str, Any] = {"width": 7, "num_layers": 3, "num_frequencies": 5}
TRANSFORMER: dict[str, Any] = {
    "node_width": 6,
    "edge_width": 5,
    "attention_width": 8,
    "num_heads": 2,
    "num_layers": 3,
    "num_frequencies": 5,
    "num_probes": 0,
}
# Case: fields, and our settings. What was changed on the public side:
READERS = {
    "ng_gnn/read": (SMALL, GNNConfig(**GNN)),
    # num_probe_features 4, num_layers 2
    "ng_gnn/read_probes": (PROBED_TALL, GNNConfig(**{**GNN, "num_layers": 2}, num_probes=4)),
    "ng_t/read": (TALL, TransformerConfig(**TRANSFORMER, reverse=True)),
    # num_probe_features 4, no rev_edge_features: as published
    "ng_t/read_probes": (PROBED, TransformerConfig(**{**TRANSFORMER, "num_probes": 4})),
}
EDITORS = {
    "ng_gnn/edit": (TALL, GNNConfig(**{**GNN, "num_frequencies": 0})),
    # sin_emb, num_probe_features 4
    "ng_gnn/edit_probes": (PROBED, GNNConfig(**GNN, num_probes=4)),
    "ng_t/edit": (SMALL, TransformerConfig(**TRANSFORMER, reverse=True)),
    # no sin_emb, no rev_edge_features, num_probe_features 4, n_layers 2
    "ng_t/edit_probes": (
        PROBED_TALL,
        TransformerConfig(**{**TRANSFORMER, "num_frequencies": 0, "num_layers": 2, "num_probes": 4}),
    ),
}


def _reader(published, case: str, generator: torch.Generator) -> torch.nn.Module:
    spec, config = READERS[case]
    model = config.build(spec, 4, generator).double().eval()
    model.load_state_dict(convert(published.stored(case, "state")))
    return model


def _editor(published, case: str, generator: torch.Generator) -> torch.nn.Module:
    spec, config = EDITORS[case]
    model = config.build_editor(spec, generator).double().eval()
    model.load_state_dict(convert(published.stored(case, "state")))
    return model


def _assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("case", READERS)
def test_a_reader_gives_the_numbers_of_the_public_one(published, case: str, generator: torch.Generator):
    published.assert_read(_reader(published, case, generator), case, READERS[case][0])


@pytest.mark.parametrize("case", EDITORS)
def test_an_editor_gives_the_numbers_of_the_public_one(published, case: str, generator: torch.Generator):
    model = _editor(published, case, generator)
    published.assert_edited(model, case, EDITORS[case][0], biases=case.startswith("ng_t"))


@pytest.mark.parametrize("case", [case for case in READERS if case.startswith("ng_gnn")])
def test_the_public_norm_mixes_the_fields_of_a_batch(
    published, case: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
):
    def over_all(self: FieldNorm, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean()) / (x.std(unbiased=False) + 1e-5) * self.weight + self.bias

    expected = published.stored(case, "out")
    assert not torch.allclose(expected["together"], expected["y"], rtol=1e-5, atol=0.0)
    monkeypatch.setattr(FieldNorm, "forward", over_all)
    _assert_equal(_reader(published, case, generator)(published.features(case, READERS[case][0])), expected["together"])


@pytest.mark.parametrize("case", [case for case in EDITORS if case.startswith("ng_gnn")])
def test_the_public_gnn_counts_biases_from_the_first_input_node(published, case: str, generator: torch.Generator):
    spec = EDITORS[case][0]
    model, features = _editor(published, case, generator), published.features(case, spec)
    expected = published.stored(case, "out")
    changes = model.node_head(model.gnn(features, None, whole=True)[0])[..., 0]
    shifted = changes[:, : -spec.in_dim].split(spec.dims[1:], dim=1)
    own = changes[:, spec.in_dim :].split(spec.dims[1:], dim=1)
    for layer, scale in enumerate(model.bias_scales):
        _assert_equal(shifted[layer] * scale, expected[f"biases.{layer}"])
        _assert_equal(own[layer] * scale, model(features).biases[layer][..., 0])


def test_names_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"state has 'encoder\.weight': expected names of the public neural graphs"):
        convert({"encoder.weight": torch.zeros(1)})
