"""Models: one paper, one file; each takes features and a spec, and declares the symmetry group that it respects."""

from dataclasses import asdict, fields
from typing import Protocol

from torch import Generator, nn

from neuralfields.spec import FieldSpec
from wsnets.models.mlp import MLP as MLP
from wsnets.models.mlp import MLPConfig as MLPConfig


class ModelConfig(Protocol):
    """What every model's frozen settings can do: build the model."""

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> nn.Module:
        """Make the model: (features, generator) -> (N, num_outputs)."""
        ...


CONFIGS: dict[str, type] = {"mlp": MLPConfig}


def config(name: str, **options) -> ModelConfig:
    """Settings of the model called `name`. Raises ValueError for an unknown name or option."""
    if name not in CONFIGS:
        raise ValueError(f"model={name!r}: expected one of {', '.join(CONFIGS)}")
    known = [f.name for f in fields(CONFIGS[name])]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"model {name}: unknown options {unknown}; expected {known}")
    return CONFIGS[name](**options)


def to_json(settings: ModelConfig) -> dict:
    """Plain JSON values, with the model's name under "name"."""
    name = next((name for name, kind in CONFIGS.items() if type(settings) is kind), None)
    if name is None:
        raise ValueError(f"model={settings!r}: expected settings of one of {', '.join(CONFIGS)}")
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}  # type: ignore[call-overload]
    return {"name": name, **values}


def from_json(data: dict) -> ModelConfig:
    """Inverse of `to_json`."""
    return config(data.get("name", ""), **{k: v for k, v in data.items() if k != "name"})
