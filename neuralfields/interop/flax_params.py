"""How fit-a-nef names and orders the parameters of a field, and what its nef.json says.

Names are those of Flax modules: kernel_net_<l>.linear and output_linear for SIREN, Dense_<l> for MLP, each with a bias
and a kernel. A kernel is (in, out), the transpose of our weights.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from neuralfields.interop.conventions import Conventions
from neuralfields.interop.sidecar import read_json
from neuralfields.spec import FieldSpec

LAYOUT = "fit-a-nef"
MODELS = {"SIREN": "sine", "MLP": "relu"}
LAYER_NAME = re.compile(r"(kernel_net_\d+\.linear|Dense_\d+|output_linear)\.(bias|kernel)$")
Config = list[tuple[str, tuple[int, ...]]]


def layer_names(activation: str, num_layers: int) -> list[str]:
    """Return the module names of all linear maps, the first layer first."""
    if activation == "relu":
        return [f"Dense_{layer}" for layer in range(num_layers)]
    return [f"kernel_net_{layer}.linear" for layer in range(num_layers - 1)] + ["output_linear"]


def param_config(spec: FieldSpec) -> Config:
    """Return names and shapes of a field in their order: bias before kernel, the first layer first."""
    config: Config = []
    names = layer_names(spec.activation, spec.num_layers)
    for name, outputs, inputs in zip(names, spec.dims[1:], spec.dims[:-1], strict=True):
        config += [(f"{name}.bias", (outputs,)), (f"{name}.kernel", (inputs, outputs))]
    return config


def nef_json(spec: FieldSpec) -> dict[str, Any]:
    """Describe a field in their words. Raises ValueError for one that they do not have."""
    if spec.activation not in MODELS.values() or spec.encoding is not None:
        encoding = None if spec.encoding is None else spec.encoding.name
        raise ValueError(
            f"activation={spec.activation!r}, encoding={encoding!r}: {LAYOUT} holds sine and relu without encoding"
        )
    if len(set(spec.hidden)) > 1:
        raise ValueError(f"hidden={spec.hidden}: {LAYOUT} has one width for all hidden layers")
    params: dict[str, Any] = {"hidden_dim": spec.hidden[0], "num_layers": len(spec.hidden), "output_dim": spec.out_dim}
    if spec.activation == "relu":
        return {"name": "MLP", "params": params}
    if spec.w0_first != spec.w0_hidden:
        raise ValueError(f"w0_first={spec.w0_first}, w0_hidden={spec.w0_hidden}: {LAYOUT} has one for all layers")
    return {"name": "SIREN", "params": params | {"num_layers": spec.num_layers, "omega_0": spec.w0_first}}


def read_dims(path: Path, config: Config) -> tuple[str, tuple[int, ...]]:
    """Return the activation that the names tell and the width of every stage.

    Raises ValueError naming the file and the parameter that is missing, unknown or misshapen.
    """
    shapes = dict(config)
    strange = [key for key, _ in config if LAYER_NAME.match(key) is None]
    if strange or len(shapes) != len(config) or len(config) < 4:
        found = repr(strange[0]) if strange else f"a list of {len(config)}"
        raise ValueError(f"{path}: param_config has {found}, expected the parameters of SIREN or MLP, each once")
    activation = "relu" if any(key.startswith("Dense_") for key in shapes) else "sine"
    names = layer_names(activation, (len(shapes) + 1) // 2)
    expected = [f"{name}.{kind}" for name in names for kind in ("bias", "kernel")]
    wrong = [key for key in expected if key not in shapes] or [key for key in shapes if key not in expected]
    if wrong:
        raise ValueError(f"{path}: parameter {wrong[0]!r} is missing or unexpected; expected {', '.join(expected)}")
    dims: list[int] = []
    for name in names:
        bias, kernel = shapes[f"{name}.bias"], shapes[f"{name}.kernel"]
        if len(kernel) != 2 or (dims and kernel[0] != dims[-1]) or bias != kernel[1:]:
            wanted = f"({dims[-1] if dims else 'in'}, out) and (out,)"
            raise ValueError(f"{path}: {name} has kernel {kernel} and bias {bias}, expected {wanted}")
        dims = [*dims, kernel[1]] if dims else list(kernel)
    return activation, tuple(dims)


def read_nef_json(folder: Path, activation: str, dims: tuple[int, ...]) -> Conventions:
    """Return what the parameters' names and nef.json, where it is there, say. Raises ValueError when they differ."""
    path = folder / "nef.json"
    if not path.is_file():
        return Conventions(activation=activation)  # pyright: ignore[reportArgumentType]
    nef = read_json(path)
    params = nef.get("params") if isinstance(nef, dict) else None
    if not isinstance(params, dict) or MODELS.get(str(nef.get("name"))) != activation:
        found = nef.get("name") if isinstance(nef, dict) else nef
        raise ValueError(
            f"{path}: model {found!r} does not fit the parameters, which are those of a {activation} field"
        )
    said = (params.get("hidden_dim"), params.get("output_dim", dims[-1]))
    if said != (dims[1], dims[-1]):
        raise ValueError(f"{path}: hidden_dim and output_dim are {said}, the parameters have {(dims[1], dims[-1])}")
    if activation == "relu":
        return Conventions(activation="relu")
    w0 = params.get("omega_0")
    if not isinstance(w0, int | float):
        raise ValueError(f"{path}: omega_0={w0!r}, expected a number")
    return Conventions(activation="sine", w0=float(w0), w0_hidden=float(w0))


def columns(config: Config, spec: FieldSpec) -> np.ndarray:
    """For every parameter in our order, the column of `params` that holds it: (P,), kernels transposed on the way."""
    places: dict[str, np.ndarray] = {}
    offset = 0
    for key, shape in config:
        size = math.prod(shape)
        places[key] = np.arange(offset, offset + size).reshape(shape)
        offset += size
    parts = []
    for name in layer_names(spec.activation, spec.num_layers):
        parts += [places[f"{name}.kernel"].T.reshape(-1), places[f"{name}.bias"]]
    return np.concatenate(parts)
