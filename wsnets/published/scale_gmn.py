"""Weights of the public ScaleGMN code (jkalogero/scalegmn), renamed for wsnets.models.scale_gmn.

Every matrix keeps its shape and its order of inputs ([edge, source, target], [unit, from below, from above]). In the
public code some networks exist whose results nothing reads; they have no counterpart and are left out.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Public prefix or part of a name, as a pattern, and ours; applied in this order.
_RENAMED = [
    (r"^construct_graph\.proj_bias\.", "trunk.embedding.node."),
    (r"^construct_graph\.proj_weight\.", "trunk.embedding.edge."),
    (r"^positional_embeddings\.pos_embed$", "trunk.embedding.node_types"),
    (r"^positional_embeddings_edge\.pos_embed$", "trunk.embedding.edge_types"),
    (r"^gnn\.skip_layers\.(\d+)\.", r"trunk.layers.\1.skip."),
    (r"^gnn\.(?:fw_layers\.(\d+)\.update_node_feats_fn|update_node_feats_fn\.(\d+))\.", r"trunk.layers.\1\2.node."),
    (r"^gnn\.(?:fw_layers\.(\d+)\.update_edge_attr_fn|fw_update_edge_attr_fn\.(\d+))\.", r"trunk.layers.\1\2.edge."),
    (r"^gnn\.bw_update_edge_attr_fn\.(\d+)\.", r"trunk.layers.\1.back."),
    (r"^gnn\.fw_layers\.(\d+)\.", r"trunk.layers.\1.messages.0."),
    (r"^gnn\.bw_layers\.(\d+)\.", r"trunk.layers.\1.messages.1."),
    (r"^gnn\.project_last\.", "readout.outputs."),
    (r"^gnn\.project_first\.", "readout.inputs."),
    (r"^gnn\.readout\.(?:rho|global_mlp)\.", "readout.mlp."),
    (r"^gnn\.readout\.g1\.rho\.", "readout.invariant.rho."),
    (r"^gnn\.readout\.g1\.phi\.", "readout.phi."),
    (r"^gnn\.readout\.aggr\.local_nn\.", "readout.phi."),
    (r"^gnn\.readout\.aggr\.global_nn\.", "readout.mlp."),
    (r"\.message_fn\.rho\.", ".mlp."),
    (r"\.message_fn\.", ".gate."),
    (r"\.w_v\.", ".source."),
    (r"\.w_e\.", ".edge."),
    (r"\.node\.rho\.", ".node.mlp."),
    (r"\.eq_layers_in\.0\.rho\.", ".ends.first."),
    (r"\.eq_layers_last\.0\.rho\.", ".ends.last."),
    (r"\.eq_layers\.0\.W\.", ".linear."),
    (r"\.(edge|back)\.W\.", r".\1.linear."),
    (r"\.eq_layers\.0\.g\.phi_in\.", ".ends.shared."),
    (r"\.eq_layers\.0\.g\.g1\.phi\.", ".phi."),
    (r"\.(?:eq_layers\.0\.g\.)?g1\.rho\.", ".invariant.rho."),
    (r"\.fc\.0\.", ".first."),
    (r"\.fc\.1\.", ".last."),
    (r"\.ln\.0\.", ".norm."),
]
# What nothing reads: the first network of the readout, and ends of the graph at which no message arrives.
_UNREAD = re.compile(
    r"gnn\.readout\.phi\.|gnn\.fw_layers\.\d+\.\w+\.eq_layers_in\.|gnn\.bw_layers\.\d+\.\w+\.eq_layers_last\."
)
_TWICE = re.compile(r"gnn\.readout\.(local|global)_mlp\.")
_SCALE = re.compile(r"(weight|bias)_scale\.\d+")


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a public `ScaleGMN` or `ScaleGMN_equiv` -> state of our ScaleGMN or ScaleGMNEditor.

    Settings must say the same on both sides (see the test), d_k and d_rho be d_hid, and layer_norm be on. Scales, which
    the public editor keeps as one number each, become one vector. Raises ValueError for a name of no known layer.
    """
    shared_ends = not any(".eq_layers_last." in name for name in state)
    deep_set = any(name.startswith("gnn.readout.aggr.") for name in state)
    converted = {}
    for name, value in state.items():
        update = ".update_node_feats_fn." in name
        unread = _UNREAD.match(name) and not update and not (shared_ends and ".eq_layers_in." in name)
        if unread or (deep_set and _TWICE.match(name)) or _SCALE.fullmatch(name):
            continue
        converted[_rename(name, shared_ends)] = value
    for kind in ("weight_scale", "bias_scale"):
        scales = [state[f"{kind}.{layer}"] for layer in range(sum(name.startswith(kind) for name in state))]
        if scales:
            converted[kind] = torch.stack([scale.reshape(()) for scale in scales])
    return converted


def _rename(name: str, shared_ends: bool) -> str:
    renamed = name
    for pattern, ours in _RENAMED:
        renamed = re.sub(pattern, ours, renamed)
    if shared_ends:
        renamed = renamed.replace(".ends.first.", ".ends.shared.")
    if not renamed.startswith(("trunk.", "readout.")):
        raise ValueError(f"state has {name!r}: expected names of the public ScaleGMN")
    return renamed
