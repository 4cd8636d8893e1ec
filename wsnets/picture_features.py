"""PictureNet: a small convolutional classifier of pictures, whose features judge the pictures that fields show.

A folder of its own: picture_net.json, picture_net.safetensors, and the checkpoint of its training.
Legend: N pictures, C channels, H rows, W columns, K classes, D numbers of a feature.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from wsnets import checkpoint
from wsnets.data import count_classes
from wsnets.heads import linear
from wsnets.loop import STREAM_MODEL, LoopConfig, check, generator, run

FORMAT, VERSION, FILE, WEIGHTS = "neuralfields-picture-net", 1, "picture_net.json", "picture_net.safetensors"
_AT_ONCE = 500
_POOLED_FROM = 8  # pixels along the shorter side
_LAST = 4  # pixels along each side that the features see, at most
_HELD_OUT_LANE = 1  # of the stream of models: lane 0 draws the weights


@dataclass(frozen=True, kw_only=True)
class PictureNetConfig(LoopConfig):
    """How a PictureNet is made and trained, beside the settings of LoopConfig.

    width: channels of the first convolution; features: D; shift: pixels that pictures are moved by at random, at most;
    most: pictures that are used at most, drawn at random; held_out: share of those that choose the epoch and give the
    accuracy, in (0, 1). Raises ValueError for values outside these.
    """

    epochs: int = 4
    batch: int = 100
    lr: float = 3e-3
    warmup: float = 0.1
    width: int = 16
    features: int = 64
    shift: int = 1
    most: int = 20_000
    held_out: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "features"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "a whole number from 1")
        check("shift", self.shift, self.shift >= 0, "zero or more")
        check("most", self.most, self.most >= 4, "a whole number from 4")
        check("held_out", self.held_out, 0 < self.held_out < 1, "a number in (0, 1)")

    @classmethod
    def from_json(cls, data: dict) -> "PictureNetConfig":
        """From plain JSON values. Raises ValueError for unknown keys."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"picture net: unknown keys {unknown}; expected some of {known}")
        return cls(**data)


class PictureNet(nn.Module):
    """Three convolutions of 3 x 3, each with twice the channels of the last, to D features, and those to classes.

    features(x) = relu(U body(x) + u): (N, C, H, W) in [0, 1] -> (N, D); net(x) = V features(x) + v: (N, K) logits.
    shape: (C, H, W). LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 1998, with
    batch normalisation (Ioffe and Szegedy, ICML 2015). Raises ValueError for pictures of another shape.
    """

    def __init__(self, shape: tuple[int, int, int], num_classes: int, config: PictureNetConfig, generator: Generator):
        super().__init__()
        self.shape, self.num_classes, self.config = shape, num_classes, config
        channels, *size = shape
        blocks: list[nn.Module] = []
        for width in (config.width, 2 * config.width, 4 * config.width):
            blocks += [_convolution(channels, width, generator), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
            if min(size) >= _POOLED_FROM:
                blocks.append(nn.MaxPool2d(2))
                size = [side // 2 for side in size]
        size = [min(side, _LAST) for side in size]
        self.body = nn.Sequential(*blocks, nn.AdaptiveMaxPool2d(tuple(size)), nn.Flatten())
        self.to_features = linear(channels * size[0] * size[1], config.features, generator)
        self.to_classes = linear(config.features, num_classes, generator)

    def features(self, pictures: Tensor) -> Tensor:
        """Features (N, D), zero or more, of pictures (N, C, H, W)."""
        if tuple(pictures.shape[1:]) != self.shape:
            raise ValueError(f"pictures has shape {tuple(pictures.shape)}: expected (N, C, H, W) with {self.shape}")
        return self.to_features(self.body(pictures)).relu()

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self.to_classes(self.features(pictures))

    @torch.no_grad()
    def read(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) and classes (N,) int64 of pictures (N, C, H, W), piece by piece, in evaluation mode."""
        self.eval()
        found = [self.features(piece) for piece in pictures.split(_AT_ONCE)]
        features = torch.cat(found) if found else pictures.new_empty(0, self.config.features)
        return features, self.to_classes(features).argmax(dim=1)


class _Pictures:
    """The task of the training loop: cross-entropy on pictures moved a little, validated by accuracy."""

    def __init__(self, pictures: Tensor, labels: Tensor, config: PictureNetConfig) -> None:
        num_held = max(1, round(config.held_out * len(pictures)))
        self.held, self.kept = torch.arange(num_held), torch.arange(num_held, len(pictures))
        self.pictures, self.labels, self.shift = pictures, labels, config.shift

    @property
    def num_items(self) -> int:
        return len(self.kept)

    def fetch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.kept[positions]
        return self.pictures[rows], self.labels[rows]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor], generator: Generator) -> Tensor:
        pictures, labels = (part.to(generator.device) for part in batch)
        return functional.cross_entropy(model(moved(pictures, self.shift, generator)).float(), labels)

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, PictureNet)
        device = next(model.parameters()).device
        classes = model.read(self.pictures[self.held].to(device))[1].cpu()
        accuracy = float((classes == self.labels[self.held]).double().mean())
        return {"val_accuracy": accuracy, "score": accuracy}


def train(
    draw: Callable[[np.ndarray], Tensor],
    labels: np.ndarray,
    shape: tuple[int, int, int],
    folder: str | Path,
    trained_on: dict,
    config: PictureNetConfig | None = None,
    tick: Callable[[float, float], None] | None = None,
) -> tuple[PictureNet, float]:
    """Train on pictures of labels (N,), or read the network where the folder holds it already.

    draw: positions (n,) -> pictures (n, C, H, W) in [0, 1] of this shape (C, H, W); called once, and not at all where
    nothing is left to train. Returns the network and its accuracy, in [0, 1], on the pictures held out for it.
    trained_on: JSON values that say which pictures these are. tick: called after every step with the share that is done
    and the loss. A training that was interrupted goes on. Raises ValueError for labels or pictures that do not fit, and
    for a folder whose network was trained on others or otherwise.
    """
    config = config or PictureNetConfig()
    kinds = _num_classes(labels)
    identity = {"config": asdict(config), "trained_on": trained_on, "shape": list(shape), "classes": kinds}
    folder = Path(folder)
    if (folder / FILE).is_file():
        return load(folder, identity)
    folder.mkdir(parents=True, exist_ok=True)
    order = torch.randperm(len(labels), generator=generator(config.seed, STREAM_MODEL, 0, _HELD_OUT_LANE))
    chosen = order[: config.most].numpy()
    task = _Pictures(draw(chosen), torch.from_numpy(labels[chosen].astype(np.int64)), config)
    net = PictureNet(shape, kinds, config, generator(config.seed, STREAM_MODEL, 0))
    state = run(net, task, config, folder / "checkpoint.safetensors", identity, tick=tick)
    net.load_state_dict(state.best)
    assert state.best_score is not None
    checkpoint.write(folder / WEIGHTS, net.state_dict(), {})
    about = {"format": FORMAT, "version": VERSION, **identity, "accuracy": state.best_score}
    checkpoint.write_text(folder / FILE, json.dumps(about, indent=2) + "\n")
    return net.cpu().eval(), state.best_score


def load(folder: str | Path, identity: dict | None = None) -> tuple[PictureNet, float]:
    """Read a PictureNet and its accuracy from its folder.

    identity: what it has to have been trained as, as `train` writes it; None: whatever it was. Raises ValueError, in
    one line, for another one, and ValueError or FileNotFoundError where there is none.
    """
    folder = Path(folder)
    keys = ("config", "trained_on", "shape", "classes", "accuracy")
    about = checkpoint.read_about(folder / FILE, FORMAT, VERSION, keys)
    for name, value in (identity or {}).items():
        if about[name] != value:
            raise ValueError(
                f"{folder} holds a network with other {name}: {about[name]}; expected {value}, or another folder"
            )
    shape = (about["shape"][0], about["shape"][1], about["shape"][2])
    net = PictureNet(shape, about["classes"], PictureNetConfig.from_json(about["config"]), Generator().manual_seed(0))
    net.load_state_dict(checkpoint.read(folder / WEIGHTS)[0])
    return net.eval(), about["accuracy"]


def moved(pictures: Tensor, most: int, generator: Generator) -> Tensor:
    """Pictures (N, C, H, W) all moved by the same random whole number of pixels, from -most to most each way.

    What comes in from outside has the colour of the edge.
    """
    if most == 0:
        return pictures
    down, right = torch.randint(2 * most + 1, (2,), generator=generator, device=generator.device).tolist()
    height, width = pictures.shape[-2:]
    padded = functional.pad(pictures, (most,) * 4, mode="replicate")
    return padded[..., down : down + height, right : right + width]


def _num_classes(labels: np.ndarray) -> int:
    """The number of classes. Raises ValueError for labels that cannot be learned."""
    if labels.ndim != 1 or len(labels) < 4:
        raise ValueError(f"labels has shape {labels.shape}: expected one for each of at least 4 pictures")
    if labels.min() < 0 or len(np.unique(labels)) < 2:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}: expected at least two classes, from 0")
    return count_classes(labels)


def _convolution(num_in: int, num_out: int, generator: Generator) -> nn.Module:
    """A convolution of 3 x 3, same size, weights uniform in +-sqrt(6 / (9 num_in)) (He et al., ICCV 2015)."""
    layer: nn.Module = nn.utils.skip_init(nn.Conv2d, num_in, num_out, 3, padding=1, bias=False)
    bound = (6.0 / (9 * num_in)) ** 0.5
    with torch.no_grad():
        for weight in layer.parameters():
            weight.uniform_(-bound, bound, generator=generator)
    return layer
