"""NetworkFields: what editors make of the open field, and what its latents decode to, beside it."""

from typing import TYPE_CHECKING

from apps.viewer.alteration import Alteration, Last, Named
from apps.viewer.networks import Entry

if TYPE_CHECKING:
    from neuralfields import FieldBatch

WORDS = {"edit": "edited", "embed": "decoded"}


class NetworkFields(Alteration):
    """A checkbox for every editor and every embedding."""

    def build(self) -> None:
        """Controls, where there is such a network."""
        entries = self.session.viewer.networks.of(*WORDS)
        if not entries:
            return
        self._made = {one.name: Last() for one in entries}
        with self.session.gui.add_folder("Through networks"):
            self._boxes = [(one, self._box(one, named(one, entries))) for one in entries]

    def _box(self, one: Entry, name: str):
        hint = f"{one.folder.name}, {one.model}: " + (
            "the field with its weights changed by the editor"
            if one.task == "edit"
            else "the field that its latent decodes to"
        )
        box = self.session.gui.add_checkbox(name, False, hint=hint)
        box.on_update(lambda _: self.pane.redraw())
        return box

    def apply(self, field: "FieldBatch") -> list[Named]:
        """One field for every checked network that takes the open one."""
        entries = self.session.viewer.networks.of(*WORDS)
        if not entries:
            return []
        chosen = [one for one, box in self._boxes if box.value and takes(one, field)]
        return [(named(one, entries), self._find(one, field)) for one in chosen]

    def _find(self, one: Entry, field: "FieldBatch") -> "FieldBatch":
        return self._made[one.name].find(field, (), lambda: self._make(one, field))

    def _make(self, one: Entry, field: "FieldBatch") -> "FieldBatch":
        with self.session.viewer.networks.using(one) as network:
            return network.apply(field) if one.task == "edit" else network.decode(network.encode(field))


def named(one: Entry, entries: list[Entry]) -> str:
    """What a field made by a network is called: with the network's name where others do the same."""
    word = WORDS[one.task]
    return word if sum(other.task == one.task for other in entries) == 1 else f"{word} by {one.name}"


def takes(one: Entry, field: "FieldBatch") -> bool:
    """Whether a network can read a field: it has the network's spec, and no NaN."""
    return one.spec == field.spec and bool(field.flat().isfinite().all())
