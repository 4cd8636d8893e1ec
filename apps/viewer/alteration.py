"""Alteration: something in the field pane that makes other fields of the open one, or tells something of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.viewer.pane import Pane

if TYPE_CHECKING:
    from neuralfields import FieldBatch

Named = tuple[str, "FieldBatch"]  # what a field is called beside the open one, and the field, a batch of one


class Alteration(ABC):
    """Controls of its own in the folder of a pane; asked anew whenever the pane is drawn, on the session's thread."""

    def __init__(self, pane: Pane) -> None:
        self.pane, self.session = pane, pane.session

    @abstractmethod
    def build(self) -> None:
        """Add the controls."""

    def apply(self, field: "FieldBatch") -> list[Named]:
        """Other fields to be shown beside the open one; none where nothing is asked for."""
        return []

    def tell(self, field: "FieldBatch", altered: list[Named]) -> None:  # noqa: B027 -- most have nothing to say
        """Say in the panel what there is to say, after the fields are drawn."""


class Last:
    """The last answer, given again while field and settings stay: a camera that moves asks many times a second."""

    def __init__(self) -> None:
        self._asked: tuple[Hashable, FieldBatch] | None = None
        self._answer: Any = None

    def find(self, field: "FieldBatch", settings: Hashable, work: Callable[[], Any]) -> Any:
        """work(), or what it gave before for the same."""
        if self._asked is None or self._asked[0] != settings or not same(self._asked[1], field):
            self._answer = work()
            self._asked = settings, field
        return self._answer


def same(a: "FieldBatch", b: "FieldBatch") -> bool:
    """Whether two fields have one spec and the same weights."""
    import torch

    return a.spec == b.spec and all(torch.equal(a.parameters[name], b.parameters[name]) for name in a.parameters)


def shown(value: float) -> str:
    """A number as people read it: three digits, powers of ten for very small ones."""
    return "0" if value == 0 else f"{value:.3g}" if np.isfinite(value) else "none"
