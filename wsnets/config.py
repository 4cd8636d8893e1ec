"""Settings that every task on a population shares."""

from dataclasses import dataclass, field, fields
from typing import Literal, Self, get_args

from neuralfields.spec import FieldSpec
from neuralfields.symmetry import groups_of
from wsnets import models
from wsnets.augment import AugmentConfig
from wsnets.features import Normaliser, NormaliserMode
from wsnets.loop import LoopConfig, check

Alignment = Literal["none", "permutation", "exact"]


@dataclass(frozen=True, kw_only=True)
class FieldConfig(LoopConfig):
    """How a network on fields is trained, beside the settings of LoopConfig.

    model: a name, or settings such as models.MLPConfig(hidden=(256,)); normalise: see features.Normaliser (None: as
    the model's settings say); align: fields are first moved by their symmetries to lie next to a reference,
    "permutation" or "exact" (all that the activation has); augment: see augment.AugmentConfig; noise: standard
    deviation of Gaussian noise on normalised features; val_fraction: share of source items held out to choose the
    epoch, in [0, 1) (0: the last epoch is kept); val_last: hold out the last so many fields instead; skip_bad: leave
    out fields with NaN or infinite weights instead of refusing them; memory_mb: fields are held in memory up to this
    size, else streamed. Raises ValueError for values outside these.
    """

    model: str | models.ModelConfig = "mlp"
    normalise: NormaliserMode | None = None
    align: Alignment = "none"
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    noise: float = 0.0
    val_fraction: float = 0.1
    val_last: int = 0
    skip_bad: bool = False
    memory_mb: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.model, str):
            object.__setattr__(self, "model", models.config(self.model))
        if self.normalise is None:
            object.__setattr__(self, "normalise", self.settings.normalise)
        Normaliser(self.normaliser_mode)
        check("align", self.align, self.align in get_args(Alignment), f"one of {', '.join(get_args(Alignment))}")
        check("val_fraction", self.val_fraction, 0 <= self.val_fraction < 1, "a number in [0, 1)")
        for name in ("noise", "memory_mb", "val_last"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "zero or more")

    @property
    def settings(self) -> models.ModelConfig:
        """Settings of the model."""
        return models.config(self.model) if isinstance(self.model, str) else self.model

    @property
    def normaliser_mode(self) -> NormaliserMode:
        """How features are normalised."""
        return self.normalise or self.settings.normalise

    def kinds(self, spec: FieldSpec) -> tuple[str, ...]:
        """The kinds of symmetry that fields of `spec` are aligned by."""
        return {"none": (), "permutation": ("permutation",), "exact": groups_of(spec)}[self.align]

    def to_json(self) -> dict:
        """Plain JSON values; `from_json` gives back equal settings."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "model": models.to_json(self.settings), "augment": self.augment.to_json()}

    @classmethod
    def from_json(cls, data: dict) -> Self:
        """Read `to_json` output. Raises ValueError for unknown keys."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"config: unknown keys {unknown}; expected {known}")
        given = {"model": models.from_json(data["model"]), "augment": AugmentConfig.from_json(data["augment"])}
        return cls(**{**data, **given})

    @classmethod
    def tuned(cls, model: str | models.ModelConfig | None = None, **given) -> Self:
        """Settings that were found to suit the model (None: the task's own), `given` ones in their place.

        A name stands for the settings of the paper; `models.sized(name, "small")` makes small ones.
        """
        model = model or cls.model
        settings = models.config(model) if isinstance(model, str) else model
        return cls(**{"model": settings, **models.training(settings), **given})
