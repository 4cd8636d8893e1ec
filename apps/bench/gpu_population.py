"""Whole populations on the GPU, from a file of images to a written store, and float32 torch on some of them."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from apps.bench.gpu_rows import GpuRow
from apps.bench.gpu_sides import Case, Ours, TorchFunc, Work
from apps.bench.gpu_time import matmul_of
from fitting import recipes
from fitting.config import FitConfig
from fitting.fit import fit, starting_point
from fitting.signals import image
from neuralfields.batch import FieldBatch
from neuralfields.spec import FieldSpec

# Fields per file of the store: whole waves of programs on any card, a few files in all.
_SHARD = 16384
SAMPLE = 1024
CLOSE_DB = 0.5  # what the fastest precision may cost


@dataclass(frozen=True)
class Population:
    """name; file: below the data folder; recipe and steps it is fitted with; splits: one store each; shape: (H, W, C)
    of an image; count: images in all splits; stops: whether each field ends where the recipe says, instead of after so
    many steps; seconds: what measuring it may take."""

    name: str
    file: str
    recipe: str
    steps: int
    splits: tuple[str, ...]
    shape: tuple[int, int, int]
    count: int
    stops: bool = False
    seconds: float = 45.0

    @property
    def work(self) -> Case:
        """The case it is, of one step of all its fields."""
        dims = self.spec.dims
        return Case("-".join(map(str, dims)), self.shape[0] * self.shape[1], 0, self.count, self.steps, 0)

    @property
    def spec(self) -> FieldSpec:
        """The fields it is fitted with."""
        return recipes.get(self.recipe).make_spec(self.shape[2])

    @property
    def case(self) -> str:
        """'mnist, 2-32-32-1 @784, siren-mnist'."""
        end = f", to {recipes.get(self.recipe).config.target_psnr:g} dB" if self.stops else ""
        return f"{self.name}, {self.work.name}, {self.recipe}{end}"


_MNIST = Population("mnist", "mnist.npz", "siren-mnist", 1000, ("train",), (28, 28, 1), 60_000)
_SPLITS = ("train", "test")
_CIFAR = Population("cifar10", "cifar10.npz", "implicit-zoo-cifar10", 500, _SPLITS, (32, 32, 3), 12_000, seconds=30)
POPULATIONS = (_MNIST, _CIFAR, replace(_CIFAR, name="cifar10 whole recipe", steps=5000, stops=True, seconds=20))
OURS, REFERENCE = "{backend}, disk to store", "torch.func"


def measure(
    population: Population, data: Path, precisions: tuple[str, ...], matmul: dict[str, float], backend: str = "triton"
) -> Iterator[list[GpuRow]]:
    """Fit a population once: its rate from disk to a written store and its mean PSNR, then that of float32 torch too.

    precisions: of the backend, first that which "auto" is. Raises FileNotFoundError where the file is not in the data
    folder.
    """
    path = data / population.file
    if not path.is_file():
        raise FileNotFoundError(f"data={data}: expected a folder with {population.file} in it")
    recipe, config = recipes.get(population.recipe), config_of(population, backend)
    warm_up(path, recipe, replace(config, steps=1, min_steps=0, curve_every=1))
    parts, quality, taken = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        for split in population.splits:
            parts.append(image.load(path, split=split))
            store = fit(parts[-1], recipe.spec_for(parts[-1]), config, out=Path(folder) / split)
            quality.append(store.column("psnr"))
            taken += int(np.sum(store.column("steps")))
        seconds = time.perf_counter() - begin
    spec, psnr = recipe.spec_for(parts[0]), np.concatenate(quality)
    found = (len(psnr), (*parts[0].shape, parts[0].channels))
    if found != (population.count, population.shape):
        raise ValueError(f"{path} has {found[0]} images of {found[1]}: expected {population.count}, {population.shape}")
    row = _row(population, seconds, float(psnr.mean()), taken, matmul, precisions[0], backend)
    yield [row]
    if backend == "triton" and not population.stops:
        sample = parts[0].select(slice(0, SAMPLE))
        yield [row, *_references(row, sample, spec, config, precisions, float(psnr[: len(sample)].mean()))]


def config_of(population: Population, backend: str = "triton") -> FitConfig:
    """How a population is fitted."""
    config = recipes.get(population.recipe).config
    config = replace(config, steps=population.steps, backend=backend, shard=_SHARD, curve_every=population.steps)
    return config if population.stops else replace(config, target_psnr=0.0, min_steps=0)


def sketch(population: Population, count: int) -> Work:
    """So many fields of a population, with random images: what its kernels can be compiled with."""
    images = torch.rand(count, *population.shape, generator=torch.Generator().manual_seed(0))
    return _work(image.from_array(images.numpy()), population.spec, config_of(population))


def shortfalls(rows: Sequence[GpuRow]) -> tuple[str, ...]:
    """A line where the first precision of ours ends more than 0.5 dB below float32 torch."""
    ours = next((row for row in rows if row.side == "triton"), None)
    torchs = next((row for row in rows if row.side == REFERENCE), None)
    if ours is None or torchs is None or ours.psnr is None or torchs.psnr is None:
        return ()
    if ours.psnr >= torchs.psnr - CLOSE_DB:
        return ()
    said = f"{ours.psnr:.2f} dB in {ours.precision}, float32 torch {torchs.psnr:.2f}"
    return (f"population {ours.case}: {said}: expected at most {CLOSE_DB} dB less",)


def warm_up(path: Path, recipe: recipes.Recipe, config: FitConfig) -> None:
    """One step of a few fields, so that compilation is not measured."""
    signals = image.load(path, split="train", limit=4)
    with tempfile.TemporaryDirectory() as folder:
        fit(signals, recipe.spec_for(signals), config, out=Path(folder) / "store")


def _row(
    population: Population,
    seconds: float,
    psnr: float,
    taken: int,
    matmul: dict[str, float],
    precision: str,
    backend: str,
) -> GpuRow:
    count, work = population.count, population.work
    row = GpuRow(
        part="population",
        case=population.case,
        side=OURS.format(backend=backend),
        precision=precision,
        fields=count,
        steps=population.steps,
        unit="images",
        seconds=seconds,
        rate=count / seconds,
        tflops=work.flop * taken / seconds / 1e12,
        psnr=psnr,
        note=f"one run, wall time; compiled before; {taken / count:.0f} steps on average",
    )
    return matmul_of(row, matmul)


def _references(
    row: GpuRow,
    sample: image.ImageSignals,
    spec: FieldSpec,
    config: FitConfig,
    precisions: tuple[str, ...],
    ours: float,
) -> list[GpuRow]:
    """Float32 torch on the first images, and each precision of ours there: mean PSNR, nothing timed."""
    note = f"PSNR of the first {len(sample)} images; not timed; the run above has {ours:.2f} dB there"
    blank = replace(row, fields=len(sample), seconds=None, rate=None, tflops=None, share=None, ratio=None, note=note)
    quality = float(sample.quality(torch_fit(sample, spec, config))["psnr"].mean())
    found = [replace(blank, side=REFERENCE, precision="fp32", psnr=quality)]
    work = _work(sample, spec, config)
    for name in precisions:
        side = Ours(work, name, config)
        side.advance(config.steps)
        assert side.result is not None
        psnr = float(sample.quality(side.result)["psnr"].mean())
        found.append(replace(blank, side="triton", precision=name, psnr=psnr))
    return found


def torch_fit(sample: image.ImageSignals, spec: FieldSpec, config: FitConfig, device: str = "cuda") -> FieldBatch:
    """The same fits by torch.func in float32, constant learning rate and Adam only. Raises ValueError for others."""
    if config.schedule != "constant" or config.warmup or config.optimizer != "adam" or config.weight_decay:
        raise ValueError(f"schedule={config.schedule!r}, optimizer={config.optimizer!r}: expected constant, plain adam")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        side = TorchFunc(_work(sample, spec, config), config=config, device=device)
        side.advance(config.steps)
    finally:
        torch.set_float32_matmul_precision(before)
    return FieldBatch(spec, {name: value.cpu() for name, value in side.parameters.items()})


def _work(sample: image.ImageSignals, spec: FieldSpec, config: FitConfig) -> Work:
    points = sample.points(spec)
    case = Case("-".join(map(str, spec.dims)), len(points.coords), 0, len(sample), config.steps, 0)
    return Work(case, spec, starting_point(spec, np.asarray(sample.ids), config), points.coords, points.targets)
