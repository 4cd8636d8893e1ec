"""Layers of INR2Array: cross-attention of latent queries to the weights of a field, and a decoder of the result.

Legend: N fields, P parameters of one field, C channels, T latent tokens of D numbers, R reads of each token.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from neuralfields.inits import initial
from neuralfields.spec import FieldSpec
from wsnets.heads import linear
from wsnets.models.nft_layers import Mix

# Initial size of queries: at 1 every query sees about the mean of all weights, here it picks some.
_QUERY_STD = 3.0
# Initial size of decoded changes, in units of the size of the tensor that they change.
_CHANGE = 0.1


class LatentRead(nn.Module):
    """T latents of a field, each from what its R queries read of all weights.

    z_t = a_t + A_t norm([sum_p softmax_p(q_tr LayerNorm(x_p) / sqrt(C)) LayerNorm(x_p), r = 1 .. R]), then num_mixes
    blocks of self-attention among the T latents and an MLP. norm: batch normalisation of each of the T R C numbers, as
    what a query reads differs little between fields. Shapes: (N, P, C) -> (N, T, D). Invariant to the order of the P.
    Keys and values are not projected: their maps are parts of q and A. Jaegle et al., "Perceiver: general perception
    with iterative attention", ICML 2021.
    """

    def __init__(
        self, width: int, shape: tuple[int, int], reads: int, num_heads: int, num_mixes: int, generator: Generator
    ) -> None:
        super().__init__()
        num_tokens, token_width = shape
        num_in = reads * width
        self.norm = nn.LayerNorm(width)
        drawn = torch.empty(num_tokens * reads, width).normal_(std=_QUERY_STD, generator=generator)
        self.queries = nn.Parameter(drawn)
        self.standardise = nn.BatchNorm1d(num_tokens * num_in)
        bound = num_in**-0.5
        self.gather = nn.Parameter(
            torch.empty(num_tokens, num_in, token_width).uniform_(-bound, bound, generator=generator)
        )
        self.bias = nn.Parameter(torch.zeros(num_tokens, token_width))
        self.mixes = nn.ModuleList(Mix(token_width, num_heads, generator) for _ in range(num_mixes))

    def look(self, x: Tensor) -> Tensor:
        """What all queries read of the weights of every field: (N, T R C)."""
        x = self.norm(x).unsqueeze(1)
        return F.scaled_dot_product_attention(self.queries.expand(len(x), 1, -1, -1), x, x).flatten(1)

    def forward(self, looked: Tensor) -> Tensor:
        """Return the latents (N, T, D) from what `look` gave."""
        heard = self.standardise(looked).unflatten(1, (len(self.gather), -1))
        z = self.bias + torch.einsum("ntc,tcd->ntd", heard, self.gather)
        for mix in self.mixes:
            z = mix(z)
        return z


class ChangeDecoder(nn.Module):
    """Parameters of a field: theta = base + s * mlp(z), s a learned number for each tensor, gelu between layers.

    Shapes: (N, num_in) -> (N, P), in the order of FieldBatch.flat. base starts as the shared init of the spec, so that
    the order of decoded neurons is one for all fields.
    """

    counts: Tensor

    def __init__(self, spec: FieldSpec, num_in: int, hidden: tuple[int, ...], generator: Generator) -> None:
        super().__init__()
        tensors = list(initial(spec, np.zeros(1, np.uint32)).parameters.values())
        self.base = nn.Parameter(torch.cat([tensor.flatten() for tensor in tensors]))
        sizes = torch.stack([tensor.square().mean().sqrt() for tensor in tensors])
        # Biases that start at zero have no size: theirs is that of their layer's weights.
        sizes = torch.where(sizes > 0, sizes, sizes[0::2].repeat_interleave(2))
        self.sizes = nn.Parameter(_CHANGE * sizes)
        self.register_buffer("counts", torch.tensor([tensor.numel() for tensor in tensors]), persistent=False)
        self.layers = nn.ModuleList(linear(a, b, generator) for a, b in pairwise((num_in, *hidden)))
        self.last = linear(hidden[-1], spec.num_params, generator)

    def forward(self, z: Tensor) -> Tensor:
        """Return the parameters."""
        for layer in self.layers:
            z = F.gelu(layer(z))
        return self.base + self.last(z) * self.sizes.repeat_interleave(self.counts)
