"""A transformer on tokens, as plain as it gets: blocks of attention and an MLP, normalised before."""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from wsnets.heads import linear


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(C / heads)) v, then a linear map: (N, T, C) -> (N, T, C). Vaswani et al., NeurIPS 2017."""

    def __init__(self, width: int, num_heads: int, generator: Generator) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_heads, self.from_heads = linear(width, 3 * width, generator), linear(width, width, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Every token attends to all of its field."""
        count, tokens, width = x.shape
        heads = self.to_heads(x).view(count, tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(query, key, value)
        return self.from_heads(found.transpose(1, 2).reshape(count, tokens, width))


class TokenBlock(nn.Module):
    """x <- x + attention(norm(x)); x <- x + mlp(norm(x)), the MLP four times as wide."""

    def __init__(self, width: int, num_heads: int, generator: Generator) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = SelfAttention(width, num_heads, generator)
        self.widen, self.narrow = linear(width, 4 * width, generator), linear(4 * width, width, generator)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, T, C)."""
        x = x + self.attention(self.norms[0](x))
        return x + self.narrow(functional.gelu(self.widen(self.norms[1](x)), approximate="tanh"))


class TokenTransformer(nn.Module):
    """num_layers blocks and a last normalisation: (N, T, C) -> (N, T, C), T as it comes."""

    def __init__(self, width: int, num_layers: int, num_heads: int, generator: Generator) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TokenBlock(width, num_heads, generator) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens after all blocks."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def positions(count: int, width: int, generator: Generator) -> nn.Parameter:
    """Learned vectors (count, C), small at first."""
    return nn.Parameter(0.02 * torch.randn(count, width, generator=generator, device=generator.device))
