"""Changes: noise, pruning, quantisation and moved units of the open field, and what they do to what it shows."""

from typing import TYPE_CHECKING

from apps.viewer.alteration import Alteration, Last, Named, shown
from apps.viewer.weight_changes import FULL_BITS, Change, Effect, changed, effect, moves

if TYPE_CHECKING:
    from neuralfields import FieldBatch

NAMES = {"pictures": "picture", "shapes": "shape", "scenes": "scene"}
MOVES = {"permutation": "order of units", "sign": "signs", "phase": "half periods", "scale": "scales"}


class Changes(Alteration):
    """Sliders and buttons; the changed field stands beside the open one."""

    def build(self) -> None:
        """Controls: how much of each change."""
        gui, self._permuted = self.session.gui, 0
        self._made, self._told = Last(), Last()
        kinds = moves(self.session.viewer.part.spec)
        with gui.add_folder("Change the weights", expand_by_default=False):
            self._noise = gui.add_slider(
                "Noise", 0.0, 0.5, 0.005, 0.0, hint="Standard deviation, as a share of each layer's spread"
            )
            self._pruned = gui.add_slider(
                "Pruned", 0.0, 0.95, 0.01, 0.0, hint="Share of each layer's weights, the smallest, that are set to 0"
            )
            self._bits = gui.add_slider(
                "Bits", 2, FULL_BITS, 1, FULL_BITS, marks=(2, 8, 16, FULL_BITS), hint="Of every weight; 32 leaves all"
            )
            self._permute = gui.add_button("Permute units", disabled=not kinds, hint=explained(kinds))
            self._undo = gui.add_button("Undo all", disabled=True)
            self._text = gui.add_markdown(explained(kinds))
        for handle in (self._noise, self._pruned, self._bits):
            handle.on_update(lambda _: self.pane.redraw())
        self._permute.on_click(lambda _: self.session.do("permute", self._permute_units))
        self._undo.on_click(lambda _: self.session.do("permute", self._undo_all))

    def apply(self, field: "FieldBatch") -> list[Named]:
        """The changed field; none where nothing is changed."""
        change = self.change(field)
        if change == Change():
            return []
        position = self.session.position
        return [("changed", self._made.find(field, (change, position), lambda: changed(field, change, position)))]

    def tell(self, field: "FieldBatch", altered: list[Named]) -> None:
        """How much was changed, and how much that shows."""
        self._told.find(field, self.change(field), lambda: self._say(field, dict(altered).get("changed")))

    def change(self, field: "FieldBatch") -> Change:
        """What is asked for, and can be done to a field."""
        permuted = self._permuted if moves(field.spec) else 0
        return Change(float(self._noise.value), float(self._pruned.value), int(self._bits.value), permuted)

    def _say(self, field: "FieldBatch", other: "FieldBatch | None") -> None:
        kinds = moves(field.spec)
        self._permute.disabled, self._undo.disabled = not kinds, other is None
        if other is None:
            self._text.content = explained(kinds)
            return
        part, _ = self.session.collection.place(self.session.position)
        self._text.content = told(effect(field, other, part.size), self.change(field), NAMES[part.kind])

    def _permute_units(self) -> None:
        self._permuted += 1
        self.pane.redraw()

    def _undo_all(self) -> None:
        self._permuted = 0
        self._noise.value, self._pruned.value, self._bits.value = 0.0, 0.0, FULL_BITS
        self.pane.redraw()


def explained(kinds: tuple[str, ...]) -> str:
    """What can be moved of a field without changing what it shows."""
    if not kinds:
        return "Units are not permuted: no symmetry is known of trained encodings and view heads."
    words = [MOVES[kind] for kind in kinds]
    return f"Permute: {', '.join(words)} of all hidden layers drawn at random."


def told(found: Effect, change: Change, what: str) -> str:
    """What a change did, as markdown. what: the field shows."""
    lines = ["| | |", "|:--|--:|", f"| weights touched | {100 * found.touched:.3g} % |"]
    lines.append(f"| largest change of a weight | {shown(found.largest)} |")
    lines.append(f"| RMS change of the weights | {shown(found.rms)} |")
    if found.psnr is not None:
        psnr = f"{found.psnr:.1f} dB" if found.psnr < 200 else "equal"
        lines.append(f"| PSNR to the unchanged {what} | {psnr} |")
    lines.append(f"| largest change of a value | {shown(found.values)} |")
    stays = f"\n\n**The {what} stays**: only the weights are others." if change.keeps_values else ""
    return "\n".join(lines) + stays
