"""Every model under autocast: it runs, forward and back, and turns neither its answers nor its gradients around."""

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from neuralfields import SIREN
from neuralfields.inits import draw
from wsnets import models
from wsnets.features import Normaliser, WeightFeatures, weight_features

SPEC = SIREN(2, 1, hidden=(16, 16))
EDITORS = [name for name in models.names() if models.edits(name)]


def _features(name: str) -> WeightFeatures:
    fields = draw(SPEC, np.arange(24, dtype=np.uint32))
    return Normaliser.fit(models.kind(name).small().normalise, [fields])(weight_features(fields))


def _run(model: torch.nn.Module, features: WeightFeatures, autocast: bool) -> tuple[Tensor, Tensor]:
    """Outputs in a row, and the gradient of a fixed mixture of them in a row."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = model(features, Generator().manual_seed(1))
        flat = torch.cat([x.flatten() for x in ([result] if isinstance(result, Tensor) else result.tensors)]).float()
    (flat * torch.arange(len(flat)).cos()).sum().backward()
    gradients = [p.grad.flatten().float() for p in model.parameters() if p.grad is not None]
    return flat.detach(), torch.cat(gradients)


def _check(model: torch.nn.Module, name: str) -> None:
    features = _features(name)
    for mode in (True, False):
        state = {key: value.clone() for key, value in model.state_dict().items()}
        exact, rounded = (_run(model.train(mode), features, autocast) for autocast in (False, True))
        model.load_state_dict(state)
        for what, a, b in zip(("outputs", "gradients"), exact, rounded, strict=True):
            assert bool(b.isfinite().all()), what
            cosine = float(torch.cosine_similarity(a.double(), b.double(), dim=0))
            assert cosine > 0.95, f"{what}: cosine {cosine:.3f}"


@pytest.mark.parametrize("name", models.names())
def test_readers_compute_in_half_precision(name: str, generator: Generator):
    _check(models.kind(name).small().build(SPEC, 3, generator), name)


@pytest.mark.parametrize("name", EDITORS)
def test_editors_compute_in_half_precision(name: str, generator: Generator):
    _check(models.build_editor(models.kind(name).small(), SPEC, generator), name)
