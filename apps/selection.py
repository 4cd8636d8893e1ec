"""Which fields of a store a command takes."""

from typing import TYPE_CHECKING, Annotated, TypeAlias

import numpy as np
from tyro.conf import arg

if TYPE_CHECKING:
    from neuralfields import FieldStore

Positions: TypeAlias = Annotated[
    tuple[int, ...] | None, arg(metavar="INT [INT ...]", help_behavior_hint="(default: see --count)")
]


def positions(store: "FieldStore", fields: tuple[int, ...] | None, count: int) -> np.ndarray:
    """Which fields to draw: those asked for, or `count` spread evenly. Raises ValueError for others than are there."""
    if len(store) == 0:
        raise ValueError(f"{store.path} holds no fields yet")
    if fields is None:
        if count < 1:
            raise ValueError(f"count={count}: expected a positive number")
        return np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).round().astype(np.int64))
    bad = [number for number in fields if not -len(store) <= number < len(store)]
    if bad or not fields:
        raise ValueError(f"fields={list(fields)}: expected positions from 0 to {len(store) - 1}")
    return np.array(fields, np.int64) % len(store)
