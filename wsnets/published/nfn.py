"""Weights of the public NFN code (Zhou et al., NeurIPS 2023) as weights of our models.

The public classes are InvariantNFN with an MlpHead that pools by HNPPool (reader) and TransferNet (editor), both with
GaussianFourierFeatureTransform, modes NP (with IOSinusoidalEncoding, enc_layers off, or without) and HNP; no layer
normalisation and no statistics. Their layers have one linear map for each kind of sum, ours one for each stage j of
neurons and one of all means for each tensor, see EquivariantLinear; k is a layer of a field, ours in brackets the block
of rows. Channels are first within columns of one tensor in theirs ("(c n)") and last in ours. The names:

0._B                                                    trunk.encoding.frequencies, times 2 pi
the m-th public layer                                   trunk.layers.m; in an editor the last one: last
  layer_k                                                 block.k
  layer_k_c, bias_k, layer_k_r                            node.(k + 1) [into, own], node.k [out]
  w0_rpt, wfin_cpt in HNP                                 the likes of layer_k_c and layer_k_r at the ends
  layer_k_rc, bias_k_rc                                   mean.(2 k), mean.(2 k + 1)
  w0_rbdcst, wfin_cbdcst, bias_fin_rc in HNP              the likes at the ends
  every bias of what adds to one tensor, summed           bias
  columns of encoded positions in the first layer         trunk.positions.layer
head.head.2 and the next two linear maps                head.0, 1, 2
weight_scales.k, bias_scales.k                          scales
"""

import math
import re
from itertools import pairwise

import torch
from torch import Tensor

from neuralfields.spec import FieldSpec
from wsnets.models.nfn import HNPConfig, NPConfig, sinusoids
from wsnets.models.nfn_layers import Layout

# A source or target: the kind of tensor, and how many sets of C channels it has.
_Parts = list[tuple[str, int]]


def convert(state: dict[str, Tensor], spec: FieldSpec, config: HNPConfig) -> dict[str, Tensor]:
    """State of NFNReader, or of NFNEditor where the public state has no head, in the dtype of the public one.

    config: that of the public model, NPConfig or HNPConfig. The function stays the same; HNP terms that the public
    layer has twice are added up, and the one that it lacks is 0. Raises ValueError for tensors that the model does not
    have.
    """
    layout, rest = config.layout(spec), dict(state)
    is_reader = any(name.startswith("head.") for name in state)
    root = "nfnet_features" if is_reader else "hnet"
    frequencies = 2.0 * math.pi * rest.pop(f"{root}.0._B")[0]
    found = {"trunk.encoding.frequencies": frequencies}
    num_bands = 0
    if isinstance(config, NPConfig) and config.bands > 0:
        for name, count in (("first", spec.dims[0]), ("final", spec.dims[-1])):
            positions = sinusoids(count, config.bands, config.max_frequency).to(frequencies)
            found[f"trunk.positions.{name}"], num_bands = positions, positions.shape[1]
    numbers = sorted({int(name.split(".")[1]) for name in rest if re.match(rf"{root}\.\d+\.bias_0\.", name)})
    for m, (number, final) in enumerate(pairwise([*numbers, None])):
        ours = "last" if final is None and not is_reader else f"trunk.layers.{m}"
        layer = _Layer(rest, f"{root}.{number}.", layout)
        if m == 0 and num_bands > 0:
            ends = {f"trunk.positions.layer.{k}": v for k, v in layer.weights(slice(-num_bands, None)).items()}
            found.update({**ends, **_named(ours, layer.weights(slice(None, -num_bands)))})
        else:
            found.update(_named(ours, layer.weights(slice(None))))
        found[f"{ours}.bias"] = layer.bias()
    if is_reader:
        found.update(_head(rest, spec, layout))
    else:
        kinds = ("weight_scales", "bias_scales")
        number = next(name.split(".")[1] for name in rest if kinds[0] in name)
        scales = [rest.pop(f"{root}.{number}.{kind}.{k}") for k in range(layout.num_layers) for kind in kinds]
        found["scales"] = torch.stack(scales).view(-1, 2)
    if rest:
        raise ValueError(f"state has {min(rest)!r} and {len(rest) - 1} more: expected no tensors beside the model's")
    return found


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


class _Layer:
    """One public layer, taken out of a state. Weights are kept as (target sets, D, source sets, C)."""

    def __init__(self, rest: dict[str, Tensor], prefix: str, layout: Layout) -> None:
        self.layout, last = layout, layout.num_layers - 1
        special = {"w0_rpt": "layer_0_c", "w0_rbdcst": "layer_0_rc", "wfin_cpt": f"layer_{last}_r"}
        special |= {"wfin_cbdcst": f"layer_{last}_rc", "bias_fin_rc": f"bias_{last}_rc"}
        self.tensors: dict[str, Tensor] = {}
        for name in [name for name in rest if re.fullmatch(rf"{prefix}\w+\.(weight|bias)", name)]:
            module, kind = name.removeprefix(prefix).split(".")
            self.tensors[f"{special.get(module, module)}.{kind}"] = rest.pop(name)

    def weights(self, channels: slice) -> dict[str, Tensor]:
        """Ours but for the bias, of some channels."""
        layout = self.layout
        found = {f"block.{k}": self.tensors[f"layer_{k}.weight"].flatten(1)[:, channels] for k in layout.blocks}
        for j in layout.stages:
            places: _Parts = list(zip(("into", "own", "out"), layout.node(j), strict=True))
            names = {"into": f"layer_{j - 1}_c", "own": f"bias_{j - 1}", "out": f"layer_{j}_r"}
            maps = [
                self._map(names[place], count, self._node_parts(j, place), places)[..., channels]
                for place, count in places
                if count > 0
            ]
            found[f"node.{j}"] = _matrix(torch.cat(maps))
        sets = self._means()
        for i, (name, count) in enumerate(sets):
            found[f"mean.{i}"] = _matrix(self._map(f"{name}_rc", count, self._mean_parts(), sets)[..., channels])
        return found

    def bias(self) -> Tensor:
        """The sum of all biases of every target."""
        total = []
        for name, count in self._means():
            names = [f"{name}{suffix}.bias" for suffix in ("", "_c", "_r", "_rc")]
            parts = torch.stack([self.tensors[n] for n in names if n in self.tensors])
            total.append(parts.sum(0).view(-1, count).T.flatten())
        return torch.cat(total)

    def _map(self, name: str, num_targets: int, parts: _Parts, sets: _Parts) -> Tensor:
        """A public map from `parts`, in the public order, to one from `sets`; a mean goes to all of a set alike."""
        weight = self.tensors[f"{name}.weight"].flatten(1)
        num_channels = weight.shape[1] // sum(count for _, count in parts)
        sizes = dict(sets)
        summed = {place: weight.new_zeros(len(weight), num_channels, count) for place, count in sets}
        for (place, count), part in zip(parts, weight.split([n * num_channels for _, n in parts], dim=1), strict=True):
            summed[place] += part.view(len(weight), num_channels, count) / (sizes[place] // count)
        joined = torch.cat(list(summed.values()), dim=2)
        return joined.view(-1, num_targets, *joined.shape[1:]).permute(1, 0, 3, 2)

    def _node_parts(self, j: int, target: str) -> _Parts:
        """What the public map to a target at stage j reads, in its order; 1: a mean, where the place has more sets."""
        into, own, out = self.layout.node(j)
        if not self.layout.ends:
            before = [("into", into), ("own", own)] if j > 0 else []
            after = [("out", out)] if j < self.layout.num_layers else []
            return after + before if target == "out" else before + after
        first, final = j == 1, j == self.layout.num_layers - 1
        all_in, all_out = [("into", into)] if first else [], [("out", out)] if final else []
        if target == "out":
            return [*all_out, ("into", 1), *all_in] if final else [("out", 1), ("into", 1), ("own", 1), *all_in]
        return [*all_in, ("out", 1), ("own", 1), *all_out] if first else [("into", 1), ("own", 1), ("out", 1), *all_out]

    def _means(self) -> _Parts:
        """Tensors of a field in our order, and their sets."""
        layers = range(self.layout.num_layers)
        names = [(f"layer_{k}", f"bias_{k}") for k in layers]
        return [pair for k in layers for pair in zip(names[k], self.layout.mean(k), strict=True)]

    def _mean_parts(self) -> _Parts:
        last = self.layout.num_layers - 1
        parts = [(f"{kind}_{k}", 1) for kind in ("layer", "bias") for k in range(last + 1)]
        if self.layout.ends:
            sizes = dict(self._means())
            parts += [(name, sizes[name]) for name in ("layer_0", f"layer_{last}", f"bias_{last}")]
        return parts


def _matrix(maps: Tensor) -> Tensor:
    return maps.flatten(2).flatten(0, 1)


def _head(rest: dict[str, Tensor], spec: FieldSpec, layout: Layout) -> dict[str, Tensor]:
    """Take the head out of `rest`; of what is pooled, theirs has channels first and the last weights before biases."""
    numbers = sorted({int(name.split(".")[2]) for name in rest if re.match(r"head\.head\.\d+\.weight", name)})
    found = {}
    for k, number in enumerate(numbers):
        for kind in ("weight", "bias"):
            found[f"head.{k}.{kind}"] = rest.pop(f"head.head.{number}.{kind}")
    sets = Layout(spec.dims, ends=True).num_means
    first = found["head.0.weight"].view(-1, found["head.0.weight"].shape[1] // sets, sets).transpose(1, 2)
    if not layout.ends:
        count = spec.dims[-1]
        ends = first[:, -2 * count :].unflatten(1, (2, count)).transpose(1, 2).flatten(1, 2)
        first = torch.cat((first[:, : -2 * count], ends), dim=1)
    found["head.0.weight"] = first.flatten(1)
    return found
