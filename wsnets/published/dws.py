"""Weights of the public DWSNets code (Navon et al., ICML 2023) as weights of our models.

The public classes are DWSModelForClassification (reader) and DWSModel with one output feature (editor); without skips
and without down-sampling. Their fields have weights (N, I, O, 1), ours transposed. For fields of one output the maps
are the same; for more, two of theirs give every output the same (from the weights before the last and from earlier
biases, to the last weights), where ours tell outputs apart, as the paper does. The names:

layers.layers.k (layers.k without head): layer, norm, relu, ...     stack.layers.m, stack.activations.m
weight_to_weight.layers.i_j and its three likes                     the map from a site s to a site t
  ...mab.fc_q, fc_k, fc_v, fc_o, all s and t that share an axis       sets.axis.matrices, biases
  ...Gamma.0, Lambda.0, all t of one width                            sets.axis.p.each, each_bias, pooled
  layer.0, all s that share no neurons with t                         pooled.t.weight, bias
  lin_all.0, lin_n.0, lin_m.0, lin_both.0                             matrices.t.weight, bias
weights_bn.i, biases_bn.i                                           stack.activations.m.(2 i), (2 i + 1)
clf.layer.0, 2, ...                                                 head.0, 1, ...
"""

import torch
from torch import Generator, Tensor

from neuralfields.spec import FieldSpec
from wsnets.models.dws import DWSConfig, DWSStack
from wsnets.models.dws_layers import Attentions, DWSLayer

_BLOCKS = ("weight_to_weight", "bias_to_weight", "weight_to_bias", "bias_to_bias")
_KRONECKER = ("lin_all.0", "lin_n.0", "lin_m.0", "lin_both.0")
_NORM = ("weight", "bias", "running_mean", "running_var")


def convert(state: dict[str, Tensor], spec: FieldSpec, config: DWSConfig) -> dict[str, Tensor]:
    """State of DWSReader, or of DWSEditor where the public state has no head, in the dtype of the public one.

    config: that of the public model. Raises ValueError for fields of more than one output; for depth above 1, which the
    public code does not give to maps between weights and biases without common neurons; and for tensors that the model
    does not have.
    """
    for name, value in (("spec.out_dim", spec.dims[-1]), ("depth", config.depth)):
        if value != 1:
            raise ValueError(f"{name}={value}: expected 1")
    is_reader = any(name.startswith("clf.") for name in state)
    stack = DWSStack(spec, config.width if is_reader else 1, config, Generator())
    rest, found = dict(state), {}
    root, step = "layers.layers" if is_reader else "layers", 4 if config.norm == "batch" else 3
    for m, layer in enumerate(stack.layers):
        assert isinstance(layer, DWSLayer)
        found.update({f"stack.layers.{m}.{k}": v for k, v in _layer(rest, f"{root}.{m * step}.", layer).items()})
    if config.norm == "batch":
        for m in range(config.num_hidden):
            for site in range(len(stack.places)):
                theirs = f"{root}.{m * step + 1}.{('weights', 'biases')[site % 2]}_bn.{site // 2}."
                found.update({f"stack.activations.{m}.{site}.{name}": rest.pop(theirs + name) for name in _NORM})
                rest.pop(theirs + "num_batches_tracked", None)
    found.update(
        _head(rest, stack, config) if is_reader else {"factors": torch.full((len(stack.places),), 1 / config.change)}
    )
    if rest:
        raise ValueError(f"state has {min(rest)!r} and {len(rest) - 1} more: expected no tensors beside the model's")
    return found


def _layer(rest: dict[str, Tensor], prefix: str, layer: DWSLayer) -> dict[str, Tensor]:
    """Take one layer's tensors out of `rest`."""

    def take(s: int, t: int, name: str) -> Tensor:
        block = _BLOCKS[s % 2 + 2 * (t % 2)]
        return rest.pop(f"{prefix}{block}.layers.{s // 2}_{t // 2}.{name}")

    def stacked(s: int, targets: list[int], name: str) -> Tensor:
        inner = "set_layer.set_layer" if s % 2 == 0 and targets[0] % 2 == 0 else "layer.set_layer"
        return torch.stack([take(s, t, f"{inner}.{name}") for t in targets])

    found = {}
    for axis, ways in layer.along.items():
        part, blocks = layer.sets[str(axis)], []
        for p, (s, targets) in enumerate(ways):
            groups = [[t] for t in targets]  # names differ between kinds of targets

            def all_of(name: str, s: int = s, groups: list[list[int]] = groups) -> Tensor:
                return torch.cat([stacked(s, t, name) for t in groups])

            if isinstance(part, Attentions):
                qkv = [
                    torch.cat([all_of(f"mab.fc_{letter}.{kind}") for letter in "qkv"]) for kind in ("weight", "bias")
                ]
                weight, bias = (part.ordered(x, part.heads) for x in (qkv[0], qkv[1].unsqueeze(2)))
                blocks.append((weight, bias.flatten(), all_of("mab.fc_o.weight"), all_of("mab.fc_o.bias")))
            else:
                found[f"sets.{axis}.{p}.each"] = all_of("Gamma.0.weight")
                found[f"sets.{axis}.{p}.each_bias"] = all_of("Gamma.0.bias").unsqueeze(2)
                found[f"sets.{axis}.{p}.pooled"] = all_of("Lambda.0.weight")
        if blocks:
            found[f"sets.{axis}.matrices"], found[f"sets.{axis}.biases"] = Attentions.packed(blocks)
    for t, sources in layer.sources.items():
        found[f"pooled.{t}.weight"] = torch.cat([take(s, t, "layer.0.weight") for s in sources], dim=1)
        found[f"pooled.{t}.bias"] = torch.stack([take(s, t, "layer.0.bias") for s in sources]).unsqueeze(2)
    for t in layer.matrices:
        found[f"matrices.{t}.weight"] = torch.stack([take(int(t), int(t), f"{n}.weight") for n in _KRONECKER])
        found[f"matrices.{t}.bias"] = torch.stack([take(int(t), int(t), f"{n}.bias") for n in _KRONECKER]).unsqueeze(2)
    return found


def _head(rest: dict[str, Tensor], stack: DWSStack, config: DWSConfig) -> dict[str, Tensor]:
    """Take the head out of `rest`; theirs reads middle weights, first weights, last weights, then biases."""
    count = len(stack.places)
    order = [*range(2, count - 2, 2), 0, count - 2, *range(1, count, 2)]
    parts = rest.pop("clf.layer.0.weight").split([stack.places[i].groups * config.width for i in order], dim=1)
    by_site = dict(zip(order, parts, strict=True))
    found = {"head.0.weight": torch.cat([by_site[i] for i in range(count)], dim=1)}
    for k in range(config.head_depth):
        for kind in ("weight", "bias")[int(k == 0) :]:
            found[f"head.{k}.{kind}"] = rest.pop(f"clf.layer.{2 * k}.{kind}")
    return found
