"""Models: one paper, one file; each takes features and a spec, and declares the symmetry group that it respects."""

from dataclasses import asdict, fields
from importlib import import_module
from typing import ClassVar, Literal, Protocol

from torch import Generator, nn

from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.features import NormaliserMode
from wsnets.models.mlp import MLP as MLP
from wsnets.models.mlp import AlignedMLPConfig as AlignedMLPConfig
from wsnets.models.mlp import MLPConfig as MLPConfig
from wsnets.tokens import TokenLayout

# Name on the command line and in files: module and settings class.
_CONFIGS = {
    "mlp": ("mlp", "MLPConfig"),
    "mlp_aligned": ("mlp", "AlignedMLPConfig"),
    "dws": ("dws", "DWSConfig"),
    "nfn_np": ("nfn", "NPConfig"),
    "nfn_hnp": ("nfn", "HNPConfig"),
    "nft": ("nft", "NFTConfig"),
    "ng_gnn": ("neural_graph", "GNNConfig"),
    "ng_t": ("neural_graph_transformer", "TransformerConfig"),
    "gmn": ("gmn", "GMNConfig"),
    "scale_gmn": ("scale_gmn", "ScaleGMNConfig"),
    "scale_gmn_b": ("scale_gmn", "BidirectionalConfig"),
    "probe_gen": ("probe_gen", "ProbeGenConfig"),
    "orbit": ("orbit", "OrbitConfig"),
}
# Autoencoders of fields: they encode, decode and are embedded with.
_EMBEDDERS = {
    "inr2vec": ("inr2vec", "Inr2VecConfig"),
    "inr2array": ("inr2array", "Inr2ArrayConfig"),
    "hyper_rep": ("hyper_representation", "HyperRepresentationConfig"),
    "sane": ("sane", "SANEConfig"),
}
# Networks that generate fields, or latents of them.
_GENERATORS = {"hyper_diffusion": ("hyper_diffusion", "HyperDiffusionConfig")}
# Networks that align pairs of fields.
_ALIGNERS = {"deep_align": ("deep_align", "DeepAlignConfig")}
_ALL = {**_CONFIGS, **_EMBEDDERS, **_GENERATORS, **_ALIGNERS}
# Settings of training that differ from the defaults, found by trying.
_TRAINING: dict[str, dict] = {
    "mlp": {"noise": 1.0},
    "mlp_aligned": {"noise": 1.0, "align": "exact"},
    "orbit": {"lr": 2e-3},
    "inr2vec": {"lr": 4e-3, "batch": 64, "noise": 0.3},
    "inr2array": {"lr": 3e-3, "batch": 16},
    "hyper_rep": {"batch": 64},
    "sane": {"batch": 64, "lr": 2e-3},
}


class ModelConfig(Protocol):
    """What every model's frozen settings know and can do.

    paper: citation in one line; published: its figures in one line; normalise: how its features are normalised unless
    asked otherwise; fields_at_once: fields that go through the model together while training (0: the whole batch, for
    models whose normalisation looks at the batch), so that activations stay small and in cache.
    """

    paper: ClassVar[str]
    published: ClassVar[str]
    normalise: ClassVar[NormaliserMode]
    fields_at_once: ClassVar[int]

    @classmethod
    def small(cls) -> "ModelConfig":
        """Settings of a size that trains on a laptop."""
        ...

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """Kinds of symmetry that the model respects on fields of `spec`. Raises ValueError for one that it lacks."""
        ...


class ReaderConfig(ModelConfig, Protocol):
    """Settings of a model that reads."""

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> nn.Module:
        """Make the reader: (features of N fields, generator) -> (N, num_outputs)."""
        ...


class EditorConfig(ReaderConfig, Protocol):
    """Settings of a model that can also edit."""

    def build_editor(self, spec: FieldSpec, generator: Generator) -> nn.Module:
        """Make the editor: (features, generator) -> WeightFeatures of one channel, the change of every parameter."""
        ...


def names() -> tuple[str, ...]:
    """Names of all models that read fields."""
    return tuple(_CONFIGS)


def embedders() -> tuple[str, ...]:
    """Names of the autoencoders of fields."""
    return tuple(_EMBEDDERS)


def generators() -> tuple[str, ...]:
    """Names of the networks that generate fields."""
    return tuple(_GENERATORS)


def everything() -> tuple[str, ...]:
    """Names of all networks."""
    return tuple(_ALL)


def does(name: str) -> str:
    """What the network called `name` does with fields, in words."""
    if name in _CONFIGS:
        return "reads, edits" if edits(name) else "reads"
    return "embeds" if name in _EMBEDDERS else "generates" if name in _GENERATORS else "aligns"


def build(settings: ModelConfig, spec: FieldSpec, num_outputs: int, generator: Generator) -> nn.Module:
    """Make the network of any settings, whatever it does; num_outputs: of a reader, and classes of a generator."""
    if does(name_of(settings)) == "embeds":
        return settings.build_autoencoder(spec, generator)  # type: ignore[attr-defined]
    if does(name_of(settings)) == "generates":
        shape = TokenLayout.of(spec).shape
        return settings.build_denoiser(shape, num_outputs, generator)  # type: ignore[attr-defined]
    if does(name_of(settings)) == "aligns":
        return settings.build_aligner(spec, generator)  # type: ignore[attr-defined]
    return build_reader(settings, spec, num_outputs, generator)


def build_reader(settings: ModelConfig, spec: FieldSpec, num_outputs: int, generator: Generator) -> nn.Module:
    """Make the reader of a model. Raises ValueError for a model that does something else."""
    name = name_of(settings)
    if name not in _CONFIGS and name in _ALL:
        raise ValueError(
            f"model={name!r} {does(name)} fields and does not read them: expected one of {', '.join(_CONFIGS)}"
        )
    return settings.build(spec, num_outputs, generator)  # type: ignore[attr-defined]


def kind(name: str) -> type:
    """Settings class of the model called `name`. Raises ValueError for an unknown name."""
    if name not in _ALL:
        hint = "; mwt takes images: nf train meta" if name == "mwt" else ""
        raise ValueError(f"model={name!r}: expected one of {', '.join(_ALL)}{hint}")
    module, settings = _ALL[name]
    return getattr(import_module(f"wsnets.models.{module}"), settings)


def name_of(settings: ModelConfig) -> str:
    """Name of the model with these settings. Raises ValueError for settings of no model."""
    name = next((name for name, (_, kind) in _ALL.items() if type(settings).__name__ == kind), None)
    if name is None:
        raise ValueError(f"model={settings!r}: expected settings of one of {', '.join(_ALL)}")
    return name


def training(settings: ModelConfig) -> dict:
    """Training settings that were found to suit the model, for config.FieldConfig."""
    return _TRAINING.get(name_of(settings), {})


def edits(name: str) -> bool:
    """Whether the model called `name` can edit fields."""
    return hasattr(kind(name), "build_editor")


def check_edits(settings: ModelConfig) -> None:
    """Raise ValueError for settings of a model that does not edit."""
    name = name_of(settings)
    if not edits(name):
        able = ", ".join(other for other in _CONFIGS if edits(other))
        raise ValueError(f"model={name!r} {does(name)} fields and does not edit them: expected one of {able}")


def build_editor(settings: ModelConfig, spec: FieldSpec, generator: Generator) -> nn.Module:
    """Make the editor of a model. Raises ValueError for a model that only reads."""
    check_edits(settings)
    return settings.build_editor(spec, generator)  # type: ignore[attr-defined]


def config(name: str, **options) -> ModelConfig:
    """Settings of the model called `name`. Raises ValueError for an unknown name or option."""
    settings = kind(name)
    known = [f.name for f in fields(settings)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"model {name}: unknown options {unknown}; expected {known}")
    return settings(**options)


def sized(name: str, size: Literal["small", "published"], editing: bool = False) -> ModelConfig:
    """Settings of the model called `name`: small ones, or those of its paper, which may have others for editing."""
    settings = kind(name)
    if size == "small":
        return settings.small()  # type: ignore[attr-defined]
    return settings.editing() if editing and hasattr(settings, "editing") else settings()


def to_json(settings: ModelConfig) -> dict:
    """Plain JSON values, with the model's name under "name"."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}  # type: ignore[call-overload]
    return {"name": name_of(settings), **values}


def from_json(data: dict) -> ModelConfig:
    """Inverse of `to_json`."""
    return config(data.get("name", ""), **{k: v for k, v in data.items() if k != "name"})
