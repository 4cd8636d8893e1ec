"""Read and write populations in the file layouts of other projects: DWSNets, NFN and fit-a-nef."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neuralfields.interop import dwsnets, fit_a_nef, nfn
from neuralfields.interop.conventions import Conventions as Conventions
from neuralfields.interop.sidecar import Imported as Imported

if TYPE_CHECKING:
    from neuralfields.store import FieldStore


class Format(NamedTuple):
    """A foreign layout: write(store, out, **options) -> Path and read(folder, conventions, **options) -> Imported."""

    write: Callable[..., Path]
    read: Callable[..., Imported]


FORMATS = {
    dwsnets.LAYOUT: Format(dwsnets.write, dwsnets.read),
    nfn.LAYOUT: Format(nfn.write, nfn.read),
    fit_a_nef.LAYOUT: Format(fit_a_nef.write, fit_a_nef.read),
}


def export(store: "FieldStore", format: str, out: str | Path, **options: Any) -> Path:
    """Write a store to the new folder `out` in a foreign layout, with a sidecar that loses nothing; return the folder.

    options: those of the layout's `write`. Raises ValueError for an unknown format or option, a folder that is not
    empty, or a population that the layout cannot hold.
    """
    write = _format(format).write
    _check_options(format, options, _options(write))
    return write(store, out, **options)


def load(path: str | Path, format: str, **flags: Any) -> Imported:
    """Read a foreign folder: `neuralfields.store.save(path, *parts)` takes fields, rows and meta of the result.

    flags: those of Conventions (activation, w0, w0_hidden, width, scale, offset, grid, axes), needed when the folder
    has no sidecar, and the options of the layout's `read`. Raises ValueError for an unknown format or flag, for facts
    that are missing (naming them, with the published values) or contradictory, and for files that do not fit.
    """
    read = _format(format).read
    names = [f.name for f in fields(Conventions)]
    _check_options(format, flags, [*names, *_options(read)])
    conventions = Conventions(**{name: value for name, value in flags.items() if name in names})
    return read(path, conventions, **{name: value for name, value in flags.items() if name not in names})


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ValueError(f"format={name!r}: expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _options(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def _check_options(format: str, given: dict[str, Any], known: list[str]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"{unknown[0]}={given[unknown[0]]!r} is not an option of {format}: expected {', '.join(known)}"
        )
