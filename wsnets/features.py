"""Weight features: what a weight-space network sees of a field, and their normalisation as stored data.

Legend: N fields, O out, I in, C channels, P parameters of one field.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from neuralfields.batch import FieldBatch

NormaliserMode = Literal["per_weight", "per_layer", "per_layer_scale", "none"]
# A weight whose spread is below this share of its tensor's size never moved: dividing by it would show rounding errors.
_RELATIVE_FLOOR = 1e-6


@dataclass(frozen=True)
class WeightFeatures:
    """Features of N fields, layer by layer: weights[l] (N, O_l, I_l, C) and biases[l] (N, O_l, C), channels last.

    fields: the very fields that these are features of, for a model that evaluates them (probes) or needs their raw
    weights; None once `map` has changed the features, since they are no longer features of those fields.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    fields: FieldBatch | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors in storage order: weights[0], biases[0], weights[1], ..."""
        return [tensor for layer in zip(self.weights, self.biases, strict=True) for tensor in layer]

    def __len__(self) -> int:
        return self.weights[0].shape[0]

    def map(self, function: Callable[..., Tensor], *others: Iterable[Tensor]) -> "WeightFeatures":
        """Apply function(tensor, *matching others) to every tensor, in storage order."""
        done = [function(*row) for row in zip(self.tensors, *others, strict=True)]
        return WeightFeatures(tuple(done[0::2]), tuple(done[1::2]))


def weight_features(fields: FieldBatch) -> WeightFeatures:
    """Features of a population: its weights and biases with one channel, C = 1 (views, nothing is copied).

    Raises ValueError for fields with other parameters than dense layers.
    """
    fields.spec.check_dense("weight_features")
    weights, biases = fields.weights, fields.biases
    return WeightFeatures(tuple(w.unsqueeze(-1) for w in weights), tuple(b.unsqueeze(-1) for b in biases), fields)


def raw_fields(features: WeightFeatures, model: str) -> FieldBatch:
    """The fields behind features. Raises ValueError naming the model that needs them when there are none."""
    if features.fields is None:
        raise ValueError(f"features.fields=None: {model} needs the fields themselves, as weight_features(fields) keeps")
    return features.fields


def flatten(features: WeightFeatures) -> Tensor:
    """Return (N, P * C): every tensor flattened, in storage order; with C = 1 the same as FieldBatch.flat."""
    return torch.cat([tensor.flatten(1) for tensor in features.tensors], dim=1)


@dataclass(frozen=True)
class Normaliser:
    """Map every weight feature to (x - mean) / std, with statistics of the training fields.

    mode "per_weight": one mean and std for each single weight, valid only where weight number p means the same in every
    field: a shared init, or an aligned population. On fields with their own random inits a permutation of neurons
    would change the statistics that a weight meets, so that a permutation-equivariant model stops being one. There use
    "per_layer": one mean and std for each tensor. "per_layer_scale": the same with mean 0 and the root mean square for
    std, which keeps signs and so suits models that respect them. "none": the identity. A feature that is constant over
    the population (std at most 1e-6 of its tensor's root mean square) maps to 0.

    mean, std: one tensor for each of WeightFeatures.tensors, shape (O, I, C) or (O, C), or all ones for "per_layer".
    """

    mode: NormaliserMode
    mean: tuple[Tensor, ...] = ()
    std: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in get_args(NormaliserMode):
            raise ValueError(f"normalise={self.mode!r}: expected one of {', '.join(get_args(NormaliserMode))}")

    @classmethod
    def fit(cls, mode: NormaliserMode, batches: Iterable[FieldBatch]) -> "Normaliser":
        """Gather statistics in float64, one batch at a time (bounded memory). Raises ValueError without any field.

        Moments of batches are merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
        computing sample variances", 1979; std is the population's (divided by N).
        """
        if cls(mode).mode == "none":
            return cls(mode)
        moments: list[_Moments] = []
        for fields in batches:
            tensors = weight_features(fields).tensors
            moments = moments or [_Moments(mode) for _ in tensors]
            for moment, tensor in zip(moments, tensors, strict=True):
                moment.add(tensor)
        if not moments:
            raise ValueError("batches is empty: expected at least one field to normalise by")
        mean, std = zip(*(moment.finish() for moment in moments), strict=True)
        return cls(mode, mean, std)

    def __call__(self, features: WeightFeatures) -> WeightFeatures:
        """Normalise features of any number of fields."""
        if self.mode == "none":
            return features
        return replace(features.map(_standardise, self.mean, self.std), fields=features.fields)

    def inverse(self, features: WeightFeatures) -> WeightFeatures:
        """Undo the normalisation: x std + mean; a feature that is constant over the population gets its constant."""
        if self.mode == "none":
            return features
        return features.map(_unstandardise, self.mean, self.std)

    def state(self) -> dict[str, Tensor]:
        """Statistics as named tensors, for a file."""
        names = [f"{kind}.{i}" for kind in ("mean", "std") for i in range(len(self.mean))]
        return dict(zip(names, (*self.mean, *self.std), strict=True))

    @classmethod
    def from_state(cls, mode: NormaliserMode, state: dict[str, Tensor]) -> "Normaliser":
        """Inverse of `state`. Raises ValueError for statistics without a mode that uses them, or none where it does."""
        if (mode == "none") != (not state):
            held = f"{len(state)} tensors of statistics" if state else "no statistics"
            raise ValueError(f"normalise={mode!r}: there are {held}, expected those of this mode")
        half = range(len(state) // 2)
        return cls(mode, tuple(state[f"mean.{i}"] for i in half), tuple(state[f"std.{i}"] for i in half))


def _standardise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    scale = torch.where(std > 0, 1.0 / std, torch.zeros_like(std)).to(x.device)
    return (x - mean.to(x.device)) * scale


def _unstandardise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return x * std.to(x.device) + mean.to(x.device)


class _Moments:
    def __init__(self, mode: NormaliserMode) -> None:
        self.mode = mode
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, tensor: Tensor) -> None:
        values = (
            tensor.double() if self.mode == "per_weight" else tensor.double().reshape(-1, *(1,) * (tensor.ndim - 1))
        )
        count, mean = values.shape[0], values.mean(0)
        shift, total = mean - self.mean, self.count + count
        self.squares = self.squares + (values - mean).square().sum(0) + shift.square() * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    def finish(self) -> tuple[Tensor, Tensor]:
        variance = self.squares / self.count
        if self.mode == "per_layer_scale":
            variance, self.mean = variance + self.mean.square(), torch.zeros_like(self.mean)
        size = (variance + self.mean.square()).mean().sqrt()
        std = variance.sqrt()
        return self.mean.float(), torch.where(std > _RELATIVE_FLOOR * size, std, torch.zeros_like(std)).float()
