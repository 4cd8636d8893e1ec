"""nf train generate and nf generate: networks that make new fields, and stores of what they make."""

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from apps.generated_sheet import SampleSheets, balanced, draw
from apps.identity import store_sha256
from apps.options import SHOWN, OutPath, Shown, StorePath, Threads
from apps.output import Output, duration
from apps.progress import Progress
from apps.training import TrainingOptions, describe, is_lead, limit_threads, settings, watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuralfields import FieldBatch

    # (numbers, labels) -> fields.
    Make = Callable[[np.ndarray, np.ndarray], FieldBatch]

SHARD = 256
BY_DIFFUSION = ("ddim", "ddpm")
OF_FITS = ("shapes", "failures", "failed", "pool", "sha256", "split")  # what a signal says of single fits


@dataclass(frozen=True, kw_only=True)
class TrainGenerate:
    """Train a network that makes new fields: a diffusion over their weights, or over latents of them.

    Weights themselves want a population of one shared init. While it trains, samples of the averaged weights are drawn
    to samples.png in --out. An interrupted run goes on where it stopped when the same command is given again.
    """

    keeps_partial_work: ClassVar[bool] = True

    store: StorePath
    """Folder of a store, to train on."""
    out: OutPath
    """Folder of the generator."""
    latents: Annotated[str | None, arg(metavar="EMBEDDING", help_behavior_hint="(default: the weights)")] = None
    """Folder that `nf train embed` wrote: generate its latents, and decode them."""
    unconditional: bool = False
    """Do not learn the classes of the fields."""
    limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Train on the first so many fields."""
    test_fraction: float = 0.0
    """Share of STORE kept aside, for `nf measure --test-fraction`; copies of one item stay on one side."""
    prediction: Literal["v", "x0", "eps"] = "v"
    """What the network predicts: the noise, the clean numbers, or a mix of both."""
    noise_schedule: Literal["cosine", "linear"] = "cosine"
    """How the noise grows."""
    noise_steps: int = 1000
    """Steps from clean numbers to noise."""
    p_drop: float = 0.1
    """How often the class is left out, so that samples can be guided."""
    gamma: float = 0.0
    """Bound of the min-SNR weight of the loss; 0: every step counts the same."""
    token: int = 64
    """Numbers of one token; 0: rows of the layers, or latents as they are."""
    samples_every: int = 10
    """Epochs between two pictures of samples; 0 draws none before the end."""
    training: Annotated[TrainingOptions, OmitArgPrefixes] = field(default_factory=TrainingOptions)
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Write a store of new fields, and a picture of some, a class a row.

    From a generator, by taking noise out step by step; or from an embedding with --from, whose latents of a store's
    fields are sampled by their density. A store like any other: render it, classify it, mesh it, measure it.
    """

    keeps_partial_work: ClassVar[bool] = True

    generator: Annotated[Positional[str], arg(metavar="GENERATOR")]
    """Folder that `nf train generate` wrote, or with --from one of `nf train embed`."""
    out: OutPath
    """Folder of the store to write: new, or holding the same fields, unfinished."""
    count: int = 100
    """Number of fields."""
    label: Annotated[tuple[int, ...], arg(metavar="INT [INT ...]", help_behavior_hint="(default: all alike)")] = ()
    """Classes to make fields of, about as many of each."""
    any_class: bool = False
    """Make fields of no particular class."""
    guidance: float = 1.0
    """How much the class counts: 1 as learned, more exaggerates it."""
    steps: int = 50
    """Steps from noise to a field."""
    method: Literal["ddim", "ddpm", "kde", "neighbours", "gaussian"] = "ddim"
    """Way from noise to a field: ddim, ddpm; with --from the density of latents: kde, neighbours, gaussian."""
    from_: Annotated[str | None, arg(name="from", metavar="STORE", help_behavior_hint="(default: none)")] = None
    """Store whose fields' latents are sampled, for an embedding."""
    bandwidth: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: Silverman's rule)")] = None
    """Width of the density, in standard deviations of each number of the latents."""
    seed: int = 0
    """Source of all randomness."""
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def train_generate(options: TrainGenerate, output: Output) -> None:
    """Run `nf train generate`."""
    from apps.embed import first
    from neuralfields.store import open_store
    from wsnets.data import split_test
    from wsnets.tasks import generate as task

    limit_threads(options.threads)
    if options.samples_every < 0:
        raise ValueError(f"samples_every={options.samples_every}: expected zero or more")
    store = first("limit", open_store(options.store), options.limit)
    if options.test_fraction:
        store, _ = split_test(store, options.test_fraction, options.training.seed)
    config = settings(
        task.GenerateConfig,
        options.training,
        store.spec,
        "hyper_diffusion",
        latents=options.latents or "",
        conditional=not options.unconditional,
        prediction=options.prediction,
        noise_schedule=options.noise_schedule,
        noise_steps=options.noise_steps,
        p_drop=options.p_drop,
        gamma=options.gamma,
        token=options.token,
    )
    quiet = options.output.quiet or not is_lead()
    picture = Path(options.out) / "samples.png"
    sheets = SampleSheets(picture, options.samples_every)
    generator, seconds, epochs = watched(
        lambda **watch: task.generate(store, config, options.out, show=sheets, **watch), quiet
    )
    if not is_lead():
        return
    describe(generator, seconds, epochs, options.out, output)
    tokens, numbers = generator.codec.shape
    made_of = "weights" if generator.embedding is None else "latents"
    output.facts([("tokens", f"{tokens:,} of {numbers:,} numbers, {generator.codec.count:,} {made_of}")])
    output.facts([("makes", generator.generated_spec.describe())])
    output.facts([("classes", ", ".join(generator.classes) or None)])
    shown = picture if sheets.draw(generator) else None
    output.facts([("samples", shown), ("out", options.out)])
    output.record(out=options.out, samples=shown, tokens=[tokens, numbers], classes=list(generator.classes))
    output.record(generated_spec=generator.generated_spec.to_json())
    output.next(["nf", "generate", options.out, "--out", f"{options.out.rstrip('/')}-fields"])


def generate(options: Generate, output: Output) -> None:
    """Run `nf generate`."""
    from neuralfields.store import open_store
    from neuralfields.store_writer import StoreWriter

    limit_threads(options.threads)
    if options.count < 1:
        raise ValueError(f"count={options.count}: expected a whole number from 1")
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"seed={options.seed}: expected a whole number in [0, 2^32)")
    source = by_density(options) if options.from_ is not None else by_diffusion(options)
    labels, started, done = source.labels, time.perf_counter(), 0
    writer = StoreWriter(options.out, source.spec, source.meta, options.count, SHARD)
    with writer, Progress("generate", "fields", options.output.quiet) as bar:
        missing = writer.missing()
        for shard, part in missing:
            numbers = np.arange(options.count)[part]
            rows = {"label": labels[part], "name": names(numbers, labels[part], source.classes)}
            writer.write(shard, source.make(numbers, labels[part]), rows)
            done += len(numbers)
            bar.update(done, options.count, f"{done:,} of {options.count:,}")
        if not writer.complete:
            writer.finish({})
    seconds = time.perf_counter() - started if missing else None
    store = open_store(options.out)
    picture = Path(f"{options.out.rstrip('/')}-sheet.png")
    drawn = draw(picture, store, labels, source.meta["signal"])
    took = "were there already" if seconds is None else f"in {duration(seconds)}"
    output.facts([("generated", f"{options.count:,} fields {took}"), ("spec", store.spec.describe())])
    output.facts([("picture", picture if drawn else None), ("out", options.out)])
    output.record(fields=options.count, seconds=seconds, out=options.out, picture=picture if drawn else None)
    output.record(labels=labels, **source.meta["generated"])
    command, suffix = ("mesh", "-meshes") if store.spec.in_dim == 3 else ("render", ".png")
    output.next(["nf", command, options.out, "--out", options.out.rstrip("/") + suffix])


@dataclass(frozen=True)
class Source:
    """What fields are made of: `make(numbers, labels)` gives them, fields of `spec`; labels (N,), -1 for none."""

    spec: Any
    meta: dict
    classes: tuple[str, ...]
    labels: np.ndarray
    make: "Make"


def by_diffusion(options: Generate) -> Source:
    """A trained generator. Raises ValueError for options that it does not have."""
    from wsnets.field_generator import FieldGenerator

    if options.method not in BY_DIFFUSION:
        raise ValueError(
            f"method={options.method!r}: expected --from STORE with it, or one of {', '.join(BY_DIFFUSION)}"
        )
    if options.bandwidth is not None:
        raise ValueError(f"bandwidth={options.bandwidth} without --from: a diffusion has none")
    generator = FieldGenerator.load(options.generator)
    labels = wanted(options, np.arange(len(generator.classes)))
    generator.diffusion.path(options.steps)  # refused before there is a store
    how: dict[str, Any] = {"guidance": options.guidance, "steps": options.steps, "method": options.method}

    def make(numbers: np.ndarray, chosen: np.ndarray) -> "FieldBatch":
        return generator.generate(len(numbers), chosen, seed=options.seed, first=int(numbers[0]), **how)

    about = {**how, "seed": options.seed, "generator": generator.digest(), "per_class": per_class(labels)}
    meta = {"signal": kept(generator.signal), "generated": about}
    return Source(generator.generated_spec, meta, generator.classes, labels, make)


def by_density(options: Generate) -> Source:
    """Latents near those of a store's fields, of the same class, decoded. Raises ValueError for options of others."""
    import torch

    from neuralfields.store import open_store
    from wsnets.data import batches, count_classes
    from wsnets.density_sampling import sample
    from wsnets.latents import Embedding

    if options.method in BY_DIFFUSION:
        raise ValueError(f"method={options.method!r} with from={options.from_!r}: expected kde, neighbours or gaussian")
    if (options.guidance, options.steps) != (1.0, 50):
        raise ValueError(f"guidance={options.guidance}, steps={options.steps} with --from: a density has neither")
    check_bandwidth(options)
    embedding, store = Embedding.load(options.generator), open_store(options.from_ or "")
    latents = torch.cat([embedding.encode(fields) for fields in batches(store)])
    classes = np.asarray(store.labels)
    known = np.unique(classes[classes >= 0])
    labels = wanted(options, known)
    found = torch.empty(options.count, *embedding.latent_shape)
    for label in np.unique(labels):
        anchors = latents if label < 0 else latents[torch.from_numpy(classes == label)]
        draws = torch.Generator().manual_seed(options.seed + 2**32 * (int(label) + 1))
        chosen = torch.from_numpy(labels == label)
        found[chosen] = sample(anchors, int(chosen.sum()), options.method, draws, bandwidth=options.bandwidth)

    def make(numbers: np.ndarray, _: np.ndarray) -> "FieldBatch":
        return embedding.decode(found[torch.from_numpy(numbers)])

    about = {"method": options.method, "bandwidth": options.bandwidth, "seed": options.seed}
    about |= {"source": store_sha256(store.path), "per_class": per_class(labels)}
    signal = store.meta.get("signal") or {}
    words = tuple(map(str, signal.get("classes") or range(count_classes(known) if len(known) else 0)))
    meta = {"signal": kept(signal), "generated": {**about, "generator": embedding.digest()}}
    return Source(embedding.decoded_spec, meta, words, labels, make)


def check_bandwidth(options: Generate) -> None:
    """Raise ValueError for a bandwidth of a density that has none, and for one that is no width."""
    if options.bandwidth is None:
        return
    said = f"bandwidth={options.bandwidth}"
    if options.method == "gaussian":
        raise ValueError(f"{said} with method='gaussian', which has none: expected kde or neighbours with it")
    if not 0 <= options.bandwidth < math.inf:
        raise ValueError(f"{said}: expected a finite number, zero or more")


def wanted(options: Generate, known: np.ndarray) -> np.ndarray:
    """Class of every field, (count,), classes in order: those asked for, all that are known, or -1 for none.

    Raises ValueError for both ways of asking at once, and for classes that are not known.
    """
    if options.any_class and options.label:
        raise ValueError(f"label={list(options.label)} and any_class=True are both given: expected one of them")
    bad = [label for label in options.label if label not in known]
    if bad:
        span = f"some of {', '.join(map(str, known))}" if len(known) else "none: no classes are known"
        raise ValueError(f"label={bad[0]}: expected {span}")
    chosen = np.array(options.label, np.int64) if options.label else known
    return balanced(options.count, chosen[:0] if options.any_class else chosen)


def per_class(labels: np.ndarray) -> list[list[int]]:
    """Every label and how many fields have it, in their order: what decides the labels of a population."""
    return [list(pair) for pair in Counter(labels.tolist()).items()]


def kept(signal: dict) -> dict:
    """What a signal says of new fields too: how to draw them, not what became of single fits."""
    return {name: value for name, value in signal.items() if name not in OF_FITS}


def names(numbers: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """A name for every field: its class and number."""
    words = [classes[label] if 0 <= label < len(classes) else "field" for label in labels]
    return [f"{word}-{number}" for word, number in zip(words, numbers, strict=True)]
