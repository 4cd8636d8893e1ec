"""Contrastive loss: embeddings of what belongs together near each other, all others apart."""

import torch
from torch import Tensor


def nt_xent(points: Tensor, temperature: float, groups: Tensor) -> Tensor:
    """Normalised temperature-scaled cross-entropy of unit vectors, every pair of a group being positive.

    l_i = -1 / |P_i| sum_{j in P_i} log(exp(z_i . z_j / temperature) / sum_{k != i} exp(z_i . z_k / temperature))

    P_i: the other points of i's group; the mean is over the points that have any. points z: (M, D), of norm 1 (not
    changed here); groups: (M,) integers; temperature > 0. Two copies of each item give NT-Xent of Chen et al., "A
    simple framework for contrastive learning of visual representations", ICML 2020; larger groups (two fits of one
    image, say) the form of Khosla et al., "Supervised contrastive learning", NeurIPS 2020. Raises ValueError for
    other shapes or temperatures, and when no two points share a group.
    """
    if points.ndim != 2 or groups.shape != points.shape[:1]:
        raise ValueError(
            f"groups has shape {tuple(groups.shape)} for points {tuple(points.shape)}: expected (M,), (M, D)"
        )
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected a positive number")
    itself = torch.eye(len(points), dtype=torch.bool, device=points.device)
    positive = (groups.unsqueeze(0) == groups.unsqueeze(1)) & ~itself
    count = positive.sum(1)
    if not bool((count > 0).any()):
        raise ValueError(f"groups={groups.tolist()[:8]}...: expected at least two points of one group")
    logits = (points @ points.T / temperature).masked_fill(itself, -torch.inf)
    log_p = logits.log_softmax(dim=1).masked_fill(~positive, 0.0)
    per_point = -log_p.sum(1) / count.clamp_min(1)
    return per_point[count > 0].mean()
