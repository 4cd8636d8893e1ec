"""The rays of a batch of scenes, and how a step draws from them.

Legend: N scenes, P rays of one scene, R rays drawn of each.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fitting.signals.view_set import Rays
from neuralfields import philox
from neuralfields.render.volume import RayBatch


class RayPool:
    """The rays of N scenes that hit their boxes, end to end: scenes may have different numbers of them.

    scenes: N sets of rays, (P, ...) each. Rays that miss are left out: they show the background whatever the field is.
    near: no ray starts nearer than this. Raises ValueError for a scene without any ray that hits.
    """

    def __init__(self, scenes: Sequence[Rays], near: float = 0.0) -> None:
        hits = [scene.near.clamp_min(near) < scene.far for scene in scenes]
        empty = [position for position, hit in enumerate(hits) if not hit.any()]
        if empty:
            raise ValueError(f"scenes {empty}: expected rays that hit the box [-1, 1]^3, found none")
        pairs = list(zip(scenes, hits, strict=True))
        self.origins = torch.cat([scene.origins[hit] for scene, hit in pairs])
        self.directions = torch.cat([scene.directions[hit] for scene, hit in pairs])
        self.colours = torch.cat([scene.colours[hit] for scene, hit in pairs])
        self.near = torch.cat([scene.near[hit] for scene, hit in pairs]).clamp_min(near)
        self.far = torch.cat([scene.far[hit] for scene, hit in pairs])
        self.counts = np.array([int(hit.sum()) for hit in hits], np.uint64)
        self.first = np.cumsum(self.counts) - self.counts

    def draw(self, seed: int, ids: np.ndarray, step: int, count: int) -> tuple[RayBatch, Tensor]:
        """`count` rays of every scene, with replacement, and their colours (N, R, 3), from (seed, id, step) alone."""
        words = philox.words(seed, ids, philox.STREAM_SAMPLE, step, count).astype(np.uint64)
        chosen = ((words * self.counts[:, None]) >> np.uint64(32)) + self.first[:, None]
        index = torch.from_numpy(chosen.astype(np.int64))
        batch = RayBatch(self.origins[index], self.directions[index], self.near[index], self.far[index])
        return batch, self.colours[index]
