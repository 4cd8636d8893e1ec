"""MWT: fields fitted in a few learned gradient steps, and a transformer that reads what the steps changed.

Legend: N fields or images, C channels, M pixels, K steps, L hidden layers after the first, H their width, T = L H
tokens, D width of the transformer.
"""

from dataclasses import asdict, dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

from neuralfields import inits
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import normalise
from neuralfields.grids import image_coords
from neuralfields.spec import SIREN, FieldSpec
from wsnets import meta_fit
from wsnets.heads import linear
from wsnets.loop import check


@dataclass(frozen=True, kw_only=True)
class MWTConfig:
    """The published MWT for small images; `large()` is MWT-L, `small()` trains on two processor cores.

    hidden: width H of all hidden layers; layers: their number L after the first one; w0: frequency of the first layer,
    the others have 1; steps: K; points: pixels that each step looks at while training (0: all), drawn anew for every
    step; rate_low, rate_high: range of the initial step sizes; rate_speed: learning rate of the step sizes over that
    of everything else; depth, width, head: blocks of the transformer, its width D and that of an attention head;
    layer_scale: initial factor of every residual branch; gain: factor on the change of the weights before the
    transformer reads it; feedback: weight of the classifier's gradient on start and step sizes. Raises ValueError for
    values outside these.
    """

    paper: ClassVar[str] = (
        'Gielisse and van Gemert, "End-to-End Implicit Neural Representations for Classification", CVPR 2025'
    )
    fields_at_once: ClassVar[int] = 8
    published: ClassVar[str] = "MNIST 98.80, Fashion-MNIST 90.43, CIFAR-10 59.57 (MWT-L; fields fitted for the reader)"

    hidden: int = 128
    layers: int = 4
    w0: float = 10.0
    steps: int = 6
    points: int = 0
    rate_low: float = 0.1
    rate_high: float = 1.0
    rate_speed: float = 100.0
    depth: int = 10
    width: int = 128
    head: int = 64
    layer_scale: float = 0.1
    gain: float = 500.0
    feedback: float = 0.01

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "steps", "depth", "width", "head"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "a whole number from 1")
        for name in ("w0", "rate_speed", "gain"):
            check(name, getattr(self, name), getattr(self, name) > 0, "a positive number")
        for name in ("points", "rate_low", "feedback"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "zero or more")
        check("rate_high", self.rate_high, self.rate_high >= self.rate_low, f"at least rate_low={self.rate_low}")
        check("width", self.width, self.width % self.head == 0, f"a multiple of head={self.head}")

    @classmethod
    def large(cls) -> "MWTConfig":
        """MWT-L: twice the width."""
        return cls(hidden=256, width=256)

    @classmethod
    def small(cls) -> "MWTConfig":
        """Settings of a size that trains on a laptop, with more feedback, since it sees far fewer images."""
        return cls(
            hidden=48,
            layers=2,
            steps=4,
            points=196,
            rate_speed=10.0,
            depth=2,
            width=64,
            head=32,
            layer_scale=1.0,
            feedback=0.1,
        )

    def field(self, channels: int) -> FieldSpec:
        """Architecture of the fields of images with C channels; raw outputs are values less 0.5."""
        hidden = (self.hidden,) * (1 + self.layers)
        return SIREN(2, channels, hidden=hidden, w0=self.w0, w0_hidden=1.0, offset=(0.5,))

    def to_json(self) -> dict:
        """Plain JSON values; `from_json` gives back equal settings."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> "MWTConfig":
        """Read `to_json` output. Raises ValueError for unknown keys."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"mwt: unknown options {unknown}; expected {known}")
        return cls(**data)

    def build(self, channels: int, num_outputs: int, generator: Generator) -> "MWT":
        """Make the model for images with C channels."""
        return MWT(channels, num_outputs, self, generator)


class MWT(nn.Module):
    """logits = reader(gain (phi - theta + beta)), phi = theta after K gradient steps on the image.

    theta: a sine field, the start of all fits, and alpha: a step size for each of its parameters and each step, are
    learned together with the reader (wsnets/meta_fit.py). First and hidden layers move; the linear output layer is
    learned too, but is the same for all images. The reader sees one token for each neuron of the L hidden layers after
    the first: its H incoming weights and its bias, less those of theta; beta, one number for each, tells neurons apart.

    Shapes: images (N, H, W, C) in [0, 1] -> (N, num_outputs). Symmetry: none; all fields share a start, so that neuron
    number i means the same in all of them. Gielisse and van Gemert, "End-to-end implicit neural representations for
    classification", CVPR 2025. Not given there, and so chosen here: mean of the tokens as summary, D = H, targets
    less 0.5, the first layer moves but is not read.

    >>> import torch
    >>> model = MWTConfig().build(1, 10, torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in model.parameters())
    2534667
    """

    def __init__(self, channels: int, num_outputs: int, config: MWTConfig, generator: Generator) -> None:
        super().__init__()
        self.spec, self.config = config.field(channels), config
        seed = int(torch.randint(2**31, (), generator=generator))
        draws = {scheme: inits.draw(self.spec, np.zeros(1, np.uint32), seed, scheme) for scheme in ("siren", "linear")}
        # The output layer smaller than a SIREN's: with step sizes up to 1 the first fits would diverge otherwise.
        self.start = nn.ParameterList(
            nn.Parameter(draws["siren" if number < self._num_moving else "linear"].parameters[name])
            for number, name in enumerate(self.spec.shapes)
        )
        # AdamW moves a parameter by its learning rate whatever its scale: divided by rate_speed, the step sizes learn
        # that much faster than the rest under one learning rate.
        self.scaled_rates = nn.ParameterList(
            torch.empty(config.steps, *shape).uniform_(config.rate_low, config.rate_high, generator=generator)
            / config.rate_speed
            for shape in list(self.spec.shapes.values())[: self._num_moving]
        )
        self.reader = UnitTransformer(config, num_outputs, generator)

    @property
    def _num_moving(self) -> int:
        return 2 * len(self.spec.hidden)

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Return logits (N, num_outputs); `generator` draws the pixels of each step, in training mode only."""
        return self.read(self.fit(images, generator))

    def fit(self, images: Tensor, generator: Generator | None = None) -> FieldBatch:
        """Fit a field to every image, differentiably; `generator` as in `forward`.

        Raises ValueError for images of another shape, and without a generator where pixels have to be drawn.
        """
        coords, targets = self.signal(images)
        with torch.autocast(images.device.type, enabled=False):  # sines of large phases need all their digits
            samples = self._samples(self.config.steps, len(coords), generator)
            return meta_fit.fit(self.theta(), self.rates(), coords, targets, samples)

    def error(self, fields: FieldBatch, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean squared error (N,) of fields that `fit` made, on pixels drawn once more; `generator` as in `forward`."""
        coords, targets = self.signal(images)
        samples = self._samples(1, len(coords), generator)
        at = slice(None) if samples is None else samples[0]
        with torch.autocast(images.device.type, enabled=False):
            return meta_fit.squared_error(fields, coords[at], targets[:, at])

    def read(self, fields: FieldBatch) -> Tensor:
        """Return logits (N, num_outputs) of fields that `fit` made."""
        theta = self.theta()
        rows = [self._rows(fields, layer) - self._rows(theta, layer) for layer in range(1, 1 + self.config.layers)]
        change = torch.cat(rows, dim=1)
        # The same number with feedback times the gradient, so that start and step sizes mostly serve the fit.
        return self.reader(torch.lerp(change.detach(), change, self.config.feedback))

    @torch.no_grad()
    def fields(self, images: Tensor) -> FieldBatch:
        """Fit a field to every image, using all pixels, without gradients and some at a time."""
        was_training = self.training
        self.eval()
        parts = [self.fit(part) for part in images.split(4 * self.config.fields_at_once)]
        self.train(was_training)
        return FieldBatch.cat(parts)

    def theta(self) -> FieldBatch:
        """The start of all fits: one field."""
        return FieldBatch(self.spec, dict(zip(self.spec.shapes, self.start, strict=True)))

    def rates(self) -> dict[str, Tensor]:
        """Step sizes: name -> (K, *shape)."""
        return {
            name: rate * self.config.rate_speed
            for name, rate in zip(list(self.spec.shapes)[: self._num_moving], self.scaled_rates, strict=True)
        }

    def signal(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, H, W, C) in [0, 1] as coordinates (M, 2), raw targets (N, M, C). Raises ValueError otherwise."""
        if images.ndim != 4 or images.shape[-1] != self.spec.out_dim:
            raise ValueError(f"images has shape {tuple(images.shape)}: expected (N, H, W, {self.spec.out_dim})")
        coords = image_coords(self.spec, (images.shape[1], images.shape[2]))
        return coords.to(images), normalise(self.spec, images.flatten(1, 2))

    def _samples(self, steps: int, num_points: int, generator: Generator | None) -> Tensor | None:
        if not self.training or self.config.points == 0 or self.config.points >= num_points:
            return None
        if generator is None:
            raise ValueError("generator=None: drawing pixels in training mode needs a torch.Generator")
        order = torch.rand(steps, num_points, generator=generator, device=generator.device).argsort(dim=1)
        return order[:, : self.config.points]

    @staticmethod
    def _rows(fields: FieldBatch, layer: int) -> Tensor:
        """Incoming weights and bias of every neuron of a layer: (N, H, H + 1)."""
        return torch.cat([fields.weights[layer], fields.biases[layer].unsqueeze(-1)], dim=-1)


class UnitTransformer(nn.Module):
    """A plain transformer on gain (x + beta): (N, T, H + 1) -> (N, num_outputs), one token for each neuron.

    Vaswani et al., "Attention is all you need", NeurIPS 2017, with layer norms first.
    """

    def __init__(self, config: MWTConfig, num_outputs: int, generator: Generator) -> None:
        super().__init__()
        shape = (config.layers * config.hidden, config.hidden + 1)
        self.gain = config.gain
        # Of size 1 after the gain, like any embedding of positions.
        self.beta = nn.Parameter(torch.randn(shape, generator=generator) / config.gain)
        self.embed = linear(shape[1], config.width, generator)
        self.blocks = nn.ModuleList(Block(config, generator) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.last = linear(config.width, num_outputs, generator)

    def forward(self, change: Tensor) -> Tensor:
        """Return logits."""
        x = self.embed((change + self.beta) * self.gain)
        for block in self.blocks:
            x = block(x)
        return self.last(self.norm(x).mean(dim=1))


class Block(nn.Module):
    """x <- x + s attention(norm(x)); x <- x + s mlp(norm(x)), s a learned factor for each channel: (N, T, D) each.

    Factors as in Touvron et al., "Going deeper with image transformers", ICCV 2021.
    """

    def __init__(self, config: MWTConfig, generator: Generator) -> None:
        super().__init__()
        width = config.width
        self.num_heads = width // config.head
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.scales = nn.ParameterList(torch.full((width,), config.layer_scale) for _ in range(2))
        self.into, self.out = linear(width, 3 * width, generator), linear(width, width, generator)
        self.up, self.down = linear(width, 4 * width, generator), linear(4 * width, width, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, T, D)."""
        query, key, value = self.into(self.norms[0](x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = torch.addcmul(x, self.scales[0], self.out(seen))
        return torch.addcmul(x, self.scales[1], self.down(nn.functional.gelu(self.up(self.norms[1](x)))))
