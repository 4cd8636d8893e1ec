"""Public code of published models, the other side of a benchmark: imported from PYTHONPATH, in functions alone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def training_step(
    model: nn.Module, forward: Callable[[], Tensor], labels: Tensor, optimizer: torch.optim.Optimizer, clip: float = 0.0
) -> Callable[[], float]:
    """One training step for each call: cross-entropy of forward(), backward, clip (0: none), optimizer; its loss."""
    model.train()

    def once() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(forward(), labels)
        loss.backward()
        if clip > 0:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return loss.item()

    return once
