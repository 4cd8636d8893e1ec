"""MixUp: pairs of fields and their labels mixed along straight lines in weight space. Legend: N fields."""

from typing import Literal, get_args

import numpy as np
import torch
from torch import Generator, Tensor

from neuralfields.batch import FieldBatch
from wsnets.align import aligned, lerp
from wsnets.augment import move

Matching = Literal["raw", "permuted", "aligned"]


def mix(
    fields: FieldBatch, a: float, generator: Generator, matching: Matching = "raw"
) -> tuple[FieldBatch, Tensor, float]:
    """Mix every field with another of the batch: share * field n + (1 - share) * field other[n], share ~ Beta(a, a).

    Returns the mixed fields, other (N,) int64, a random order, and the share that the own label has of the loss:
    share * loss(own) + (1 - share) * loss(label of the other); one share a call, as in the paper. matching, what
    happens to the other field first: "raw" nothing; "permuted" a random order of its units, so that mixtures of one
    pair differ; "aligned" it is moved next to the field by all its symmetries (`align`), so that the two mix as what
    they show does. Mixtures of fields of different inits are meaningless unless aligned.

    Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018; for weight spaces Shamsian et al., "Improved
    generalization of weight space networks via augmentations", ICML 2024. Raises ValueError for an unknown matching
    or a <= 0.
    """
    if matching not in get_args(Matching):
        raise ValueError(f"matching={matching!r}: expected one of {', '.join(get_args(Matching))}")
    if not a > 0:
        raise ValueError(f"a={a}: expected a positive number")
    other = torch.randperm(len(fields), generator=generator, device=generator.device)
    # torch draws no Beta from a generator of one's own.
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    share = float(np.random.default_rng(seed).beta(a, a))
    partners = fields[other.to(fields.weights[0].device)]
    if matching == "permuted":
        partners = move(partners, generator, ("permutation",))
    elif matching == "aligned":
        partners = aligned(partners, fields)
    return lerp(partners, fields, share), other, share
