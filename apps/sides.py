"""What commands that train share: the fields to train on, and those to judge by, checked before the training."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from apps.options import not_both
from apps.training import TrainingOptions

if TYPE_CHECKING:
    from neuralfields import FieldStore
    from wsnets.data import Population, Subset


class Sided(Protocol):
    """Options of a command that trains on a store and is judged on another one, or on a part of it."""

    @property
    def store(self) -> str: ...
    @property
    def test(self) -> str | None: ...
    @property
    def test_fraction(self) -> float: ...
    @property
    def training(self) -> TrainingOptions: ...


def sides(options: Sided) -> tuple["Population", "Population | None"]:
    """The fields to train on and those to judge by, as the options of a command say; as `split`."""
    from neuralfields.store import open_store

    training = options.training
    return split(open_store(options.store), options.test, options.test_fraction, training.seed, training.skip_bad)


def split(
    store: "FieldStore", test: str | None, fraction: float, seed: int, skip_bad: bool | None = None
) -> tuple["Population", "Population | None"]:
    """The fields to train on and those to judge by: another store, a part of this one, or none.

    Raises ValueError for the same store, for one of other fields, and for weights to judge by that are not finite,
    unless skip_bad leaves these out (None: the command has no such option): said before the training, not after.
    """
    from neuralfields.store import open_store
    from wsnets.data import split_test
    from wsnets.network import check_spec

    not_both(test=test, test_fraction=fraction)
    if fraction:
        rest, aside = split_test(store, fraction, seed)
        return rest, usable(aside, skip_bad)
    if test is None:
        return store, None
    if Path(test).resolve() == store.path.resolve():
        raise ValueError(f"test={test!r}: is the training store; expected held-out fields, or --test-fraction")
    other = open_store(test)
    check_spec(other.spec, store.spec)
    return store, usable(other, skip_bad)


def without_bad(store: "FieldStore", skip_bad: bool) -> "FieldStore | Subset":
    """The store, or, where that was asked for, its fields with finite weights alone; others are refused when read."""
    from wsnets.data import Subset, finite

    return Subset(store, finite(store)) if skip_bad else store


def usable(population: "Population", skip_bad: bool | None) -> "Population":
    """The population without its fields whose weights are not finite, or, unless these are skipped, ValueError."""
    from wsnets.data import Subset, batches, finite

    if skip_bad:
        return Subset(population, finite(population))
    for _ in batches(population, skippable=skip_bad is not None):
        pass
    return population
