"""The public ScaleGMN code as the other side of a benchmark: its MNIST classifiers, with its own settings files.

Needs the repository jkalogero/scalegmn on PYTHONPATH with torch_geometric, yaml, rff and einops. Its data readers are
left out, since they import what only they need (torchvision, nfn): the package `src.data` is registered without its
__init__, and `torchvision.utils`, which a model file imports and never calls, stands empty where it is missing.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from apps.bench.peers import training_step
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec

_SETTINGS = {"scale_gmn": "scalegmn.yml", "scale_gmn_b": "scalegmn_bidir.yml"}


def missing() -> str | None:
    """Why the public code cannot be imported, in one line; None if it can."""
    for name in ("torch_geometric", "yaml", "rff", "einops"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    if importlib.util.find_spec("src") is None or not (_root() / "src" / "scalegmn" / "models.py").is_file():
        return "no checkout of jkalogero/scalegmn on PYTHONPATH"
    return None


def step(fields: FieldBatch, labels: Tensor, name: str = "scale_gmn") -> Callable[[], float]:
    """Build the published MNIST classifier and its optimizer; each call is one training step and returns its loss.

    name: "scale_gmn", or "scale_gmn_b" for messages both ways. The graph of the fields is made once, before.
    """
    settings = published(name)
    model, graph = build(settings, fields.spec), batch(fields, settings)
    chosen = settings["optimization"]
    rate = {key: float(value) for key, value in chosen["optimizer_args"].items()}
    optimizer = getattr(torch.optim, chosen["optimizer_name"])(model.parameters(), **rate)
    return training_step(model, lambda: model(graph.clone()), labels, optimizer, chosen["clip_grad_max_norm"])


def published(name: str) -> dict:
    """The published settings file of a form. Raises ValueError for an unknown name."""
    if name not in _SETTINGS:
        raise ValueError(f"name={name!r}: expected one of {', '.join(_SETTINGS)}")
    yaml = importlib.import_module("yaml")
    return yaml.safe_load((_root() / "configs" / "mnist_cls" / _SETTINGS[name]).read_text())


def build(settings: dict, spec: FieldSpec) -> nn.Module:
    """The public model for fields of `spec`."""
    options = {**settings["scalegmn_args"], "layer_layout": list(spec.dims)}
    return _import("src.scalegmn.models").ScaleGMN(options)


def batch(fields: FieldBatch, settings: dict):
    """The graph of N fields in the public layout: units stage by stage, edges from (j, k) in block l, j outermost."""
    geometric = importlib.import_module("torch_geometric.data")
    helpers, dims, count = _import("src.data.data_utils"), list(fields.spec.dims), len(fields)
    first, inner = dims[0], sum(dims[1:-1])
    nodes = torch.cat([torch.ones(count, first, dtype=fields.biases[0].dtype), *fields.biases], dim=1)
    edges = torch.cat([w.transpose(1, 2).flatten(1) for w in fields.weights], dim=1)
    index = helpers.nn_to_edge_index(dims, "cpu")
    hidden = torch.tensor([False] * first + [True] * inner + [False] * dims[-1]).unsqueeze(-1)
    start = torch.tensor([True] * first + [False] * (inner + dims[-1])).unsqueeze(-1)
    options = settings["scalegmn_args"]
    graphs = []
    for n in range(count):
        graph = geometric.Data(x=nodes[n].unsqueeze(-1), edge_index=index, edge_attr=edges[n].unsqueeze(-1))
        graph.mask_hidden, graph.mask_first_layer = hidden, start
        graph.node2type = helpers.get_node_types(dims)
        if options["edge_pos_embed"]:
            graph.edge2type = helpers.get_edge_types(dims)
        if options["direction"] == "bidirectional":
            graph.bw_edge_index = index.flip(0)
        graphs.append(graph)
    return geometric.Batch.from_data_list(graphs)


def _root() -> Path:
    """Folder of the checkout."""
    found = importlib.util.find_spec("src")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(next(iter(found.submodule_search_locations))).parent


def _import(name: str) -> ModuleType:
    if "src.data" not in sys.modules:
        package = ModuleType("src.data")
        package.__path__ = [str(_root() / "src" / "data")]
        sys.modules["src.data"] = package
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        sys.modules["torchvision"], sys.modules["torchvision.utils"] = ModuleType("torchvision"), ModuleType("utils")
        sys.modules["torchvision.utils"].save_image = None  # type: ignore[attr-defined]
    return importlib.import_module(name)
