"""The public DWSNets code as the other side of a benchmark: its MNIST classifier, by the defaults of its trainer.

Needs the repository AvivNavon/DWSNets on PYTHONPATH, whose package is called nn.
"""

import importlib
import importlib.util
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from apps.bench.peers import training_step
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec

# Of experiments/mnist/trainer.py: dim-hidden, n-hidden, reduction, set-layer, add-bn, lr; weight decay in its adamw.
_WIDTH, _NUM_HIDDEN, _POOL, _SET_LAYER, _RATE, _DECAY, _OUTPUTS = 32, 4, "max", "sab", 5e-3, 5e-4, 10


def missing() -> str | None:
    """Why the public code cannot be imported, in one line; None if it can."""
    found = importlib.util.find_spec("nn")
    folders = [] if found is None else found.submodule_search_locations or []
    if not any((Path(folder) / "layers" / "bias_to_bias.py").is_file() for folder in folders):
        return "no checkout of AvivNavon/DWSNets on PYTHONPATH"
    return None


def step(fields: FieldBatch, labels: Tensor, name: str = "dws") -> Callable[[], float]:
    """Build the published MNIST classifier and its optimizer; each call is one training step and returns its loss.

    name: "dws". Gradients are not clipped, as there. Raises ValueError for another name.
    """
    if name != "dws":
        raise ValueError(f"name={name!r}: expected 'dws'")
    model, given = build(fields.spec), inputs(fields)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, amsgrad=True, weight_decay=_DECAY)
    return training_step(model, lambda: model(given), labels, optimizer)


def build(spec: FieldSpec) -> nn.Module:
    """The public classifier for fields of `spec`."""
    dims = spec.dims
    return importlib.import_module("nn.models").DWSModelForClassification(
        weight_shapes=tuple(pairwise(dims)),
        bias_shapes=tuple((size,) for size in dims[1:]),
        input_features=1,
        hidden_dim=_WIDTH,
        n_hidden=_NUM_HIDDEN,
        n_classes=_OUTPUTS,
        reduction=_POOL,
        set_layer=_SET_LAYER,
        bn=True,
    )


def inputs(fields: FieldBatch) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weights (N, I, O, 1) and biases (N, O, 1), as the public code takes them."""
    weights = tuple(w.transpose(1, 2).unsqueeze(-1).contiguous() for w in fields.weights)
    return weights, tuple(b.unsqueeze(-1) for b in fields.biases)
