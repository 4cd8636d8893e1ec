"""The sites of a field, its weight and bias tensors, and what others see of one: activated, mapped and pooled values.

Every tensor of a field is a site: its free axes are the hidden layers whose neurons are its rows or columns (0, 1 or 2
of them), its F groups are its entries along input and output axes, which keep their order. Legend: N fields, T neurons,
C channels, F groups, L layers of a field. Sites of one free axis are sets (F C, N, T), of none (F C, N, 1); middle
weights, of two, are matrices (N, O, I, C).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from neuralfields.spec import FieldSpec
from wsnets.heads import dropout
from wsnets.kernels import matrices
from wsnets.kernels.activation import BatchNorm, SetValues, activate_sets
from wsnets.kernels.native import takes
from wsnets.models.dws_functions import Activate, MatrixMap, Spread, Statistics, moments, reduce

Pool = Literal["max", "mean", "sum"]
Norm = Literal["batch", "none"]
_MOMENTUM, _EPSILON = 0.1, 1e-5


@dataclass(frozen=True)
class Site:
    """A weight or bias tensor: its free and its fixed axes (0 input, then hidden layers, L output), rows first; F."""

    free: tuple[int, ...]
    fixed: tuple[int, ...]
    groups: int


def sites(spec: FieldSpec) -> tuple[Site, ...]:
    """All sites in storage order: weights 0, biases 0, weights 1, ..."""
    found = []
    for layer in range(spec.num_layers):
        for axes in ((layer + 1, layer), (layer + 1,)):
            fixed = tuple(a for a in axes if a in (0, spec.num_layers))
            groups = torch.Size([spec.dims[a] for a in fixed]).numel()
            found.append(Site(tuple(a for a in axes if a not in fixed), fixed, groups))
    return tuple(found)


class SiteActivation(nn.Module):
    """relu and dropout of one site's tensor, after batch normalisation over fields and entries or after nothing.

    Mean and variance of a channel are taken over all groups, as published; momentum 0.1, epsilon 1e-5. Ioffe and
    Szegedy, "Batch normalization", ICML 2015.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, place: Site, width: int, norm: Norm, p_dropout: float) -> None:
        super().__init__()
        self.groups, self.norm, self.p_dropout = place.groups, norm, p_dropout
        is_matrix = len(place.free) == 2
        self.summed, self.shape = ((0, 1, 2), (width,)) if is_matrix else ((0, 2, 3), (width, 1, 1))
        if norm == "batch":
            self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
            self.register_buffer("running_mean", torch.zeros(width))
            self.register_buffer("running_var", torch.ones(width))

    def drops(self) -> bool:
        """Whether values are dropped, which the kernels do not."""
        return self.training and self.p_dropout > 0.0

    def settings(self, y: Tensor, generator: Generator | None) -> tuple:
        """What functions.Activation needs for y (F, C, N, T) or (N, O, I, C)."""
        mask = dropout(torch.ones_like(y), self.p_dropout, generator) if self.drops() else None
        if self.norm == "none":
            return None, None, None, mask
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = moments(y.detach(), self.summed)
            self.follow(BatchNorm(mean, var, True, _EPSILON), y)
        statistics = Statistics(mean.view(self.shape), (var + _EPSILON).rsqrt().view(self.shape), self.training)
        return self.weight.view(self.shape), self.bias.view(self.shape), statistics, mask

    def forward(self, y: Tensor, pool: Pool, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Activate a set (F C, N, T) and pool it, (F C, N), by torch."""
        grouped = y.view(self.groups, -1, *y.shape[1:])
        x = Activate.apply(grouped, *self.settings(grouped, generator)).view(y.shape)
        return x, reduce(x, 2, pool)

    def line(self) -> tuple[nn.Parameter, nn.Parameter] | tuple[None, None]:
        """Factor and shift after the normalisation."""
        return (self.weight, self.bias) if self.norm == "batch" else (None, None)

    def batch_norm(self) -> BatchNorm | None:
        """The normalisation that a kernel does; in training its statistics have yet to be written."""
        if self.norm == "none":
            return None
        running = (self.running_mean, self.running_var)
        mean, variance = (torch.empty_like(r) if self.training else r.clone() for r in running)
        return BatchNorm(mean, variance, self.training, _EPSILON)

    def follow(self, norm: BatchNorm | None, y: Tensor) -> None:
        """Move the running statistics towards those of a batch y, if they were."""
        if norm is not None and norm.of_batch:
            count = y.numel() // len(norm.mean)
            self.running_mean.lerp_(norm.mean, _MOMENTUM)
            self.running_var.lerp_(norm.variance * (count / max(1, count - 1)), _MOMENTUM)


@dataclass(frozen=True)
class Seen:
    """What other sites see of one: its activated values pooled along each free axis, (F C, N, T), and over all, (F C,
    N); mapped: a linear map of a matrix's activated entries."""

    along: dict[int, Tensor]
    pooled: Tensor
    mapped: Tensor | None = None


class Unspread(NamedTuple):
    """Values of a matrix, (N, O, I, C), before sums along its rows, (C, N, O), and columns, (C, N, I), are added."""

    entries: Tensor
    rows: Tensor
    columns: Tensor

    def spread(self) -> Tensor:
        """All in one, (N, O, I, C); the entries are lost."""
        if takes(self.entries):
            return matrices.SpreadMatrix.apply(self.entries.contiguous(), self.rows, self.columns)
        return Spread.apply(self.entries, self.rows.permute(1, 2, 0), self.columns.permute(1, 2, 0))


def see(
    places: Sequence[Site],
    values: Sequence[Tensor | Unspread],
    activations: Sequence[SiteActivation] | None,
    pool: Pool,
    generator: Generator | None,
    maps: Mapping[int, Tensor] | None = None,
) -> list[Seen]:
    """Activate and pool the values of all sites, which are lost; maps (C', C): the linear ones of matrices, by number.

    activations: one for each, or None for values as they are.
    """
    activated = {} if activations is None else _activate_by_kernel(places, values, activations, pool)
    seen = []
    for i, (place, x) in enumerate(zip(places, values, strict=True)):
        activation = None if activations is None else activations[i]
        if len(place.free) == 2 or isinstance(x, Unspread):
            seen.append(_see_matrix(place, x, activation, pool, generator, None if maps is None else maps[i]))
            continue
        if i in activated:
            x, pooled = activated[i]
        else:
            x, pooled = (x, reduce(x, 2, pool)) if activation is None else activation(x, pool, generator)
        seen.append(Seen({axis: x for axis in place.free}, pooled))
    return seen


def _activate_by_kernel(
    places: Sequence[Site], values: Sequence[Tensor | Unspread], activations: Sequence[SiteActivation], pool: Pool
) -> dict[int, tuple[Tensor, Tensor]]:
    """Values and pools, by number, of all sets that the kernel can activate."""
    sets = {
        i: y
        for i, (place, y) in enumerate(zip(places, values, strict=True))
        if len(place.free) < 2 and isinstance(y, Tensor) and takes(y) and not activations[i].drops()
    }
    if not sets:
        return {}
    norms = {i: activations[i].batch_norm() for i in sets}
    results = activate_sets([SetValues(y, *activations[i].line(), norms[i]) for i, y in sets.items()], pool)
    for i, y in sets.items():
        activations[i].follow(norms[i], y)
    return dict(zip(sets, results, strict=True))


def _see_matrix(
    place: Site,
    x: Tensor | Unspread,
    activation: SiteActivation | None,
    pool: Pool,
    generator: Generator | None,
    weight: Tensor | None,
) -> Seen:
    """Activate, map and pool a matrix."""
    own = x.entries if isinstance(x, Unspread) else x
    weight = own.new_empty(0, own.shape[3]) if weight is None else weight
    native = takes(own) and (activation is None or not activation.drops())
    mapping = _map_by_kernel if native else _map_matrix
    mapped, rows, columns, pooled = mapping(x, weight, pool, activation, generator)
    return Seen(dict(zip(place.free, (rows, columns), strict=True)), pooled, mapped)


def _map_by_kernel(
    x: Tensor | Unspread, weight: Tensor, pool: Pool, activation: SiteActivation | None, _: Generator | None
) -> tuple[Tensor, ...]:
    """A matrix's values, activated and mapped, and pools, channels first: along rows, along columns, over both."""
    parts = x if isinstance(x, Unspread) else (x, None, None)
    if activation is None:
        return matrices.MapMatrix.apply(*parts, weight, None, None, None, pool, True)
    norm = activation.batch_norm()
    results = matrices.MapMatrix.apply(*parts, weight, *activation.line(), norm, pool, False)
    activation.follow(norm, parts[0])
    return results


def _map_matrix(
    x: Tensor | Unspread, weight: Tensor, pool: Pool, activation: SiteActivation | None, generator: Generator | None
) -> tuple[Tensor, ...]:
    """The same by torch."""
    y = x.spread() if isinstance(x, Unspread) else x
    settings = (None,) * 4 if activation is None else activation.settings(y, generator)
    mapped, *sides = MatrixMap.apply(y, weight, pool, activation is None, *settings)
    rows, columns = (p.permute(2, 0, 1).contiguous() for p in sides)
    return mapped, rows, columns, reduce(rows, 2, pool)
