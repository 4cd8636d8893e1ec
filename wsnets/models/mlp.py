"""The flat reader: a plain MLP on all weights in a row."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor, nn

from neuralfields.spec import FieldSpec
from neuralfields.symmetry import Kind
from wsnets.features import NormaliserMode, WeightFeatures, flatten
from wsnets.heads import Norm, VectorHead


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """hidden: width of each hidden layer; norm: "batch", "layer" or "none"; p_dropout: after each, in [0, 1)."""

    paper: ClassVar[str] = 'baseline of Navon et al., "Equivariant architectures ... in deep weight spaces", ICML 2023'
    published: ClassVar[str] = "MNIST 17.55, Fashion-MNIST 19.91 (random init)"
    normalise: ClassVar[NormaliserMode] = "per_weight"
    fields_at_once: ClassVar[int] = 0

    hidden: tuple[int, ...] = (512, 256)
    norm: Norm = "batch"
    p_dropout: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(int(width) for width in self.hidden))
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden={self.hidden}: expected positive widths")

    @classmethod
    def small(cls) -> "MLPConfig":
        """The same: it is small."""
        return cls()

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """None."""
        return ()

    def build(self, spec: FieldSpec, num_outputs: int, generator: Generator) -> "MLP":
        """Make the model for fields of `spec`."""
        return MLP(spec, num_outputs, self, generator)


@dataclass(frozen=True, kw_only=True)
class AlignedMLPConfig(MLPConfig):
    """The flat reader of fields that were moved next to a reference by their symmetries; settings as MLPConfig.

    The alignment itself belongs to the training (config.FieldConfig, align="exact").
    """

    paper: ClassVar[str] = 'Ainsworth et al., "Git Re-Basin", ICLR 2023, as a preparation for the flat reader'
    published: ClassVar[str] = "MNIST 58.98, Fashion-MNIST 47.79 (permutation only); 64.41 (exact, other fits)"


class MLP(nn.Module):
    """y = head(flatten(features)): reads weight number p as weight number p, and so suits shared inits only.

    Shapes: features of N fields -> (N, num_outputs). Symmetry: none; permuting the neurons of a field changes the
    answer. The baseline of Navon et al., "Equivariant architectures for learning in deep weight spaces", ICML 2023.

    >>> import torch
    >>> from neuralfields import SIREN
    >>> model = MLPConfig().build(SIREN(2, 1), 10, torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    742666
    """

    def __init__(self, spec: FieldSpec, num_outputs: int, config: MLPConfig, generator: Generator) -> None:
        super().__init__()
        self.head = VectorHead(
            spec.num_params,
            config.hidden,
            num_outputs,
            generator=generator,
            norm=config.norm,
            p_dropout=config.p_dropout,
        )

    def forward(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Return outputs (N, num_outputs); `generator` draws the dropout masks in training mode."""
        return self.head(flatten(features), generator)
