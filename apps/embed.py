"""nf train embed: latents of fields that fields can be decoded from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from tyro.conf import OmitArgPrefixes, arg

from apps.contrast import probe, probe_words, unlabelled, vectors
from apps.options import SHOWN, OutPath, Shown, StorePath, Threads
from apps.output import Output, psnr_figures, psnr_line
from apps.retrieval import draw_interpolation, draw_reconstruction, draw_retrieval, pictured
from apps.sides import sides, usable
from apps.training import TrainingOptions, describe, is_lead, limit_threads, settings, watched

if TYPE_CHECKING:
    from wsnets.data import Population
    from wsnets.latents import Embedding

JUDGED_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class TrainEmbed:
    """Train latents of fields: a network that encodes the weights of a field, and decodes fields from what it gave.

    Judged on --test by what decoded fields show beside the fields themselves and, where there are labels, by the
    nearest training field and by a linear probe on the latents; drawn as retrieval.png, reconstruction.png and
    interpolation.png. An interrupted run goes on where it stopped when the same command is given again.
    """

    keeps_partial_work: ClassVar[bool] = True

    store: StorePath
    """Folder of a store, to train on."""
    out: OutPath
    """Folder of the embedding."""
    test: Annotated[str | None, arg(metavar="STORE", help_behavior_hint="(default: none)")] = None
    """Store of held-out fields to judge on."""
    test_fraction: float = 0.0
    """Without --test: share of STORE kept aside to judge on; copies of one item stay on one side."""
    limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Train on the first so many fields."""
    test_limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Judge on the first so many fields."""
    training: Annotated[TrainingOptions, OmitArgPrefixes] = field(default_factory=TrainingOptions)
    threads: Threads = None
    """Processor threads."""
    output: Shown = SHOWN


def train_embed(options: TrainEmbed, output: Output) -> None:
    """Run `nf train embed`."""
    from wsnets.tasks.embed import EmbedConfig, embed

    limit_threads(options.threads)
    if options.test_limit is not None and options.test is None and not options.test_fraction:
        raise ValueError(f"test_limit={options.test_limit}: expected --test or --test-fraction beside it")
    store, test = sides(options)
    store = first("limit", store, options.limit)
    test = None if test is None else first("test_limit", test, options.test_limit)
    config = settings(EmbedConfig, options.training, store.spec, "inr2vec")
    quiet = options.output.quiet or not is_lead()
    embedding, seconds, epochs = watched(lambda **watch: embed(store, config, options.out, **watch), quiet)
    if not is_lead():
        return
    describe(embedding, seconds, epochs, options.out, output)
    tokens, numbers = embedding.latent_shape
    output.facts([("latents", f"{tokens:,} x {numbers:,} numbers, fields have {store.spec.num_params:,}")])
    output.facts([("decoded", embedding.decoded_spec.describe())])
    output.record(latent_shape=[tokens, numbers], decoded_spec=embedding.decoded_spec.to_json())
    if test is not None:
        trained = usable(store, True) if options.training.skip_bad else store
        judge(embedding, trained, test, Path(options.out), output)
    elif pictured(store):
        draw(embedding, store, Path(options.out), output)
    output.facts([("out", options.out)])
    output.record(out=options.out)


def first(name: str, population: "Population", limit: int | None) -> "Population":
    """The first `limit` fields, None for all. Raises ValueError, with the option's name, for a limit below one."""
    from wsnets.data import Subset

    if limit is None:
        return population
    if limit < 1:
        raise ValueError(f"{name}={limit}: expected a whole number from 1")
    return Subset(population, np.arange(min(limit, len(population))))


def judge(embedding: "Embedding", store: "Population", test: "Population", out: Path, output: Output) -> None:
    """Print, record and draw how good the latents of test fields are, and those of training fields beside them."""
    psnr, mse = reconstruction_errors(embedding, test)
    figures = psnr_figures(psnr)
    shown = psnr_line(figures) if store.spec.in_dim == 2 else None
    output.facts([("test", f"{shown or f'mean squared error {mse.mean():.3g}'}, {len(test):,} decoded fields")])
    output.record(test_fields=len(test), test_mse=float(mse.mean()))
    output.record(**{f"test_{name}": value for name, value in figures.items()})
    sides = [vectors(embedding.vectors, side) for side in (store, test)]
    reason = unlabelled(store, test)
    if reason is None:
        found = probe((sides[0], np.asarray(store.labels)), (sides[1], np.asarray(test.labels)), scale=True)
        output.facts([("probe", f"{probe_words(found)} of the same fields, from their latents")])
        output.record(**{f"test_{name}": value for name, value in found.items()})
    else:
        output.facts([("probe", f"skipped: {reason}")])
    if pictured(store):
        draw_retrieval(out / "retrieval.png", test, sides[1], store, sides[0])
        output.facts([("neighbours", out / "retrieval.png")])
        output.record(retrieval=out / "retrieval.png")
        draw(embedding, test, out, output)


def draw(embedding: "Embedding", population: "Population", out: Path, output: Output) -> None:
    """Draw decoded fields and, where there are two, paths between fields."""
    pictures: dict[str, Any] = {"reconstruction": out / "reconstruction.png"}
    draw_reconstruction(pictures["reconstruction"], embedding, population)
    if len(population) > 1:
        pictures["interpolation"] = out / "interpolation.png"
        draw_interpolation(pictures["interpolation"], embedding, population)
    else:
        output.facts([("interpolation", "skipped: a path needs two fields")])
    output.facts([("pictures", ", ".join(map(str, pictures.values())))])
    output.record(**pictures)


def reconstruction_errors(embedding: "Embedding", population: "Population") -> tuple[np.ndarray, np.ndarray]:
    """PSNR (N,) in dB, values clipped to [0, 1], and mean squared error (N,) of decoded fields against the fields."""
    import torch

    from wsnets.data import batches
    from wsnets.latents import reconstruction
    from wsnets.tasks.embed import judged_at

    coords = judged_at(population, torch.Generator().manual_seed(0))
    found = []
    for fields in batches(population, JUDGED_AT_ONCE):
        decoded = embedding.decode(embedding.encode(fields))
        found.append(torch.stack(reconstruction(decoded, fields, coords, clip=population.spec.in_dim == 2)))
    psnr, mse = torch.cat(found, dim=1).numpy()
    return psnr, mse
