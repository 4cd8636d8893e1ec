"""Augmentation: fields changed at random, as raw weights, before any features are taken.

Exact symmetries leave a field's function as it is, geometry changes what it shows in a known way, noise and dropout
spoil it a little. Every field gets draws of its own. Legend: N fields, I coordinates.

Shamsian et al., "Improved generalization of weight space networks via augmentations", ICML 2024, compare them. Its
public code, as that of earlier papers, adds the same constant to all weights where noise is meant; here noise is drawn.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, Self, get_args

import torch
from torch import Generator, Tensor

from neuralfields import symmetry
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.augment_geometry import Place, flip, resize, rotate, shift

Axis = Literal["x", "y", "z"]


def move(batch: FieldBatch, generator: Generator, kinds: tuple[str, ...] | None = None) -> FieldBatch:
    """Move every field by a random element of its group: the function stays. kinds: None for all that it has."""
    return symmetry.act(symmetry.sample(batch.spec, len(batch), generator, kinds), batch)


def tensor_stds(batch: FieldBatch) -> dict[str, float]:
    """Standard deviation of the entries of each parameter over all fields, what noise is measured against."""
    return {name: float(value.detach().double().std(correction=0)) for name, value in batch.parameters.items()}


def noise(batch: FieldBatch, generator: Generator, share: float, stds: Mapping[str, float] | None = None) -> FieldBatch:
    """Add Gaussian noise of standard deviation share * stds[name] to every parameter; stds: None: the batch's own."""
    stds = tensor_stds(batch) if stds is None else stds
    changed = {}
    for name, value in batch.parameters.items():
        draw = torch.randn(value.shape, generator=generator, device=generator.device, dtype=torch.float32)
        changed[name] = value + draw.to(value) * (share * stds[name])
    return FieldBatch(batch.spec, changed)


def dropout(batch: FieldBatch, generator: Generator, p: float) -> FieldBatch:
    """Set every weight (not bias) to 0 with probability p, and divide the others by 1 - p."""
    changed = dict(batch.parameters)
    for name, value in batch.parameters.items():
        if name.startswith("weights."):
            keep = torch.rand(value.shape, generator=generator, device=generator.device) >= p
            changed[name] = value * keep.to(value) / (1.0 - p)
    return FieldBatch(batch.spec, changed)


def prune(batch: FieldBatch, generator: Generator, share: float) -> FieldBatch:
    """Set the smallest weights of each layer to 0: those below its q-quantile of |w|, q uniform in [0, share] a field.

    The "quantile" augmentation of Shamsian et al., ICML 2024.
    """
    changed = dict(batch.parameters)
    for name, value in batch.parameters.items():
        if name.startswith("weights."):
            draw = torch.rand(len(batch), generator=generator, device=generator.device, dtype=torch.float32)
            size = value.detach().abs().flatten(1)
            rank = (draw.to(value).unsqueeze(1) * share * size.shape[1]).long().clamp_max(size.shape[1] - 1)
            least = size.sort(dim=1).values.gather(1, rank)
            changed[name] = value * (size >= least).to(value).view_as(value)
    return FieldBatch(batch.spec, changed)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Which changes are made, all off by default; applied in the order of the settings.

    symmetries: kinds of neuralfields.symmetry to move by ("permutation", "sign", "phase", "scale"); resize: range of
    factors, log-uniform, as (0.8, 1.25), one factor a field; flip: axes along which half of the fields are mirrored,
    "x" being left and right of a picture, "y" up and down; quarters: turned by 0, 90, 180 or 270 degrees (three
    coordinates: about one of the axes); rotation: degrees, uniform in +- this (three coordinates: about a uniformly
    random axis); shift: coordinates of [-1, 1], uniform in +- this for each; noise: Gaussian, in standard deviations
    of each parameter's entries over the batch; dropout: probability that a weight is 0, in [0, 1); prune: largest
    share of a layer's smallest weights set to 0, in [0, 1). Raises ValueError for values outside these.
    """

    symmetries: tuple[str, ...] = ()
    resize: tuple[float, float] = (1.0, 1.0)
    flip: tuple[Axis, ...] = ()
    quarters: bool = False
    rotation: float = 0.0
    shift: float = 0.0
    noise: float = 0.0
    dropout: float = 0.0
    prune: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "symmetries", tuple(self.symmetries))
        object.__setattr__(self, "resize", tuple(float(factor) for factor in self.resize))
        object.__setattr__(self, "flip", tuple(self.flip))
        unknown = [kind for kind in self.symmetries if kind not in get_args(Kind)]
        if unknown:
            raise ValueError(f"symmetries has {unknown[0]!r}: expected some of {', '.join(get_args(Kind))}")
        if any(axis not in get_args(Axis) for axis in self.flip):
            raise ValueError(f"flip={self.flip}: expected some of {', '.join(get_args(Axis))}")
        if len(self.resize) != 2 or not 0 < self.resize[0] <= self.resize[1] < math.inf:
            raise ValueError(f"resize={self.resize}: expected two positive factors, the smaller one first")
        for name in ("rotation", "shift", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: expected a finite number from 0")
        for name in ("dropout", "prune"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number in [0, 1)")

    @classmethod
    def for_images(cls, **given) -> Self:
        """Changes that leave most labels of pictures as they are: about 1.5 pixels of 28, 15 degrees and 15 percent
        of size (a 6 stays a 6), little noise; `given` settings in their place."""
        return cls(**{"resize": (0.87, 1.15), "rotation": 15.0, "shift": 0.1, "noise": 0.02, **given})

    @property
    def off(self) -> bool:
        """Whether nothing is changed."""
        return self == type(self)()

    def apply(self, batch: FieldBatch, generator: Generator, stds: Mapping[str, float] | None = None) -> FieldBatch:
        """Fields changed at random, in their dtype and on their device; stds: see `noise`.

        Raises ValueError for a kind of symmetry or an axis that the fields lack, and for geometry of fields with an
        encoding.
        """
        return self.placed(batch, generator, stds)[0]

    def placed(
        self, batch: FieldBatch, generator: Generator, stds: Mapping[str, float] | None = None
    ) -> tuple[FieldBatch, Place]:
        """Fields changed at random, as `apply`, and where what they showed has gone."""
        with torch.autocast(generator.device.type, enabled=False):
            if self.symmetries:
                batch = move(batch, generator, self.symmetries)
            place = Place.still(batch.spec, len(batch), generator.device)
            for change in self._geometry(batch.spec, len(batch), generator):
                batch, place = change(batch), Place(change(place.frame))
            if self.noise:
                batch = noise(batch, generator, self.noise, stds)
            if self.dropout:
                batch = dropout(batch, generator, self.dropout)
            if self.prune:
                batch = prune(batch, generator, self.prune)
            return batch, place

    def _geometry(self, spec: FieldSpec, n: int, generator: Generator) -> Iterator[Callable[[FieldBatch], FieldBatch]]:
        size = spec.in_dim
        if self.resize != (1.0, 1.0):
            low, high = (math.log(factor) for factor in self.resize)
            yield partial(resize, factor=(low + (high - low) * _uniform(generator, n, 1)).exp())
        if self.flip:
            named = torch.tensor(self._flipped(spec), device=generator.device)
            yield partial(flip, mirrored=(_uniform(generator, n, size) < 0.5) & named)
        if self.quarters:
            turns = torch.randint(4, (n,), generator=generator, device=generator.device)
            yield partial(rotate, degrees=90 * turns, axis=None if size == 2 else _axes(generator, n))
        if self.rotation:
            axis = None if size == 2 else torch.randn(n, 3, generator=generator, device=generator.device)
            yield partial(rotate, degrees=(2 * _uniform(generator, n) - 1) * self.rotation, axis=axis)
        if self.shift:
            yield partial(shift, by=(2 * _uniform(generator, n, size) - 1) * self.shift)

    def _flipped(self, spec: FieldSpec) -> list[bool]:
        """Which coordinates of `spec` the settings mirror."""
        names = get_args(Axis)[: spec.in_dim]
        unknown = [axis for axis in self.flip if axis not in names]
        if unknown:
            raise ValueError(f"flip has {unknown[0]!r}: expected some of {', '.join(names)} for these fields")
        seen = names[::-1] if spec.in_dim == 2 and spec.axes == "ij" else names
        return [name in self.flip for name in seen]

    def to_json(self) -> dict:
        """Plain JSON values; `from_json` gives back equal settings."""
        return json.loads(json.dumps({f.name: getattr(self, f.name) for f in fields(self)}))

    @classmethod
    def from_json(cls, data: Mapping) -> Self:
        """Read `to_json` output. Raises ValueError for unknown keys."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"augment: unknown keys {unknown}; expected {known}")
        return cls(**data)


def _axes(generator: Generator, n: int) -> Tensor:
    """An axis of space for each of N fields: (N, 3)."""
    return torch.eye(3, device=generator.device)[torch.randint(3, (n,), generator=generator, device=generator.device)]


def _uniform(generator: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
