"""Options that several commands share, each written once so that it has one name and one help text everywhere."""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from tyro.conf import OmitArgPrefixes, Positional, arg

StorePath: TypeAlias = Annotated[Positional[str], arg(metavar="STORE")]
OutPath: TypeAlias = Annotated[str, arg(metavar="DIR")]
Threads: TypeAlias = Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all cores)")]
Size: TypeAlias = Annotated[tuple[int, int] | None, arg(metavar="H W", help_behavior_hint="(default: as stored)")]


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is printed."""

    json: bool = False
    """End stdout with one line of JSON that holds every figure printed."""
    quiet: bool = False
    """Print neither text nor progress; errors and --json stay."""


Shown: TypeAlias = Annotated[OutputOptions, OmitArgPrefixes]
SHOWN = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Which images are read."""

    split: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the only or first one)")] = None
    """Split of the source, such as train or test."""
    limit: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: all)")] = None
    """Read the first so many images."""
    resize: Size = None
    """Height and width to which every image is scaled."""
    grey: bool = False
    """Turn colour images grey."""
    x_key: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: found by name)")] = None
    """Array of an .npz file that holds the images."""
    y_key: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: found by name)")] = None
    """Array of an .npz file that holds the labels."""


Images: TypeAlias = Annotated[ImageOptions, OmitArgPrefixes]


@dataclass(frozen=True, kw_only=True)
class OriginalOptions(ImageOptions):
    """Which originals of the fields of a store are read."""

    split: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the store's)")] = None
    """Split of the source, such as train or test."""


Originals: TypeAlias = Annotated[OriginalOptions, OmitArgPrefixes]


def given(options: object) -> dict[str, object]:
    """Return the options of a group that were set: those that are not None."""
    return {name: value for name, value in vars(options).items() if value is not None}


def not_both(**options: object) -> None:
    """Raise ValueError when more than one of the options is given; None and 0 count as not given."""
    chosen = {name: value for name, value in options.items() if value}
    if len(chosen) > 1:
        words = " and ".join(f"{name}={value!r}" for name, value in chosen.items())
        raise ValueError(f"{words} are both given: expected one of them")
