"""Heads: from one vector per field to outputs, with randomness that comes from a generator only."""

import math
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

Norm = Literal["batch", "layer", "none"]


class Unset(nn.Linear):
    """A linear layer whose values are left to its maker: the plain one draws them from the global seed, and torch's own
    way to leave them (skip_init) imports sympy, 34 MB."""

    def reset_parameters(self) -> None:
        """Do nothing."""


def linear(num_in: int, num_out: int, generator: Generator) -> nn.Linear:
    """A linear layer, weights and biases uniform in +-1/sqrt(num_in), drawn from `generator`."""
    layer = Unset(num_in, num_out)
    bound = 1.0 / math.sqrt(num_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def dropout(x: Tensor, p: float, generator: Generator | None) -> Tensor:
    """Zero each entry with probability p and divide the rest by 1 - p. Raises ValueError without a generator."""
    if p == 0.0:
        return x
    if generator is None:
        raise ValueError("generator=None: dropout in training mode needs a torch.Generator")
    keep = torch.rand(x.shape, generator=generator, device=x.device) >= p
    return x * keep / (1.0 - p)


class VectorHead(nn.Module):
    """Fully connected head: h <- dropout(gelu(norm(W h + b))) for each hidden width, then a linear layer.

    Shapes: (N, num_in) -> (N, num_out). norm: "batch" (Ioffe and Szegedy, ICML 2015), "layer" (Ba et al., 2016) or
    "none"; p_dropout in [0, 1) (Srivastava et al., JMLR 2014). `generator` draws the initial weights, and in `forward`
    the dropout masks (needed in training mode only). Raises ValueError for an unknown norm or p_dropout out of range.
    """

    def __init__(
        self,
        num_in: int,
        hidden: tuple[int, ...],
        num_out: int,
        *,
        generator: Generator,
        norm: Norm = "batch",
        p_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if norm not in get_args(Norm):
            raise ValueError(f"norm={norm!r}: expected one of {', '.join(get_args(Norm))}")
        if not 0.0 <= p_dropout < 1.0:
            raise ValueError(f"p_dropout={p_dropout}: expected a number in [0, 1)")
        make = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": lambda width: nn.Identity()}[norm]
        widths = (num_in, *hidden)
        pairs = list(pairwise(widths))
        self.layers = nn.ModuleList(linear(a, b, generator) for a, b in pairs)
        self.norms = nn.ModuleList(make(b) for _, b in pairs)
        self.last = linear(widths[-1], num_out, generator)
        self.p_dropout = p_dropout

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return outputs (N, num_out), logits where a classifier uses them."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nn.functional.gelu(norm(layer(x)))
            if self.training:
                x = dropout(x, self.p_dropout, generator)
        return self.last(x)
