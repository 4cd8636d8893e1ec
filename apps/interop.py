"""nf export and nf import: the file layouts of other projects."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, TypeAlias

from tyro.conf import OmitArgPrefixes, Positional, arg

from apps.options import SHOWN, OutPath, Shown, StorePath, given
from apps.output import Output
from apps.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

LayoutName: TypeAlias = Annotated[str, arg(metavar="{dwsnets,nfn,fit-a-nef}")]
STATED = "(default: what the files say)"


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the fields of STORE as another project's files, with a sidecar that keeps what those cannot hold."""

    store: StorePath
    """Folder of a store."""
    format: LayoutName
    """Layout to write."""
    out: OutPath
    """Folder to write: new or empty."""
    output: Shown = SHOWN


@dataclass(frozen=True, kw_only=True)
class ConventionOptions:
    """Facts that a picture needs and foreign files may not hold; needed when there is no sidecar."""

    activation: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=STATED)] = None
    """Activation, such as sine or relu."""
    w0: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=STATED)] = None
    """Frequency of the sine layers."""
    w0_hidden: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: w0)")] = None
    """Frequency of the hidden sine layers, when it differs from that of the first."""
    width: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=STATED)] = None
    """Factor of gauss and gabor activations."""
    scale: Annotated[tuple[float, ...] | None, arg(metavar="FLOAT [FLOAT ...]", help_behavior_hint=STATED)] = None
    """Value = scale * output + offset: one number, or one per channel."""
    offset: Annotated[tuple[float, ...] | None, arg(metavar="FLOAT [FLOAT ...]", help_behavior_hint=STATED)] = None
    """Added to the output: one number, or one per channel."""
    grid: Annotated[str | None, arg(metavar="{centers,corners}", help_behavior_hint=STATED)] = None
    """Where in its cell a pixel lies."""
    axes: Annotated[str | None, arg(metavar="{ij,xy}", help_behavior_hint=STATED)] = None
    """Whether coordinate 0 is the row (ij) or the column (xy)."""


@dataclass(frozen=True, kw_only=True)
class LayoutOptions:
    """Facts about the population; each layout takes some of them."""

    shape: Annotated[tuple[int, int] | None, arg(metavar="H W", help_behavior_hint="(default: unknown)")] = None
    """Height and width of the images."""
    splits: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="(default: found in PATH)")] = None
    """Split list of DWSNets."""
    prefix: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="(default: the public one)")] = None
    """What the class folders of NFN begin with."""
    split_points: Annotated[tuple[int, int] | None, arg(metavar="V T", help_behavior_hint="(default: no split)")] = None
    """Positions at which validation and test fields begin (NFN, fit-a-nef)."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Read another project's files at PATH into a store."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """Folder of the foreign files."""
    format: LayoutName
    """Layout of the files."""
    out: OutPath
    """Folder of the store: new."""
    conventions: Annotated[ConventionOptions, OmitArgPrefixes] = field(default_factory=ConventionOptions)
    population: Annotated[LayoutOptions, OmitArgPrefixes] = field(default_factory=LayoutOptions)
    output: Shown = SHOWN


def export(options: Export, output: Output) -> None:
    """Run `nf export`."""
    from neuralfields import interop
    from neuralfields.store import open_store

    store = open_store(options.store)
    with Progress("export", "fields", options.output.quiet) as bar:
        folder = interop.export(store, options.format, options.out, progress=_counter(bar))
    output.facts([("written", f"{len(store):,} fields as {options.format}"), ("out", folder)])
    output.record(fields=len(store), format=options.format, out=folder)


def import_(options: Import, output: Output) -> None:
    """Run `nf import`."""
    from neuralfields import interop, store

    flags = given(options.conventions) | given(options.population)
    with Progress("import", "fields", options.output.quiet) as bar:
        found = interop.load(options.path, options.format, progress=_counter(bar), **flags)
    written = store.save(options.out, found.fields, found.rows, found.meta)
    output.facts([("read", f"{len(written):,} fields: {written.spec.describe()}"), ("out", options.out)])
    output.record(fields=len(written), format=options.format, spec=written.spec.to_json(), out=options.out)
    output.next(["nf", "info", options.out], ["nf", "render", options.out, "--out", "grid.png"])


def _counter(bar: Progress) -> "Callable[[int, int], None]":
    return lambda done, total: bar.update(done, total, f"{done:,} of {total:,}")
