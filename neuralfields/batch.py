"""FieldBatch: N fields of one spec, their parameters stacked."""

import numbers
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuralfields.spec import FieldSpec


@dataclass(frozen=True, eq=False)
class FieldBatch:
    """N fields of one spec in memory.

    parameters: name -> (N, *shape), names and shapes as in `spec.shapes`: layer l is `weights[l]` (N, O_l, I_l) and
    `biases[l]` (N, O_l), as in nn.Linear; a trained encoding and a view head have tensors of their own. Raises
    ValueError when a name or a shape does not fit the spec.
    """

    spec: FieldSpec
    parameters: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        expected = self.spec.shapes
        if list(self.parameters) != list(expected):
            raise ValueError(f"parameters={list(self.parameters)}: expected {list(expected)}")
        count = next(iter(self.parameters.values())).shape[0]
        for name, shape in expected.items():
            if tuple(self.parameters[name].shape) != (count, *shape):
                raise ValueError(f"{name} has shape {tuple(self.parameters[name].shape)}: expected {(count, *shape)}")

    @property
    def weights(self) -> list[Tensor]:
        """Weights of every layer: (N, O_l, I_l)."""
        return [self.parameters[f"weights.{layer}"] for layer in range(self.spec.num_layers)]

    @property
    def biases(self) -> list[Tensor]:
        """Biases of every layer: (N, O_l)."""
        return [self.parameters[f"biases.{layer}"] for layer in range(self.spec.num_layers)]

    def __len__(self) -> int:
        return next(iter(self.parameters.values())).shape[0]

    def __getitem__(self, index: int | slice | list[int] | Tensor | np.ndarray) -> "FieldBatch":
        """Select fields; an integer gives a batch of one."""
        if isinstance(index, numbers.Integral):
            index = range(len(self))[int(index)]  # raises IndexError out of range, takes negative numbers
            index = slice(index, index + 1)
        return FieldBatch(self.spec, {name: value[index] for name, value in self.parameters.items()})

    def __iter__(self) -> Iterator["FieldBatch"]:
        """Iterate over the fields, each a batch of one."""
        return (self[index] for index in range(len(self)))

    def to(self, *args, **kwargs) -> "FieldBatch":
        """Move or cast all parameters, as Tensor.to."""
        return FieldBatch(self.spec, {name: value.to(*args, **kwargs) for name, value in self.parameters.items()})

    def flat(self) -> Tensor:
        """Return all parameters as (N, P), in the order of `spec.shapes`."""
        return torch.cat([value.flatten(1) for value in self.parameters.values()], dim=1)

    @classmethod
    def from_flat(cls, spec: FieldSpec, flat: Tensor) -> "FieldBatch":
        """Inverse of `flat`: split (N, P) into views. Raises ValueError when P is not the spec's."""
        if flat.ndim != 2 or flat.shape[1] != spec.num_params:
            raise ValueError(
                f"flat has shape {tuple(flat.shape)}: expected (N, {spec.num_params}) for {spec.describe()}"
            )
        shapes = spec.shapes
        parts = flat.split([torch.Size(shape).numel() for shape in shapes.values()], dim=1)
        return cls(spec, {n: p.view(len(flat), *s) for (n, s), p in zip(shapes.items(), parts, strict=True)})

    @classmethod
    def from_layers(cls, spec: FieldSpec, weights: Iterable[Tensor], biases: Iterable[Tensor]) -> "FieldBatch":
        """Build from per-layer weights (N, O_l, I_l) and biases (N, O_l). Raises ValueError when the spec has more."""
        spec.check_dense("from_layers")
        parameters = {}
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            parameters[f"weights.{layer}"] = weight
            parameters[f"biases.{layer}"] = bias
        return cls(spec, parameters)

    @classmethod
    def cat(cls, batches: "list[FieldBatch]") -> "FieldBatch":
        """Concatenate populations of one spec. Raises ValueError when the specs differ or the list is empty."""
        if not batches:
            raise ValueError("batches=[]: expected at least one FieldBatch")
        if any(batch.spec != batches[0].spec for batch in batches):
            raise ValueError("batches have different specs: a population has one")
        names = batches[0].parameters
        return cls(batches[0].spec, {name: torch.cat([b.parameters[name] for b in batches]) for name in names})

    def module(self, index: int = 0) -> torch.nn.Module:
        """Return one field as a plain nn.Module of its own: (..., I) -> (..., O), trainable, a copy of the weights."""
        from neuralfields.module import FieldModule

        return FieldModule(self[index])
