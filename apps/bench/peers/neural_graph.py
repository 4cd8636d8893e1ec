"""The public neural graphs code as the other side of a benchmark: its MNIST classifiers, by its own settings files.

Needs the repository mkofinas/neural-graphs on PYTHONPATH with torch_geometric, hydra, rff and einops. Two imports of
files that it reads and of what it does not call are met here: TrimToLayer, which newer torch_geometric keeps in a
private module, and torchvision, which rff imports to read pictures.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from apps.bench.peers import training_step
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec

# Of experiments/inr_classification: scripts/mnist_cls_pna.sh and mnist_cls_rt_probe_64.sh. The former also asks for
# model.modulate_v, which its settings file does not have and its model does not take.
_OVERRIDES = {
    "ng_gnn": ("model=pna", "model.gnn_backbone.dropout=0.2", "model.rev_edge_features=True"),
    "ng_t": ("model=rtransformer", "model.dropout=0.2", "model.graph_constructor.num_probe_features=64"),
}


def missing() -> str | None:
    """Why the public code cannot be imported, in one line; None if it can."""
    for name in ("torch_geometric", "hydra", "rff", "einops"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    if importlib.util.find_spec("nn") is None or not (_root() / "nn" / "relational_transformer.py").is_file():
        return "no checkout of mkofinas/neural-graphs on PYTHONPATH"
    return None


def step(fields: FieldBatch, labels: Tensor, name: str = "ng_gnn") -> Callable[[], float]:
    """Build the published MNIST classifier and its optimizer; each call is one training step and returns its loss.

    name: "ng_gnn", principal neighbourhood aggregation without probes, or "ng_t", the transformer with 64 probes.
    """
    settings = published(name)
    model, given = build(settings, fields.spec), inputs(fields)
    optimizer = importlib.import_module("hydra").utils.instantiate(settings.optim, params=list(model.parameters()))
    return training_step(model, lambda: model(given), labels, optimizer, settings.clip_grad_max_norm)


def published(name: str) -> Any:
    """All settings of the published MNIST classifier. Raises ValueError for an unknown name."""
    if name not in _OVERRIDES:
        raise ValueError(f"name={name!r}: expected one of {', '.join(_OVERRIDES)}")
    hydra = importlib.import_module("hydra")
    folder = _root() / "experiments" / "inr_classification" / "configs"
    with hydra.initialize_config_dir(str(folder), version_base=None):
        return hydra.compose("base", overrides=["data=mnist", *_OVERRIDES[name]])


def build(settings: Any, spec: FieldSpec) -> nn.Module:
    """The public model for fields of `spec`."""
    _prepare()
    return importlib.import_module("hydra").utils.instantiate(settings.model, layer_layout=list(spec.dims))


def inputs(fields: FieldBatch) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weights (N, I, O, 1) and biases (N, O, 1), as the public code takes them."""
    weights = tuple(w.transpose(1, 2).unsqueeze(-1).contiguous() for w in fields.weights)
    return weights, tuple(b.unsqueeze(-1) for b in fields.biases)


def _root() -> Path:
    """Folder of the checkout."""
    found = importlib.util.find_spec("nn")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(next(iter(found.submodule_search_locations))).resolve().parent


def _prepare() -> None:
    """Make what the public files import and newer or smaller installations lack."""
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        sys.modules["torchvision"] = ModuleType("torchvision")
    old = "torch_geometric.utils.trim_to_layer"
    if old not in sys.modules and importlib.util.find_spec("torch_geometric.utils._trim_to_layer") is not None:
        sys.modules[old] = importlib.import_module("torch_geometric.utils._trim_to_layer")
