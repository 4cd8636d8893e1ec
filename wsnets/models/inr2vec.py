"""inr2vec: one vector for a field, read row by row from its weights; a decoder of that vector that is a field itself.

Legend: N fields, R rows, K numbers of a row, D latent numbers, B points, I in, O out, E encoded, H hidden.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from neuralfields.batch import FieldBatch
from neuralfields.encodings import Positional
from neuralfields.evaluate import denormalise, evaluate
from neuralfields.evaluate import encode as encode_coords
from neuralfields.spec import FieldSpec, ReLUField
from neuralfields.symmetry import Kind
from wsnets.autoencoder import Autoencoder, random_coords
from wsnets.features import NormaliserMode, WeightFeatures
from wsnets.heads import linear

Rows = Literal["hidden", "all"]
Pool = Literal["max", "mean"]


@dataclass(frozen=True, kw_only=True)
class Inr2VecConfig:
    """encoder: widths of the layers that every row passes, before they are pooled; rows: "hidden" reads the layers
    between the first and the last as the paper does, "all" reads these too; pool: how rows become one, "max" as in the
    paper, or "mean". Not in the paper: row_embedding, a learned scale and shift of each row, which tell rows apart;
    wide: width of a layer with ReLU after the pooling, which makes the latent (0: what was pooled is the latent);
    latent_norm: batch normalisation of the latent, so that each of its numbers has mean 0 and variance 1 over the
    training fields; lift: width of a layer with ReLU between the latent and the biases that it gives (0: none), for a
    narrow latent whose fields are as sharp as those of a wide one. decoder: widths of the implicit decoder's hidden
    layers; bands: octaves of its coordinates; points B: at which a field and its decoded copy are compared in one step.
    Published: AdamW, 1e-4, weight decay 1e-2, batches of 16, 300 epochs. Raises ValueError for values outside these.
    """

    paper: ClassVar[str] = 'De Luigi et al., "Deep learning on implicit neural representations of shapes", ICLR 2023'
    published: ClassVar[str] = "figures not at hand (shapes, shared init); MNIST 23.69 without its training (random)"
    normalise: ClassVar[NormaliserMode] = "per_weight"
    fields_at_once: ClassVar[int] = 0

    encoder: tuple[int, ...] = (512, 512, 1024, 1024, 1024)
    rows: Rows = "hidden"
    pool: Pool = "max"
    row_embedding: bool = False
    wide: int = 0
    latent_norm: bool = False
    lift: int = 0
    decoder: tuple[int, ...] = (512, 512, 512, 512, 512)
    bands: int = 10
    points: int = 10_000

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder"):
            object.__setattr__(self, name, tuple(int(width) for width in getattr(self, name)))
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected one positive width at least")
        for name, least in (("bands", 1), ("points", 1), ("wide", 0), ("lift", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected a whole number from {least}")
        for name, allowed in (("rows", Rows), ("pool", Pool)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(get_args(allowed))}")

    @classmethod
    def small(cls) -> "Inr2VecConfig":
        """What small fields of a shared init need: all layers read, rows told apart, a wide latent."""
        return cls(
            encoder=(512, 256),
            rows="all",
            pool="mean",
            row_embedding=True,
            wide=2048,
            latent_norm=True,
            decoder=(128, 128, 128),
            bands=4,
            points=64,
        )

    def symmetry(self, spec: FieldSpec) -> tuple[Kind, ...]:
        """None: the order of rows is lost, but that of the numbers inside a row is not."""
        return ()

    def build_autoencoder(self, spec: FieldSpec, generator: Generator) -> "Inr2Vec":
        """Make the autoencoder of fields of `spec`. Raises ValueError for a spec without such rows."""
        return Inr2Vec(spec, self, generator)


class Inr2Vec(Autoencoder):
    """z = max_r mlp([w_r, b_r]),   g_z(x) = field of shared weights and biases b_l + U_l z.

    Shapes: features of N fields -> latents (N, 1, D) -> fields of `decoded_spec`: ReLU on octaves of the coordinates.
    A row is what comes into one unit, its bias last, filled up with zeros to the longest. The mlp ends linear, with
    batch normalisation and ReLU before. With a row embedding its first layer gives s_r * (W [w_r, b_r] + c) + e_r; a
    wide latent is relu(V n(z) + v), n a batch normalisation; with a lift U_l acts on relu(V z + v) instead of z. The
    loss is the mean squared difference of values at random coordinates. Symmetry: none.

    Differs from the paper, whose rows are those of the matrices with the bias vector as a row of its own, and whose
    decoder sees the latent beside the coordinates in two places: here at every hidden layer, where it is the same as a
    change of the biases, so that what is decoded is a field like any other. On digits 2-32-32-1 of a shared init an
    average over rows told apart learns faster than the paper's maximum, and classes lie apart for a linear probe in a
    wide latent only. De Luigi et al., "Deep learning on implicit neural representations of shapes", ICLR 2023.

    >>> import torch
    >>> from neuralfields import SIREN
    >>> model = Inr2VecConfig.small().build_autoencoder(SIREN(2, 1), torch.Generator().manual_seed(0))
    >>> model.latent_shape, model.decoded_spec.describe()
    ((1, 2048), 'relu 18-128-128-128-1, 35,585 parameters')
    """

    def __init__(self, spec: FieldSpec, config: Inr2VecConfig, generator: Generator) -> None:
        super().__init__()
        spec.check_dense("inr2vec")
        self.layers = tuple(range(spec.num_layers))[slice(None) if config.rows == "all" else slice(1, -1)]
        if not self.layers:
            raise ValueError(f"rows='hidden': {spec.describe()} has no layer between first and last; expected 'all'")
        self.row_width = 1 + max(spec.dims[layer] for layer in self.layers)
        count = sum(spec.dims[layer + 1] for layer in self.layers)
        pairs = list(pairwise((self.row_width, *config.encoder)))
        self.encoder = nn.ModuleList(linear(a, b, generator) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for _, b in pairs[:-1])
        self.row_scale = self.row_shift = None
        if config.row_embedding:
            # Scales of mean 0, so that the first layer sees all of a field and not mostly the sum of its rows.
            self.row_scale = nn.Parameter(normal(count, config.encoder[0], generator))
            self.row_shift = nn.Parameter(0.5 * normal(count, config.encoder[0], generator))
        pooled, width = config.encoder[-1], config.wide or config.encoder[-1]
        self.widen = None
        if config.wide:
            self.widen = nn.Sequential(nn.BatchNorm1d(pooled), linear(pooled, width, generator), nn.ReLU())
        self.latent_norm = nn.BatchNorm1d(width, affine=False) if config.latent_norm else nn.Identity()
        self.pool, self.points = config.pool, config.points
        self.latent_shape = (1, width)
        self.decoded_spec = ReLUField(
            spec.in_dim, spec.out_dim, config.decoder, Positional(config.bands), grid=spec.grid, axes=spec.axes
        )
        self.decoder = nn.ModuleList(he_linear(a, b, generator) for a, b in pairwise(self.decoded_spec.dims))
        self.lift = nn.Sequential(linear(width, config.lift, generator), nn.ReLU()) if config.lift else nn.Identity()
        # Of each hidden layer: how the latent changes its biases.
        self.inject = nn.ModuleList(linear(config.lift or width, hidden, generator) for hidden in config.decoder)

    def encode(self, features: WeightFeatures, generator: Generator | None = None) -> Tensor:
        """Latents (N, 1, D) of normalised features; nothing is drawn from `generator`."""
        x = self.encoder[0](self.rows(features))
        if self.row_scale is not None and self.row_shift is not None:
            x = torch.addcmul(self.row_shift, x, self.row_scale)
        count, num_rows = x.shape[:2]
        x, last = x.flatten(0, 1), len(self.norms) - 1
        for place, (norm, layer) in enumerate(zip(self.norms, self.encoder[1:], strict=True)):
            x = functional.relu(norm(x))
            if place == last and self.pool == "mean":
                x = x.view(count, num_rows, -1).mean(dim=1)  # the layer after it is linear: the same, and less to do
            x = layer(x)
        if self.pool == "max" or last < 0:
            x = x.view(count, num_rows, -1)
            x = x.amax(dim=1) if self.pool == "max" else x.mean(dim=1)
        return self.latent_norm(x if self.widen is None else self.widen(x)).unsqueeze(1)

    def rows(self, features: WeightFeatures) -> Tensor:
        """Rows [w, b, 0, ...] of the layers that are read: (N, R, K)."""
        found = []
        for layer in self.layers:
            row = torch.cat([features.weights[layer], features.biases[layer].unsqueeze(2)], dim=2).squeeze(-1)
            found.append(functional.pad(row, (0, self.row_width - row.shape[2])))
        return torch.cat(found, dim=1)

    @property
    def _dense(self) -> list[nn.Linear]:
        return cast(list[nn.Linear], list(self.decoder))

    def biases(self, latents: Tensor) -> list[Tensor]:
        """Biases (N, H_l) of the decoder's hidden layers, which is where a latent (N, 1, D) enters."""
        lifted = self.lift(latents[:, 0])
        return [layer.bias + inject(lifted) for layer, inject in zip(self._dense[:-1], self.inject, strict=True)]

    def values(self, latents: Tensor, coords: Tensor) -> Tensor:
        """Values (N, B, O) at coords (B, I) of what `decode` gives, without a copy of the weights for every field."""
        h = encode_coords(self.decoded_spec, coords)
        for layer, bias in zip(self._dense[:-1], self.biases(latents), strict=True):
            h = functional.relu(functional.linear(h, layer.weight) + bias.unsqueeze(1))
        return denormalise(self.decoded_spec, self._dense[-1](h))

    def decode(self, latents: Tensor) -> FieldBatch:
        """Fields of `decoded_spec` from latents (N, 1, D); their weights are views of one set of weights."""
        count = len(latents)
        weights = [layer.weight.expand(count, -1, -1) for layer in self._dense]
        biases = [*self.biases(latents), self._dense[-1].bias.expand(count, -1)]
        return FieldBatch.from_layers(self.decoded_spec, weights, biases)

    def loss(self, fields: FieldBatch, features: WeightFeatures, generator: Generator) -> Tensor:
        """mean over n, b, o of (f_n(x_b) - g_n(x_b))^2, x_b uniform in [-1, 1]^I, the same for all N fields."""
        coords = random_coords(fields, self.points, generator)
        with torch.no_grad(), torch.autocast(coords.device.type, enabled=False):
            wanted = evaluate(fields, coords)  # sines of large phases need all their digits
        return (self.values(self.encode(features, generator), coords) - wanted).square().mean()


def he_linear(num_in: int, num_out: int, generator: Generator) -> nn.Linear:
    """A linear layer after ReLU: weights uniform with variance 2 / num_in (He et al., ICCV 2015), biases 0."""
    layer = linear(num_in, num_out, generator)
    with torch.no_grad():
        layer.weight.mul_(math.sqrt(6.0))
        layer.bias.zero_()
    return layer


def normal(rows: int, columns: int, generator: Generator) -> Tensor:
    """Standard normal numbers (rows, columns) on the generator's device."""
    return torch.randn(rows, columns, generator=generator, device=generator.device)
