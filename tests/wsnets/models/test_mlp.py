"""The flat reader: its size, its settings, and that it has no symmetry."""

import pytest
import torch

from neuralfields import SIREN, FieldBatch
from wsnets import models
from wsnets.features import weight_features
from wsnets.models import MLP, MLPConfig


def test_the_size_in_the_docstring_is_right(generator: torch.Generator):
    model = MLPConfig().build(SIREN(2, 1), 10, generator)
    count = sum(p.numel() for p in model.parameters())
    assert str(count) in (MLP.__doc__ or "")


def test_permuting_neurons_changes_the_answer(generator: torch.Generator):
    spec = SIREN(2, 1, hidden=(4,))
    model = MLPConfig(hidden=(8,), norm="none").build(spec, 3, generator).eval()
    fields = FieldBatch.from_flat(spec, torch.randn(5, spec.num_params, generator=generator))
    order = torch.tensor([1, 0, 3, 2])
    weights = [fields.weights[0][:, order], fields.weights[1][:, :, order]]
    permuted = FieldBatch.from_layers(spec, weights, [fields.biases[0][:, order], fields.biases[1]])
    difference = (model(weight_features(fields)) - model(weight_features(permuted))).abs()
    assert MLPConfig().symmetry(spec) == ()
    assert difference.max() > 1e-3


def test_settings_round_trip():
    settings = models.config("mlp", hidden=(64, 32), norm="layer", p_dropout=0.1)
    assert settings == MLPConfig(hidden=(64, 32), norm="layer", p_dropout=0.1)
    assert models.from_json(models.to_json(settings)) == settings


def test_refusals():
    with pytest.raises(ValueError, match="model='mpl': expected one of mlp"):
        models.config("mpl")
    with pytest.raises(ValueError, match="unknown options \\['width'\\]"):
        models.config("mlp", width=3)
    with pytest.raises(ValueError, match="expected positive widths"):
        MLPConfig(hidden=(64, 0))
