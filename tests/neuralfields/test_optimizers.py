"""Our optimizers are torch's, and leave its compiler alone."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from neuralfields import optimizers

TRAINING = """
import sys, torch
from neuralfields import SIREN, inits, optimizers
from wsnets import models
from wsnets.features import weight_features
model = models.build_reader(models.kind("{name}").small(), SIREN(2, 1), 10, torch.Generator().manual_seed(0))
optimizer = optimizers.AdamW(model.parameters(), fused=True)
fields = inits.initial(SIREN(2, 1), [0, 1, 2, 3], "random")
for _ in range(2):
    optimizer.zero_grad()
    model(weight_features(fields), torch.Generator().manual_seed(1)).square().sum().backward()
    optimizer.step()
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "weight_decay": 0.1}, {"fused": True}])
def test_steps_are_those_of_torch(name, options):
    draws = torch.Generator().manual_seed(0)
    start, x = torch.randn(5, 3, generator=draws), torch.randn(7, 5, generator=draws)
    found = []
    for module in (torch.optim, optimizers):
        weight, bias = nn.Parameter(start.clone()), nn.Parameter(torch.zeros(3))
        groups = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}]
        optimizer = getattr(module, name)(groups, lr=0.01, **options)
        for step in range(6):
            optimizer.zero_grad(set_to_none=True)
            (x @ weight + bias).square().sum().backward()
            optimizer.step()
            assert not weight.grad_fn
            if step == 3:
                kept = optimizer.state_dict()
                optimizer = getattr(module, name)(groups, lr=0.5, **options)
                optimizer.load_state_dict(kept)
        found.append((weight.detach(), bias.detach(), optimizer.state[weight]["exp_avg"]))
    assert not torch.equal(found[0][0], start)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("size", [1e-3, 1.0, float("nan")])
def test_gradients_are_clipped_as_by_torch(size: float):
    found = []
    for clip in (nn.utils.clip_grad_norm_, optimizers.clip_gradients):
        draws = torch.Generator().manual_seed(0)
        learned = [nn.Parameter(torch.randn(5, 3, generator=draws)) for _ in range(3)]
        for p in learned[:2]:
            p.grad = size * torch.randn(5, 3, generator=draws)
        clip(learned, 1.0)
        found.append([p.grad for p in learned[:2]])
        assert learned[2].grad is None
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("name", ["mlp", "dws", "ng_t", "scale_gmn"])
def test_training_imports_neither_the_compiler_nor_its_algebra(name):
    done = subprocess.run(
        [sys.executable, "-c", TRAINING.format(name=name)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
