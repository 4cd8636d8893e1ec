"""Layers of neural functional transformers: self-attention over the weights of a field, and blocks around it.

All weights and biases of a field are one sequence of P tokens in storage order, so that whatever acts on each alone
(norms, projections, MLPs) is one operation. Legend: N fields, P parameters, L layers, stage j the n_j neurons between
layer j - 1 and layer j (0: inputs, L: outputs), H heads, D channels of a head, C = H D channels, O out, I in.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wsnets.heads import dropout, linear


@dataclass(frozen=True)
class Tokens:
    """Where the weights and biases of fields of widths `dims` are among the P tokens."""

    dims: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        """Tokens of weights[0], biases[0], weights[1], ..."""
        return [size for a, b in pairwise(self.dims) for size in (b * a, b)]

    def split(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Weights (N, O, I, ...) and biases (N, O, ...) of every layer, as views of x (N, P, ...)."""
        parts = x.split(self.sizes, dim=1)
        weights = [part.unflatten(1, (b, a)) for part, (a, b) in zip(parts[0::2], pairwise(self.dims), strict=True)]
        return weights, list(parts[1::2])

    def join(self, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        """Inverse of `split`."""
        return torch.cat([y for w, b in zip(weights, biases, strict=True) for y in (w.flatten(1, 2), b)], dim=1)

    def members(self) -> Tensor:
        """Indicators (P, 2 L): 1 where a token is of a tensor."""
        return torch.repeat_interleave(torch.eye(len(self.sizes)), torch.tensor(self.sizes), dim=0)


def attend_neurons(qkv: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Attention among the weights that meet at the same neurons, over all stages: (N, P, 3, H, D) -> (N, P, H, D).

    The vectors of stage j, each with one entry of D channels for every neuron, are the columns of W_{j-1}, b_{j-1} and
    the rows of W_j. They attend to each other, softmax(q k / sqrt(n_j D)) v, and a weight sums what it hears in its
    column and in its row. A permutation of stage j changes no product q k, one of a stage beside it only the order of
    vectors.
    """
    tokens = Tokens(dims)
    weights, biases = tokens.split(qkv)
    last = len(dims) - 1
    columns, own, rows = {}, {}, {}
    for j, width in enumerate(dims):
        parts = []
        if j > 0:
            parts += [weights[j - 1].permute(3, 0, 4, 2, 1, 5), biases[j - 1].unsqueeze(1).permute(3, 0, 4, 1, 2, 5)]
        if j < last:
            parts.append(weights[j].permute(3, 0, 4, 1, 2, 5))
        query, key, value = torch.cat(parts, dim=3).flatten(4).unbind(0)
        heard = F.scaled_dot_product_attention(query, key, value).unflatten(3, (width, -1))
        pieces = iter(heard.split([part.shape[3] for part in parts], dim=2))
        if j > 0:
            columns[j - 1] = next(pieces).permute(0, 3, 2, 1, 4)
            own[j - 1] = next(pieces).squeeze(2).transpose(1, 2)
        if j < last:
            rows[j] = next(pieces).permute(0, 2, 3, 1, 4)
    # In the order of the rows' memory, so that `join` copies each sum once.
    return tokens.join([rows[k] + columns[k] for k in range(last)], [own[k] for k in range(last)])


class SelfAttention(nn.Module):
    """What every weight hears: `attend_neurons`, plus what the mean of its tensor hears from the means of all tensors.

    Shapes: (N, P, C) -> (N, P, C). Queries, keys and values are one affine map for all tensors. Zhou et al., "Neural
    functional transformers", NeurIPS 2023.
    """

    members: Tensor

    def __init__(self, dims: tuple[int, ...], width: int, num_heads: int, generator: Generator) -> None:
        super().__init__()
        self.dims, self.num_heads = dims, num_heads
        self.project = linear(width, 3 * width, generator)
        self.register_buffer("members", Tokens(dims).members(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what all weights hear."""
        heads = (3, self.num_heads, -1)
        near = attend_neurons(self.project(x).unflatten(2, heads), self.dims).flatten(2)
        # The map is affine, so that the mean of its values is its value at the mean.
        means = (self.members / self.members.sum(0)).T @ x
        query, key, value = self.project(means).unflatten(2, heads).permute(2, 0, 3, 1, 4).unbind(0)
        far = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return torch.baddbmm(near, self.members.expand(len(x), -1, -1), far)


class Block(nn.Module):
    """x <- x + dropout(SelfAttention(LayerNorm(x))); x <- x + dropout(W' gelu(W LayerNorm(x) + b) + b').

    Shapes: (N, P, C) -> (N, P, C). factor: hidden channels of the MLP over C; p_dropout: probability that a channel of
    a change is 0 for all weights of a field.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        width: int,
        num_heads: int,
        factor: int,
        p_dropout: float,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(dims, width, num_heads, generator)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.wide = linear(width, factor * width, generator)
        self.narrow = linear(factor * width, width, generator)
        self.p_dropout = p_dropout

    def forward(self, x: Tensor, generator: Generator | None) -> Tensor:
        """Return the new tokens; `generator` draws the dropout masks in training mode."""
        x = self._plus(x, self.attention(self.norms[0](x)), generator)
        return self._plus(x, self.narrow(F.gelu(self.wide(self.norms[1](x)))), generator)

    def _plus(self, x: Tensor, change: Tensor, generator: Generator | None) -> Tensor:
        if not self.training or self.p_dropout == 0.0:
            return x + change
        keep = dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.p_dropout, generator)
        return torch.addcmul(x, change, keep)


class Pool(nn.Module):
    """M learned queries read all tokens, then each other: one vector for every field.

    z_m = a_m + A sum_p softmax_p(q_m LayerNorm(x_p) / sqrt(C)) LayerNorm(x_p) + b, then z <- z + MLP(LayerNorm(z)),
    then num_mixes blocks of self-attention among the M vectors and an MLP; the result is LayerNorm of their mean.
    Shapes: (N, P, C) -> (N, E). Keys and values are not projected: their maps are parts of q and A. Jaegle et al.,
    "Perceiver: general perception with iterative attention", ICML 2021.
    """

    def __init__(
        self, width: int, num_latents: int, latent_width: int, num_heads: int, num_mixes: int, generator: Generator
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.empty(num_latents, width).normal_(generator=generator))
        self.latents = nn.Parameter(torch.empty(num_latents, latent_width).normal_(std=0.02, generator=generator))
        self.gather = linear(width, latent_width, generator)
        self.first = Mlp(latent_width, generator)
        self.mixes = nn.ModuleList(Mix(latent_width, num_heads, generator) for _ in range(num_mixes))
        self.last = nn.LayerNorm(latent_width)

    def forward(self, x: Tensor) -> Tensor:
        """Return one vector for every field."""
        x = self.norm(x).unsqueeze(1)
        read = F.scaled_dot_product_attention(self.queries.expand(len(x), 1, -1, -1), x, x).squeeze(1)
        z = self.first(self.latents + self.gather(read))
        for mix in self.mixes:
            z = mix(z)
        return self.last(z.mean(1))


class Mlp(nn.Module):
    """z + W' gelu(W LayerNorm(z) + b) + b', four times the channels between."""

    def __init__(self, width: int, generator: Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = linear(width, 4 * width, generator), linear(4 * width, width, generator)

    def forward(self, z: Tensor) -> Tensor:
        """Return new vectors of the same shape."""
        return z + self.narrow(F.gelu(self.wide(self.norm(z))))


class Mix(nn.Module):
    """Self-attention among the vectors of a field, then an MLP: (N, M, E) -> (N, M, E)."""

    def __init__(self, width: int, num_heads: int, generator: Generator) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.project, self.out = linear(width, 3 * width, generator), linear(width, width, generator)
        self.mlp = Mlp(width, generator)

    def forward(self, z: Tensor) -> Tensor:
        """Return new vectors of the same shape."""
        qkv = self.project(self.norm(z)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2)
        return self.mlp(z + self.out(heard))
