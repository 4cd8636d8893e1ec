"""Weights of the public neural graphs code (Kofinas et al., ICLR 2024) as weights of our models.

The public classes are GNNForClassification and GNNParams (NG-GNN), and RelationalTransformer and
RelationalTransformerParams (NG-T): readers and editors. Their fields have weights (N, I, O, 1), ours transposed. Their
probes add 0.5 to what a field says, whatever the field: give such fields offset=(0.5,). Two deviations of theirs from
the paper are not ours, see FieldNorm and GNNEditor: NG-GNN is equal on batches of one field, and its editor in the
changes of weights.
"""

import re

import torch
from torch import Tensor

# A name of theirs, as a pattern, and ours; None for what is no weight but follows from the architecture.
_RULES: tuple[tuple[str, str | None], ...] = (
    (r"construct_graph\.pos_embed", "{body}.graph.places"),
    (r"construct_graph\.proj_weight\.0\.b", "{body}.graph.edge.frequencies"),
    (r"construct_graph\.proj_weight\.[01]\.(weight|bias)", r"{body}.graph.edge.linear.\1"),
    (r"construct_graph\.proj_bias\.0\.b", "{body}.graph.node.frequencies"),
    (r"construct_graph\.proj_bias\.[01]\.(weight|bias)", r"{body}.graph.node.linear.\1"),
    (r"construct_graph\.proj_(node|edge)_in\.(weight|bias)", r"{body}.graph.\1_in.\2"),
    (r"construct_graph\.gpf\.inputs", "{body}.graph.probes.coords"),
    (r"construct_graph\.gpf\.proj\.(\d+)\.0\.(weight|bias)", r"{body}.graph.probes.linears.\1.\2"),
    (r"construct_graph\.gpf\.proj\.(\d+)\.1\.(weight|bias)", r"{body}.graph.probes.norms.\1.\2"),
    (r"gnn\.convs\.\d+\.aggr_module\.avg_deg_(lin|log)", None),
    (r"gnn\.convs\.(\d+)\.edge_encoder\.(weight|bias)", r"{body}.rounds.\1.modulate.\2"),
    (r"gnn\.convs\.(\d+)\.pre_nns\.0\.0\.(weight|bias)", r"{body}.rounds.\1.message.\2"),
    (r"gnn\.convs\.(\d+)\.post_nns\.0\.0\.(weight|bias)", r"{body}.rounds.\1.gather.\2"),
    (r"gnn\.convs\.(\d+)\.lin\.(weight|bias)", r"{body}.rounds.\1.mix.\2"),
    (r"gnn\.norms\.(\d+)\.(weight|bias)", r"{body}.norms.\1.\2"),
    (r"gnn\.edge_update\.(\d+)\.lin_e\.(weight|bias)", r"{body}.updates.\1.edge.\2"),
    (r"gnn\.edge_update\.(\d+)\.lin_s\.(weight|bias)", r"{body}.updates.\1.source.\2"),
    (r"gnn\.edge_update\.(\d+)\.lin_t\.(weight|bias)", r"{body}.updates.\1.target.\2"),
    (r"gnn\.edge_update\.(\d+)\.lin1\.(weight|bias)", r"{body}.updates.\1.out.\2"),
    (r"layers\.(\d+)\.self_attn\.qkv_(node|edge)\.weight", r"{body}.nodes.\1.attention.\2.weight"),
    (r"layers\.(\d+)\.self_attn\.proj_out\.(weight|bias)", r"{body}.nodes.\1.attention.out.\2"),
    (r"layers\.(\d+)\.lin0\.(weight|bias)", r"{body}.nodes.\1.mix.\2"),
    (r"layers\.(\d+)\.node_ln([01])\.(weight|bias)", r"{body}.nodes.\1.residuals.\2.norm.\3"),
    (r"layers\.(\d+)\.node_mlp\.0\.weight", r"{body}.nodes.\1.wide.weight"),
    (r"layers\.(\d+)\.node_mlp\.2\.(weight|bias)", r"{body}.nodes.\1.narrow.\2"),
    (r"layers\.(\d+)\.edge_updates\.edge_mlp0\.lin0_e\.(weight|bias)", r"{body}.edges.\1.edge.\2"),
    (r"layers\.(\d+)\.edge_updates\.edge_mlp0\.lin0_s\.(weight|bias)", r"{body}.edges.\1.source.\2"),
    (r"layers\.(\d+)\.edge_updates\.edge_mlp0\.lin0_t\.(weight|bias)", r"{body}.edges.\1.target.\2"),
    (r"layers\.(\d+)\.edge_updates\.edge_mlp0\.lin1\.(weight|bias)", r"{body}.edges.\1.out.\2"),
    (r"layers\.(\d+)\.edge_updates\.edge_mlp1\.0\.weight", r"{body}.edges.\1.wide.weight"),
    (r"layers\.(\d+)\.edge_updates\.edge_mlp1\.2\.(weight|bias)", r"{body}.edges.\1.narrow.\2"),
    (r"layers\.(\d+)\.edge_updates\.eln([01])\.(weight|bias)", r"{body}.edges.\1.residuals.\2.norm.\3"),
    (r"proj_out\.(\d+)\.(weight|bias)", r"head.\1.\2"),
    (r"proj_(edge|node)\.(\d+)\.(weight|bias)", r"\1_head.\2.\3"),
    (r"(weight|bias)_scale\.(\d+)", r"\1_scales.\2"),
)


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State of a public model as the state of GNNReader, GNNEditor, TransformerReader or TransformerEditor.

    Raises ValueError for a tensor with a name that is not known.
    """
    body = "transformer" if any(name.startswith("layers.") for name in state) else "gnn"
    ours = {name: value for old, value in state.items() if (name := _renamed(old, body)) is not None}
    for kind in ("weight_scales", "bias_scales"):
        values = [ours.pop(name) for name in sorted((n for n in ours if n.startswith(kind)), key=_number)]
        ours.update({kind: torch.stack(values)} if values else {})
    if f"{body}.graph.probes.coords" in ours:
        ours[f"{body}.graph.probes.coords"] = ours[f"{body}.graph.probes.coords"].squeeze(0)
    for kind in ("edge", "node"):
        weight = ours[f"{body}.graph.{kind}.linear.weight"]
        ours.setdefault(f"{body}.graph.{kind}.frequencies", weight.new_zeros((0, weight.shape[1])))
    return ours


def _renamed(name: str, body: str) -> str | None:
    for pattern, ours in _RULES:
        match = re.fullmatch(pattern, name)
        if match is not None:
            return None if ours is None else match.expand(ours.replace("{body}", body))
    raise ValueError(f"state has {name!r}: expected names of the public neural graphs code only")


def _number(name: str) -> int:
    return int(name.rsplit(".", 1)[1])
