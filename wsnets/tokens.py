"""Fields as sequences of tokens: what comes into one unit, its bias last, is a row, and rows are cut into tokens.

Legend: N fields, P parameters, T tokens, D numbers of a token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from neuralfields.spec import FieldSpec


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Where every parameter of a spec lies among T tokens of D numbers; D: `width`.

    index (T, D) int64: the place in the flat vector of what the token holds there, P where nothing does (a zero);
    place (P,) int64: the inverse, into T * D; layers, rows (T,) int64: the layer a token belongs to, and its number
    among the tokens of that layer.
    """

    spec: FieldSpec
    index: Tensor
    place: Tensor
    layers: Tensor
    rows: Tensor

    @classmethod
    def of(cls, spec: FieldSpec, width: int | None = None) -> "TokenLayout":
        """Rows [w, b] of all layers in order, each cut into ceil((I + 1) / D) tokens and filled up with zeros.

        width D: None for the longest row, 1 + the largest number of inputs of a layer. Raises ValueError for a spec
        with other parameters than dense layers and for a width below 1.
        """
        spec.check_dense("tokens")
        width = 1 + max(spec.dims[:-1]) if width is None else width
        if width < 1:
            raise ValueError(f"width={width}: expected a whole number from 1")
        index, layers, rows, start = [], [], [], 0
        for layer in range(spec.num_layers):
            num_in, num_out = spec.dims[layer], spec.dims[layer + 1]
            weights = start + torch.arange(num_in * num_out).view(num_out, num_in)
            biases = start + num_in * num_out + torch.arange(num_out).unsqueeze(1)
            pieces = -(-(num_in + 1) // width)
            row = torch.full((num_out, pieces * width), spec.num_params)
            row[:, : num_in + 1] = torch.cat([weights, biases], dim=1)
            index.append(row.view(-1, width))
            layers += [layer] * len(index[-1])
            rows += range(len(index[-1]))
            start += (num_in + 1) * num_out
        found = torch.cat(index)
        place = torch.empty(spec.num_params + 1, dtype=torch.int64)
        place[found.flatten()] = torch.arange(found.numel())
        return cls(spec, found, place[:-1], torch.tensor(layers), torch.tensor(rows))

    @property
    def shape(self) -> tuple[int, int]:
        """(T, D)."""
        return self.index.shape[0], self.index.shape[1]

    @property
    def mask(self) -> Tensor:
        """(T, D) bool: where a token holds a parameter."""
        return self.index < self.spec.num_params

    def tokens(self, flat: Tensor) -> Tensor:
        """(N, P) -> (N, T, D), zeros where nothing is; flat as FieldBatch.flat and features.flatten give it."""
        if flat.ndim != 2 or flat.shape[1] != self.spec.num_params:
            raise ValueError(f"flat has shape {tuple(flat.shape)}: expected (N, {self.spec.num_params})")
        padded = torch.cat([flat, flat.new_zeros(len(flat), 1)], dim=1)
        return padded[:, self.index.to(flat.device)]

    def flat(self, tokens: Tensor) -> Tensor:
        """Inverse of `tokens`: (N, T, D) -> (N, P); what lies where nothing is, is left out."""
        if tuple(tokens.shape[1:]) != self.shape:
            raise ValueError(f"tokens has shape {tuple(tokens.shape)}: expected (N, {self.shape[0]}, {self.shape[1]})")
        return tokens.flatten(1)[:, self.place.to(tokens.device)]
