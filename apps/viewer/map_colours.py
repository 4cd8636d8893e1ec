"""Colours of the dots of a map: one for each class, or along an even scale for a number; and what says so."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from apps.viewer.collection import NO_LABEL, Collection
from apps.viewer.page import Colour

CLASS, PREDICTION, NONE = "class", "prediction", "nothing"
PALETTE: tuple[Colour, ...] = (
    (38, 99, 204),
    (232, 128, 26),
    (38, 148, 84),
    (205, 48, 60),
    (138, 74, 190),
    (128, 82, 48),
    (228, 104, 178),
    (58, 66, 84),
    (20, 178, 200),
    (240, 184, 20),
    (10, 50, 110),
    (248, 152, 130),
    (110, 200, 150),
    (110, 16, 34),
    (184, 164, 228),
    (200, 164, 110),
    (160, 24, 110),
    (70, 90, 30),
    (130, 196, 236),
    (140, 152, 20),
)
OTHER = (140, 146, 156)  # of the rarest classes, where there are more than colours
SCALE, SCALE_END = "viridis", 0.94  # its last yellow could not be seen on white
ENDS = 1.0, 99.0  # percentiles at which the scale begins and ends


@dataclass(frozen=True, eq=False)
class Colours:
    """title; dots: uint8 (n, 3); names: rows of a legend, (name, colour, fields of it); ends: of the scale, low and
    high, None where there is a legend; is_cut: whether there are values beyond them; num_unknown: fields without."""

    title: str
    dots: np.ndarray
    names: list[tuple[str, Colour, int]] = field(default_factory=list)
    ends: tuple[float, float] | None = None
    is_cut: tuple[bool, bool] = (False, False)
    num_unknown: int = 0

    def words(self) -> tuple[str, str]:
        """Low and high end of the scale, for people."""
        assert self.ends is not None
        low, high = (f"{value:.4g}" for value in self.ends)
        return f"≤ {low}" if self.is_cut[0] else low, f"≥ {high}" if self.is_cut[1] else high


def columns(collection: Collection) -> list[str]:
    """What dots can be coloured by: the usual one first."""
    found = [CLASS] if len(np.unique(collection.labels)) > 1 else []
    found += [PREDICTION] if collection.predictions() else []
    numeric = collection.numeric
    found += sorted(numeric, key=lambda name: (name != collection.quality, numeric.index(name)))
    return [*found, NONE]


def colours(collection: Collection, positions: np.ndarray, by: str, in_view: np.ndarray) -> Colours:
    """Colours of the fields at positions (n,). by: one of `columns`; in_view (n,) bool: those that legends count."""
    if by == NONE:
        return Colours("", np.full((len(positions), 3), PALETTE[0], np.uint8))
    if by == CLASS:
        labels = collection.labels[positions]
        named = [
            (collection.label_name(int(label)), labels == label) for label in np.unique(labels) if label != NO_LABEL
        ]
        return by_class(CLASS, named, in_view)
    if by == PREDICTION:
        said = collection.column(PREDICTION)[positions]
        return by_class(PREDICTION, [(name, said == name) for name in collection.predictions()], in_view)
    return by_number(by, collection.column(by)[positions])


def by_class(title: str, named: Sequence[tuple[str, np.ndarray]], in_view: np.ndarray) -> Colours:
    """Classes, each with its fields (n,) bool; the rarest share a colour where the palette is too short."""
    most = len(PALETTE) if len(named) <= len(PALETTE) else len(PALETTE) - 1
    common = sorted(range(len(named)), key=lambda number: -int(named[number][1].sum()))[:most]
    dots, is_known = np.full((len(in_view), 3), OTHER, np.uint8), np.zeros(len(in_view), bool)
    legend: list[tuple[str, Colour, int]] = []
    for colour, number in zip(PALETTE, sorted(common), strict=False):
        name, mask = named[number]
        dots[mask], is_known[mask] = colour, True
        legend.append((name, colour, int((mask & in_view).sum())))
    rest = [mask for number, (_, mask) in enumerate(named) if number not in common]
    if rest:
        mask = np.any(rest, axis=0)
        is_known |= mask
        legend.append((f"{len(rest)} others", OTHER, int((mask & in_view).sum())))
    if not is_known.all():
        legend.append(("none", OTHER, int((~is_known & in_view).sum())))
    return Colours(title, dots, legend)


def by_number(title: str, values: np.ndarray) -> Colours:
    """Numbers (n,), NaN where a field has none, between their first and their last percentile."""
    is_known = np.isfinite(values)
    dots = np.full((len(values), 3), OTHER, np.uint8)
    if not is_known.any():
        return Colours(title, dots, num_unknown=len(values))
    known = values[is_known]
    low, high = (float(end) for end in np.percentile(known, ENDS))
    dots[is_known] = scale((known - low) / (high - low) if high > low else np.full(len(known), 0.5))
    is_cut = bool(known.min() < low), bool(known.max() > high)
    return Colours(title, dots, ends=(low, high), is_cut=is_cut, num_unknown=int((~is_known).sum()))


def scale(shares: np.ndarray) -> np.ndarray:
    """Colours of shares (n,) of the scale, those beyond its ends as the ends: uint8 (n, 3)."""
    from matplotlib import colormaps

    return colormaps[SCALE](np.clip(shares, 0, 1) * SCALE_END, bytes=True)[:, :3]
