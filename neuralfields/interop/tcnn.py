"""Specs and parameters of tiny-cuda-nn: {"encoding": ..., "network": ...} as in its JSON, and its flat vector.

Its networks have no biases and one width for all hidden layers. Its vector holds the layers' matrices one after
another, row by row, widths of input and output padded to multiples of 16, then the rows of the hash grid. Padded inputs
are 1, but 0 behind a grid. Its grids take coordinates in [0, 1], x = (coords + 1) / 2; the others take them as they
are. Mueller, "tiny-cuda-nn", 2021; Mueller et al., SIGGRAPH 2022.
"""

import math
from typing import Any

import torch
from torch import Tensor

from neuralfields.batch import FieldBatch
from neuralfields.encodings import Encoding, Positional
from neuralfields.hash_grid import HashGrid
from neuralfields.spec import Activation, FieldSpec

_ACTIVATIONS: dict[str, Activation] = {"ReLU": "relu", "Tanh": "tanh", "Sine": "sine"}
_FUSED_WIDTHS = (16, 32, 64, 128)
_PADDING = 16
# tiny-cuda-nn's key: (our name, its value where the key is left out)
_GRID = {
    "n_levels": ("levels", 16),
    "n_features_per_level": ("features", 2),
    "log2_hashmap_size": ("log2_size", 19),
    "base_resolution": ("base", 16),
    "per_level_scale": ("scale", 2.0),
}


def to_config(spec: FieldSpec) -> dict[str, dict[str, Any]]:
    """Return {"encoding": ..., "network": ...} for a spec; its arrays are n_input_dims I and n_output_dims O.

    FullyFusedMLP where it has the width and activation, else CutlassMLP. Raises ValueError that names the first thing
    that does not map.
    """
    maps = (
        ("view", spec.view, spec.view is None, "None"),
        ("hidden", spec.hidden, len(set(spec.hidden)) == 1, "one width for all layers"),
        ("activation", spec.activation, spec.activation in _ACTIVATIONS.values(), "relu, tanh or sine"),
        ("w0", (spec.w0_first, spec.w0_hidden), spec.activation != "sine" or _plain(spec), "1, the only sine it has"),
        ("scale", spec.scale, all(s == 1.0 for s in spec.scale), "1 for every channel"),
        ("offset", spec.offset, all(o == 0.0 for o in spec.offset), "0 for every channel"),
    )
    for name, value, ok, accepted in maps:
        if not ok:
            raise ValueError(f"{name}={value!r}: expected {accepted} for tiny-cuda-nn")
    fused = spec.hidden[0] in _FUSED_WIDTHS and spec.activation != "sine"
    network = {
        "otype": "FullyFusedMLP" if fused else "CutlassMLP",
        "activation": next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == spec.activation),
        "output_activation": "None",
        "n_neurons": spec.hidden[0],
        "n_hidden_layers": len(spec.hidden),
    }
    return {"encoding": encoding_config(spec.encoding), "network": network}


def encoding_config(encoding: Encoding | None) -> dict[str, Any]:
    """Return tiny-cuda-nn's JSON of an encoding. Raises ValueError for one that it does not have."""
    if encoding is None:
        return {"otype": "Identity"}
    if isinstance(encoding, HashGrid):
        return {"otype": "HashGrid", **{theirs: getattr(encoding, ours) for theirs, (ours, _) in _GRID.items()}}
    if isinstance(encoding, Positional) and encoding.use_pi and not encoding.include_input:
        return {"otype": "Frequency", "n_frequencies": encoding.bands}
    accepted = "None, HashGrid or Positional(include_input=False)"
    raise ValueError(f"encoding={encoding!r}: expected {accepted} for tiny-cuda-nn")


def from_config(config: dict[str, Any], in_dim: int, out_dim: int) -> FieldSpec:
    """Return the spec of {"encoding": ..., "network": ...} with I inputs and O outputs; other sections are ignored.

    Raises ValueError for an otype, key or value that does not map, by name.
    """
    if missing := sorted({"encoding", "network"} - set(config)):
        raise ValueError(f"config lacks {', '.join(missing)}: expected encoding and network")
    network = {"activation": "ReLU", "output_activation": "None", "n_neurons": 128, "n_hidden_layers": 5}
    network |= config["network"]
    _known("network", network, {"otype", "activation", "output_activation", "n_neurons", "n_hidden_layers"})
    _one_of("network otype", network.get("otype"), ("FullyFusedMLP", "CutlassMLP"))
    _one_of("output_activation", network["output_activation"], ("None",))
    _one_of("activation", network["activation"], tuple(_ACTIVATIONS))
    if network["otype"] == "FullyFusedMLP":
        _one_of("n_neurons", network["n_neurons"], _FUSED_WIDTHS)
    return FieldSpec(
        in_dim=in_dim,
        out_dim=out_dim,
        hidden=(network["n_neurons"],) * network["n_hidden_layers"],
        activation=_ACTIVATIONS[network["activation"]],
        w0_first=1.0 if network["activation"] == "Sine" else 30.0,
        w0_hidden=1.0 if network["activation"] == "Sine" else 30.0,
        encoding=_encoding(config["encoding"]),
    )


def to_params(fields: FieldBatch) -> Tensor:
    """Return one field's parameters as tiny-cuda-nn keeps them: a float32 vector.

    Raises ValueError for more than one field, a spec that does not map, and biases that are not 0.
    """
    to_config(fields.spec)
    if len(fields) != 1:
        raise ValueError(f"fields has {len(fields)} fields: expected 1")
    parts = []
    for layer, (weight, bias) in enumerate(zip(fields.weights, fields.biases, strict=True)):
        if bool((bias != 0).any()):
            raise ValueError(f"biases.{layer} is not 0 everywhere: tiny-cuda-nn has no biases")
        weight = weight[0]
        padded = weight.new_zeros(_padded_shape(fields.spec, layer))
        padded[: weight.shape[0], _order(fields.spec, layer)] = weight
        parts.append(padded.flatten())
    parts += [fields.parameters[n].flatten() for n in fields.spec.shapes if n.startswith("encoding.")]
    return torch.cat(parts).float()


def from_params(spec: FieldSpec, params: Tensor) -> FieldBatch:
    """Read one field from tiny-cuda-nn's vector (P,); weights of padded inputs that are 1 become first biases.

    Raises ValueError for a spec that does not map and a vector of another length.
    """
    to_config(spec)
    grid = {name: shape for name, shape in spec.shapes.items() if name.startswith("encoding.")}
    sizes = [math.prod(_padded_shape(spec, layer)) for layer in range(spec.num_layers)]
    sizes += [math.prod(shape) for shape in grid.values()]
    if params.ndim != 1 or len(params) != sum(sizes):
        raise ValueError(f"params has shape {tuple(params.shape)}: expected ({sum(sizes)},) for {spec.describe()}")
    parts = params.float().split(sizes)
    found = {n: part.view(1, *s) for (n, s), part in zip(grid.items(), parts[spec.num_layers :], strict=True)}
    for layer in range(spec.num_layers):
        padded = parts[layer].view(_padded_shape(spec, layer))[: spec.dims[layer + 1]]
        bias = padded[:, spec.dims[layer] :].sum(1) if layer == 0 and not grid else padded.new_zeros(len(padded))
        found[f"weights.{layer}"] = padded[:, _order(spec, layer)].unsqueeze(0)
        found[f"biases.{layer}"] = bias.unsqueeze(0)
    return FieldBatch(spec, found)


def _plain(spec: FieldSpec) -> bool:
    return spec.w0_first == 1.0 and spec.w0_hidden == 1.0


def _padded_shape(spec: FieldSpec, layer: int) -> tuple[int, int]:
    """Rows and columns of a layer's matrix in the vector; hidden widths are not padded."""
    ends = (layer == spec.num_layers - 1, layer == 0)
    sizes = (spec.dims[layer + 1], spec.dims[layer])
    rows, columns = (-(-size // _PADDING) * _PADDING if end else size for end, size in zip(ends, sizes, strict=True))
    return rows, columns


def _order(spec: FieldSpec, layer: int) -> Tensor:
    """Column of the vector's matrix for each of our inputs: Frequency goes coordinate by coordinate, sin beside cos."""
    if layer > 0 or not isinstance(spec.encoding, Positional):
        return torch.arange(spec.dims[layer])
    theirs = torch.arange(spec.dims[0]).view(spec.in_dim, spec.encoding.bands, 2)
    return theirs.permute(2, 1, 0).flatten()


def _encoding(config: dict[str, Any]) -> Encoding | None:
    """An encoding from tiny-cuda-nn's JSON."""
    options = dict(config)
    otype = options.pop("otype", None)
    if otype == "Identity":
        _known("encoding Identity", options, {"scale", "offset"})
        _one_of("encoding scale", options.get("scale", 1.0), (1.0,))
        _one_of("encoding offset", options.get("offset", 0.0), (0.0,))
        return None
    if otype == "Frequency":
        _known("encoding Frequency", options, {"n_frequencies"})
        return Positional(options.get("n_frequencies", 12), include_input=False)
    if otype not in ("HashGrid", "Grid"):
        raise ValueError(f"encoding otype={otype!r}: expected HashGrid, Grid, Frequency or Identity")
    _known(f"encoding {otype}", options, {*_GRID, "type", "interpolation"})
    _one_of("encoding type", options.get("type", "Hash"), ("Hash",))
    _one_of("interpolation", options.get("interpolation", "Linear"), ("Linear",))
    return HashGrid(**{ours: options.get(theirs, default) for theirs, (ours, default) in _GRID.items()})


def _known(what: str, options: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(options) - known):
        raise ValueError(f"{what} has {unknown[0]}={options[unknown[0]]!r}: expected only {', '.join(sorted(known))}")


def _one_of(name: str, value: object, accepted: tuple) -> None:
    if value not in accepted:
        raise ValueError(f"{name}={value!r}: expected {' or '.join(map(str, accepted))}")
